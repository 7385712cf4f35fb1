"""What a changed item still has in common with itself: pairs of neighbouring words, and its words, as numbers.

A word is its stem without the frequent English endings. Of other languages nothing is known here; there a word's rarity
among the items alone decides what it weighs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

UNKNOWN, DIGITS = -1, -2
MOST_REMEMBERED = 1_000_000
"""Words whose numbers are remembered."""
_ENDING = re.compile(r"(?:ing|ed|es|s|ly|er)$")
_KEEPS = 4
"""Letters of the longest word that keeps its ending."""
ENGLISH = json.loads(Path(__file__).with_name("english.json").read_text(encoding="utf-8"))
FUNCTION_WORDS = frozenset(ENGLISH["function_words"])
"""They say nothing of what a sentence is about."""
EXAM_WORDS = FUNCTION_WORDS | frozenset(ENGLISH["exam_words"])
"""Nor do these of what a question is about."""


class Coded(NamedTuple):
    """The words of several texts, one after the other; those with digits are left out."""

    code: Ints  # of the stem, UNKNOWN where no item has it
    text: Ints  # number of the text
    place: Ints  # number of the word in its text


class Found(NamedTuple):
    """Features of several texts, in the order of the texts and of their places."""

    key: Ints
    text: Ints
    place: Ints


class Vocabulary:
    """Numbers of the words that the items are made of.

    Args:
        parts: the words of every text that is looked for.
    """

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        stems = {stem(word): word in FUNCTION_WORDS for word in dict.fromkeys(chain.from_iterable(parts))
                 if not _has_digit(word)}
        self._codes = _Codes({name: code for code, name in enumerate(stems)})
        self._tells = ~np.fromiter(stems.values(), dtype=bool, count=len(stems))

    def coded(self, batch: Sequence[Sequence[str]]) -> Coded:
        """The words of these texts."""
        lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
        code = np.fromiter(map(self._codes.__getitem__, chain.from_iterable(batch)), np.int64, int(lengths.sum()))
        text = np.repeat(np.arange(len(batch)), lengths)
        kept = code != DIGITS
        code, text = code[kept], text[kept]
        counts = np.bincount(text, minlength=len(batch))
        return Coded(code, text, np.arange(len(text)) - (np.cumsum(counts) - counts)[text])

    def pairs(self, coded: Coded) -> Found:
        """Neighbouring words that both occur in items."""
        code, text, place = coded
        known = (code[:-1] >= 0) & (code[1:] >= 0) & (text[:-1] == text[1:])
        return Found((code[:-1] * (len(self._tells) + 1) + code[1:])[known], text[:-1][known], place[:-1][known])

    def telling(self, coded: Coded) -> Found:
        """Words that occur in items and are no function words."""
        known = coded.code >= 0
        known[known] = self._tells[coded.code[known]]
        return Found(coded.code[known], coded.text[known], coded.place[known])


class _Codes(dict[str, int]):
    """Word → number of its stem, UNKNOWN or DIGITS, looked up once: most of a text is said again and again."""

    def __init__(self, stems: dict[str, int]) -> None:
        super().__init__()
        self._stems = stems

    def __missing__(self, word: str) -> int:
        code = DIGITS if _has_digit(word) else self._stems.get(stem(word), UNKNOWN)
        if len(self) < MOST_REMEMBERED:
            self[word] = code
        return code


def stem(word: str) -> str:
    """A folded word without its most frequent endings: sells, selling and sell are one."""
    return word if len(word) <= _KEEPS else _ENDING.sub("", word)


def _has_digit(word: str) -> bool:
    return any(map(str.isdigit, word))
