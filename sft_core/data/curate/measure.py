"""What is measured of every conversation before anything is decided: families of facts, shard by shard.

A threshold that changes measures nothing again: facts hang on the rows and on how they are looked at, decisions on
facts. The processes of `workers.py` import this module once and for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sft_core.config.duplicates import Compared, DuplicatesSection
from sft_core.config.pii import PiiSection
from sft_core.conversation import Conversation
from sft_core.data.curate import contamination, language, quality
from sft_core.data.curate.pii import redact
from sft_core.data.curate.pii.finder import Finder
from sft_core.data.curate.sketch import PERMUTATIONS, Sketches, read_sketches, sketch, write_sketches
from sft_core.data.curate.words import texts
from sft_core.data.selection import Embeddings
from sft_core.data.shards import read_shard, rows_in, shards_of, write_table
from sft_core.data.workers import InProcess, Workers, drain
from sft_core.errors import DataError
from sft_core.progress import Progress
from sft_core.stage import file_digest

Measure = Callable[..., None]
"""Measures a shard: takes its conversations and the file to write, and where a family is measured `here` a bar, which
it advances row by row."""


class Family(NamedTuple):
    """Facts of one kind."""

    name: str
    modules: tuple[str, ...]  # whose code they hang on
    settings: object  # what else they hang on, besides the rows
    measure: Callable[[], Measure]  # called when a shard is to be measured, and not before
    here: bool = False  # in this process alone: by a model, which is loaded once


class Fit(NamedTuple):
    """Why a row cannot be trained; both are empty where it can."""

    fault: str  # a `Why`
    fault_detail: str


QUALITY = Family("quality", ("sft_core.data.curate.language", "sft_core.data.curate.quality"), None, lambda: _quality)
"""Languages, and what is wrong with answers."""


def sketches_of(compared: Compared, section: DuplicatesSection) -> Family:
    """What duplicates are found by."""
    return Family(f"sketch_{compared}", ("sft_core.data.curate.sketch",), [section.words, PERMUTATIONS],
                  lambda: partial(_sketch, compared=compared, shingle_words=section.words))


WORDS = Family("words", ("sft_core.data.curate.sketch",), PERMUTATIONS, lambda: partial(
    _sketch, compared="conversations", shingle_words=1))
"""Sketches of single words: of longer shingles nearly all rows are equally far from each other."""


def embeddings_by(folder: Path) -> Family:
    """Sentence embeddings by the encoder in a folder.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"data.select.embed {folder} is no folder; give one that holds a sentence encoder")
    files = {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.is_file()}
    return Family("embeddings", ("sft_core.data.embed",), files, lambda: partial(_embeddings, folder=folder))


def personal(section: PiiSection) -> Family:
    """Personal data and secrets."""
    settings = section.model_dump(mode="json", exclude={"action"})
    return Family("personal", ("sft_core.data.curate.pii.redact",), settings, lambda: partial(
        _personal, finder=Finder(section)))


def items_of(asked: object, reworded: bool, finder: Callable[[], contamination.ItemFinder]) -> Family:
    """Which evaluation items a conversation holds, changed ones too if `reworded`; `asked` stands for the items."""
    return Family("items", ("sft_core.data.curate.contamination",), [asked, reworded],
                  lambda: partial(_items, finder=finder()))


def measure_shards(family: Family, shards: Path, out: Path, workers: Workers, bar: Progress) -> None:
    """Measure the shards of a folder that were not measured yet; `out` gets one file for each."""
    left = [shard for shard in shards_of(shards) if not (out / shard.name).exists()]
    if left and family.here:
        drain(InProcess().map(partial(_measured, measure=partial(family.measure(), bar=bar), out=out), left))
    elif left:
        for _ in workers.map(partial(_measured, measure=family.measure(), out=out), left):
            bar.advance()


def way_of(family: Family, shards: Path, out: Path) -> tuple[int, int, str]:
    """How much there is to measure, how much of it is done, and of what: shards, or rows where they take long."""
    every = shards_of(shards)
    done = [shard for shard in every if (out / shard.name).exists()]
    if not family.here:
        return len(every), len(done), "shards"
    return rows_in(shards), sum(pq.read_metadata(shard).num_rows for shard in done), "rows"


def facts_of(folder: Path, kind: type[Any]) -> Iterator[Any]:
    """Facts as named tuples of a kind, row by row; memory holds a shard's."""
    for file in shards_of(folder):
        table = pq.read_table(file, columns=list(kind._fields))
        columns = [map(tuple, column.to_pylist()) if pa.types.is_list(column.type) else column.to_pylist()
                   for column in (table.column(name) for name in kind._fields)]
        yield from (kind(*values) for values in zip(*columns, strict=True))


def column_in(folder: Path, name: str) -> NDArray[np.float64]:
    """[rows]: a column of facts that holds numbers; nan where there is none."""
    found = [pq.read_table(file, columns=[name]).column(0).cast(pa.float64()).to_numpy() for file in shards_of(folder)]
    return np.concatenate(found) if found else np.zeros(0)


def embeddings_in(folder: Path) -> Embeddings:
    """Embeddings of all rows."""
    found = [np.load(file) for file in shards_of(folder)]
    return Embeddings(np.concatenate(found) if found else np.zeros((0, 1), np.float32))


def sketches_in(folder: Path) -> list[Sketches]:
    """Sketches, shard by shard."""
    return [read_sketches(file) for file in shards_of(folder)]


def write_facts(kinds: Sequence[Sequence[Any]], out: Path) -> None:
    """Write named tuples of plain values; those of several kinds side by side."""
    write_table(out, pa.table({name: pa.array(column) for facts in kinds for name, column in zip(
        type(facts[0])._fields, zip(*facts, strict=True), strict=True)}))


def _measured(shard: Path, *, measure: Measure, out: Path) -> None:
    measure(read_shard(shard), out / shard.name)


def _sketch(conversations: Sequence[Conversation], out: Path, *, compared: Compared, shingle_words: int) -> None:
    draft = out.with_name(f".{out.name}")
    write_sketches(draft, sketch(conversations, shingle_words, compared))
    draft.replace(out)


def _quality(conversations: Sequence[Conversation], out: Path) -> None:
    languages = language.facts(conversations)
    write_facts([languages, quality.facts(conversations, languages)], out)


def _embeddings(conversations: Sequence[Conversation], out: Path, *, folder: Path) -> None:
    from sft_core.data.embed import embed  # brings torch

    draft = out.with_name(f".{out.name}")
    with draft.open("wb") as stream:
        np.save(stream, embed(["\n\n".join(texts(one)) for one in conversations], folder).of)
    draft.replace(out)


def _personal(conversations: Sequence[Conversation], out: Path, *, finder: Finder) -> None:
    write_facts([redact.facts(conversations, finder)], out)


def _items(conversations: Sequence[Conversation], out: Path, *, finder: contamination.ItemFinder) -> None:
    write_facts([contamination.facts(conversations, finder)], out)
