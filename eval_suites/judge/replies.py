"""What a judge says, read. It may reason at length: the first of these forms that stands in it counts. Where one form
says two things, as where the instruction is repeated or a mind is changed, its last line decides; else there is no
verdict.

double brackets → a JSON field → `Verdict: …`, `Winner: …`, `Rating: …` → bold → a sentence → the last line alone
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from eval_suites.answer_text import without_thought
from eval_suites.judge.asking import Unjudged

Choice = Literal["A", "B", "tie"]
Said = TypeVar("Said")
_WHO = r"(?:(?:assistant|answer|response|model)[ _]*)?"
_TIE = r"(?:a )?(?:tie|draw)\b"
_PICK = rf"{_WHO}(?-i:[ABC])\b(?!\s+(?:tie|draw)\b)|{_TIE}"  # an `a` in prose is no letter
_MARKED = rf"{_WHO}[ABC]\b|{_TIE}"
_CHOICES = tuple(re.compile(form, re.IGNORECASE | re.MULTILINE) for form in (
    rf"\[\[\s*({_MARKED})\s*\]\]",
    rf"\"(?:verdict|winner|choice|better|answer|preference)\"\s*:\s*\"\s*({_MARKED})\s*\"",
    rf"\b(?:verdict|winner|final (?:answer|choice|decision))\b[\s*_:]*(?:is\b|=)?[\s*_:\[(\"']*({_PICK})",
    rf"\*\*\s*({_PICK})(?: is better| wins)?[.!]?\s*\*\*",
    r"\b((?:assistant|answer|response|model) (?-i:[AB])) (?:is (?:the )?(?:better|winner)|wins)\b",
    rf"\bbetter (?:assistant|answer|response|model|one) is ({_WHO}(?-i:[AB]))\b",
    rf"\bI prefer ({_WHO}(?-i:[AB]))\b",
))
_LAST_CHOICE = re.compile(rf"\W*(?:it(?: is|['’]s) |\\boxed\{{)?({_PICK})\W*", re.IGNORECASE)
_NUMBER = r"(-?\d+(?:[.,]\d+)?)(?![\d.,]*\d|\s*[-–]\s*\d)"  # no part of a number, and no range
_OUT_OF = r"(?:/\s*10\b|\s*out of\s*(?:10|ten)\b)"
_GRADES = tuple(re.compile(form, re.IGNORECASE | re.MULTILINE) for form in (
    rf"\[\[\s*(?:(?:rating|grade|score)\W*)?{_NUMBER}\s*(?:/\s*10\s*)?\]\]",
    rf"\"(?:rating|grade|score)\"\s*:\s*\"?{_NUMBER}",
    rf"\b(?:rating|grade|score|overall)\b[\s*_:]*(?:is\b|of\b|=)?[\s*_:\[(]*{_NUMBER}",
    rf"\brate (?:it|this|the \w+)(?: \w+)? (?:an? |as |at )?{_NUMBER}",
    rf"(?<![\d.-]){_NUMBER}{_OUT_OF}",
))
_LAST_GRADE = re.compile(rf"[^\w-]*{_NUMBER}(?:{_OUT_OF})?\W*", re.IGNORECASE)


def read_choice(reply: str) -> Choice | Unjudged:
    """The better one in a reply to `pair_prompt`."""
    return _found(reply, _CHOICES, _LAST_CHOICE, _choice)


def read_grade(reply: str) -> float | Unjudged:
    """The grade in a reply to `grade_prompt`, 1 to 10."""
    grade = _found(reply, _GRADES, _LAST_GRADE, lambda said: float(said.replace(",", ".")))
    if isinstance(grade, Unjudged) or 1.0 <= grade <= 10.0:
        return grade
    return Unjudged(f"the judge's grade {grade:g} is not between 1 and 10")


def _found(reply: str, forms: Sequence[re.Pattern[str]], last: re.Pattern[str], read: Callable[[str], Said]
           ) -> Said | Unjudged:
    text = without_thought(reply).rstrip()
    end = text[text.rfind("\n") + 1:]
    for form in forms:
        if said := {read(one) for one in form.findall(text)}:
            final = {read(one) for one in form.findall(end)}
            chosen = said if len(said) == 1 else final
            if len(chosen) == 1:
                return chosen.pop()
            return Unjudged(f"the judge contradicts itself: {sorted(map(str, said))}")
    alone = last.fullmatch(end)
    return read(alone[1]) if alone else Unjudged(f"the judge gave no verdict: {text[-120:]!r}")


def _choice(said: str) -> Choice:
    letter = said[-1].upper()
    return "A" if letter == "A" else "B" if letter == "B" else "tie"
