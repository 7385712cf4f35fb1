"""Length and shape of plain text: sentences, words, list items."""

from __future__ import annotations

import re

from eval_suites.scorers.base import Expect, Score, formed

SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|Mr|Mrs|Ms|Dr|St|vs|No|a\.m|p\.m|[A-Z])\.$")
LIST_ITEM = re.compile(r"\s*(?:\d+[.)]|[-*•])\s+\S")


def sentences(text: str) -> int:
    """How many sentences a text has; text behind the last full stop counts as one more."""
    count, start = 0, 0
    for end in SENTENCE_END.finditer(text):
        if not ABBREVIATION.search(text[start:end.end()]):
            count, start = count + 1, end.end()
    return count + bool(text[start:].strip())


def score_one_sentence(expect: Expect, answer: str) -> Score:
    """As many sentences as asked for (`sentences`), with what they must contain."""
    count = sentences(answer)
    return formed(count == expect["sentences"], expect, answer, f"{count} sentences")


def score_word_limit(expect: Expect, answer: str) -> Score:
    """Not empty and at most `max_words` words, with what they must contain."""
    count = len(answer.split())
    return formed(0 < count <= expect["max_words"], expect, answer, f"{count} words")


def score_list(expect: Expect, answer: str) -> Score:
    """A numbered or bulleted list of exactly `items` lines and nothing else."""
    lines = [line for line in answer.splitlines() if line.strip()]
    items = sum(bool(LIST_ITEM.match(line)) for line in lines)
    other = len(lines) - items
    return formed(other == 0 and items == expect["items"], expect, answer, f"{items} list items, {other} other lines")
