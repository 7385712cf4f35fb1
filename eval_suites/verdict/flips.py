"""Items that one model gets right and the other does not, side by side, with the words that differ."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import NamedTuple

from eval_suites.results import ItemResult, SuiteResult

MOST_WORDS = 1500
"""Longer answers are shown without their differences: comparing them takes quadratic time."""
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


class Piece(NamedTuple):
    """A part of an answer; `same`: the other answer has it too."""

    text: str
    same: bool


class Flip(NamedTuple):
    """An item whose score changed."""

    suite: str
    task: str
    item_id: str
    base: float
    tuned: float
    prompt: str
    target: str
    base_answer: str
    tuned_answer: str
    why: str  # what the lower answer lacked

    @property
    def lost(self) -> bool:
        """The score fell."""
        return self.tuned < self.base


def flips(base: SuiteResult, tuned: SuiteResult) -> list[Flip]:
    """Items whose score changed, losses first, the largest changes first, else in the order of the base; none of texts
    whose perplexity is measured, which have neither question nor answer.

    Raises:
        EvalError: the protocols differ.
    """
    from eval_suites.verdict.verdict import check_protocols  # `sft data show` marks words alone, without statistics

    check_protocols(base, tuned)
    if base.scale == "log":
        return []
    after: dict[str, ItemResult] = {item.item_id: item for item in tuned.items}
    found = []
    for item in base.items:
        other = after.get(item.item_id)
        if other is None or item.score is None or other.score is None or item.score == other.score:
            continue
        lower = item if item.score < other.score else other
        found.append(Flip(item.suite, item.task, item.item_id, item.score, other.score, item.prompt, item.target,
                          item.answer, other.answer, lower.why))
    return sorted(found, key=lambda flip: (not flip.lost, -abs(flip.tuned - flip.base)))


def word_diff(one: str, two: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts cut into pieces that the other one has, in the same order, or has not. The pieces add up to the text.

    Texts of more than `MOST_WORDS` words are one piece each.
    """
    left, right = _WORD.findall(one), _WORD.findall(two)
    if max(len(left), len(right)) > MOST_WORDS:
        return [Piece(one, same=True)], [Piece(two, same=True)]
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    return (list(_pieces(left, [(a, b, kind == "equal") for kind, a, b, _, _ in blocks])),
            list(_pieces(right, [(a, b, kind == "equal") for kind, _, _, a, b in blocks])))


def _pieces(words: list[str], spans: list[tuple[int, int, bool]]) -> Iterator[Piece]:
    for start, end, same in spans:
        if start < end:
            yield Piece("".join(words[start:end]), same)
