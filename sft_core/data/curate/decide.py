"""Facts → which rows stay. Cheap, and a function of facts and settings alone."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sft_core.config.data import DataSection, TrainingSourceSection
from sft_core.config.duplicates import Compared, DuplicatesSection
from sft_core.config.selection import SelectSection
from sft_core.conversation import Origin, Rejected, Why
from sft_core.data.curate import contamination, duplicates, quality
from sft_core.data.curate.contamination import Contamination
from sft_core.data.curate.decontaminate import Find
from sft_core.data.curate.kept import Kept
from sft_core.data.curate.language import UNDETERMINED, Languages
from sft_core.data.curate.measure import embeddings_in, facts_of, sketches_in
from sft_core.data.curate.pii import redact
from sft_core.data.curate.pii.redact import PiiFacts
from sft_core.data.curate.quality import Quality
from sft_core.data.provenance.manifest import Step
from sft_core.data.selection import Candidates, Embeddings, Signatures, Space, select
from sft_core.data.shards import shards_of
from sft_core.data.sources import name_of
from sft_core.data.workers import Workers

Reasons = Mapping[int, tuple[Why, str]]
"""Row → why it goes, and what a person reads of it."""


class Part(NamedTuple):
    """One source."""

    source: TrainingSourceSection
    read: Kept  # as it was read
    shards: Path  # with texts put right
    changed: Mapping[str, int]  # conversations that this changed, by kind
    put_right: int  # conversations that this changed
    facts: Mapping[str, Path]  # folders of facts about the shards by the name of the family

    @property
    def rows(self) -> int:
        """Conversations that were read."""
        return sum(pq.read_metadata(file).num_rows for file in shards_of(self.shards))


class Twin(NamedTuple):
    """A row that went as the like of another."""

    row: int
    of: int
    similarity: float
    exact: bool


class Flawed(NamedTuple):
    """A row with a flaw, dropped or not."""

    row: int
    flaw: str
    detail: str


class Held(NamedTuple):
    """A piece of personal data or a secret."""

    row: int
    kind: str
    turn: int  # -1: of the tools or variables
    part: str
    shown: str  # the beginning, never the value


class Decided(NamedTuple):
    """Of all rows of all sources, one behind the other."""

    origins: Origins
    gone: Reasons
    steps: tuple[tuple[Step, ...], ...]  # of every source
    twins: tuple[Twin, ...]
    items: Mapping[int, Sequence[Find]]  # rows that stay and hold evaluation items
    languages: Sequence[str]  # of the answers of each row
    flaws: tuple[Flawed, ...]
    scores: Sequence[float]  # quality of each row, 0 to 1
    held: tuple[Held, ...]
    selection: Mapping[str, Any] | None  # what was selected, beside a random draw
    clusters: NDArray[np.int64] | None  # [rows], see duplicates.clusters; None where no row is like another


class Origins:
    """Where rows stand, without an object for each."""

    def __init__(self, shards: Iterable[Path]) -> None:
        tables = [pq.read_table(file, columns=["source", "file", "line"], read_dictionary=["source", "file"])
                  for file in shards]
        self.starts = np.cumsum([0, *map(len, tables)]).tolist()
        self._table = pa.concat_tables(tables).unify_dictionaries().combine_chunks() if tables else None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> Origin:
        assert self._table is not None
        return Origin(*(column[row].as_py() for column in self._table.columns))


def decide(parts: Sequence[Part], data: DataSection, workers: Workers) -> Decided:
    """Which rows go, and why. The steps in their order: quality, personal data, evaluation items, exact and near
    duplicates, selection; what one step takes out, the next does not see."""
    origins = Origins(file for part in parts for file in shards_of(part.shards))
    way = _Way(origins, [part.rows for part in parts])
    flaws, scores, words = _quality(way, parts, data)
    held = _personal(way, parts, data)
    items = _contaminated(way, parts, data)
    for compared in data.duplicates.compared:
        _duplicates(way, parts, (data.duplicates, compared), workers)
    selection = _select(way, parts, data.select, (scores, words)) if data.select else None
    return Decided(
        origins, way.gone, tuple(zip(*way.steps, strict=True)) or ((),) * len(parts), tuple(way.twins),
        {row: found for row, found in items.items() if row not in way.gone},
        [sys.intern(one.answer) for one in _facts(parts, "quality", Languages)] or [UNDETERMINED] * len(origins), flaws,
        scores or [math.nan] * len(origins), held,
        selection, _clusters(way, parts, data, workers))


def _contaminated(way: _Way, parts: Sequence[Part], data: DataSection) -> dict[int, list[Find]]:
    """Evaluation items that rows hold, by row; takes out those that `data.decontaminate` says are to be dropped. Rows
    of held-out tasks do not train, and are items themselves."""
    items, reasons, section = {}, {}, data.decontaminate
    trains = [not data.holds_out(part.source) for part in parts]
    for row, found in enumerate(_facts(parts, "items", Contamination)):
        if not trains[way.source[row]]:
            continue
        if finds := contamination.counted(found, section):
            items[row] = finds
        if fault := contamination.fault(found, section):
            reasons[row] = fault
    if section.looks:
        way.step("evaluation items", section, reasons)
    return items


def _quality(way: _Way, parts: Sequence[Part], data: DataSection
             ) -> tuple[tuple[Flawed, ...], list[float], list[int]]:
    """Flaws, scores and words of the answers of all rows; takes out those with a flaw that `data.quality.drop` names.
    """
    flaws, scores, words, reasons = [], [], [], {}
    for row, one in enumerate(_facts(parts, "quality", Quality)):
        flaws += [Flawed(row, found.flaw, found.detail) for found in quality.flaws(one, data.quality)]
        scores.append(quality.score(one, data.quality))
        words.append(one.answer_words)
        if data.quality.drop and (fault := quality.fault(one, data.quality)):
            reasons[row] = (Why(fault.flaw), fault.detail)
    if data.quality.drop:
        way.step("quality", data.quality, reasons)
    return tuple(flaws), scores, words


def _personal(way: _Way, parts: Sequence[Part], data: DataSection) -> tuple[Held, ...]:
    """Personal data of all rows; takes out those that hold any where `data.pii.action` is drop."""
    held, reasons = [], {}
    for row, found in enumerate(_facts(parts, "personal", PiiFacts)):
        held += [Held(row, *each) for each in zip(found.kinds, found.turns, found.parts, found.shown, strict=True)]
        if fault := redact.fault(found, data.pii):
            reasons[row] = fault
    if data.pii.action in ("drop", "redact"):
        way.step("personal data", data.pii, reasons, {one.row for one in held} if data.pii.action == "redact" else ())
    return tuple(held)


def rejected_of(decided: Decided) -> Iterator[Rejected]:
    """The rows that go, in their order."""
    for row in sorted(decided.gone):
        why, detail = decided.gone[row]
        yield Rejected(why, detail, decided.origins[row])


class _Way:
    """The rows on their way through the steps."""

    def __init__(self, origins: Origins, rows: Sequence[int]) -> None:
        self.origins = origins
        self.alive = np.ones(len(origins), np.bool_)
        self.gone: dict[int, tuple[Why, str]] = {}
        self.steps: list[list[Step]] = []  # per step, of every source
        self.twins: list[Twin] = []
        self.source = np.repeat(np.arange(len(rows)), rows)
        self._sources = len(rows)

    def step(self, name: str, settings: Any, reasons: Reasons, changed: Collection[int] = ()) -> None:
        """Take out rows that are still there; `changed` ones stay with other texts."""
        before = np.bincount(self.source[self.alive], minlength=self._sources).tolist()
        mine = {row: reason for row, reason in reasons.items() if self.alive[row]}
        counts: list[Counter[str]] = [Counter() for _ in range(self._sources)]
        for row, (why, _) in mine.items():
            counts[self.source[row]][str(why)] += 1
        self.alive[list(mine)] = False
        self.gone |= mine
        others = Counter(int(self.source[row]) for row in changed if self.alive[row])
        plain = settings if isinstance(settings, dict) else settings.model_dump(mode="json")
        self.steps.append([Step(name, plain, rows, rows - count.total(), others[at], dict(sorted(count.items())))
                           for at, (rows, count) in enumerate(zip(before, counts, strict=True))])

    def same(self, name: str, settings: Any, twins: duplicates.Twins, why: Why) -> None:
        """Take out rows for which another one stays."""
        reasons = {}
        for row in np.flatnonzero(twins.of >= 0).tolist():
            other, similarity = int(twins.of[row]), float(twins.similarity[row])
            like = f"same as {self.origins[other]}" if why is Why.EXACT_DUPLICATE else \
                f"{similarity:.2f} like {self.origins[other]}"
            reasons[row] = (why, like)
            self.twins.append(Twin(row, other, similarity, why is Why.EXACT_DUPLICATE))
        self.step(name, settings, reasons)


def _facts(parts: Sequence[Part], family: str, kind: type[Any]) -> Iterator[Any]:
    """Facts of a family about all rows; none where it was not measured."""
    for part in parts:
        if family in part.facts:
            yield from facts_of(part.facts[family], kind)


def _duplicates(way: _Way, parts: Sequence[Part], wanted: tuple[DuplicatesSection, Compared], workers: Workers
                ) -> None:
    section, compared = wanted
    if not (section.exact or section.near):
        return
    found = _sketches(parts, compared)
    order = _preferred(parts, found.letters(), section)
    said = f" of {compared}"
    if section.exact:
        twins = duplicates.exact(found.keys(), order[way.alive[order]])
        way.same(f"exact duplicates{said}", section, twins, Why.EXACT_DUPLICATE)
    if section.near:
        twins = duplicates.near(found, order, way.alive, section.threshold, workers)
        way.same(f"near duplicates{said}", section, twins, Why.NEAR_DUPLICATE)


def _select(way: _Way, parts: Sequence[Part], section: SelectSection, known: tuple[list[float], list[int]]
            ) -> Mapping[str, Any]:
    """Take out what is not selected; says what was, beside a random draw of the same size."""
    rows = np.flatnonzero(way.alive)
    sketches = [one for part in parts for one in sketches_in(part.facts["words"])]
    space: Space | None = None
    if section.diverse and section.embed:
        vectors = [embeddings_in(part.facts["embeddings"]).of for part in parts]
        space = Embeddings(np.concatenate(vectors)[rows])
    elif section.diverse:
        space = Signatures(np.concatenate([one.signatures for one in sketches])[rows])
    scores, words = known
    places = np.concatenate([one.keys for one in sketches]).view(np.uint64).reshape(-1, 2)[:, 0]
    names = [name_of(part.source) for part in parts]
    found = select(Candidates(places[rows], [names[at] for at in way.source[rows]], np.array(words)[rows],
                              {"quality": np.array(scores)[rows]}, space), section)
    gone = np.setdiff1d(rows, rows[found.chosen])
    way.step("selection", section, {int(row): (Why.NOT_SELECTED, f"others are before it by {section.by}")
                                    for row in gone})
    return found.to_dict()


def _sketches(parts: Sequence[Part], compared: Compared) -> duplicates.Gathered:
    return duplicates.gathered([file for part in parts for file in shards_of(part.facts[f"sketch_{compared}"])])


def _clusters(way: _Way, parts: Sequence[Part], data: DataSection, workers: Workers) -> NDArray[np.int64] | None:
    """Near duplicates that stay, as no part of a cluster may be held out alone."""
    if data.duplicates.near or not data.validation_share:
        return None
    return duplicates.clusters(_sketches(parts, "conversations"), way.alive, data.duplicates.threshold, workers)


def _preferred(parts: Sequence[Part], letters: NDArray[np.int64], section: DuplicatesSection) -> NDArray[np.int64]:
    """The rows from the one that stays before all others on."""
    counts = [part.rows for part in parts]
    names = [name_of(part.source) for part in parts]
    rank = [section.prefer.index(name) if name in section.prefer else len(section.prefer) for name in names]
    age = [-part.source.date.toordinal() if part.source.date else 0 for part in parts]
    kept = {"first": np.zeros_like(letters), "longest": -letters, "newest": np.repeat(age, counts)}[section.keep]
    return np.lexsort((np.arange(len(letters)), kept, np.repeat(rank, counts)))
