"""Facts → which rows stay. Cheap, and a function of facts and settings alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sft_core.config.data import DataSection, SourceSection
from sft_core.config.duplicates import DuplicatesSection
from sft_core.conversation import Origin, Rejected, Why
from sft_core.data.curate import duplicates
from sft_core.data.curate.kept import Kept
from sft_core.data.curate.language import Languages
from sft_core.data.curate.measure import Found, facts_of, sketches_in
from sft_core.data.shards import shards_of
from sft_core.data.sources import name_of


class Part(NamedTuple):
    """One source."""

    source: SourceSection
    read: Kept  # as it was read
    shards: Path  # with texts put right
    changed: Mapping[str, int]  # conversations that this changed, by kind
    facts: Mapping[str, Path]  # folders of facts about the shards by the name of the family


class Step(NamedTuple):
    """What one step of the way did."""

    name: str
    rows: int  # that came
    kept: int
    rejected: int


class Twin(NamedTuple):
    """A row that went as the like of another."""

    row: int
    of: int
    similarity: float
    exact: bool


class Decided(NamedTuple):
    """Of all rows of all sources, one behind the other."""

    origins: Origins
    gone: Mapping[int, tuple[Why, str]]  # row → why it goes
    steps: tuple[Step, ...]
    twins: tuple[Twin, ...]
    items: Mapping[int, Found]  # rows that stay and hold evaluation items
    languages: Sequence[str]  # of the answers of each row


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


def decide(parts: Sequence[Part], data: DataSection) -> Decided:
    """Which rows go, and why. The steps in their order: evaluation items, exact and near duplicates; what one step
    takes out, the next does not see."""
    origins = Origins(file for part in parts for file in shards_of(part.shards))
    way = _Way(origins)
    languages = [facts.answer for part in parts for shard in facts_of(part.facts["languages"], Languages)
                 for facts in shard]
    items = dict(_with_items(parts))
    if data.decontaminate == "drop":
        way.step("evaluation items", {row: (Why.CONTAMINATED, f"holds item {found.ids[0]} of {found.suites[0]}")
                                      for row, found in items.items()})
    for compared in data.duplicates.compared:
        _duplicates(way, parts, data.duplicates, compared)
    return Decided(origins, way.gone, tuple(way.steps), tuple(way.twins),
                   {row: found for row, found in items.items() if row not in way.gone}, languages)


class _Way:
    """The rows on their way through the steps."""

    def __init__(self, origins: Origins) -> None:
        self.origins = origins
        self.alive = np.ones(len(origins), np.bool_)
        self.gone: dict[int, tuple[Why, str]] = {}
        self.steps: list[Step] = []
        self.twins: list[Twin] = []

    def step(self, name: str, reasons: Mapping[int, tuple[Why, str]]) -> None:
        """Take out rows that are still there."""
        before = int(self.alive.sum())
        mine = {row: reason for row, reason in reasons.items() if self.alive[row]}
        self.alive[list(mine)] = False
        self.gone |= mine
        self.steps.append(Step(name, before, before - len(mine), len(mine)))

    def same(self, name: str, twins: duplicates.Twins, tell: Callable[[int, float, Origin], tuple[Why, str]]) -> None:
        """Take out rows for which another one stays."""
        reasons = {}
        for row in np.flatnonzero(twins.of >= 0).tolist():
            other, similarity = int(twins.of[row]), float(twins.similarity[row])
            why, detail = tell(row, similarity, self.origins[other])
            reasons[row] = (why, detail)
            self.twins.append(Twin(row, other, similarity, why is Why.EXACT_DUPLICATE))
        self.step(name, reasons)


def _duplicates(way: _Way, parts: Sequence[Part], section: DuplicatesSection, compared: str) -> None:
    if not (section.exact or section.near):
        return
    found = duplicates.Gathered([one for part in parts for one in sketches_in(part.facts[f"sketch_{compared}"])])
    order = _preferred(parts, found.letters(), section)
    if section.exact:
        alive = order[way.alive[order]]
        way.same(f"exact duplicates ({compared})", duplicates.exact(found.keys(), alive),
                 lambda _, __, other: (Why.EXACT_DUPLICATE, f"same as {other}"))
    if section.near:
        way.same(f"near duplicates ({compared})", duplicates.near(found, order, way.alive, section.threshold),
                 lambda _, similarity, other: (Why.NEAR_DUPLICATE, f"{similarity:.2f} like {other}"))


def _preferred(parts: Sequence[Part], letters: NDArray[np.int64], section: DuplicatesSection) -> NDArray[np.int64]:
    """The rows from the one that stays before all others on."""
    counts = [sum(pq.read_metadata(file).num_rows for file in shards_of(part.shards)) for part in parts]
    names = [name_of(part.source) for part in parts]
    rank = [section.prefer.index(name) if name in section.prefer else len(section.prefer) for name in names]
    age = [-part.source.date.toordinal() if part.source.date else 0 for part in parts]
    kept = {"first": np.zeros_like(letters), "longest": -letters, "newest": np.repeat(age, counts)}[section.keep]
    return np.lexsort((np.arange(len(letters)), kept, np.repeat(rank, counts)))


def _with_items(parts: Sequence[Part]) -> Iterator[tuple[int, Found]]:
    at = 0
    for part in parts:
        shards = facts_of(part.facts["items"], Found) if "items" in part.facts else ()
        for facts in shards:
            yield from ((at + row, found) for row, found in enumerate(facts) if found.ids)
            at += len(facts)


def rejected_of(decided: Decided) -> Iterator[Rejected]:
    """The rows that go, in their order."""
    for row in sorted(decided.gone):
        why, detail = decided.gone[row]
        yield Rejected(why, detail, decided.origins[row])
