"""A source → its conversations as shards, and the same put right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.config.data import Repair, SourceSection
from sft_core.config.normalise import NormaliseSection
from sft_core.conversation import Conversation, Origin, Rejected
from sft_core.data.curate.normalise import Change, normalise
from sft_core.data.intake import Taken, take_in
from sft_core.data.phrasings import Halves
from sft_core.data.shards import (
    ORIGIN,
    RejectedWriter,
    in_shards,
    origin_columns,
    read_shard,
    rows_of_table,
    shard_name,
    shards_of,
    write_shard,
    write_table,
)
from sft_core.data.sources import source_digest
from sft_core.data.workers import Workers
from sft_core.errors import DataError
from sft_core.progress import progress

REJECTED = "rejected.parquet"
KEPT = "kept"
"""What is said of a text that stays as it was, as nothing would be left of it."""
CHANGES = pa.schema([*ORIGIN, *((name, pa.string()) for name in Change._fields)])


def read_source(
    source: SourceSection, repair: Sequence[Repair], halves: Halves, digest: str, places: tuple[Path, Path | None],
    out: Path,
) -> dict[str, object]:
    """Write the conversations of a source as shards, and the rows that are none; says what was read.

    Args:
        repair, halves: see `take_in`.
        digest: of the source before, see `source_digest`.
        places: folder for what `tiny:…` stands for, and that which stands for the hub, or None.

    Raises:
        DataError: it cannot be read, or changed meanwhile.
    """
    taken, rejected = Taken(), RejectedWriter(out / REJECTED)
    scratch, mirror = places

    def conversations() -> Iterator[Conversation]:
        for found in take_in(source, taken, scratch=scratch, mirror=mirror, repair=repair, halves=halves):
            if isinstance(found, Rejected):
                rejected.add([found])
            else:
                yield found

    for number, shard in enumerate(in_shards(conversations())):
        write_shard(out / shard_name(number), shard)
    rejected.close()
    if not source.streaming and source_digest(source, scratch=scratch, mirror=mirror) != digest:
        raise DataError(f"{source.path} has changed while it was read; run again when it is written whole")
    return {"rows": taken.rows, "formats": taken.formats, "rejected": dict(taken.rejected), "nulls": taken.nulls}


def put_right(shards: Path, section: NormaliseSection, name: str, workers: Workers, out: Path) -> dict[str, object]:
    """The same shards with their texts put right, and what changed beside each; says how many conversations changed,
    and in which way."""
    left = [shard for shard in shards_of(shards)
            if not ((out / shard.name).exists() and _changes(out / shard.name).exists())]
    with progress(f"{name}: putting texts right", len(left), "shards") as bar:
        for _ in workers.map(partial(_put_right, section=section, out=out), left):
            bar.advance()
    changed: Counter[str] = Counter()
    count = 0
    for shard in shards_of(out):
        rows = {(*row[:3], row[3]) for row in rows_of_table(_changes(shard), CHANGES)}
        changed.update(row[3] for row in rows)
        count += len({row[:3] for row in rows if row[3] != KEPT})
    return {"changed": dict(sorted(changed.items())), "conversations": count}


def changes_in(folder: Path) -> Iterator[tuple[Origin, Change]]:
    """What `put_right` changed, in the order of the rows."""
    for shard in shards_of(folder):
        for row in rows_of_table(_changes(shard), CHANGES):
            yield Origin(*row[:3]), Change(*row[3:])


def _put_right(shard: Path, *, section: NormaliseSection, out: Path) -> None:
    found = [normalise(one, section.kinds) for one in read_shard(shard)]
    changes = [(one.conversation.origin, change) for one in found for change in one.changes]
    columns = [*origin_columns([origin for origin, _ in changes]),
               *([getattr(change, name) for _, change in changes] for name in Change._fields)]
    pq.write_table(pa.table(columns, schema=CHANGES), _changes(out / shard.name))
    if changes:
        write_shard(out / shard.name, [one.conversation for one in found])
    else:
        write_table(out / shard.name, pq.read_table(shard))


def _changes(shard: Path) -> Path:
    return shard.with_name(f"changes-{shard.name}")
