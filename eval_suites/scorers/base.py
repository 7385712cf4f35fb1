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


def contains(expect: Expect, answer: str) -> bool:
    """All expected words or phrases are there, as whole words, in any case."""
    wanted = expect.get("contains", ())
    wanted = [wanted] if isinstance(wanted, str) else wanted
    return all(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", answer, re.IGNORECASE) for w in wanted)


def formed(form: bool, expect: Expect, answer: str, problem: str) -> Score:
    """The score of a shape that is there or not (`problem` says why not), with what the answer must contain."""
    value = form and contains(expect, answer)
    return Score(float(value), {"form": float(form), "value": float(value)},
                 "" if value else (problem if not form else f"without {expect['contains']!r}"))
