"""The mask viewer: which pieces of an example are trained, alone or as they share a row."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import PurePath
from typing import Literal, NamedTuple

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from sft_core.templates.render import IGNORE, Example
from sft_core.visible import visible

Kind = Literal["trained", "context", "special"]
_STYLES: dict[Kind, str] = {"trained": "bold green", "context": "dim", "special": "cyan"}


class Piece(NamedTuple):
    """Neighbouring tokens of one kind, as text."""

    text: str
    kind: Kind


class Segment(NamedTuple):
    """An example and where it stands in the file of examples."""

    number: int  # counted from 0
    example: Example


class View(NamedTuple):
    """One row: an example alone, or several packed with `width` tokens of room."""

    number: int  # counted from 0
    segments: tuple[Segment, ...]
    width: int | None = None
    why: str = ""  # it was chosen

    @property
    def tokens(self) -> int:
        """Tokens of all segments, without padding."""
        return sum(len(segment.example.input_ids) for segment in self.segments)

    @property
    def head(self) -> str:
        """What the row is, in one line."""
        if self.width is None:
            return " · ".join([f"#{self.number}", _about(self.segments[0].example), *([self.why] if self.why else [])])
        return (f"row {self.number} · {len(self.segments)} examples · {self.tokens} of {self.width} tokens "
                f"({100 * self.tokens / self.width:.1f} % filled)")

    def borders(self) -> list[str]:
        """One line over each segment of a packed row; a single example needs none."""
        if self.width is None:
            return [""]
        return [f"── segment {at} · #{segment.number} · {_about(segment.example)} ──"
                for at, segment in enumerate(self.segments, 1)]

    @property
    def padding(self) -> str:
        """The free end of a packed row."""
        free = 0 if self.width is None else self.width - self.tokens
        return f"── {free} tokens of padding ──" if free else ""


def telling(examples: Sequence[Example]) -> list[tuple[int, str]]:
    """The examples that show most of how a training is masked: number, counted from 0, and why. The first, the longest,
    the first that is a part of a longer row, the first with several answers that are trained; whichever there are."""
    parts = Counter(one.origin for one in examples)
    wanted = {
        "the first": iter(range(len(examples))),
        "the longest": iter(sorted(range(len(examples)), key=lambda at: -len(examples[at].input_ids))),
        "a part of a row": (at for at, one in enumerate(examples) if parts[one.origin] > 1),
        "several trained answers": (at for at, one in enumerate(examples) if _answers(one) > 1)}
    found: dict[int, list[str]] = {}
    for why, numbers in wanted.items():
        if (number := next(numbers, None)) is not None:
            found.setdefault(number, []).append(why)
    return [(number, ", ".join(whys)) for number, whys in found.items()]


def _answers(example: Example) -> int:
    """Stretches of trained tokens."""
    return sum(trained for trained, _ in groupby(target != IGNORE for target in example.targets))


def spans_of(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The example as text, cut where the kind changes. A token is trained when the position before it predicts it.

    A piece is what its tokens add to the text before them: decoded alone, some tokenizers drop the space in front.
    """
    special = {at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    before = [IGNORE, *example.targets[:-1]]

    def kind(at: int) -> Kind:
        if before[at] != IGNORE:
            return "trained"
        return "special" if example.input_ids[at] in special else "context"

    return list(_texts(example.input_ids, [(name, len(list(run))) for name, run in groupby(
        range(len(example.input_ids)), key=kind)], tokenizer))


def _texts(ids: Sequence[int], runs: Sequence[tuple[Kind, int]], tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
    def decoded(start: int, stop: int) -> str:
        return str(tokenizer.decode(ids[start:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    start, text = 0, ""
    for kind, length in runs:
        whole = decoded(0, start + length)
        # A character whose bytes stand on both sides of a border has no half that could be shown.
        yield Piece(whole[len(text):] if whole.startswith(text) else decoded(start, start + length), kind)
        start, text = start + length, whole


def to_rich(pieces: Sequence[Piece]) -> Text:
    """For a terminal: trained green, context dim, control tokens cyan."""
    return Text.assemble(*((visible(piece.text), _STYLES[piece.kind]) for piece in pieces))


def to_html(pieces: Sequence[Piece]) -> str:
    """For a report: one `<span class="trained|context|special">` per piece inside a `<pre>`; everything is escaped."""
    spans = "".join(f'<span class="{piece.kind}">{html.escape(visible(piece.text))}</span>'
                    for piece in pieces)
    return f'<pre class="example">{spans}</pre>'


def view_to_rich(view: View, tokenizer: PreTrainedTokenizerBase) -> Text:
    """A row for a terminal, with a border over each segment of a packed one."""
    text = Text.assemble((f"\n{visible(view.head)}\n", "bold"))
    for border, segment in zip(view.borders(), view.segments, strict=True):
        text.append(f"{visible(border)}\n" if border else "", "yellow")
        text.append_text(to_rich(spans_of(segment.example, tokenizer)))
        text.append("\n" if border else "")
    return text.append(view.padding, "yellow")


def view_to_html(view: View, tokenizer: PreTrainedTokenizerBase) -> str:
    """The same for a page."""
    parts = [f"<h3>{html.escape(view.head)}</h3>"]
    for border, segment in zip(view.borders(), view.segments, strict=True):
        parts.append(f'<p class="border">{html.escape(border)}</p>' if border else "")
        parts.append(to_html(spans_of(segment.example, tokenizer)))
    if view.padding:
        parts.append(f'<p class="border">{view.padding}</p>')
    return "".join(parts)


def _about(example: Example) -> str:
    trained = len(example.targets) - example.targets.count(IGNORE)
    where = example.origin._replace(file=PurePath(example.origin.file).name)  # a head is one line
    return f"{where} · {len(example.input_ids)} tokens, {trained} trained"
