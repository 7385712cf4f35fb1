"""Raw text → examples of at most so many tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sft_core.config.data import SourceSection
from sft_core.config.decontaminate import DecontaminateSection
from sft_core.conversation import Origin, Rejected, Row
from sft_core.data.curate.contamination import Contamination, ItemFinder, counted, facts_of_texts, fault
from sft_core.data.examples import ExampleFiles, block_of
from sft_core.data.formats import to_text
from sft_core.data.ledger import SourceCount
from sft_core.data.shards import SHARD_ROWS
from sft_core.data.sources import name_of
from sft_core.data.tally import Tally
from sft_core.errors import DataError
from sft_core.stopping import check
from sft_core.templates.render import Example, pieces, render_text

AT_ONCE = 100
"""Documents that are searched together."""


class Look(NamedTuple):
    """What to look for in text, and what then becomes of it; `found` grows by what stays, as (suite, id)."""

    finder: ItemFinder
    section: DecontaminateSection
    found: set[tuple[str, str]]


def cut(source: SourceSection, rows: Iterable[Row | Rejected], tokenizer: PreTrainedTokenizerBase,
        max_tokens: int, look: Look, files: ExampleFiles) -> SourceCount:
    """Cut the documents of a source into pieces and write them as `replay`; counts what became of them.

    Raises:
        DataError: its format is not raw text.
    """
    if source.format not in ("auto", "text"):
        raise DataError(f"replay source {source.path} has format {source.format}; replay is raw text: a .txt file, "
                        "or rows with a column text (map it: columns: {text: body})")
    tally = Tally()
    examples: list[Example] = []
    for origin, text in _texts(rows, source, look):
        check()
        if isinstance(text, Rejected):
            tally.reject(text)
            files.rejected.add([text])
            continue
        parts = list(pieces(render_text(text, tokenizer, origin), max_tokens))
        tally.train += 1
        tally.split += len(parts) > 1
        tally.add(parts, (tokenizer.eos_token_id,))
        examples += parts
        if len(examples) >= SHARD_ROWS:
            files.write("replay", block_of(examples))
            examples = []
    files.write("replay", block_of(examples))
    return SourceCount(name_of(source), ("text",), tally.train + tally.rejected.total(),
                       dict(sorted(tally.rejected.items())), tally.train, **tally.counts())


def _texts(rows: Iterable[Row | Rejected], source: SourceSection, look: Look
           ) -> Iterator[tuple[Origin, str | Rejected]]:
    """What the documents say, or why they go; searched for items many at a time."""
    left = iter(rows)
    while some := list(islice(left, AT_ONCE)):
        texts = [row if isinstance(row, Rejected) else to_text(row, source) for row in some]
        held = iter(facts_of_texts([[text] for text in texts if isinstance(text, str)], look.finder))
        for row, text in zip(some, texts, strict=True):
            yield row.origin, text if isinstance(text, Rejected) else _looked(row.origin, text, next(held), look)


def _looked(origin: Origin, text: str, held: Contamination, look: Look) -> str | Rejected:
    if why := fault(held, look.section):
        return Rejected(*why, origin)
    look.found.update((find.suite, find.id) for find in counted(held, look.section))
    return text
