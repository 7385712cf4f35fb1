"""Child processes end with their parent, also when it is killed, and when they are told to."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
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


def end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM to the leader of a session of its own, time to save, then SIGKILL to all its processes."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
