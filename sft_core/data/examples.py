"""Rendered examples on disk: ids, targets, and where each comes from."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.conversation import Origin
from sft_core.data.ledger import Split, Totals
from sft_core.data.shards import ORIGIN, RejectedWriter, origin_columns, tables_of
from sft_core.templates.render import IGNORE, Example

_EXAMPLES = pa.schema([("input_ids", pa.list_(pa.int32())), ("targets", pa.list_(pa.int32())), *ORIGIN])


class Block(NamedTuple):
    """Examples as they are written, and how much they are."""

    table: pa.Table
    totals: Totals


class ExampleFiles:
    """The files of one preparation, written as their rows come: examples of every split, and what was rejected."""

    def __init__(self, out: Path) -> None:
        self.totals: dict[Split, Totals] = {}
        self.rejected = RejectedWriter(out / "rejected.parquet")
        self._writers = {name: pq.ParquetWriter(out / f"{name}.parquet", _EXAMPLES) for name in get_args(Split)}

    def write(self, name: Split, block: Block) -> None:
        """These come next in the file of that name."""
        self._writers[name].write_table(block.table)
        self.totals[name] = Totals(*map(sum, zip(self.totals.get(name, Totals()), block.totals, strict=True)))

    def close(self) -> None:
        """Nothing more comes."""
        self.rejected.close()
        for writer in self._writers.values():
            writer.close()


def block_of(examples: Sequence[Example]) -> Block:
    """Some examples, to be written."""
    trained = sum(len(e.targets) - e.targets.count(IGNORE) for e in examples)
    return Block(_table(examples), Totals(len(examples), sum(len(e.input_ids) for e in examples), trained))


def load_examples(path: Path) -> list[Example]:
    """Examples as `prepare` wrote them.

    Raises:
        DataError: the file is missing or was not written by `prepare`.
    """
    return list(iter_examples(path))


def iter_examples(path: Path) -> Iterator[Example]:
    """As `load_examples`, one at a time. Ids and targets are arrays: as lists a million examples take 7 GB."""
    for table in tables_of(path, _EXAMPLES):
        ids, targets, *origin = table.columns
        origins = zip(*(column.to_pylist() for column in origin), strict=True)
        for one, wanted, (source, file, line) in zip(_arrays(ids), _arrays(targets), origins, strict=True):
            yield Example(one, wanted, Origin(sys.intern(source), sys.intern(file), line))


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """The file that `load_examples` reads."""
    pq.write_table(_table(examples), path)


def _arrays(column: pa.ChunkedArray) -> Iterator[array[int]]:
    for chunk in column.chunks:
        flat, ends = chunk.flatten().to_numpy(), (chunk.offsets.to_numpy() - chunk.offsets[0].as_py()).tolist()
        yield from (array("i", flat[start:end].tobytes()) for start, end in pairwise(ends))


def _table(examples: Sequence[Example]) -> pa.Table:
    columns = [_lists([e.input_ids for e in examples]), _lists([e.targets for e in examples]),
               *origin_columns([e.origin for e in examples])]
    return pa.table(columns, schema=_EXAMPLES)


def _lists(rows: Sequence[Sequence[int]]) -> pa.ListArray:
    """Lists of integers as one Arrow column, by way of one flat array: seven times faster than element by element."""
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(rows), np.int32, int(ends[-1]))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat))
