"""Local folders in the shape of hub data sets, under a name that moves with their files.

The `datasets` library keeps what it has read of a local folder under the folder's own name and a hash of its card
(5.2): other rows behind the same card, or another mirror's folder of the same name, would give the rows read before.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from sft_core.stage import fingerprint, known

HUB_TIMEOUT_S = 10.0
"""How long the hub may take to say that it is there."""
REFUSALS = (401, 403, 404)
"""Answers of the hub that stay what they are: unknown, private, gated."""


Kind = Literal["dataset", "model"]


class Absent(NamedTuple):
    """Something of the hub that is not on this machine: `fetched` where the hub has it, `missing` where it has not,
    `unsure` where it could not be asked."""

    state: Literal["fetched", "missing", "unsure"]
    why: str


def why_absent(hub_id: str, mirror: Path | None, kind: Kind = "dataset", revision: str | None = None) -> Absent | None:
    """What keeps a data set or a model from being read on this machine as it is; None where it is in the mirror or
    kept from an earlier download."""
    if (mirror is not None and (mirror / hub_id).is_dir()) or _kept(hub_id, kind, revision):
        return None
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the library's own choice of client

    try:
        knock(hub_id, kind, revision)
    except OfflineModeIsEnabled:
        return Absent("unsure", "HF_HUB_OFFLINE is set, and no earlier download is kept")
    except (OSError, ValueError, httpx.HTTPError) as error:
        refused = isinstance(error, ValueError) or (
            isinstance(error, HfHubHTTPError) and error.response.status_code in REFUSALS)
        return Absent("missing" if refused else "unsure",
                      f"the hub does not give it ({' '.join(str(error).split())[:200]})")
    return Absent("fetched", "the hub has it")


def _kept(hub_id: str, kind: Kind, revision: str | None) -> bool:
    if kind == "dataset":
        from datasets import config

        return (Path(config.HF_DATASETS_CACHE) / hub_id.replace("/", "___")).is_dir()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(hub_id, "config.json", revision=revision), str)
    except HFValidationError:
        return False


def knock(hub_id: str, kind: Kind = "dataset", revision: str | None = None) -> None:
    """Ask the hub once for a data set or a model: the libraries themselves would try for half a minute before they say
    no.

    Raises:
        OSError, ValueError, httpx.HTTPError: the hub cannot be reached, is not to be (OfflineModeIsEnabled), or does
            not know it.
    """
    from huggingface_hub import HfApi

    HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=HUB_TIMEOUT_S)


def stamp(folder: Path) -> str:
    """Moves with the folder's place and with names, sizes, times and inodes of its files; reads none of them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return fingerprint(str(folder.resolve()), [(path.relative_to(folder).as_posix(), known(path)) for path in files])


def named_by_content(place: Path, links: Path) -> Path:
    """A link to a folder or file in `links`, named after it and what stands for its content."""
    held = stamp(place) if place.is_dir() else fingerprint(known(place))
    link = links / f"{place.stem if place.is_file() else place.name}-{held}{place.suffix if place.is_file() else ''}"
    links.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(place.resolve(), target_is_directory=place.is_dir())
    return link
