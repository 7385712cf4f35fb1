"""Sources → curated conversations: read, put right, measure, decide, write; each step kept by what it hangs on.

Who calls says where a step is kept (`kept.py`): a workspace in stage folders that are found again, a test in a folder
of its own. A step whose stamp is known is not made again, so a changed threshold measures nothing, and a further source
leaves what is known of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sft_core.config.data import DataSection, SourceReadSection, SourceSection
from sft_core.config.duplicates import Compared
from sft_core.config.phrasing import SourcePhrasingSection
from sft_core.data.curate.contamination import ItemFinder
from sft_core.data.curate.curated import write_curated
from sft_core.data.curate.decide import Part
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.kept import Keep, Kept, in_folder
from sft_core.data.curate.measure import (
    QUALITY,
    WORDS,
    Family,
    embeddings_by,
    items_of,
    measure_shards,
    personal,
    sketches_of,
    way_of,
)
from sft_core.data.curate.read import put_right, read_source
from sft_core.data.curate.recall import measure
from sft_core.data.curate.scores import Grader
from sft_core.data.phrasings import Halves
from sft_core.data.shards import shards_of
from sft_core.data.sources import name_of, source_digest
from sft_core.data.workers import InProcess, Workers
from sft_core.errors import DataError
from sft_core.progress import progress
from sft_core.stage import fingerprint
from sft_core.versions import code_version

READ_BY = {*SourceReadSection.model_fields, *SourcePhrasingSection.model_fields} - {"streaming"}
"""Fields of a source that what is read of it hangs on."""
DECIDED_BY = {"quality", "pii", "duplicates", "decontaminate", "select"}
"""Sections of the data that say which rows stay."""


@dataclass(frozen=True)
class Scoring:
    """What takes the base to measure: the scores of `data.scores`, and which rows fit where some are selected."""

    families: Sequence[Family] = ()
    grader: Grader | None = None
    close: Callable[[], None] = lambda: None  # gives the model's memory back


@dataclass(frozen=True)
class Wanted:
    """What is curated, and what for."""

    data: DataSection
    seed: int  # of the split
    digests: Sequence[str]  # of the sources, see `source_digest`
    asked: object  # stands for the evaluation items
    items: Callable[[], Sequence[EvalItem]]
    scratch: Path
    mirror: Path | None
    scoring: Scoring = Scoring()

    @cached_property
    def families(self) -> list[Family]:
        """What is to be measured; an encoder of sentences is hashed for it, once."""
        section = self.data.duplicates
        kept_together: tuple[Compared, ...] = ("conversations",) if self._keeps_alike_together() else ()
        compared = section.compared if section.exact or section.near else ()
        found = [sketches_of(one, section) for one in dict.fromkeys((*compared, *kept_together))]
        if self.data.pii.action != "off":
            found.append(personal(self.data.pii))
        if self.data.decontaminate.looks:
            found.append(items_of(self.asked, self.data.decontaminate.reworded != "off", lambda: self.finder))
        select = self.data.select
        if select is not None:
            found += [WORDS, *([embeddings_by(Path(select.embed))] if select.embed else [])]
        return [*([QUALITY] if self.data.quality.measure else []), *found, *self.scoring.families]

    @cached_property
    def finder(self) -> ItemFinder:
        """Looks for the evaluation items: to read thousands and to index them takes seconds."""
        return ItemFinder(self.items(), reworded=self.data.decontaminate.reworded != "off")

    def rows_kept(self, at: int) -> tuple[str, str]:
        """Under which name and stamp the conversations of a source are kept, their texts put right."""
        return "normalise" if self.data.normalise.kinds else "read", _right_stamp(self, at)

    def stamp(self) -> str:
        """What the curated rows hang on."""
        facts = [_facts_stamp(self, at, family) for at in range(len(self.digests)) for family in self.families]
        dates = [str(one.date) for one in self.data.sources] if self.data.duplicates.keep == "newest" else None
        return fingerprint("curate", code_version("sft_core.data.curate.chain"), facts,
                           self.data.model_dump(mode="json", include=DECIDED_BY), self.data.scores.keep,
                           self.scoring.grader and self.scoring.grader.stamp, dates,
                           list(map(self.data.holds_out, self.data.sources)), self._keeps_alike_together())

    def halves(self) -> Halves:
        """What the rows of a source with `shots` hang on besides the source."""
        return Halves(self.data.validation_share, self.seed)

    def _keeps_alike_together(self) -> bool:
        """Whether near duplicates stay and some rows are held out: then they are looked for all the same."""
        return not self.data.duplicates.near and self.data.validation_share > 0


def curate(wanted: Wanted, keep: Keep, workers: Workers) -> Kept:
    """Read, put right, measure and decide: the folder that `curated.py` describes.

    Raises:
        DataError: a source cannot be read, has changed while it was read, or two have one name.
        EvalError: too many rows have no grade of the judge.
    """
    refuse_equal_names(wanted.data.sources)
    _refuse_unknown_names(wanted.data)
    try:
        parts = [_measured(wanted, at, keep, workers) for at in range(len(wanted.digests))]
    finally:
        wanted.scoring.close()
    told = _recall(wanted, parts, keep, workers)
    return keep("curate", wanted.stamp(), lambda out: write_curated(
        out, parts, wanted.data, workers, (told, wanted.scoring.grader)))


def curate_here(data: DataSection, items: Sequence[EvalItem], folder: Path, *, seed: int = 0,
                mirror: Path | None = None, workers: Workers | None = None) -> Path:
    """`curate` without a workspace: everything is kept below `folder`, and `seed` is of the split. Returns the folder
    of what stays.

    Raises:
        DataError: as `curate`.
    """
    scratch = folder / "sources"
    digests = [source_digest(source, scratch=scratch, mirror=mirror) for source in data.sources]
    wanted = Wanted(data, seed, digests, fingerprint(*items), lambda: items, scratch, mirror)
    return curate(wanted, in_folder(folder), workers or InProcess()).folder


def refuse_equal_names(sources: Sequence[SourceSection]) -> None:
    """Raises DataError where two sources have one name: rows are told apart by it."""
    twice = [name for name, times in Counter(map(name_of, sources)).items() if times > 1]
    if twice:
        raise DataError(f"several sources are called {', '.join(twice)}; give each its own name: in the configuration")


def _refuse_unknown_names(data: DataSection) -> None:
    names = list(map(name_of, data.sources))
    if unknown := [one for one in (data.select.sources if data.select else ()) if one not in names]:
        raise DataError(f"data.select.sources names {unknown[0]}, which is no source; there are {', '.join(names)}")


def _measured(wanted: Wanted, at: int, keep: Keep, workers: Workers) -> Part:
    """One source with all that is to be known of it."""
    data, source = wanted.data, wanted.data.sources[at]
    read = keep("read", _read_stamp(wanted, at), partial(
        read_source, source, data.repair, wanted.halves(), wanted.digests[at], (wanted.scratch, wanted.mirror)))
    right = read
    if data.normalise.kinds:
        right = keep("normalise", _right_stamp(wanted, at), partial(
            put_right, read.folder, data.normalise, name_of(source), workers))
    facts = dict(_facts(wanted, at, right.folder, keep, workers))
    changed, count = right.result.get("changed", {}), right.result.get("conversations", 0)
    return Part(source, read, right.folder, changed, count, facts)


def _facts(wanted: Wanted, at: int, shards: Path, keep: Keep, workers: Workers) -> Iterator[tuple[str, Path]]:
    name, count = name_of(wanted.data.sources[at]), len(shards_of(shards))
    for family in wanted.families:

        def make(out: Path, family: Family = family) -> dict[str, object]:
            total, begun, unit = way_of(family, shards, out)
            with progress(f"{name}: {family.name}", total, unit, begun=begun) as bar:
                measure_shards(family, shards, out, workers, bar)
            return {"of": f"{family.name} of {name}", "shards": count}

        yield family.name, keep("facts", _facts_stamp(wanted, at, family), make).folder


def _recall(wanted: Wanted, parts: Sequence[Part], keep: Keep, workers: Workers) -> Mapping[str, Any] | None:
    """How many evaluation items are found that are changed and planted among these rows, and how often something is
    found that is none."""
    section = wanted.data.decontaminate
    if not (section.looks and section.recall_items):
        return None
    stamp = fingerprint("recall", code_version("sft_core.data.curate.recall"), wanted.asked, section,
                        [_right_stamp(wanted, at) for at in range(len(parts))])
    folders = [part.shards for part in parts]
    return keep("recall", stamp, lambda _: measure(wanted.finder, folders, section, workers)).result


def _read_stamp(wanted: Wanted, at: int) -> str:
    source = wanted.data.sources[at]
    return fingerprint("read", code_version("sft_core.data.intake", "sft_core.data.shards"),
                       source.model_dump(mode="json", include=READ_BY), wanted.data.repair,
                       wanted.halves() if source.shots else None, wanted.digests[at])


def _right_stamp(wanted: Wanted, at: int) -> str:
    if not wanted.data.normalise.kinds:
        return _read_stamp(wanted, at)
    return fingerprint("normalise", code_version("sft_core.data.curate.normalise"), wanted.data.normalise,
                       _read_stamp(wanted, at))


def _facts_stamp(wanted: Wanted, at: int, family: Family) -> str:
    return fingerprint(family.name, code_version(*family.modules), family.settings, _right_stamp(wanted, at))
