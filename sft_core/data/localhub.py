"""Local folders in the shape of hub data sets, under a name that moves with their files.

The `datasets` library keeps what it has read of a local folder under the folder's own name and a hash of its card
(5.2): other rows behind the same card, or another mirror's folder of the same name, would give the rows read before.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sft_core.stage import fingerprint

HUB_TIMEOUT_S = 10.0
"""How long the hub may take to say that it is there."""


def why_absent(hub_id: str, mirror: Path | None) -> str | None:
    """Why a data set cannot be read on this machine; None where it is in the mirror, kept from an earlier download, or
    the hub has it."""
    from datasets import config

    if mirror is not None and (mirror / hub_id).is_dir():
        return None
    if (Path(config.HF_DATASETS_CACHE) / hub_id.replace("/", "___")).is_dir():
        return None
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the library's own choice of client

    try:
        knock(hub_id)
    except OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE is set, and no earlier download is kept"
    except (OSError, ValueError, httpx.HTTPError) as error:
        return f"the hub does not give it ({' '.join(str(error).split())[:200]})"
    return None


def knock(hub_id: str) -> None:
    """Ask the hub once for a data set: `datasets` itself would try for half a minute before it says no.

    Raises:
        OSError, ValueError, httpx.HTTPError: the hub cannot be reached, is not to be (OfflineModeIsEnabled), or does
            not know it.
    """
    from huggingface_hub import HfApi

    HfApi().dataset_info(hub_id, timeout=HUB_TIMEOUT_S)


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
