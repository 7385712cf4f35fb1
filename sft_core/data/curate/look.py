"""What a curation found, for somebody who reads it: rows with what is said of them, by source and kind, some at a time;
and the conversations that stand there, with what is personal in them masked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sft_core.config.pii import PiiSection
from sft_core.conversation import Conversation, Origin, Turn
from sft_core.data.curate.pii.finder import Finder
from sft_core.data.curate.pii.redact import redact
from sft_core.data.shards import ORIGIN, read_some, shards_of
from sft_core.errors import ConfigError

KIND: Mapping[str, str] = {
    "rejected": "why", "duplicates": "exact", "flaws": "flaw", "personal": "kind", "changes": "kind"}
"""View → the column by which its rows are told apart."""


class Listed(NamedTuple):
    """Some finds of a view, each with its `kind`, and how many there are in how many rows of the data."""

    finds: list[dict[str, Any]]
    total: int
    rows: int


class Looked:
    """One view of a curation."""

    def __init__(self, view: str, folder: Path, shards: Sequence[Path]) -> None:
        """Read it.

        Args:
            view: as in `KIND`.
            folder: of the curated conversations.
            shards: folders of the conversations before, of every source.
        """
        files = [folder / f"{view}.parquet"] if view != "changes" else [
            file for one in shards for file in sorted(one.glob("changes-*.parquet"))]
        table = pa.concat_tables([pq.read_table(file) for file in files]) if files else pa.schema(
            [*ORIGIN, (KIND[view], pa.string())]).empty_table()
        kinds = table.column(KIND[view])
        if view == "duplicates":
            kinds = pc.if_else(kinds, "exact", "near")
        self._table = table.set_column(table.schema.get_field_index(KIND[view]), "kind", kinds.cast(pa.string()))

    def only(self, source: str | None, kind: str | None) -> Looked:
        """Those of one source, of one kind, or both.

        Raises:
            ConfigError: there are none of them; says what there is.
        """
        for column, wanted in (("source", source), ("kind", kind)):
            if wanted is not None:
                there = self.counts(column)
                if there and wanted not in there:
                    raise ConfigError(f"there are none of {wanted!r} here; there is {', '.join(there)}")
                self._table = self._table.filter(pc.equal(self._table.column(column), wanted))
        return self

    def counts(self, column: str = "kind") -> dict[str, int]:
        """How many there are of each kind, most first."""
        found = {one["values"]: one["counts"] for one in pc.value_counts(self._table.column(column)).to_pylist()}
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))

    def page(self, first: int, most: int) -> Listed:
        """Finds from the `first` on, counted from 0."""
        return Listed(self._table.slice(first, most).to_pylist(), self._table.num_rows, self.rows())

    def rows(self, kind: str | None = None) -> int:
        """In how many rows of the data these finds are, or those of one kind: a row may have several."""
        table = self._table if kind is None else self._table.filter(pc.equal(self._table.column("kind"), kind))
        return int(table.group_by([name for name, _ in ORIGIN]).aggregate([]).num_rows)

    def sample(self, kind: str, most: int, seed: int) -> list[dict[str, Any]]:
        """So many of one kind at most, drawn at random, in their order; the same for the same seed."""
        places = np.flatnonzero(pc.equal(self._table.column("kind"), kind).to_numpy(zero_copy_only=False))
        if len(places) > most:
            places = np.sort(np.random.default_rng(seed).choice(places, most, replace=False))
        rows: list[dict[str, Any]] = self._table.take(pa.array(places)).to_pylist()
        return rows


def origin_of(row: Mapping[str, Any], prefix: str = "") -> Origin:
    """Where a row of a view stands, or with `of_` its like."""
    return Origin(*(row[f"{prefix}{name}"] for name, _ in ORIGIN))


def conversations_at(shards: Sequence[Path], wanted: Collection[Origin]) -> dict[Origin, Conversation]:
    """The conversations that stand there; without those that are in no shard.

    Args:
        shards: folders of shards.
    """
    found: dict[Origin, Conversation] = {}
    lines = pa.array(sorted({one.line for one in wanted}), pa.int64())
    for file in (file for folder in shards for file in shards_of(folder)):
        if len(found) == len(set(wanted)):
            break
        table = pq.read_table(file, columns=[name for name, _ in ORIGIN])
        places = np.flatnonzero(pc.is_in(table.column("line"), lines).to_numpy(zero_copy_only=False))
        some = table.take(pa.array(places)).to_pylist()
        mine = [int(place) for place, row in zip(places, some, strict=True) if origin_of(row) in wanted]
        found |= {one.origin: one for one in read_some(file, mine)} if mine else {}
    return found


class Mask:
    """Takes what is personal out of what is shown."""

    def __init__(self, section: PiiSection) -> None:
        """`section`: as in `data.pii`; where that is off, the kinds that are looked for by default count."""
        self._finder = Finder(section if section.action != "off" else PiiSection())

    def conversation(self, one: Conversation) -> str:
        """All turns, each behind who speaks."""
        return "\n".join(map(_turn, redact(one, self._finder)[0].turns))

    def text(self, text: str) -> str:
        """One text."""
        asked = Conversation((Turn("user", text),), Origin("", "", 0))
        return redact(asked, self._finder)[0].turns[0].content


def _turn(turn: Turn) -> str:
    calls = [f"{call.name}({call.arguments})" for call in turn.tool_calls]
    return f"{turn.role}: {' '.join([*([turn.content] if turn.content else []), *calls])}"
