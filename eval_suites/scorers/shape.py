"""Length and shape of plain text: sentences, words, list items."""

from __future__ import annotations

import re

from eval_suites.scorers.base import Expect, Score, formed

SENTENCE_END = re.compile(r"(?:[.!?]+[\"')\]]*(?=\s|$)|:(?=\s*\n))")
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|Mr|Mrs|Ms|Dr|St|vs|No|a\.m|p\.m|[A-Z])\.$")
LIST_ITEM = re.compile(r"\s*(?:\d+[.)]|[-*•])\s+\S")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; text behind the last full stop is one more, and so is a line that ends in a colon."""
    found, start = [], 0
    for end in SENTENCE_END.finditer(text):
        if not ABBREVIATION.search(text[start:end.end()]):
            found.append(text[start:end.end()].strip())
            start = end.end()
    rest = text[start:].strip()
    return [*found, rest] if rest else found


def sentences(text: str) -> int:
    """How many sentences a text has."""
    return len(split_sentences(text))


def score_one_sentence(expect: Expect, answer: str) -> Score:
    """As many sentences as asked for (`sentences`), with what they must contain."""
    count = sentences(answer)
    return _counted(count, expect["sentences"], expect["sentences"], expect, answer, "sentences")


def score_word_limit(expect: Expect, answer: str) -> Score:
    """Not empty and at most `max_words` words, with what they must contain."""
    return _counted(len(answer.split()), 1, expect["max_words"], expect, answer, "words")


def score_words(expect: Expect, answer: str) -> Score:
    """Between `min` and `max` words, with what they must contain."""
    return _counted(len(answer.split()), expect["min"], expect["max"], expect, answer, "words")


def score_list(expect: Expect, answer: str) -> Score:
    """A numbered or bulleted list of exactly `items` lines and nothing else."""
    lines = [line for line in answer.splitlines() if line.strip()]
    items = sum(bool(LIST_ITEM.match(line)) for line in lines)
    other, wanted = len(lines) - items, expect["items"]
    found = formed(other == 0 and items == wanted, expect, answer, f"{items} list items, {other} other lines")
    return _with_partial(found, max(0.0, 1.0 - (abs(items - wanted) + other) / wanted))


def score_pattern(expect: Expect, answer: str) -> Score:
    """The whole answer is of the form `pattern` (a regular expression of this project, not of the answer).

    `values`, where given: what the answer must be, one of them.
    """
    said = answer.strip()
    form = re.fullmatch(expect["pattern"], said, re.DOTALL) is not None
    right = form and said in expect.get("values", (said,))
    why = "" if right else "of that form, but another value" if form else f"not of the form {expect['pattern']}"
    return Score(float(right), {"form": float(form), "value": float(right), "partial": (form + right) / 2}, why)


def score_bare(expect: Expect, answer: str) -> Score:
    """Nothing but the answer: one of `answers` in any case, at most with a full stop. `flexible`: it is somewhere."""
    said = answer.strip()
    right = said.removesuffix(".").casefold() in {one.casefold() for one in expect["answers"]}
    inside = any(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", said, re.IGNORECASE) for one in expect["answers"])
    why = "" if right else "there, but not alone" if inside else "another answer"
    return Score(float(right), {"form": float(right), "flexible": float(inside), "partial": (inside + right) / 2}, why)


def _counted(count: int, least: int, most: int, expect: Expect, answer: str, unit: str) -> Score:
    """`partial`: how near the count is to the range, as a share of the bound that it misses."""
    found = formed(least <= count <= most and count > 0, expect, answer, f"{count} {unit}")
    near = count / least if count < least else max(0.0, 1.0 - (count - most) / most) if count > most else 1.0
    return _with_partial(found, near)


def _with_partial(found: Score, partial: float) -> Score:
    return found._replace(metrics={**found.metrics, "partial": partial})
