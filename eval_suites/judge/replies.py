"""What a judge says, read. It may reason at length: the first of these forms that stands in it counts, and where one
form says two things there is no verdict.

double brackets → a JSON field → `Verdict: …`, `Winner: …`, `Rating: …` → bold → the last line alone
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from eval_suites.answer_text import without_thought
from eval_suites.judge.asking import Unjudged

Choice = Literal["A", "B", "tie"]
_WHO = r"(?:(?:assistant|answer|response|model)[ _]*)?"
_PICK = rf"{_WHO}(?-i:[ABC])\b(?!\s+(?:tie|draw)\b)|(?:a )?(?:tie|draw)\b"
_CHOICES = tuple(re.compile(form, re.IGNORECASE | re.MULTILINE) for form in (
    rf"\[\[\s*({_PICK})\s*\]\]",
    rf"\"(?:verdict|winner|choice|better|answer|preference)\"\s*:\s*\"\s*({_PICK})\s*\"",
    rf"\b(?:verdict|winner|final (?:answer|choice|decision))\b[\s*_:]*(?:is\b|=)?[\s*_:\[(\"']*({_PICK})",
    rf"\*\*\s*({_PICK})(?: is better| wins)?[.!]?\s*\*\*",
    r"\b(assistant (?-i:[AB])) (?:is (?:the )?(?:better|winner)|wins)\b",
))
_LAST_CHOICE = re.compile(rf"\W*({_PICK})\W*", re.IGNORECASE)
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_OUT_OF = r"(?:/\s*10\b|\s*out of\s*(?:10|ten)\b)"
_GRADES = tuple(re.compile(form, re.IGNORECASE | re.MULTILINE) for form in (
    rf"\[\[\s*(?:(?:rating|grade|score)\W*)?{_NUMBER}\s*(?:/\s*10\s*)?\]\]",
    rf"\"(?:rating|grade|score)\"\s*:\s*\"?{_NUMBER}",
    rf"\b(?:rating|grade|score)\b[\s*_:]*(?:is\b|of\b|=)?[\s*_:\[(]*{_NUMBER}",
    rf"(?<![\d.-]){_NUMBER}{_OUT_OF}",
))
_LAST_GRADE = re.compile(rf"[^\w-]*{_NUMBER}(?:{_OUT_OF})?\W*", re.IGNORECASE)


def read_choice(reply: str) -> Choice | Unjudged:
    """The better one in a reply to `pair_prompt`."""
    found = _found(reply, _CHOICES, _LAST_CHOICE)
    if isinstance(found, Unjudged):
        return found
    said = {_choice(one) for one in found}
    return said.pop() if len(said) == 1 else Unjudged(f"the judge contradicts itself: {sorted(said)}")


def read_grade(reply: str) -> float | Unjudged:
    """The grade in a reply to `grade_prompt`, 1 to 10."""
    found = _found(reply, _GRADES, _LAST_GRADE)
    if isinstance(found, Unjudged):
        return found
    said = {float(one) for one in found}
    if len(said) > 1:
        return Unjudged(f"the judge contradicts itself: {sorted(said)}")
    grade = said.pop()
    return grade if 1.0 <= grade <= 10.0 else Unjudged(f"the judge's grade {grade:g} is not between 1 and 10")


def _found(reply: str, forms: Sequence[re.Pattern[str]], last: re.Pattern[str]) -> list[str] | Unjudged:
    text = without_thought(reply)
    for form in forms:
        if found := form.findall(text):
            return found
    lines = [line for line in text.splitlines() if line.strip()]
    alone = last.fullmatch(lines[-1]) if lines else None
    return [alone[1]] if alone else Unjudged(f"the judge gave no verdict: {text[-120:]!r}")


def _choice(said: str) -> Choice:
    letter = said[-1].upper()
    return "A" if letter == "A" else "B" if letter == "B" else "tie"
