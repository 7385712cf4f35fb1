"""The mask viewer: which pieces of an example are trained."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from sft_core.render import IGNORE, Example

Kind = Literal["trained", "context", "special"]
_STYLES: dict[Kind, str] = {"trained": "bold green", "context": "dim", "special": "cyan"}


class Piece(NamedTuple):
    """Neighbouring tokens of one kind, as text."""

    text: str
    kind: Kind


def spans_of(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The example as text, cut where the kind changes. A token is trained when the position before it predicts it."""
    special = {at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    before = [IGNORE, *example.targets[:-1]]

    def kind(at: int) -> Kind:
        if before[at] != IGNORE:
            return "trained"
        return "special" if example.input_ids[at] in special else "context"

    return [
        Piece(tokenizer.decode([example.input_ids[at] for at in run], skip_special_tokens=False,
                               clean_up_tokenization_spaces=False), name)
        for name, run in groupby(range(len(example.input_ids)), key=kind)
    ]


def to_rich(pieces: Sequence[Piece]) -> Text:
    """For a terminal: trained green, context dim, control tokens cyan."""
    return Text.assemble(*((piece.text, _STYLES[piece.kind]) for piece in pieces))


def to_html(pieces: Sequence[Piece]) -> str:
    """For a report: one `<span class="trained|context|special">` per piece inside a `<pre>`; everything is escaped."""
    spans = "".join(f'<span class="{piece.kind}">{html.escape(piece.text)}</span>' for piece in pieces)
    return f'<pre class="example">{spans}</pre>'
