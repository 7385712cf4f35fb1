"""File locks. The kernel frees them when their process ends, also when it is killed, so none is ever stale.

A process that is forked off holds none of them: else a lock would outlive who has taken it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from weakref import WeakSet

from sft_core.stopping import POLL_S, sleep

TELL_AFTER_S = 2.0
log = logging.getLogger("sft")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file, waiting for another holder; a wait of more than two seconds is told.

    Raises:
        Interrupted: a signal asked to stop the wait.
    """
    asked, told = time.monotonic(), False
    while (handle := try_exclusive(path)) is None:
        if not told and time.monotonic() - asked > TELL_AFTER_S:
            told = True
            holder = path.read_text(encoding="utf-8", errors="replace") or "unknown"
            log.info("waiting for another process (pid %s) that holds %s", holder, path)
        sleep(POLL_S)
    with handle:
        yield


def try_exclusive(path: Path) -> IO[str] | None:
    """The held lock file, to be closed by the caller, or None where another process (or handle) holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("a+", encoding="utf-8")
    if not locked(handle):
        handle.close()
        return None
    handle.truncate(0)
    with suppress(OSError):  # for people; on a full disk the lock holds as well, and `sft down` has to work there
        os.write(handle.fileno(), str(os.getpid()).encode())
    return handle


_SHARED: dict[Path, IO[str]] = {}


def share(path: Path) -> None:
    """Hold the lock file together with others as long as this process lives, after whoever holds it alone. A place that
    cannot be written is left as it is: nobody else can change it either."""
    if (held := _SHARED.get(path)) is not None and os.fstat(held.fileno()).st_nlink:
        return
    if held is not None:
        _SHARED.pop(path).close()  # of a folder that was removed
    try:
        handle = path.open("a", encoding="utf-8")
    except OSError:
        return
    while not locked(handle, fcntl.LOCK_SH):
        sleep(POLL_S)
    _SHARED[path] = handle


def shared() -> list[Path]:
    """The lock files that this process holds together with others."""
    return list(_SHARED)


def locked(handle: IO[str], how: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file until it is closed; False where another handle holds it."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    _HELD.add(handle)
    return True


_HELD: WeakSet[IO[str]] = WeakSet()


def _let_go() -> None:
    for handle in _HELD:
        handle.close()
    _HELD.clear()
    _SHARED.clear()


os.register_at_fork(after_in_child=_let_go)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file now; one that is not there nobody does."""
    try:
        with path.open(encoding="utf-8") as handle:
            return not locked(handle)
    except FileNotFoundError:
        return False
