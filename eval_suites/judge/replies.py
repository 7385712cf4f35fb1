"""What a judge says, read. It may reason at length, repeat the instruction, quote the answers or change its mind.

Marked verdicts come first (double brackets, a JSON field, `Verdict: …`, `Rating: …`): the last one counts. Then what a
sentence says, where it is neither denied nor conditional and no other says otherwise; then a last line that is nothing
but the verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

from eval_suites.judge.talk import Unjudged
from eval_suites.scorers.answer_text import without_thought

Choice = Literal["A", "B", "tie"]
Said = TypeVar("Said")


class _Forms(NamedTuple):
    """Forms of a verdict, whose first group says it."""

    marked: tuple[re.Pattern[str], ...]
    plain: tuple[re.Pattern[str], ...]
    last: re.Pattern[str]


def _compiled(*forms: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(form, re.IGNORECASE | re.MULTILINE) for form in forms)


_WHO = r"(?:(?:assistant|answer|response|model)[ _]*)"
_TIE = r"(?:a )?(?:tie|draw)\b"
_LETTER = r"(?-i:[ABC])\b(?!\s+(?:tie|draw)\b)"  # an `a` in prose is no letter
_PICK = rf"{_WHO}?{_LETTER}|{_TIE}"
_MARKED = rf"{_WHO}?[ABC]\b|{_TIE}"
_ABOUT = r"(?:verdict|winner|(?:final|my) (?:answer|choice|decision|pick|preference))"
_WINS = r"(?:wins|is (?:(?!not\b)\w+ ){0,2}(?:better|best|winner|stronger|superior|preferred|preferable))\b"
_ENDS = rf"[\s*_)\"'\]]*(?:$|[.,;:!)(—–-]|{_WINS}|because\b|since\b|as\b|for\b)"
_CHOICES = _Forms(
    _compiled(
        rf"\[\[\s*({_MARKED})\s*\]\]",
        rf"[\"'](?:final_)?(?:verdict|winner|choice|better|answer|preference)[\"']\s*:\s*[\"']\s*({_MARKED})\s*[\"']",
        rf"\b{_ABOUT}\b[\s*_:]*(?:is\b|=)?[\s*_:\[(\"']*({_PICK})(?={_ENDS})"),
    _compiled(
        rf"({_WHO}?\b(?-i:[AB]))(?:['’]s (?:answer|response))? (?:\w+ly )?{_WINS}(?!,? (?:at|in|on|for|when|if)\b)",
        rf"\bbetter (?:assistant|answer|response|model|one) is ({_WHO}?(?-i:[AB]))\b",
        rf"\bI(?:['’]d| would| will)? (?:choose|pick|prefer|select|favou?r|go with) ({_WHO}?(?-i:[AB]))\b",
        rf"\bit(?: is|['’]s) ({_TIE})"),
    re.compile(rf"\W*(?:\\boxed\{{)?({_PICK})\W*", re.IGNORECASE))
_TURNED = re.compile(r"\b(?:not|never|nobody|no one|cannot|neither|if|whether|unless)\b|n['’]t\b", re.IGNORECASE)
_NUMBER = r"(-?\d+(?:[.,]\d+)?)(?![\d.,]*\d|\s*(?:[-–]|to)\s*\d|\s*%|\s*(?:/|out of)\s*(?!10\b)\d)"
_OUT_OF = r"(?:\s*/\s*10\b|\s*out of\s*(?:10|ten)\b)"
_GRADES = _Forms(
    _compiled(
        rf"\[\[\s*(?:(?:rating|grade|score)\W*)?{_NUMBER}\s*(?:/\s*10\s*)?\]\]",
        rf"\"(?:rating|grade|score)\"\s*:\s*\"?{_NUMBER}",
        rf"\b(?:rating|grade|score|overall)\b[\s*_]*(?:[:=]|\bis\b|\bof\b)[\s*_:\[(]*{_NUMBER}"),
    _compiled(
        rf"(?<![\d.,-]){_NUMBER}{_OUT_OF}",
        rf"\brate (?:it|this|the \w+)(?: \w+)? (?:an? |as |at )?{_NUMBER}"),
    re.compile(rf"[^\w-]*{_NUMBER}(?:{_OUT_OF})?\W*", re.IGNORECASE))


def read_choice(reply: str) -> Choice | Unjudged:
    """The better one in a reply to `pair_prompt`."""
    return _found(reply, _CHOICES, _choice)


def read_grade(reply: str) -> float | Unjudged:
    """The grade in a reply to `grade_prompt`, 1 to 10."""
    grade = _found(reply, _GRADES, lambda said: float(said.replace(",", ".")))
    if isinstance(grade, Unjudged) or 1.0 <= grade <= 10.0:
        return grade
    return Unjudged(f"the judge's grade {grade:g} is not between 1 and 10")


def _found(reply: str, forms: _Forms, read: Callable[[str], Said]) -> Said | Unjudged:
    text = without_thought(reply).rstrip()
    said = _last_marked(text, forms.marked) or {
        one[1] for form in forms.plain for one in form.finditer(text)
        if not _TURNED.search(_before(text, one.start(1)))}
    alone = forms.last.fullmatch(text[text.rfind("\n") + 1:])
    meant = {read(one) for one in said or ([alone[1]] if alone else [])}
    if len(meant) == 1:
        return meant.pop()
    return Unjudged(f"the judge contradicts itself: {sorted(map(str, meant))}" if meant
                    else f"the judge gave no verdict: {text[-120:]!r}")


def _last_marked(text: str, forms: Sequence[re.Pattern[str]]) -> set[str]:
    """What the form whose match stands last says on that line."""
    found = [list(form.finditer(text)) for form in forms]
    latest = max((one for one in found if one), key=lambda one: one[-1].start(1), default=[])
    return set(_of_one_line(text, latest))


def _of_one_line(text: str, found: Sequence[re.Match[str]]) -> Iterator[str]:
    for one in found:
        if "\n" not in text[one.start(1):found[-1].start(1)]:
            yield one[1]


def _before(text: str, at: int) -> str:
    """The part of a sentence in front of a place."""
    return re.split(r"[.!?;\n]", text[:at])[-1]


def _choice(said: str) -> Choice:
    letter = said[-1].upper()
    return "A" if letter == "A" else "B" if letter == "B" else "tie"
