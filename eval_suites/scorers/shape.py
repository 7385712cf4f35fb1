"""Length and shape of plain text: sentences, words, list items."""

from __future__ import annotations

import re

from eval_suites.scorers.base import Expect, Score, formed, holds

SENTENCE_END = re.compile(r"(?:[.!?…؟۔]+[\"'”’»)\]]*(?=\s|$)|[。！？｡।॥]+[\"'”’」』）)]*|:(?=\s*\n))")
TITLE = re.compile(r"\b(?:e\.g|i\.e|cf|vs|ca|approx|Mr|Mrs|Ms|Dr|Prof|St|Mt)\.$", re.IGNORECASE)
"""Abbreviations behind which a sentence always goes on."""
NUMBERED = re.compile(r"\b(?:No|Nos|Fig|Vol|Ch|Sec|p|pp|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)\.$")
"""Abbreviations behind which it goes on where a number follows."""
OPEN = re.compile(r"(?:\b(?:etc|[ap]\.m|Ph\.D|Jr|Sr|Inc|Ltd|Co)|\b[A-Z](?:\.[A-Z])*)\.$")
"""Abbreviations and initials behind which it goes on unless a word follows that opens sentences (as in Kiss and Strunk
2006, where such words are learned)."""
OPENER = re.compile(r"\s+(?:A|An|The|This|That|These|Those|It|Its|He|She|They|We|You|His|Her|Their|Our|There|Here|Then|"
                    r"And|But|So|If|In|On|At|As|For|When|While|After|Before|However|Also|Finally|Next)\b")
LIST_ITEM = re.compile(r"\s*(\d+[.)]|[-*•])\s+\S")
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
"""Kana and Han: no space between words, so that each character counts, as word processors count."""
NEAR = 40
"""Characters that are looked at before and behind a full stop."""
WORD_BORDER = re.compile(r"[\s—…]+|\.{2,}")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; text behind the last full stop is one more, and so is a line that ends in a colon."""
    found, start = [], 0
    for end in SENTENCE_END.finditer(text):
        at = end.end()
        if not _numeral(text, at) and not _goes_on(text[max(start, at - NEAR):at], text[at:at + NEAR]):
            found.append(text[start:end.end()].strip())
            start = end.end()
    return [one for one in (*found, text[start:].strip()) if any(map(str.isalnum, one))]


def _numeral(text: str, end: int) -> bool:
    """A number alone in its line so far, as in front of a list's items."""
    near = text[max(end - NEAR, 0):end]
    line = near.rfind("\n") + 1
    return (line > 0 or end <= NEAR) and near[line:].strip(" \t.").isdigit()


def _goes_on(before: str, after: str) -> bool:
    """The sentence does not end here: behind an abbreviation, or a quotation or dots that a small letter follows."""
    if TITLE.search(before):
        return True
    if NUMBERED.search(before):
        return re.match(r"\s*\d", after) is not None
    if OPEN.search(before):
        return OPENER.match(after) is None
    small = re.match(r"\s+[a-z]", after) is not None
    return small and (before.endswith("..") or not before.endswith((".", "!", "?")))


def word_count(text: str) -> int:
    """Words: what stands between spaces and holds a letter or a digit; dashes, bullets and emoji are none."""
    characters = len(UNSPACED.findall(text))
    return characters + sum(any(map(str.isalnum, one)) for one in WORD_BORDER.split(UNSPACED.sub(" ", text)))


def sentences(text: str) -> int:
    """How many sentences a text has."""
    return len(split_sentences(text))


def score_one_sentence(expect: Expect, answer: str) -> Score:
    """As many sentences as asked for (`sentences`), with what they must contain."""
    count = sentences(answer)
    return _counted(count, expect["sentences"], expect["sentences"], expect, answer, "sentences")


def score_word_limit(expect: Expect, answer: str) -> Score:
    """Not empty and at most `max_words` words, with what they must contain."""
    return _counted(word_count(answer), 1, expect["max_words"], expect, answer, "words")


def score_words(expect: Expect, answer: str) -> Score:
    """Between `min` and `max` words, with what they must contain."""
    return _counted(word_count(answer), expect["min"], expect["max"], expect, answer, "words")


def score_list(expect: Expect, answer: str) -> Score:
    """A list of exactly `items` lines and nothing else; `numbered`, where given: with numbers, or with bullets."""
    lines = [line for line in answer.splitlines() if line.strip()]
    numbered = expect.get("numbered")
    items = sum((found := LIST_ITEM.match(line)) is not None and numbered in (None, found.group(1)[0].isdigit())
                for line in lines)
    other, wanted = len(lines) - items, expect["items"]
    found_all = formed(other == 0 and items == wanted, expect, answer, f"{items} list items, {other} other lines")
    return _with_partial(found_all, max(0.0, 1.0 - (abs(items - wanted) + other) / wanted))


def score_pattern(expect: Expect, answer: str) -> Score:
    """The whole answer is of the form `pattern` (a regular expression of this project, not of the answer).

    `values`, where given: what the answer must be, one of them.
    """
    said = answer.strip()
    form = re.fullmatch(expect["pattern"], said, re.DOTALL) is not None
    values = expect.get("values")
    right = form and (values is None or said in values)
    why = "" if right else "of that form, but another value" if form else f"not of the form {expect['pattern']}"
    metrics = {"form": float(form), "partial": (form + right) / 2}
    if values is not None:
        metrics["value"] = float(right or any(holds(said, one) for one in values))
    return Score(float(right), metrics, why)


def score_bare(expect: Expect, answer: str) -> Score:
    """Nothing but the answer: one of `answers` in any case, at most with a full stop. `flexible`: it is somewhere."""
    said = answer.strip()
    right = not {said.casefold(), said.removesuffix(".").casefold()}.isdisjoint(
        one.casefold() for one in expect["answers"])
    inside = right or any(holds(said, one) for one in expect["answers"])
    why = "" if right else "there, but not alone" if inside else "another answer"
    return Score(float(right), {"flexible": float(inside), "partial": (inside + right) / 2}, why)


def _counted(count: int, least: int, most: int, expect: Expect, answer: str, unit: str) -> Score:
    """`partial`: how near the count is to the range, as a share of the bound that it misses."""
    found = formed(least <= count <= most and count > 0, expect, answer, f"{count} {unit}")
    near = count / least if count < least else max(0.0, 1.0 - (count - most) / most) if count > most else 1.0
    return _with_partial(found, near)


def _with_partial(found: Score, partial: float) -> Score:
    return found._replace(metrics={**found.metrics, "partial": partial})
