"""Raw text → examples of at most so many tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sft_core.config.data import SourceSection
from sft_core.config.decontaminate import DecontaminateSection
from sft_core.conversation import Rejected, Row
from sft_core.data.curate.contamination import ItemFinder, counted, facts_of_texts, fault
from sft_core.data.examples import ExampleFiles
from sft_core.data.formats import to_text
from sft_core.data.ledger import SourceCount
from sft_core.data.shards import SHARD_ROWS
from sft_core.data.sources import name_of
from sft_core.data.tally import Tally
from sft_core.errors import DataError
from sft_core.stopping import check
from sft_core.templates.render import Example, pieces, render_text


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
    for row in rows:
        check()
        text = _text(row, source, look)
        if isinstance(text, Rejected):
            tally.reject(text)
            files.rejected.add([text])
            continue
        parts = list(pieces(render_text(text, tokenizer, row.origin), max_tokens))
        tally.train += 1
        tally.split += len(parts) > 1
        tally.add(parts, (tokenizer.eos_token_id,))
        examples += parts
        if len(examples) >= SHARD_ROWS:
            files.write("replay", examples)
            examples = []
    files.write("replay", examples)
    return SourceCount(name_of(source), ("text",), tally.train + tally.rejected.total(),
                       dict(sorted(tally.rejected.items())), tally.train, **tally.counts())


def _text(row: Row | Rejected, source: SourceSection, look: Look) -> str | Rejected:
    text = row if isinstance(row, Rejected) else to_text(row, source)
    if isinstance(text, Rejected):
        return text
    (held,) = facts_of_texts([[text]], look.finder)
    if why := fault(held, look.section):
        return Rejected(*why, row.origin)
    look.found.update((find.suite, find.id) for find in counted(held, look.section))
    return text
