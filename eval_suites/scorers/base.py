"""What every scorer takes and gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Expect = Mapping[str, Any]


class Score(NamedTuple):
    """Score in [0, 1] or None where the item could not be scored, further metrics, and why points are missing."""

    value: float | None
    metrics: dict[str, float]
    why: str = ""


Scorer = Callable[[Expect, str], Score]
MILDER = {
    "partial": "partial credit",
    "form": "form alone",
    "value": "content alone",
    "functions": "functions alone",
    "flexible": "answer found anywhere",
}
"""Readings that are never below the score, for any answer: the share of what was asked for that is right; the shape,
whatever it says; the content, whatever its shape, where some is asked for; the right functions, whatever their
arguments; all of it, with anything around."""
STRICTER = {"alone": "right and nothing else", "helped": "answered as asked"}
"""Readings that are never above the score: right and no word around it; not refused, with the content asked for."""


def holds(answer: str, wanted: str) -> bool:
    """The words are there, as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", answer, re.IGNORECASE) is not None


def contains(expect: Expect, answer: str) -> bool:
    """All expected words or phrases are there, as whole words, in any case."""
    wanted = expect.get("contains", ())
    return all(holds(answer, one) for one in ([wanted] if isinstance(wanted, str) else wanted))


def formed(form: bool, expect: Expect, answer: str, problem: str) -> Score:
    """The score of a shape that is there or not (`problem` says why not), with what the answer must contain."""
    inside = contains(expect, answer)
    metrics = {"form": float(form)} | ({"value": float(inside)} if "contains" in expect else {})
    return Score(float(form and inside), metrics,
                 problem if not form else "" if inside else f"without {expect['contains']!r}")
