"""Under which licence a model or a data set is, as far as its own files say. Nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import metadata_load

from infra.hub import front_matter
from sft_core.config.data import ModelSection, SourceSection
from sft_core.errors import ModelError
from sft_core.model.where import HUB_ID, local_folder

OWN = "apache-2.0"
"""Of the tiny world: this project's own."""
TOLD_IN = ("README.md", "SOURCE.md")
_SAID = re.compile(r"^[^\w\n]*licen[cs]e[^\w\n]{0,4}:[^\w\n]*(\w.*)$", re.IGNORECASE | re.MULTILINE)
_FILES = re.compile(r"(LICEN[CS]E|COPYING)(\..*)?", re.IGNORECASE)
PAGE = "its page on the hub"
HUB_NAME = re.compile(r"(?!own$)[a-z][a-z0-9.-]*")
"""How the hub writes the name of a licence; `own` is none."""
LONGEST = 300
"""Characters of a licence in words."""


class Licence(NamedTuple):
    """`said` is what a file says, word by word; `name` is its short name on the hub, None of one in words alone."""

    said: str
    name: str | None
    where: str


def licence_of_model(section: ModelSection, mirror: Path | None) -> Licence | None:
    """Of a base model; None where neither its files nor its page on the hub say."""
    if section.path == "tiny":
        return Licence(OWN, OWN, "part of sft-platform")
    try:
        folder = local_folder(section, mirror)
    except ModelError:  # the base of an older run may be gone
        return None
    return next(_in_folder(folder), None) if folder else _of_metadata(
        front_matter(section.path, "model", section.revision), PAGE)


def own_id(section: ModelSection, mirror: Path | None) -> str | None:
    """The hub id of a base: that it was named by, or that its folder says it was made of (`sft model import --from`);
    None of a folder that does not say."""
    if section.path == "tiny":
        return None
    try:
        folder = local_folder(section, mirror)
    except ModelError:  # it may be gone
        return None
    if folder is None or not Path(section.path).expanduser().is_dir():
        return section.path
    try:
        said = (metadata_load(folder / "README.md") or {}).get("base_model")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return said if isinstance(said, str) and HUB_ID.fullmatch(said) else None


def licence_of_source(source: SourceSection, mirror: Path | None) -> Licence | None:
    """Of a data source: as the configuration says, or its folder, or the one around it, or the page of a hub id; None
    where nothing says."""
    if source.licence is not None:
        return Licence(source.licence, source.licence if HUB_NAME.fullmatch(source.licence) else None, "configuration")
    if source.path.startswith("tiny:"):
        return Licence(OWN, OWN, "part of sft-platform")
    place = Path(source.path).expanduser()
    if place.exists():
        folder = place if place.is_dir() else place.parent
        return next((found for one in (folder, folder.parent) for found in _in_folder(one)), None)
    if mirror is not None and (mirror / source.path).is_dir():
        return next(_in_folder(mirror / source.path), None)
    return _of_metadata(front_matter(source.path, "dataset", source.revision), PAGE)


def _in_folder(folder: Path) -> Iterator[Licence]:
    """What a folder's files say, the most exact one first."""
    there = [folder / name for name in TOLD_IN if (folder / name).is_file()]
    yield from (found for file in there if (found := _read(file, file.name)))
    for file in sorted(folder.iterdir()):
        if _FILES.fullmatch(file.name) and file.is_file():
            head = next((line.strip() for line in file.read_text("utf-8", "replace").splitlines() if line.strip()), "")
            yield Licence(head[:LONGEST], None, file.name)


def _read(file: Path, where: str) -> Licence | None:
    """The licence of a README's front matter, else of a line that begins with the word."""
    try:
        head = metadata_load(file) or {}
    except (OSError, ValueError, yaml.YAMLError):
        head = {}
    if found := _of_metadata(head, where):
        return found
    said = _SAID.search(file.read_text("utf-8", "replace"))
    return Licence(said[1].strip()[:LONGEST], None, where) if said else None


def _of_metadata(head: Mapping[str, Any], where: str) -> Licence | None:
    given = head.get("license")
    if isinstance(given, list) and given:
        return Licence(", ".join(map(str, given)), str(given[0]) if len(given) == 1 else None, where)
    if not isinstance(given, str) or not given.strip():
        return None
    if given == "other":
        link = head.get("license_link")
        return Licence(f"{head.get('license_name', 'other')}{f', {link}' if link else ''}", None, where)
    return Licence(given, given, where)


