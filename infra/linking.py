"""Folders stored once: a second name for the same files instead of a second copy."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What the system says where there can be no hard link: another disk, a disk that has none, somebody else's file."""


def local_folder(location: str) -> Path | None:
    """The folder that an artifact location is on this machine; None for a server or a bucket."""
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def linked(source: Path, target: Path) -> bool:
    """Give every file of a folder a second name under `target`; what is there of these names is replaced.

    False, and nothing to rely on below `target`, where the disk cannot: then it has to be copied.
    """
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        name = target / file.relative_to(source)
        name.parent.mkdir(parents=True, exist_ok=True)
        name.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), name)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return False
    return True
