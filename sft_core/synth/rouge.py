"""How much texts are alike: ROUGE-L (Lin 2004) as F1 of the longest common subsequence of words, against a whole pool.

A word becomes a character, and 2·LCS / (m + n) is what rapidfuzz calls the normalised similarity of insertions and
deletions, which it computes for tens of millions of pairs a second. For ASCII the words are those of the package
`rouge-score`, which knows no other letters; scripts that put no space between words are taken sign by sign.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

from sft_core.stopping import check

_UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
SURROGATES = range(0xD800, 0xE000)
"""Characters that stand for none by themselves."""
AT_ONCE = 64
"""Texts that are held against the pool together: memory is their number times the pool's size."""

ROUNDING = 1e-6
"""What rapidfuzz's own arithmetic may take from a similarity that is exactly the least one."""


class Alike(NamedTuple):
    """The most similar text of the pool, by its place; -1 where the pool is empty."""

    similarity: float
    place: int


class Pool:
    """Texts, and what is most like a further one."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._codes: dict[str, str] = {}
        self._held: list[str] = []
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, text: str) -> None:
        """Take one more in."""
        self._held.append(self._coded(text))

    def nearest(self, texts: Sequence[str], since: int = 0, least: float = 0.0) -> list[Alike]:
        """For each text the most similar one of the pool, the first of several.

        Args:
            since: of those from that place on.
            least: a lower similarity may be given as 0, which of long texts is told much faster.
        """
        coded = [self._coded(text) for text in texts]
        held = self._held[since:]
        if not held:
            return [Alike(0.0, -1)] * len(texts)
        found = []
        for start in range(0, len(coded), AT_ONCE):
            check()
            some = coded[start:start + AT_ONCE]
            table = process.cdist(some, held, scorer=Indel.normalized_similarity, dtype=np.float64,
                                  score_cutoff=max(least - ROUNDING, 0.0))
            for text, row in zip(some, table, strict=True):
                place = int(row.argmax())
                found.append(Alike(float(row[place]) if text else 0.0, since + place))  # nothing is like nothing else
        return found

    def _coded(self, text: str) -> str:
        return "".join(self._codes.setdefault(word, _character(len(self._codes)))
                       for word in WORD.findall(text.lower()))


def _character(number: int) -> str:
    return chr(number + 1 if number + 1 < SURROGATES.start else number + 1 + len(SURROGATES))


def rouge_l(one: str, other: str) -> float:
    """Of two texts, in [0, 1]."""
    return Pool([other]).nearest([one])[0].similarity
