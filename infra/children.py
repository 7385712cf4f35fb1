"""Child processes end with their parent, also when it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: a forked child must not load anything


def end_with_parent() -> Callable[[], None]:
    """For `preexec_fn` of Popen: SIGTERM to the child when this process is gone (Linux only; elsewhere it stays)."""
    parent = os.getpid()

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it was gone before that
                os.kill(os.getpid(), signal.SIGTERM)

    return prepare
