"""The rows on their way through the steps of a decision: where they stand, which are still there, why others went."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.conversation import Origin, Why
from sft_core.data.curate import duplicates
from sft_core.data.provenance.manifest import Step

log = logging.getLogger("sft")
LEAST_ROWS, MOST_GONE = 20, 0.5
"""Near duplicates that are a larger share of a source of so many rows are told of."""
Reasons = Mapping[int, tuple[Why, str]]
"""Row → why it goes, and what a person reads of it."""


class Twin(NamedTuple):
    """A row that went as the like of another."""

    row: int
    of: int
    similarity: float
    exact: bool


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


class Way:
    """The rows on their way through the steps."""

    def __init__(self, origins: Origins, rows: Mapping[str, int]) -> None:
        """`rows`: how many each source has, by its name."""
        self.origins, self.names = origins, tuple(rows)
        self.alive = np.ones(len(origins), np.bool_)
        self.gone: dict[int, tuple[Why, str]] = {}
        self.steps: list[list[Step]] = []  # per step, of every source
        self.twins: list[Twin] = []
        self.source = np.repeat(np.arange(len(rows)), list(rows.values()))

    def step(self, name: str, settings: Any, reasons: Reasons, changed: Collection[int] = ()) -> None:
        """Take out rows that are still there; `changed` ones stay with other texts."""
        before = np.bincount(self.source[self.alive], minlength=len(self.names)).tolist()
        mine = {row: reason for row, reason in reasons.items() if self.alive[row]}
        counts: list[Counter[str]] = [Counter() for _ in self.names]
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
        if why is Why.NEAR_DUPLICATE:
            self._tell_most_gone()

    def _tell_most_gone(self) -> None:
        """Of the step before: more of a source than is likely."""
        for step, name in zip(self.steps[-1], self.names, strict=True):
            if step.rows_in >= LEAST_ROWS and step.rows_in - step.rows_out > MOST_GONE * step.rows_in:
                log.warning("%s: %s take out %d of %d rows. Look whether they say the same (sft data show CONFIG "
                            "--duplicates): rows that share a long text and differ in a short question are alike by "
                            "their words. If they do not, raise data.duplicates.threshold or set near: false",
                            name, step.name, step.rows_in - step.rows_out, step.rows_in)
