"""Short answers: a number, a word, a letter of a multiple choice. In any language that the items are written in."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from eval_suites.scorers.base import Expect, Score

NUMBER = re.compile(r"(?<![\w.,])[-−]?(?!\d[\d.,]*(?:st|nd|rd|th)\b)"
                    r"(?:\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?!\d)|\d+(?:[.,\u066b\u066c\u2019']\d+)*|\.\d+)"
                    r"(?:e[-+]?\d{1,2}(?!\w))?(?:\s?[/\u2044]\s?\d+)?")
"""2nd is a word."""
POWER = re.compile(r"(?<=[a-z}])\^\{?[-−]?\d+\}?")
"""Of a unit or a name: 36 m^2 says 36."""
GROUPED = re.compile(r"\d{1,3}([.,' ])\d{3}(?:\1\d{3})*(?:(?!\1)([.,])\d+)?")
"""Thousands apart, and perhaps another sign before a fraction: 1,234,567.5 and 1.234.567,5."""
UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Scripts that put no space between words (and Hangul, whose particles follow without one)."""
SAID_LETTER = re.compile(r"\b(?i:answer|option|choice|letter)(?:\s+is)?\s*:?\s*[*_(\"']*"
                         r"([A-Z]|[a-z](?!\s+[a-z]))(?![\w'’])"
                         r"(?![*_)\"']*\s*(?:\bor\b|\band\b|[/&])\s*[*_(\"']*[A-Z](?![\w'’]))")
"""Two letters joined by "or" or "and" are no choice."""
ONLY_LETTER = re.compile(r"[\s*_(\[\"']*([A-Za-z])[\s*_)\]\"'.:]*")
LEADING_LETTER = re.compile(r"^[\s*_(\[\"']*(?:([A-Za-z])[*_\]\"']*(?:[).:]|\s*$)|"
                            r"([A-Z])[*_\]\"']*(?:,(?!\s*[A-Z]\b)|\s+[-–—]))", re.MULTILINE)
LONE_LETTER = re.compile(r"(?<![\w'’])([B-HJ-Z]|A(?!\s+(?!or\b|and\b|is (?:right|correct|true|wrong|incorrect|false)\b)"
                         r"[a-z]))(?![\w'’])")
"""A capital by itself that is neither the article nor I."""
BOXED = re.compile(r"\\boxed\{(?:\\text\{)?([^{}]*)\}+")
NEGATION = re.compile(r"(?:(?:\b(?:not|no|neither|nor|nicht|keine?|pas)|n['’]t)\s+(?:an?\s+|the\s+)?|不是?|非)\Z",
                      re.IGNORECASE)
"""What takes back the word behind it."""
LONGEST_NEGATION = 16
DISMISSED = re.compile(r"[*_)\"']*(?:(?:\s*,|\s*,?\s+(?:and|or|nor)\b)\s*[*_(\"']*[A-Z](?![\w'’])[*_)\"']*){0,8}\s+"
                       r"(?:(?:is|are|was|were)\s+(?:\w+ly\s+|all\s+|also\s+|both\s+)?(?:wrong|incorrect|false|"
                       r"not\b(?!\s+(?:wrong|incorrect|false|only)\b))|(?:is|are)n['’]t\b)")
"""What dismisses the letter before it, and those listed with it: A, C and D are wrong."""


def score_short_answer(expect: Expect, answer: str) -> Score:
    """One of `answers` is said, and none of `others`. `alone`: and nothing else is.

    An answer that is a number must be the last number said, in digits of any script, with or without separators.
    """
    said = _normal(answer)
    answers = [_normal(one) for one in expect["answers"]]
    numbers = [one for one in answers if NUMBER.fullmatch(one)]
    right = _said_number(said, numbers) or any(_holds(said, one) for one in answers if one not in numbers)
    others = [one for one in expect.get("others", ()) if _holds(said, _normal(one))]
    alone = said.strip(" .!。।") in {one.strip(" .!。।") for one in answers}
    why = "" if right and not others else "empty answer" if not said else f"says also {others[0]!r}" if right else \
        f"says none of {', '.join(expect['answers'])}"
    return Score(float(not why), {"alone": float(alone and not why)}, why)


