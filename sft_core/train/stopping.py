"""SIGTERM and Ctrl-C as a polite request: the loop stops at the next step with its state saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Set once a signal came; `signal_name` says which."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Catch the first SIGTERM or SIGINT; a second one does what it did before, so that a person can insist.

    Python allows handlers in the main thread only; elsewhere nothing is caught. Handlers are put back at the end.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {s: signal.getsignal(s) for s in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None:  # None: set by a library outside Python, which cannot be put back from here
                signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal_name = signal.Signals(number).name
        restore()

    for number in SIGNALS:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
