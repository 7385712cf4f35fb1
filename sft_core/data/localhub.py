"""Local folders in the shape of hub data sets, under a name that moves with their files.

The `datasets` library keeps what it has read of a local folder under the folder's own name and a hash of its card
(5.2): other rows behind the same card, or another mirror's folder of the same name, would give the rows read before.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sft_core.stage import fingerprint


def stamp(folder: Path) -> str:
    """Moves with the folder's place and with names, sizes and times of change of its files; reads none of them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    told = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return fingerprint(str(folder.resolve()), told)


def named_by_content(folder: Path, links: Path) -> Path:
    """A link to `folder` in `links`, named after it and its `stamp`."""
    link = links / f"{folder.name}-{stamp(folder)}"
    links.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(folder.resolve(), target_is_directory=True)
    return link
