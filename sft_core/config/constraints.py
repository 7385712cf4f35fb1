"""Limits of a search such as `tax.tiny_mmlu <= 1.0`: what their texts say, and how far beyond them a run is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

FORMS = "tax.SUITE, win.SUITE, tax, alignment (points) or score.SUITE (a share), <= or >=, and a number"
_TEXT = re.compile(r"(tax|win|score|alignment)(?:\.(\S+?))?\s*(<=|>=|≤|≥)\s*(\S+)")


class Constraint(NamedTuple):
    """One limit on what a finished trial measured."""

    text: str
    """In one spelling, whatever was written."""
    metric: str
    suite: str | None
    """None: the objective of that name."""
    at_most: bool
    limit: float

    def excess(self, suites: Mapping[str, Mapping[str, Any]], objectives: Mapping[str, float]) -> float | None:
        """How far beyond the limit a run is, in points: none where it is kept to, at most 0. None: not measured.

        Args:
            suites: of the run's summary, suite → `tuned` (share), `tax` or `win` (points).
            objectives: of the trial, in points.
        """
        where = objectives if self.suite is None else suites[self.suite]
        value: float | None = where.get("tuned" if self.metric == "score" else self.metric)
        if value is None or not math.isfinite(value):
            return None
        beyond = value - self.limit if self.at_most else self.limit - value
        return 100 * beyond if self.metric == "score" else beyond


def constraint(text: str) -> Constraint:
    """What a text says.

    Raises:
        ValueError: it is not of the form.
    """
    found = _TEXT.fullmatch(text.strip())
    try:
        metric, suite, sign, number = found.groups() if found else ("", None, "", "nan")
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit) or (suite is None) != (metric == "alignment") and metric != "tax":
        raise ValueError(f"{text!r} is no limit; write {FORMS}, e.g. tax.tiny_mmlu <= 1.0")
    if metric == "score" and not 0.0 <= limit <= 1.0:
        meant = f"; did you mean {limit / 100:g}?" if 1.0 < limit <= 100.0 else ""
        raise ValueError(f"{text!r}: a score is a share from 0 to 1{meant}")
    sign = {"≤": "<=", "≥": ">="}.get(sign, sign)
    name = f"{metric}.{suite}" if suite else metric
    return Constraint(f"{name} {sign} {limit:g}", metric, suite, sign == "<=", limit)


def excluding(limits: Sequence[Constraint]) -> tuple[str, ...]:
    """The texts of two limits of which a trial can only keep to one, where there are such."""
    return next(((most.text, least.text) for most, least in product(limits, limits)
                 if most.at_most and not least.at_most and most.limit < least.limit
                 and (most.metric, most.suite) == (least.metric, least.suite)), ())
