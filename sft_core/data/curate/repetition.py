"""How much of a text is said twice, and how much of a question is said again by its answer.

Shares as in Gopher's quality filters (Rae et al. 2021, arXiv:2112.11446, table A1), which leave out a document with
more than 30 % repeated lines, or more than 15 % of its characters in repeated 5-grams of words. Those are thresholds
for web pages; an answer may be a song, a table or one sentence for each of ten things, which reach 77 % of their words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sft_core.data.curate.words import words

GRAM_WORDS = 5
LEAST_LINE_WORDS = 3
"""Shorter lines repeat in code, tables and headings."""
LEAST_WORDS = 20
"""Fewer say what they have to say twice where they are a list of labels."""
MOST_WORDS = 50_000
"""Words looked at: the runs of a longer text would need more memory than all other rows."""
ENDLESS = 100
"""Characters of a word from which it may be the same signs over and over."""
ECHO_WORDS, ECHO_TIMES = 6, 3
_ENDLESS = re.compile(r"(\S{1,8}?)\1{24,}")
_PIECE = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|"
                        "[^\\W\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def pieces(text: str) -> list[str]:
    """The words of a text; signs of scripts without spaces one by one."""
    return words(text) if text.isascii() else _PIECE.findall(text.casefold())


def repeated_words(text: str, found: Sequence[str]) -> float:
    """Share of a text's words that stand in a run of five that has been there before, 0 to 1; overlapping runs count
    their words once. A word that is the same signs over and over counts with its share of the characters.

    `found`: its words, as `pieces` has them. 0 for a text of fewer than 20, a list of labels, unless one never ends.
    """
    if max(map(len, found), default=0) > ENDLESS and (endless := _ENDLESS.search(text)):
        return len(endless[0]) / len(text)
    found = found[:MOST_WORDS]
    grams = list(zip(*(found[at:] for at in range(GRAM_WORDS)), strict=False))
    if len(found) < LEAST_WORDS or len(set(grams)) == len(grams):
        return 0.0
    seen: set[tuple[str, ...]] = set()
    covered = repeated = 0  # words up to `covered` are counted
    for at, gram in enumerate(grams):
        if gram in seen:
            repeated += at + GRAM_WORDS - max(at, covered)
            covered = at + GRAM_WORDS
        seen.add(gram)
    return repeated / len(found)


def repeated_lines(text: str) -> float:
    """Share of the lines with three words or more that have been there before, 0 to 1."""
    if "\n" not in text:
        return 0.0
    lines = [line for line in (" ".join(words(line)) for line in text.split("\n"))
             if line.count(" ") >= LEAST_LINE_WORDS - 1]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def echoed(question: Sequence[str], answer: Sequence[str]) -> float:
    """Share of the question's words that the answer begins with, in their order, 0 to 1.

    Only what begins like the question is an echo: a summary, a corrected sentence and a quotation repeat other parts.
    0 for a question of few words ("Hello"), and for an answer three times as long, which has something to add.
    """
    if len(question) < ECHO_WORDS or len(answer) > ECHO_TIMES * len(question):
        return 0.0
    same = next((at for at, (asked, said) in enumerate(zip(question, answer, strict=False)) if asked != said),
                min(len(question), len(answer)))
    return same / len(question)
