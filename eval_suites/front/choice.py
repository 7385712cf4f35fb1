"""The point that a sweep proposes, and what is proved of a point against the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from eval_suites.front.differences import difference, missing
from eval_suites.front.front import Front, Placed, in_points
from eval_suites.front.points import Objectives, Point
from eval_suites.statistics.intervals import Evidence, Interval

State = Literal["proved", "refuted", "undecided"]


class Limits(NamedTuple):
    """What a point is held to."""

    alpha: float
    max_tax: float
    """Points."""


class Proof(NamedTuple):
    """One point against the base: that it gains alignment, at a tax of at most `max_tax`.

    Both intervals are in points of 100, at 1 − alpha. `p` is that against "it does not": the larger one of the two
    claims', as both have to hold (Berger 1982), 1 where an estimate is on the wrong side; where one of them is refuted,
    that against the claim itself. `more`: how many more items would settle both claims, of the suites of the objective
    that needs more; None where no number would. `missing`: of which suites many items have no score, in words.
    """

    gain: Interval
    tax: Interval
    p: float
    state: State
    more: int | None
    missing: str = ""


def choose(found: Front, max_tax: float) -> Placed | None:
    """The point to propose; None where all are below the base by the estimate, or the base is proved to dominate all
    that could be.

    Those that could be are feasible and have a tax of at most `max_tax` points by the estimate; where none has, it is
    the one with the least tax. Of those that neither another such nor the base is proved to dominate it is the one of
    the highest alignment. Points within the tolerance of that are as good: the least tax decides, then the default.
    (Not all that are not told from it: with few items these are nearly all, and the least tax is then the luckiest.)
    """
    base = next((one for one in found.points if one.role == "base"), None)
    points = [one for one in found.points if one.role != "base" and one.feasible and one.tax]
    within = [one for one in points if _tax(one) <= max_tax] or sorted(points, key=_tax)[:1]
    against = {one.name for one in within} | ({base.name} if base else set())
    left = [one for one in within if not against & one.dominated_by.keys()
            and (base is None or _alignment(one) >= _alignment(base))]
    if not left:
        return None
    best = max(map(_alignment, left))
    alike = [one for one in left if _alignment(one) >= best - found.terms.tolerance]
    return min(alike, key=lambda one: (_tax(one), one.role != "default", -_alignment(one)))


def prove(base: Point, point: Point, what: Objectives, limits: Limits) -> Proof:
    """What the items that both answered prove of the point.

    Raises:
        EvalError: one has no score in a suite, or they were not asked the same in the same way.
    """
    gain, tax = difference(base, point, what)
    claims = [_Claim(gain, 0.0, gain.estimate > 0), _Claim(tax, limits.max_tax / 100,
                                                           tax.estimate < limits.max_tax / 100)]
    p = max(claim.p if claim.right else 1.0 for claim in claims)
    against = min((claim.p for claim in claims if not claim.right), default=1.0)
    state: State = "proved" if p <= limits.alpha else "refuted" if against <= limits.alpha else "undecided"
    return Proof(in_points(gain.interval(limits.alpha)), in_points(tax.interval(limits.alpha)),
                 against if state == "refuted" else p, state, _more(claims, limits.alpha), missing(base, point, what))


class _Claim(NamedTuple):
    """That a quantity lies to one side of a limit; `right`: its estimate does."""

    evidence: Evidence
    limit: float
    right: bool

    @property
    def p(self) -> float:
        return self.evidence.p_value(self.limit)

    def settled(self, low: float, high: float) -> bool:
        return low > self.limit or high < self.limit


def _more(claims: Sequence[_Claim], alpha: float) -> int | None:
    """Items that settle all claims; None where no number would."""
    found = [claim.evidence.more_items(alpha, claim.settled) for claim in claims]
    known = [one for one in found if one is not None]
    return max(known) if len(known) == len(found) else None


def _alignment(one: Placed) -> float:
    return one.alignment.estimate or 0.0


def _tax(one: Placed) -> float:
    assert one.tax is not None, "points are compared with the base"
    return one.tax.estimate or 0.0
