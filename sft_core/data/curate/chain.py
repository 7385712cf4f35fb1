"""Sources → curated conversations: read, measure, decide, write; each step kept by what it hangs on.

Who calls says where a step is kept (`Keep`): a workspace in stage folders that are found again, a test in a folder of
its own. A step whose stamp is known is not made again, so a changed threshold measures nothing, and a further source
leaves what is known of the others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.config.data import DataSection, SourceSection
from sft_core.conversation import Conversation, Origin, Rejected
from sft_core.data.curate.decide import Decided, Part, decide, rejected_of
from sft_core.data.curate.decontaminate import EvalItem, ItemIndex
from sft_core.data.curate.measure import Family, items_of, measure_shards, sketches_of
from sft_core.data.intake import Taken, take_in
from sft_core.data.shards import (
    CONVERSATIONS,
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
from sft_core.data.sources import name_of, source_digest
from sft_core.data.workers import InProcess, Workers, drain
from sft_core.errors import DataError
from sft_core.progress import progress
from sft_core.stage import fingerprint, read_json, write_json
from sft_core.versions import code_version

log = logging.getLogger("sft")
READ_BY = ("path", "name", "format", "columns", "ignore_columns", "roles", "split", "subset", "revision", "limit")
"""Fields of a source that what is read of it hangs on."""
TWINS = pa.schema([*ORIGIN, ("of_source", pa.string()), ("of_file", pa.string()), ("of_line", pa.int64()),
                   ("similarity", pa.float64()), ("exact", pa.bool_())])
ITEMS = pa.field("items", pa.list_(pa.list_(pa.string())))


class Kept(NamedTuple):
    """A finished step."""

    folder: Path
    result: Mapping[str, Any]


class Keep(Protocol):
    """Finds a step, or makes it."""

    def __call__(self, name: str, stamp: str, make: Callable[[Path], Mapping[str, object]]) -> Kept:
        """`make` writes into the folder that it is given; what a killed try left there it finds again."""


@dataclass(frozen=True)
class Wanted:
    """What is curated, and what for."""

    data: DataSection
    digests: Sequence[str]  # of the sources, see `source_digest`
    asked: object  # stands for the evaluation items
    items: Callable[[], Sequence[EvalItem]]
    scratch: Path
    mirror: Path | None

    def families(self) -> list[Family]:
        """What is to be measured."""
        section = self.data.duplicates
        found = [sketches_of(compared, section) for compared in section.compared if section.exact or section.near]
        if self.data.decontaminate != "off":
            found.append(items_of(self.asked, lambda: ItemIndex(self.items())))
        return found

    def stamp(self) -> str:
        """What the curated rows hang on."""
        facts = [_facts_stamp(self, at, family) for at in range(len(self.digests)) for family in self.families()]
        dates = [str(one.date) for one in self.data.sources] if self.data.duplicates.keep == "newest" else None
        return fingerprint("curate", code_version("sft_core.data.curate.chain"), facts, self.data.duplicates,
                           self.data.decontaminate, dates)


class Curated(NamedTuple):
    """A conversation that stays, and the evaluation items (suite, id) that it holds."""

    conversation: Conversation
    items: tuple[tuple[str, str], ...]


def curate(wanted: Wanted, keep: Keep, workers: Workers) -> Kept:
    """Read, measure and decide. The folder holds the conversations that stay (`curated_shards`), `rejected.parquet`,
    `duplicates.parquet` and `curation.json`.

    Raises:
        DataError: a source cannot be read, has changed while it was read, or two have one name.
    """
    refuse_equal_names(wanted.data.sources)
    reads = [keep("read", _read_stamp(wanted, at), partial(_read, wanted, at)) for at in range(len(wanted.digests))]
    parts = [Part(source, read.folder, dict(_measured(wanted, at, read.folder, keep, workers)))
             for at, (source, read) in enumerate(zip(wanted.data.sources, reads, strict=True))]
    return keep("curate", wanted.stamp(), lambda out: _write(out, parts, reads, wanted.data, workers))


def curate_here(data: DataSection, items: Sequence[EvalItem], folder: Path, *, mirror: Path | None = None,
                workers: Workers | None = None) -> Path:
    """`curate` without a workspace: everything is kept below `folder`. Returns the folder of what stays.

    Raises:
        DataError: as `curate`.
    """
    scratch = folder / "sources"
    digests = [source_digest(source, scratch=scratch, mirror=mirror) for source in data.sources]
    wanted = Wanted(data, digests, fingerprint(*items), lambda: items, scratch, mirror)
    return curate(wanted, in_folder(folder), workers or InProcess()).folder


def curated_shards(folder: Path) -> Iterator[list[Curated]]:
    """What stays, in the order of the sources, shard by shard.

    Raises:
        DataError: a file was not written by `curate`.
    """
    for file in shards_of(folder):
        items = (found for (found,) in rows_of_table(file, pa.schema([ITEMS])))
        yield [Curated(conversation, tuple((suite, name) for suite, name in held))
               for conversation, held in zip(read_shard(file), items, strict=True)]


def refuse_equal_names(sources: Sequence[SourceSection]) -> None:
    """Raises DataError where two sources have one name: rows are told apart by it."""
    twice = [name for name, times in Counter(map(name_of, sources)).items() if times > 1]
    if twice:
        raise DataError(f"several sources are called {', '.join(twice)}; give each its own name: in the configuration")


def _read_stamp(wanted: Wanted, at: int) -> str:
    return fingerprint("read", code_version("sft_core.data.intake", "sft_core.data.shards"),
                       wanted.data.sources[at].model_dump(mode="json", include=set(READ_BY)), wanted.data.repair,
                       wanted.digests[at])


def _facts_stamp(wanted: Wanted, at: int, family: Family) -> str:
    return fingerprint(family.name, code_version(*family.modules), family.settings, _read_stamp(wanted, at))


def _read(wanted: Wanted, at: int, out: Path) -> dict[str, object]:
    """Write the conversations of a source as shards."""
    source, taken = wanted.data.sources[at], Taken()
    rejected = RejectedWriter(out / "rejected.parquet")

    def conversations() -> Iterator[Conversation]:
        for found in take_in(source, taken, scratch=wanted.scratch, mirror=wanted.mirror, repair=wanted.data.repair):
            if isinstance(found, Rejected):
                rejected.add([found])
            else:
                yield found

    for number, shard in enumerate(in_shards(conversations())):
        write_shard(out / shard_name(number), shard)
    rejected.close()
    if not source.streaming and source_digest(source, scratch=wanted.scratch, mirror=wanted.mirror) \
            != wanted.digests[at]:
        raise DataError(f"{source.path} has changed while it was read; run again when it is written whole")
    return {"rows": taken.rows, "formats": taken.formats, "rejected": dict(taken.rejected), "nulls": taken.nulls}


def _measured(wanted: Wanted, at: int, shards: Path, keep: Keep, workers: Workers) -> Iterator[tuple[str, Path]]:
    name, count = name_of(wanted.data.sources[at]), len(shards_of(shards))
    for family in wanted.families():

        def make(out: Path, family: Family = family) -> dict[str, object]:
            with progress(f"{name}: {family.name}", count, "shards") as bar:
                measure_shards(family, shards, out, workers, bar)
            return {"shards": count}

        yield family.name, keep("facts", _facts_stamp(wanted, at, family), make).folder


def _write(out: Path, parts: Sequence[Part], reads: Sequence[Kept], data: DataSection, workers: Workers
           ) -> dict[str, object]:
    decided = decide(parts, data)
    shards = [file for part in parts for file in shards_of(part.shards)]
    jobs = [_Job(file, out / shard_name(number), *_of_shard(decided, start, stop))
            for number, (file, start, stop) in enumerate(zip(
                shards, decided.origins.starts[:-1], decided.origins.starts[1:], strict=True))]
    drain(workers.map(_keep_rows, jobs))
    rejected = RejectedWriter(out / "rejected.parquet")
    for read in reads:
        for batch in pq.ParquetFile(read.folder / "rejected.parquet").iter_batches():
            rejected.add_table(pa.Table.from_batches([batch]))
    rejected.add(rejected_of(decided))
    rejected.close()
    write_table(out / "duplicates.parquet", _twins(decided))
    curation: dict[str, object] = {"sources": _by_source(parts, reads, decided),
                                   "steps": [step._asdict() for step in decided.steps]}
    write_json(out / "curation.json", curation)
    return curation


class _Job(NamedTuple):
    shard: Path
    out: Path
    stays: np.ndarray[Any, np.dtype[np.bool_]]  # [rows of the shard]
    items: Mapping[int, list[tuple[str, str]]]


def _of_shard(decided: Decided, start: int, stop: int) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], dict[int, Any]]:
    stays = np.array([row not in decided.gone for row in range(start, stop)], np.bool_)
    items = {row - start: list(zip(*found, strict=True)) for row in range(start, stop)
             if (found := decided.items.get(row))}
    return stays, items


def _keep_rows(job: _Job) -> None:
    table = pq.read_table(job.shard, schema=CONVERSATIONS)
    items = pa.array([job.items.get(row, []) for row in range(table.num_rows)], ITEMS.type)
    write_table(job.out, table.append_column(ITEMS, items).filter(pa.array(job.stays)))


def _twins(decided: Decided) -> pa.Table:
    rows, others = ([decided.origins[row] for row in side] for side in (
        [twin.row for twin in decided.twins], [twin.of for twin in decided.twins]))
    return pa.table([*origin_columns(rows), *origin_columns(others), [twin.similarity for twin in decided.twins],
                     [twin.exact for twin in decided.twins]], schema=TWINS)


def _by_source(parts: Sequence[Part], reads: Sequence[Kept], decided: Decided) -> list[dict[str, object]]:
    gone: dict[str, Counter[str]] = {}
    for row, (why, _) in decided.gone.items():
        gone.setdefault(decided.origins[row].source, Counter())[str(why)] += 1
    return [{"name": name, **read.result, "curated": dict(gone.get(name, {}))}
            for name, read in zip((name_of(part.source) for part in parts), reads, strict=True)]


def in_folder(root: Path) -> Keep:
    """Keeps every step in a folder of its own below `root`, for as long as that is there."""

    def keep(name: str, stamp: str, make: Callable[[Path], Mapping[str, object]]) -> Kept:
        out, mark = root / name / stamp, root / name / f"{stamp}.json"
        if not mark.exists():
            out.mkdir(parents=True, exist_ok=True)
            write_json(mark, dict(make(out)))
        return Kept(out, read_json(mark))

    return keep


def gone_of(folder: Path) -> list[tuple[Origin, Origin, float, bool]]:
    """Rows of `duplicates.parquet`: what went, what stays for it, how alike they are, and whether they are equal."""
    return [(Origin(*row[:3]), Origin(*row[3:6]), row[6], row[7])
            for row in rows_of_table(folder / "duplicates.parquet", TWINS)]
