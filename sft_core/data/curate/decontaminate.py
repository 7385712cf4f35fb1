"""Finds evaluation items in training text: training on a question makes its score worthless."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from sft_core.data.curate.features import EXAM_WORDS
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.words import words

GRAM_WORDS = 13
"""Length of a shared run of words that counts as contamination (Brown et al. 2020, appendix C)."""
LEAST_WORDS = 5
"""Shorter items are not looked for: they are everyday phrases."""
ANSWER_PART, ANSWER_WORDS = 0.5, 40
"""Of an answer such a part, or so many words, must be there in a row: 13 are soon the same in solutions of one style,
and in what begins every web page."""
How = Literal["verbatim", "answer", "reworded", "paraphrased"]
"""What of an item was found: its question word for word, its answer word for word, much of its pairs of words, or much
of its words. The surest first."""


class Find(NamedTuple):
    """An item that a row holds. `share` is 1 word for word, else of the weight of its pairs or words."""

    suite: str
    id: str
    how: How
    share: float


class _Span(NamedTuple):
    """Words that are looked for, in a row: a question or an answer."""

    item: int
    how: How
    words: list[str]
    need: int  # words in a row


class ItemIndex:
    """Looks for evaluation items in texts, word for word.

    A question of fewer than 13 words counts when it occurs whole, a longer one when 13 of its words occur in a row, an
    answer when half of it does. Such a run holds five words that begin at a multiple of nine: one table finds these,
    and the rest is compared word by word. Five numbers begin nothing, and a short question that is a phrase of
    examinations alone (which of the following is true?) is nobody's.
    """

    def __init__(self, items: Sequence[EvalItem]) -> None:
        self._spans = [span for number, item in enumerate(items) for span in _spans(number, item)]
        self._places: dict[tuple[str, ...], list[tuple[_Span, int]]] = {}
        for span in self._spans:
            for at in range(0, len(span.words) - LEAST_WORDS + 1, GRAM_WORDS - LEAST_WORDS + 1):
                five = tuple(span.words[at : at + LEAST_WORDS])
                if not all(map(str.isdigit, five)):
                    self._places.setdefault(five, []).append((span, at))

    def occurrences(self, found: Sequence[str]) -> Iterator[tuple[int, How]]:
        """Number of every item that these words of a text hold, in their order, and whether its question or answer."""
        if self._places.keys().isdisjoint(_fives(found)):
            return
        for start, five in enumerate(_fives(found)):
            for span, at in self._places.get(five, ()):
                if _run(found, start, span, at) >= span.need:
                    yield span.item, span.how


def _spans(number: int, item: EvalItem) -> Iterator[_Span]:
    asked = words(item.text)
    if len(asked) >= GRAM_WORDS or (len(asked) >= LEAST_WORDS and not EXAM_WORDS.issuperset(asked)):
        yield _Span(number, "verbatim", asked, min(len(asked), GRAM_WORDS))
    for answer in item.answers:
        if len(told := words(answer)) >= GRAM_WORDS:
            need = max(GRAM_WORDS, min(int(ANSWER_PART * len(told)), ANSWER_WORDS))
            yield _Span(number, "answer", told, need)


def _fives(found: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(found[at:] for at in range(LEAST_WORDS)), strict=False)


def _run(found: Sequence[str], i: int, span: _Span, j: int) -> int:
    """How many words in a row are the same around found[i] and the span's word j, which are; no more than needed."""
    most = min(i, j, span.need)
    before = next((n for n in range(most) if found[i - n - 1] != span.words[j - n - 1]), most)
    room = min(len(found) - i, len(span.words) - j, span.need)
    return before + next((n for n in range(room) if found[i + n] != span.words[j + n]), room)


def ids_by_suite(items: Iterable[EvalItem | Find]) -> dict[str, list[str]]:
    """Ids of these items per suite, each once, sorted."""
    found: dict[str, set[str]] = {}
    for item in items:
        found.setdefault(item.suite, set()).add(item.id)
    return {suite: sorted(found[suite]) for suite in sorted(found)}