def _normal(text: str) -> str:
    """Compatibility forms and case folded, digits of all scripts as 0 to 9, one space between words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    digits = "".join(str(unicodedata.digit(c)) if c.isdecimal() else c for c in folded)
    return " ".join(digits.replace("−", "-").split())


def _said_number(said: str, wanted: Sequence[str]) -> bool:
    plain = POWER.sub("", said)
    found = [number for number in NUMBER.finditer(plain) if not _negated(plain, number)]
    return bool(found) and any(_readings(found[-1].group()) & _readings(one) for one in wanted)


def _readings(number: str) -> set[float]:
    """What a number can mean: 1,250 is a thousand here and a fraction there; 3/4 is a fraction everywhere."""
    above, _, below = number.replace("\u2044", "/").partition("/")
    plain, power, exponent = above.partition("e")
    found = {float(one + power + exponent) for one in _plain(plain.strip()) if len(one) < 300}
    if not below:
        return found
    return {one / float(below) for one in found} if len(below) < 300 and float(below) else set()


def _plain(number: str) -> set[str]:
    """As Python writes it, thousands together and a full stop before the fraction."""
    plain = number.replace("\u066c", ",").replace("\u066b", ".").replace("\u2019", "'").rstrip(".,'")
    found = set()
    if grouped := GROUPED.fullmatch(plain.removeprefix("-")):
        whole, point, rest = plain.rpartition(grouped.group(2)) if grouped.group(2) else (plain, "", "")
        found.add(re.sub(r"[.,' ]", "", whole) + (f".{rest}" if point else ""))
    if len(re.findall(r"[.,' ]", plain)) <= 1:
        found.add(re.sub(r"[,' ]", ".", plain))
    return found


def _holds(said: str, wanted: str) -> bool:
    """The words are there and not negated, as whole words where the script has such."""
    whole = re.escape(wanted) if UNSPACED.search(wanted) else rf"(?<!\w){re.escape(wanted)}(?!\w)"
    return any(not _negated(said, found) for found in re.finditer(whole, said))


def _negated(said: str, found: re.Match[str]) -> bool:
    return NEGATION.search(said, max(found.start() - LONGEST_NEGATION, 0), found.start()) is not None


def score_letter(expect: Expect, answer: str) -> Score:
    """The letter `letter` of the choices `options` (texts in the order of their letters) is chosen.

    Taken in this order: the answer is a letter; it says "answer: B" or "option B"; it starts with "B)" and does not go
    through all choices; one letter stands by itself; it holds the text of exactly one choice. What is dismissed ("A is
    wrong") is not chosen where another letter is. `alone`: the answer is that letter and nothing else.
    """
    wanted = str(expect["letter"])
    chosen = _letter(answer, list(expect.get("options", ())))
    alone = ONLY_LETTER.fullmatch(answer) is not None
    right = chosen == wanted
    why = "" if right else f"chooses {chosen}" if chosen else "no choice"
    return Score(float(right), {"alone": float(alone and right)}, why)


def _letter(answer: str, options: Sequence[str]) -> str:
    said = BOXED.sub(r"\1", unicodedata.normalize("NFKC", answer)).strip()
    if only := ONLY_LETTER.fullmatch(said):
        return str(only.group(1)).upper()
    letters = [chr(ord("A") + at) for at in range(len(options))]
    named = _kept(said, SAID_LETTER)
    leading = [(one[1] or one[2]).upper() for one in LEADING_LETTER.finditer(said)
               if not DISMISSED.match(said, one.end())]
    if len(named) != 1 and LEADING_LETTER.match(said) and (leading != letters or len(letters) < 2):
        named = set(leading[:1])
    if not named:
        named = _kept(said, LONE_LETTER) or {one[1] for one in LONE_LETTER.finditer(said) if not _negated(said, one)}
        named = {one for one in named if one in letters or not letters}
    if not named:
        normal = _normal(said)
        named = {letter for letter, option in zip(letters, options, strict=True) if _holds(normal, _normal(option))}
    return named.pop() if len(named) == 1 else ""


def _kept(said: str, pattern: re.Pattern[str]) -> set[str]:
    """The letters that the pattern finds and nothing takes back."""
    return {one[1].upper() for one in pattern.finditer(said)
            if not _negated(said, one) and not DISMISSED.match(said, one.end())}
