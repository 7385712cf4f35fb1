"""A disk that is full or may not be written, in one sentence, however the libraries put it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sft_core.errors import DiskError

FULL = re.compile(r"No space left on device|os error 28\b|database or disk is full|[Dd]isk quota exceeded")
LOCKED = re.compile(r"Read-only file system|os error 30\b|readonly database")
UNCLEAR = re.compile(r"PytorchStreamWriter|500 Internal Server Error|server did not come up")
"""What torch says when the disk is full, and of servers of our own on it; also for other reasons."""
ELSEWHERE = ("requests.", "httpx.", "urllib3.")
"""What a server says of its disk is about another one."""
NEARLY_NOTHING_BYTES = 1 << 20
ERRORS = {errno.ENOSPC: "full", errno.EDQUOT: "full", errno.EROFS: "locked"}


def disk_error(error: BaseException, workspace: Path) -> DiskError | None:
    """What to say of an error that comes of a full or read-only disk; None for any other.

    Libraries put it differently: OSError, RuntimeError (torch), SafetensorError, OperationalError (SQLite).
    """
    causes = list(_causes(error))
    for one in causes:
        if isinstance(one, OSError) and one.errno in ERRORS:
            written = one.filename2 or one.filename  # of a copy the second one
            place = Path(written).parent if isinstance(written, str) else _full_place(workspace) or workspace
            return _said(ERRORS[one.errno], place)
    if any(type(one).__module__.startswith(ELSEWHERE) for one in causes):
        return None
    text = "\n".join(map(str, causes))
    if FULL.search(text):
        return _said("full", _full_place(workspace) or workspace)
    if LOCKED.search(text):
        return _said("locked", workspace)
    full = _full_place(workspace) if UNCLEAR.search(text) else None
    return _said("full", full) if full else None


def check_writable(folder: Path) -> None:
    """Raises DiskError where nothing can be written into a folder."""
    if not os.access(folder, os.W_OK):
        raise _said("locked", folder)


def _causes(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def _full_place(workspace: Path) -> Path | None:
    for place in (workspace, Path(tempfile.gettempdir())):
        if place.exists() and shutil.disk_usage(place).free < NEARLY_NOTHING_BYTES:
            return place
    return None


def _said(kind: str, folder: Path) -> DiskError:
    if kind == "locked":
        return DiskError(f"{folder} cannot be written (read-only, or no permission): make it writable, or point "
                         "SFT_HOME at a folder that can be written")
    return DiskError(f"there is no space left in {folder}: free some, or point SFT_HOME at a disk with more; finished "
                     "stages and the last checkpoint are kept: the same command goes on from there")
