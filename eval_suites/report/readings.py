"""The same answers read otherwise, beside the score that counts: partial credit, form and content by themselves, other
metrics and filters of lm-eval's. One computation for the report and the tracker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval_suites.results import AT, OF, ItemResult, SuiteResult, enough
from eval_suites.scorers.base import MILDER, STRICTER
from eval_suites.statistics.evidence import paired
from eval_suites.statistics.pairing import both_asked

LABELS = {**MILDER, **STRICTER}


class Reading(NamedTuple):
    """One reading of a suite, over the items that have it and a score on both sides; pairs are (base, tuned).

    `points`, `low`, `high`: tuned − base × 100 and its interval, which clusters items as the suite does. Readings that
    mark several parts of an answer (IFEval's instructions) count by their marks, and items stay clusters of them.
    """

    suite: str
    name: str
    items: int
    marks: int  # what the reading's mean is over: the items, or the marks in them
    score: tuple[float, float]
    value: tuple[float, float]
    points: float
    low: float
    high: float
    differs: bool  # from the score, on some item

    @property
    def label(self) -> str:
        """What a reader calls it; of lm-eval's metrics their own name, without the filter `none`."""
        return LABELS.get(self.name, self.name.partition(AT)[0].removesuffix(",none"))

    @property
    def part(self) -> str:
        """The kind of instruction that it is of; '' where it is of the whole answer."""
        return self.name.partition(AT)[2]


def readings(base: SuiteResult, tuned: SuiteResult, alpha: float) -> list[Reading]:
    """All readings in [0, 1] of two results; none of perplexities, and of suites that are not measured.

    Raises:
        EvalError: the results cannot be compared.
    """
    if base.scale != "share":
        return []
    both = both_asked(base, tuned)
    pairs = [pair for pair in both if None not in (pair[0].score, pair[1].score)]
    if not enough(len(pairs), len(both), max(base.min_scored, tuned.min_scored)):
        return []
    names = dict.fromkeys(name for pair in pairs for item in pair for name in item.metrics
                          if (name in LABELS or "," in name) and not name.endswith(OF))
    found = [_read(base.suite, name, [pair for pair in pairs if all(name in item.metrics for item in pair)], alpha)
             for name in names]
    return [one for one in found if one is not None]


def _read(suite: str, name: str, pairs: Sequence[tuple[ItemResult, ItemResult]], alpha: float) -> Reading | None:
    values, tuned = ([pair[at].metrics[name] for pair in pairs] for at in (0, 1))
    if not pairs or not all(0.0 <= value <= 1.0 for value in values + tuned):
        return None
    before = [one for one, _ in pairs]
    weights = [one.weight * one.metrics.get(name + OF, 1.0) for one in before]
    evidence = paired(values, tuned, [one.cluster for one in before], weights)
    assert evidence is not None  # there are pairs
    low, high = evidence.bounds(alpha, 1.0)
    scores = tuple([pair[at].score or 0.0 for pair in pairs] for at in (0, 1))
    return Reading(
        suite, name, len(pairs), round(sum(one.metrics.get(name + OF, 1.0) for one in before)),
        _means(scores, [one.weight for one in before]), _means((values, tuned), weights),
        100 * evidence.estimate, 100 * low, 100 * high, scores != (values, tuned))


def _means(sides: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, float]:
    one, two = (float(np.average(side, weights=weights)) for side in sides)
    return one, two
