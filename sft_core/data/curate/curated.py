"""The folder of curated conversations: those that stay, what goes and why, and the way of the rows in numbers.

`000000.parquet` and so on    conversations that stay, in the order of the sources, with what is known of each
`rejected.parquet`            rows that are no conversation, and those that go, with reasons
`duplicates.parquet`          what went as the like of another, and of which
`flaws.parquet`               what is wrong with which row, dropped or not
`personal.parquet`            personal data and secrets, by their beginnings
`curation.json`               per source and step: rows that came, stayed and went; texts put right; languages, scores
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sft_core.config.data import DataSection
from sft_core.config.pii import PiiSection
from sft_core.config.scores import Score
from sft_core.conversation import Conversation, Origin
from sft_core.data.curate import scores
from sft_core.data.curate.decide import Decided, Part, decide, rejected_of
from sft_core.data.curate.pii.finder import Finder
from sft_core.data.curate.pii.redact import redact
from sft_core.data.curate.read import REJECTED
from sft_core.data.curate.scores import Grader
from sft_core.data.provenance.manifest import Step
from sft_core.data.shards import (
    CONVERSATIONS,
    ORIGIN,
    RejectedWriter,
    conversation_table,
    origin_columns,
    read_shard,
    rows_of_table,
    shard_name,
    shards_of,
    write_table,
)
from sft_core.data.sources import name_of
from sft_core.data.workers import Workers, drain
from sft_core.stage import write_json

TWINS = pa.schema([*ORIGIN, ("of_source", pa.string()), ("of_file", pa.string()), ("of_line", pa.int64()),
                   ("similarity", pa.float64()), ("exact", pa.bool_())])
FLAWS = pa.schema([*ORIGIN, ("flaw", pa.string()), ("detail", pa.string())])
PERSONAL = pa.schema([*ORIGIN, ("kind", pa.string()), ("turn", pa.int64()), ("part", pa.string()),
                      ("shown", pa.string())])
ADDED = pa.schema([("items", pa.list_(pa.list_(pa.string()))), ("language", pa.string()), ("quality", pa.float64()),
                   ("cluster", pa.int64()), *((name, pa.float64()) for name in get_args(Score))])
"""Columns of a curated conversation besides its own."""


class Curated(NamedTuple):
    """A conversation that stays."""

    conversation: Conversation
    items: tuple[tuple[str, str], ...]  # evaluation items that it holds, as (suite, id)
    language: str  # of its answers; `und` where that cannot be said
    quality: float  # 0 to 1, see quality.score
    cluster: int | None  # equal for near duplicates, where such stay
    perplexity: float | None = None  # these three as `data.scores` has them; None where they were not measured
    ifd: float | None = None
    judge: float | None = None


class _Job(NamedTuple):
    shard: Path
    out: Path
    stays: NDArray[np.bool_]  # [rows of the shard]
    items: Mapping[int, list[tuple[str, str]]]
    languages: Sequence[str]
    scores: Mapping[str, NDArray[np.float64]]
    clusters: Sequence[int | None]
    redacted: Sequence[int]  # rows whose personal data become placeholders
    pii: PiiSection


def curated_shards(folder: Path) -> Iterator[list[Curated]]:
    """What stays, in the order of the sources, shard by shard.

    Raises:
        DataError: a file was not written by `curate`.
    """
    return map(read_curated, shards_of(folder))


def read_curated(file: Path) -> list[Curated]:
    """What stays of one shard.

    Raises:
        DataError: the file was not written by `curate`.
    """
    return [Curated(conversation, tuple((suite, name) for suite, name in items), *known)
            for conversation, (items, *known) in zip(read_shard(file), rows_of_table(file, ADDED), strict=True)]


def has_clusters(folder: Path) -> bool:
    """Whether near duplicates stay among the rows."""
    return any(pq.read_table(file, columns=["cluster"]).column(0).null_count < pq.read_metadata(file).num_rows
               for file in shards_of(folder))


def twins_of(folder: Path) -> list[tuple[Origin, Origin, float, bool]]:
    """What went as the like of another row, that other, their similarity, and whether they are equal."""
    return [(Origin(*row[:3]), Origin(*row[3:6]), row[6], row[7])
            for row in rows_of_table(folder / "duplicates.parquet", TWINS)]


def write_curated(out: Path, parts: Sequence[Part], data: DataSection, workers: Workers,
                  besides: tuple[Mapping[str, Any] | None, Grader | None]) -> dict[str, object]:
    """Decide, and write the folder; returns what `curation.json` says.

    Args:
        besides: the recall of decontamination, to be told, and a judge of rows.

    Raises:
        EvalError: too many rows have no grade of the judge.
    """
    recall, grader = besides
    decided = decide(parts, data, workers, grader)
    redacted = {one.row for one in decided.held} if data.pii.action == "redact" else set()
    shards = [file for part in parts for file in shards_of(part.shards)]
    starts = decided.origins.starts
    drain(workers.map(_keep_rows, [
        _job(file, out / shard_name(number), decided, range(start, stop), (redacted, data.pii))
        for number, (file, start, stop) in enumerate(zip(shards, starts[:-1], starts[1:], strict=True))]))
    rejected = RejectedWriter(out / REJECTED)
    for part in parts:
        for batch in pq.ParquetFile(part.read.folder / REJECTED).iter_batches():
            rejected.add_table(pa.Table.from_batches([batch]))
    rejected.add(rejected_of(decided))
    rejected.close()
    write_table(out / "duplicates.parquet", _twins(decided))
    write_table(out / "flaws.parquet", _noted(decided, decided.flaws, FLAWS))
    write_table(out / "personal.parquet", _noted(decided, decided.held, PERSONAL))
    curation: dict[str, object] = {"sources": list(_by_source(parts, decided, data)), "judge": decided.judged,
                                   "selection": decided.selection, "recall": recall}
    write_json(out / "curation.json", curation)
    return curation


def _noted(decided: Decided, notes: Sequence[Any], schema: pa.Schema) -> pa.Table:
    """What was found of rows, with where they stand."""
    return pa.table([*origin_columns([decided.origins[one.row] for one in notes]),
                     *([getattr(one, name) for one in notes] for name in schema.names[len(ORIGIN):])], schema=schema)


def _job(shard: Path, out: Path, decided: Decided, rows: range, redacting: tuple[set[int], PiiSection]) -> _Job:
    """`redacting`: rows whose personal data become placeholders, of all shards, and what is looked for."""
    stays = np.array([row not in decided.gone for row in rows], np.bool_)
    items = {row - rows.start: sorted({(find.suite, find.id) for find in decided.items[row]})
             for row in rows if row in decided.items}
    redacted, section = redacting
    return _Job(shard, out, stays, items, decided.languages[rows.start:rows.stop],
                {name: known[rows.start:rows.stop] for name, known in decided.scores.items()}, _clusters(decided, rows),
                [row - rows.start for row in rows if row in redacted], section)


def _clusters(decided: Decided, rows: range) -> Sequence[int | None]:
    if decided.clusters is None:
        return [None] * len(rows)
    return [None if one < 0 else one for one in decided.clusters[rows.start:rows.stop].tolist()]


def _keep_rows(job: _Job) -> None:
    table = pq.read_table(job.shard, schema=CONVERSATIONS)
    if job.redacted:
        conversations, finder = read_shard(job.shard), Finder(job.pii)
        for row in job.redacted:
            conversations[row] = redact(conversations[row], finder)[0]
        table = conversation_table(conversations)
    items = pa.array([job.items.get(row, []) for row in range(table.num_rows)], ADDED.field("items").type)
    added = [items, pa.array(job.languages, pa.string()), pa.array(job.scores["quality"], pa.float64()),
             pa.array(job.clusters, pa.int64()), *(
        pa.array(job.scores[name], pa.float64(), from_pandas=True) if name in job.scores
        else pa.nulls(table.num_rows, pa.float64()) for name in get_args(Score))]
    for field, column in zip(ADDED, added, strict=True):
        table = table.append_column(field, column)
    write_table(job.out, table.filter(pa.array(job.stays)))


def _twins(decided: Decided) -> pa.Table:
    rows, others = ([decided.origins[row] for row in side] for side in (
        [twin.row for twin in decided.twins], [twin.of for twin in decided.twins]))
    return pa.table([*origin_columns(rows), *origin_columns(others), [twin.similarity for twin in decided.twins],
                     [twin.exact for twin in decided.twins]], schema=TWINS)


def _by_source(parts: Sequence[Part], decided: Decided, data: DataSection) -> Iterator[dict[str, Any]]:
    """What became of every source."""
    at, redacts = 0, data.pii.action == "redact"
    for part, steps in zip(parts, decided.steps, strict=True):
        rows = range(at, at + part.rows)
        at = rows.stop
        mine = [one for one in decided.held if one.row in rows]
        kept = [row for row in rows if row not in decided.gone]
        reasons: Counter[str] = sum((Counter(step.reasons) for step in steps), Counter())
        read = Step("read", {}, part.read.result["rows"], len(rows), reasons=part.read.result["rejected"])
        right = [Step("normalise", data.normalise.model_dump(mode="json"), len(rows), len(rows), part.put_right)
                 ] if data.normalise.kinds else []
        yield {"name": name_of(part.source), **part.read.result, "changed": dict(part.changed),
               "curated": dict(sorted(reasons.items())), "steps": [asdict(step) for step in (read, *right, *steps)],
               "flaws": dict(sorted(Counter(one.flaw for one in decided.flaws if one.row in rows).items())),
               "personal": {name: dict(sorted(Counter(one.kind for one in some).items())) for name, some in (
                   ("found", mine), ("redacted", [one for one in mine if redacts and one.row not in decided.gone]))},
               "scores": {name: {when: scores.spread(known[some]) for when, some in (("read", rows), ("kept", kept))}
                          for name, known in decided.scores.items() if np.isfinite(known).any()},
               "languages": {name: dict(Counter(decided.languages[row] for row in some).most_common())
                             for name, some in (("read", rows), ("kept", kept))}}
