"""SIGTERM and Ctrl-C as a request: the handler sets a flag, and every loop that may be long looks at it.

A handler that raises does so wherever the interpreter stands: inside a weakref callback or a destructor Python prints
the exception and goes on, and the signal is lost.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sft_core.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_S = 0.1
BURST_S = 1.0
"""Signals that follow the first one so soon are the same request: the kernel tells of a parent's death once for each of
its threads, and `timeout` and torchrun signal a process and its group."""
KEPT = "finished stages and the last checkpoint are kept: run the same command again to continue"


class StopRequest:
    """True once a signal came, to it or to the request that encloses it; `signal_name` is set by its own signal."""

    def __init__(self, outer: StopRequest | None = None) -> None:
        self.signal_name: str | None = None
        self._outer = outer

    @property
    def asked_by(self) -> str | None:
        """Name of the signal that came, or None."""
        return self.signal_name or (self._outer.asked_by if self._outer else None)

    def __bool__(self) -> bool:
        return self.asked_by is not None


_innermost = StopRequest()


def check() -> None:
    """Look at the flag; to be called in every loop that may take longer than a second.

    Raises:
        Interrupted: a signal asked to stop.
    """
    if _innermost:
        raise Interrupted(f"stopped by {_innermost.asked_by}; {KEPT}")


def stop_asked_by() -> str | None:
    """Name of the signal that asked this process to stop, None where none did."""
    return _innermost.asked_by


def is_stop(error: BaseException) -> bool:
    """Whether work that ended with this error was stopped rather than failed: by a signal, an exit, a cancellation."""
    return isinstance(error, Interrupted) or not isinstance(error, Exception)


def sleep(seconds: float) -> None:
    """Wait so long, looking at the flag.

    Raises:
        Interrupted: a signal asked to stop.
    """
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, POLL_S))


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note the first SIGTERM or SIGINT; another one after a second ends the process, so that a person can insist.

    Python allows handlers in the main thread only: elsewhere the enclosing request is handed on. Handlers are put back
    at the end. A signal that came in an inner block is no matter of the outer one: whoever heeded it goes on or raises.

    Raises:
        Interrupted: a signal has come already; or somebody else's handler of it has raised in the block, as Prefect's
            does, which passes the signal on to this one.
    """
    global _innermost
    check()
    if threading.current_thread() is not threading.main_thread():
        yield _innermost
        return
    outer, request, asked_at = _innermost, StopRequest(_innermost), 0.0
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        if not request.signal_name:
            request.signal_name, asked_at = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - asked_at > BURST_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, ask)
    _innermost = request
    try:
        yield request
    except BaseException as error:
        if request and not isinstance(error, Exception | SystemExit):
            raise Interrupted(f"stopped by {request.asked_by}; {KEPT}") from error
        raise
    finally:
        _innermost = outer
        _put_back(before)


def _put_back(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        if handler is not None:  # None: set by a library outside Python, which cannot be reached from here
            signal.signal(number, handler)
