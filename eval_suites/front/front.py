"""All points of a sweep → the front, with what is proved of each point."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from eval_suites.front.attainment import Surface, attained
from eval_suites.front.chances import chances, drawn
from eval_suites.front.differences import Difference, alignment_of, difference, differs, dominates
from eval_suites.front.points import Objectives, Point, Role, Terms
from eval_suites.statistics.intervals import Floats, Interval, holm


@dataclass(frozen=True)
class Placed:
    """What is known of one point among the others. Intervals are in points of 100, each by itself at 1 − alpha.

    `tax` is against the base, None where no point is the base; `on_front` goes by the estimates; `dominated_by` holds
    name → p-value (Holm over all ordered pairs) of those that are proved to dominate it; `not_told_from` the names of
    those that are not proved to differ in either objective (Holm over all pairs); `chance` that of `chances`. A point
    that is not feasible is compared with none.
    """

    name: str
    role: Role
    feasible: bool
    alignment: Interval
    tax: Interval | None
    on_front: bool
    chance: float
    dominated_by: Mapping[str, float]
    not_told_from: tuple[str, ...]


@dataclass(frozen=True)
class Front:
    """All points, in the order given, and what they reach together, see `attained`; nothing where no point is the base.
    """

    points: tuple[Placed, ...]
    terms: Terms
    reached: Mapping[str, Surface] = field(default_factory=dict)


class _Among(NamedTuple):
    """What the others make of a point."""

    on_front: bool
    chance: float
    dominated_by: Mapping[str, float]
    not_told_from: tuple[str, ...]


def front(points: Sequence[Point], what: Objectives, terms: Terms) -> Front:
    """Compare all feasible points with each other. No claim among those of `dominated_by` is false with a probability
    of 1 − alpha. Two that would dominate each other, as they differ by less than the tolerance in both objectives, are
    not said to.

    Raises:
        EvalError: a point has no score in a suite, or points were not asked the same in the same way.
    """
    feasible = [point for point in points if point.feasible]
    base = next((point for point in points if point.role == "base"), None)
    likely = drawn(feasible, what) if feasible else None
    among = _compared(feasible, likely, what, terms)
    return Front(tuple(
        Placed(point.name, point.role, point.feasible, in_points(alignment_of(point, what).interval(terms.alpha)),
               _tax(base, point, what, terms.alpha), *among.get(point.name, _Among(False, 0.0, {}, ())))
        for point in points), terms, {} if base is None else _reached(feasible, likely, base, what))


def _reached(feasible: Sequence[Point], likely: Floats | None, base: Point, what: Objectives) -> Mapping[str, Surface]:
    if likely is None:
        return {}
    if base in feasible:
        return attained(likely, feasible.index(base), range(len(feasible)))
    return attained(drawn([base, *feasible], what), 0, range(1, 1 + len(feasible)))


def _compared(points: Sequence[Point], likely: Floats | None, what: Objectives, terms: Terms) -> dict[str, _Among]:
    on_front = [] if likely is None else chances(likely)
    pairs = list(itertools.combinations(range(len(points)), 2))
    found = {(i, j): difference(points[i], points[j], what) for i, j in pairs}
    open_pairs = {pair for pair in pairs if _open(found[pair], terms.alpha)}  # their p-values are not needed
    told = dict(zip(pairs, holm([1.0 if pair in open_pairs else differs(found[pair]) for pair in pairs]), strict=True))
    found |= {(j, i): one.backwards for (i, j), one in found.items()}
    proofs = dict(zip(found, holm([1.0 if {pair, pair[::-1]} & open_pairs else dominates(one, terms)
                                   for pair, one in found.items()]), strict=True))

    def among(at: int) -> _Among:
        others = [i for i in range(len(points)) if i != at]
        return _Among(
            not any(ahead(found[at, i]) for i in others), on_front[at],
            {points[i].name: proofs[at, i] for i in others if proofs[at, i] <= terms.alpha < proofs[i, at]},
            tuple(points[i].name for i in others if told[min(at, i), max(at, i)] > terms.alpha))

    return {point.name: among(at) for at, point in enumerate(points)}


def _open(found: Difference, alpha: float) -> bool:
    """Neither objective is proved to differ even if this were the only pair: so nothing is proved of it, and its
    p-values make no other's larger."""
    return all(low <= 0 <= high for low, high in (one.bounds(alpha, 1.0) for one in found))


def in_points(found: Interval) -> Interval:
    """An interval of shares in points of 100."""
    estimate = None if found.estimate is None else 100 * found.estimate
    return found._replace(estimate=estimate, low=100 * found.low, high=100 * found.high)


def ahead(found: Difference) -> bool:
    """By the estimates, the other dominates."""
    gain, saving = found.alignment.estimate, -found.tax.estimate
    return min(gain, saving) >= 0 and max(gain, saving) > 0


def _tax(base: Point | None, point: Point, what: Objectives, alpha: float) -> Interval | None:
    if base is None:
        return None
    if point is base:
        return Interval(0.0, 0.0, 0.0, 0, "by definition")
    return in_points(difference(base, point, what).tax.interval(alpha))
