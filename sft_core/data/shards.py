"""Conversations on disk, in shards that fit into memory one at a time.

A shard is a Parquet file of at most `SHARD_ROWS` conversations and about `SHARD_LETTERS` characters. Turns are JSON
text: Arrow would give every tool call the keys of all others, and reading nested columns row by row is slower.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.conversation import Conversation, Origin, Rejected, ToolCall, Turn, Why
from sft_core.errors import DataError

SHARD_ROWS = 5_000
SHARD_LETTERS = 32_000_000
ORIGIN = [("source", pa.string()), ("file", pa.string()), ("line", pa.int64())]
CONVERSATIONS = pa.schema([*ORIGIN, ("turns", pa.large_string()), ("tools", pa.large_string()),
                           ("variables", pa.string()), ("nulls", pa.int64()), ("unused", pa.list_(pa.string())),
                           ("repaired", pa.bool_())])
REJECTED = pa.schema([("why", pa.string()), ("detail", pa.string()), *ORIGIN])


def shard_name(number: int) -> str:
    """File name of a shard; names sort as their numbers do."""
    return f"{number:06d}.parquet"


def shards_of(folder: Path) -> list[Path]:
    """The shards of a folder in order."""
    return sorted(folder.glob("[0-9]*.parquet"))


def rows_in(folder: Path) -> int:
    """Conversations of all shards of a folder."""
    return sum(pq.read_metadata(file).num_rows for file in shards_of(folder))


def in_shards(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    """Cut a stream into shards."""
    shard: list[Conversation] = []
    letters = 0
    for conversation in conversations:
        shard.append(conversation)
        letters += sum(len(turn.content) for turn in conversation.turns)
        if len(shard) == SHARD_ROWS or letters >= SHARD_LETTERS:
            yield shard
            shard, letters = [], 0
    if shard:
        yield shard


def write_shard(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write a shard; `read_shard` gives the same conversations back."""
    write_table(path, conversation_table(conversations))


def conversation_table(conversations: Sequence[Conversation]) -> pa.Table:
    """Conversations as a table of the columns CONVERSATIONS."""
    columns = [*origin_columns([one.origin for one in conversations]),
               [json.dumps(one.turns) for one in conversations],  # in ASCII: half a surrogate pair has no UTF-8
               [_ascii(one.tools) for one in conversations], [_ascii(one.variables) for one in conversations],
               [one.nulls for one in conversations], [[_shown(name) for name in one.unused] for one in conversations],
               [one.repaired for one in conversations]]
    return pa.table(columns, schema=CONVERSATIONS)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file whole or not at all."""
    draft = path.with_name(f".{path.name}")
    pq.write_table(table, draft, compression="zstd", compression_level=1)
    os.replace(draft, path)


def read_shard(path: Path) -> list[Conversation]:
    """The conversations of a shard in order.

    Raises:
        DataError: the file is missing or was not written by `write_shard`.
    """
    return list(map(_conversation, rows_of_table(path, CONVERSATIONS)))


def read_some(path: Path, rows: Sequence[int]) -> list[Conversation]:
    """The conversations in these rows of a shard, counted from 0."""
    table = pq.read_table(path, columns=CONVERSATIONS.names).take(pa.array(rows, pa.int64())).cast(CONVERSATIONS)
    columns = (table.column(name).to_pylist() for name in CONVERSATIONS.names)
    return list(map(_conversation, zip(*columns, strict=True)))


def rows_of_table(path: Path, schema: pa.Schema) -> Iterator[tuple[Any, ...]]:
    """The rows of a Parquet file of ours, batch by batch.

    Raises:
        DataError: the file is missing or has other columns.
    """
    for table in tables_of(path, schema):
        yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def tables_of(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """A Parquet file of ours in tables of a few thousand rows.

    Raises:
        DataError: the file is missing or has other columns.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096, columns=schema.names):
                yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; remove its stage folder, and run the stage prepare again"
                        ) from error


class RejectedWriter:
    """Writes rejected rows as they come; the file is there, if empty, also where none did."""

    _HELD = 2_000

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, REJECTED)
        self._held: list[Rejected] = []

    def add(self, rejected: Iterable[Rejected]) -> None:
        """Write these too."""
        self._held += rejected
        if len(self._held) >= self._HELD:
            self._flush()

    def add_table(self, table: pa.Table) -> None:
        """Write rows that `rejected_table` made."""
        self._flush()
        self._writer.write_table(table)

    def close(self) -> None:
        """Nothing more comes."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(rejected_table(self._held))
        self._held = []


def rejected_table(rejected: Sequence[Rejected]) -> pa.Table:
    """Rejected rows as an Arrow table."""
    return pa.table([[str(one.why) for one in rejected], [_shown(one.detail) for one in rejected],
                     *origin_columns([one.origin for one in rejected])], schema=REJECTED)


def load_rejected(path: Path) -> list[Rejected]:
    """Rejected rows as they were written, also where the stage failed on their number.

    Raises:
        DataError: the file is missing or is something else.
    """
    return [Rejected(Why(why), detail, Origin(*origin)) for why, detail, *origin in rows_of_table(path, REJECTED)]


def origin_columns(origins: Sequence[Origin]) -> list[list[Any]]:
    """Origins as three columns."""
    return [[one.source for one in origins], [one.file for one in origins], [one.line for one in origins]]


def _conversation(row: tuple[Any, ...]) -> Conversation:
    *origin, turns, tools, variables, nulls, unused, repaired = row
    return Conversation(_turns(turns), Origin(*origin), _text(tools), nulls, tuple(unused), repaired, _text(variables))


def _turns(text: str) -> tuple[Turn, ...]:
    return tuple(Turn(role, content, tuple(ToolCall(*call) for call in calls), masked)
                 for role, content, calls, masked in json.loads(text))


def _ascii(text: str | None) -> str | None:
    return None if text is None else json.dumps(text)


def _text(written: str | None) -> str | None:
    return None if written is None else str(json.loads(written))


def _shown(text: str) -> str:
    return text.encode(errors="replace").decode()
