"""All points of a sweep → the front, with what is proved of each point."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval_suites.front.chances import chances
from eval_suites.front.differences import Difference, alignment_of, difference, differs, dominates
from eval_suites.front.points import Objectives, Point, Role, Terms
from eval_suites.statistics.intervals import Interval, holm


@dataclass(frozen=True)
class Placed:
    """What is known of one point among the others. Intervals are in points of 100, each by itself at 1 − alpha.

    `tax` is against the base, None where no point is the base; `on_front` goes by the estimates; `dominated_by` holds
    name → p-value (Holm over all ordered pairs) of those that are proved to dominate it; `not_told_from` the names of
    those that are not proved to differ in either objective (Holm over all pairs); `chance` that of `chances`.
    """

    name: str
    role: Role
    alignment: Interval
    tax: Interval | None
    on_front: bool
    chance: float
    dominated_by: Mapping[str, float]
    not_told_from: tuple[str, ...]


@dataclass(frozen=True)
class Front:
    """All points, in the order given."""

    points: tuple[Placed, ...]
    terms: Terms


def front(points: Sequence[Point], what: Objectives, terms: Terms) -> Front:
    """Compare all with all. No claim among those of `dominated_by` is false with a probability of 1 − alpha.

    Raises:
        EvalError: a point has no score in a suite, or points were not asked the same in the same way.
    """
    pairs = list(itertools.combinations(range(len(points)), 2))
    found = {(i, j): difference(points[i], points[j], what) for i, j in pairs}
    found |= {(j, i): one.backwards for (i, j), one in found.items()}
    proofs = dict(zip(found, holm([dominates(one, terms) for one in found.values()]), strict=True))
    told = dict(zip(pairs, holm([differs(found[pair]) for pair in pairs]), strict=True))
    base = next((at for at, point in enumerate(points) if point.role == "base"), None)
    likely = chances(points, what)

    def placed(at: int) -> Placed:
        others = [i for i in range(len(points)) if i != at]
        return Placed(
            points[at].name, points[at].role, in_points(alignment_of(points[at], what).interval(terms.alpha)),
            _tax(found, base, at, terms.alpha), not any(_ahead(found[at, i]) for i in others), likely[at],
            {points[i].name: proofs[at, i] for i in others if proofs[at, i] <= terms.alpha},
            tuple(points[i].name for i in others if told[min(at, i), max(at, i)] > terms.alpha))

    return Front(tuple(placed(at) for at in range(len(points))), terms)


def in_points(found: Interval) -> Interval:
    """An interval of shares in points of 100."""
    estimate = None if found.estimate is None else 100 * found.estimate
    return found._replace(estimate=estimate, low=100 * found.low, high=100 * found.high)


def _ahead(found: Difference) -> bool:
    """By the estimates, the other dominates."""
    gain, saving = found.alignment.estimate, -found.tax.estimate
    return min(gain, saving) >= 0 and max(gain, saving) > 0


def _tax(found: Mapping[tuple[int, int], Difference], base: int | None, at: int, alpha: float) -> Interval | None:
    if base is None:
        return None
    if at == base:
        return Interval(0.0, 0.0, 0.0, 0, "by definition")
    return in_points(found[base, at].tax.interval(alpha))
