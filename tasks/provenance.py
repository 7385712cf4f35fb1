"""Where the data of an experiment comes from and what it may be used for: the stage `manifest`, made of the
configuration, what its sources say of themselves, and the curation."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_core.config.data import SourceSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.telling import Lack
from sft_core.data.provenance.card import data_card
from sft_core.data.provenance.handed import Handed
from sft_core.data.provenance.manifest import Part, SourceRecord, Step, manifest, parts_of
from sft_core.data.provenance.terms import check_use, terms_of
from sft_core.data.sources import Hub, name_of, resolve, source_files
from sft_core.errors import DataError
from sft_core.stage import fingerprint, read_json, write_json, write_text
from sft_core.versions import code_version
from tasks.inputs import sources_of
from tasks.licences import Licence, licence_of_source
from tasks.stages import Done, Workspace, once

if TYPE_CHECKING:  # it brings Prefect
    from tasks.curate import Curation

MANIFEST, CARD = "manifest.json", "README.md"
TELLS = {"licence", "date", "kind", "generator", "prompt_version", "sampling"}
"""Fields of a source that its provenance is made of."""


def use_lacks(config: ExperimentConfig, mirror: Path | None) -> Iterator[Lack]:
    """Sources that must not be put to what `data.use` says."""
    if config.data.use is None:
        return
    for source, _ in sources_of(config):
        said = licence_of_source(source, mirror)
        try:
            check_use(name_of(source), config.data.use, licence=said and said.said, generator=source.generator)
        except DataError as error:
            yield Lack(("data", "use"), str(error))


def unknown_licences(config: ExperimentConfig, mirror: Path | None) -> list[str]:
    """What is to be told of sources whose licence nothing says, or that is none that is known here."""
    told = []
    for source, _ in sources_of(config):
        said = licence_of_source(source, mirror)
        if terms_of(said and said.said) is None:
            told.append(f"{name_of(source)}: its licence is not known here"
                        f"{f' ({said.where} says: {said.said})' if said else ', and nothing says what it is'}; give "
                        "data.sources.licence")
    return told


def write_manifest(config: ExperimentConfig, curated: Curation, place: Workspace, ends: Sequence[Handed] = ()) -> Done:
    """`manifest.json`, which the stage's result says as well, and the data card `README.md`; made, or found made.

    Args:
        ends: what a run makes of the curated rows of each source; nothing where that is not known.

    Raises:
        DataError: a source must not be put to what `data.use` says, or is gone.
    """
    sources = config.data.sources
    licences = [licence_of_source(one, place.mirror) for one in sources]
    stamp = fingerprint(
        "manifest", code_version("sft_core.data.provenance.card", "sft_core.data.provenance.manifest"),
        curated.done.fingerprint, config.name, config.data.use, licences,
        [(name_of(one), _path(one), one.model_dump(mode="json", include=TELLS)) for one in sources], list(ends))

    def make(out: Path) -> dict[str, Any]:
        counted = read_json(curated.done.folder / "curation.json")["sources"]
        records = [_record(*each, place) for each in zip(sources, licences, counted, strict=True)]
        if ends:
            records = [replace(one, handed=end) for one, end in zip(records, ends, strict=True)]
        made = manifest(records, config.data.use, datetime.date.today())
        write_json(out / MANIFEST, made)
        write_text(out / CARD, data_card(config.name, made))
        return made

    return once(place.stages.open("manifest", stamp), make)


def _record(source: SourceSection, licence: Licence | None, counted: dict[str, Any], place: Workspace) -> SourceRecord:
    return SourceRecord(
        name_of(source), _path(source), source.revision, licence and licence.said, licence and licence.where, source,
        _parts(source, place), tuple(Step(**step) for step in counted["steps"]), counted["scores"])


def _parts(source: SourceSection, place: Workspace) -> tuple[Part, ...]:
    found = resolve(source, scratch=place.scratch, mirror=place.mirror)
    if isinstance(found, Hub):
        rows = source_files(source, scratch=place.scratch, mirror=place.mirror)
        return tuple(Part(name, digest, None) for name, digest in rows.items())
    folder = Path(source.path).expanduser()
    return parts_of(found, folder if folder.is_dir() else found[0].parent)


def _path(source: SourceSection) -> str:
    """A hub id as it is, of a file or folder its name: where it lies here is nobody's concern elsewhere."""
    return Path(source.path).name if Path(source.path).expanduser().exists() else source.path
