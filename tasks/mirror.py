"""`data.mirror`: local folders for hub ids, laid out as the one folder that every stage looks ids up in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from sft_core.config.located import looked_in
from sft_core.errors import ConfigError
from sft_core.stage import fingerprint
from tasks.stages import Workspace


def asked_mirror(place: Workspace, folder: Path | None) -> Workspace:
    """The workspace with the folder of the option `--mirror` in front of its own.

    Raises:
        ConfigError: the folder is not there.
    """
    return mirrored(place, None if folder is None else str(folder), "--mirror")


def mirrored(place: Workspace, mirror: str | Mapping[str, str] | None, setting: str = "data.mirror") -> Workspace:
    """The workspace with this mirror in front of its own (SFT_MIRROR).

    Args:
        place: the workspace as the settings name it.
        mirror: a folder that holds `org/name` folders, or hub id → folder, or None for the workspace's own alone.
        setting: where it stands, for messages.

    Raises:
        ConfigError: a folder is not there, or a name is no hub id.
    """
    if mirror is None:
        return place
    if isinstance(mirror, str):
        named = dict(_snapshots(_folder(setting, mirror)))
    else:
        named = {_hub_id(name): _folder(f"data.mirror[{name}]", folder) for name, folder in mirror.items()}
    below = {name: folder for name, folder in (_snapshots(place.mirror) if place.mirror else ())
             if not any(_inside(name, other) or _inside(other, name) for other in named)}
    return place._replace(mirror=_linked(place.scratch / "mirrors", {**below, **named}))


def _folder(setting: str, given: str) -> Path:
    folder = Path(given).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"{setting}: {given!r} is not a folder{looked_in(given)}; give the folder of a hub "
                          "snapshot (README.md and its files), or for the whole mirror one that holds such "
                          "folders as org/name")
    return folder


def _hub_id(name: str) -> str:
    parts = name.split("/")
    if len(parts) > 2 or any(part in ("", ".", "..") for part in parts):
        raise ConfigError(f"data.mirror: {name!r} is no hub id; the keys are org/name, cais/mmlu for example")
    return name


def _inside(name: str, other: str) -> bool:
    return name.startswith(f"{other}/")


def _snapshots(mirror: Path) -> Iterator[tuple[str, Path]]:
    """Hub id → folder. Old ids have no organisation: their files lie at once in the mirror's own folder."""
    for top in sorted(entry for entry in mirror.iterdir() if entry.is_dir()):
        if any((top / file).is_file() for file in ("README.md", "config.json")):
            yield top.name, top
        else:
            yield from ((f"{top.name}/{below.name}", below) for below in sorted(top.iterdir()) if below.is_dir())


def _linked(root: Path, folders: Mapping[str, Path]) -> Path:
    """A folder of links, named after what it holds: the same mirror is found again, also by a run beside this one."""
    made = root / fingerprint(sorted((name, str(folder)) for name, folder in folders.items()))
    for name, folder in folders.items():
        link = made / name
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(folder, target_is_directory=True)
    made.mkdir(parents=True, exist_ok=True)
    return made
