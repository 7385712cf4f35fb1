"""Whether a model that is still in training is proved hopeless, by what it and others were measured at the same moment.

What is proved holds for that moment: learning curves cross. How often a trial is ended that would have been on the
front is measured by replaying whole studies (`bench/rungs.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eval_suites.front.differences import alignment_of, difference, dominated
from eval_suites.front.points import Objectives, Point, Terms
from eval_suites.statistics.intervals import Evidence
from sft_core.config.constraints import Constraint

DIVERGED = 1.0
"""Nats per token on the held-out rows above the base's: e times its perplexity, on what it is being trained on."""


def hopeless(point: Point, rivals: Iterable[Point], base: Point, what: Objectives, limits: Sequence[Constraint],
             terms: Terms) -> str:
    """Why the point is hopeless, in words; empty where nothing is proved.

    Args:
        point: what was measured of the model under way.
        rivals: the same of other models, at the same share of their training.
        base: with at least the same items.
        what: the objectives.
        limits: of the search. Only those on what training may cost (`bounds_cost`) are looked at.
        terms: `alpha` holds for each claim by itself; who calls this shares it out among all that it looks at.

    Raises:
        EvalError: a point has no score in a suite, or they were not asked the same in the same way.
    """
    for limit in limits:
        if bounds_cost(limit, base) and exceeds(point, base, what, limit) <= terms.alpha:
            return f"proved beyond {limit.text}"
    for rival in rivals:
        if dominated(point, rival, what, terms) <= terms.alpha:
            return f"proved dominated by {rival.name}"
    return ""


def bounds_cost(limit: Constraint, base: Point) -> bool:
    """Whether training can only make a limit harder to keep to, as those on tax. What an alignment suite is to reach,
    a model under way has not reached yet, and that says nothing of its end."""
    if limit.metric == "tax":
        return limit.at_most
    return limit.metric == "score" and not limit.at_most and base.of(str(limit.suite))[0].kind == "capability"


def exceeds(point: Point, base: Point, what: Objectives, limit: Constraint) -> float:
    """One-sided p-value against "the point keeps to the limit", which is one that `bounds_cost`."""
    suites = (limit.suite,) if limit.suite else what.capability
    only = Objectives(suites, suites)
    if limit.metric == "score":
        found = alignment_of(point, only)
        return _beyond(found, limit.limit) if found.estimate < limit.limit else 1.0
    tax = difference(base, point, only).tax
    return _beyond(tax, limit.limit / 100) if 100 * tax.estimate > limit.limit else 1.0


def _beyond(found: Evidence, limit: float) -> float:
    return found.p_value(limit) / 2
