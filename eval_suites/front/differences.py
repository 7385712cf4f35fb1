"""Two points → evidence of how they differ in both objectives, and the proof that one dominates the other.

Both points answered the same items, so a suite's difference is paired by item, with its clusters and weights. The mean
over suites has the limits that follow from those of every suite (MOVER, Zou and Donner 2008, Statistics in Medicine
27:1693): estimate ± √Σ (distance of each limit)² for independent suites. Suites that share items are not independent;
their distances are added, which holds however they depend on each other.

Training seeds are a second source of chance: the mean over so many has a t interval, whose half width is added in
squares. It holds some of the items' chance once more, so these intervals are rather too wide. A point with one seed
stands for that one model, not for its configuration.

Items without a score are held against every claim as the gate does it (`verdict.py`): where more than 5 % of a suite's
have none, the limits are also those with all of them counted for the one and for the other side. What is missing is not
chance, so it is counted in all suites at once before their mean has limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from eval_suites.front.points import Objectives, Point, Terms
from eval_suites.results import SuiteResult
from eval_suites.statistics.evidence import UNIFORM
from eval_suites.statistics.intervals import Evidence, t_of
from eval_suites.statistics.pairing import both_asked, many_missing, mean_score, scored_pairs, worst_cases
from eval_suites.statistics.pairing import difference as of_pairs
from eval_suites.verdict.sequential import repeated
from sft_core.errors import EvalError


class Difference(NamedTuple):
    """Evidence of other − one, in shares: of alignment (more is better) and of tax (less is better)."""

    alignment: Evidence
    tax: Evidence

    @property
    def backwards(self) -> Difference:
        """The same of one − other."""
        return Difference(_negative(self.alignment), _negative(self.tax))


def difference(one: Point, other: Point, what: Objectives) -> Difference:
    """How the other differs from the one, on the items that both have a score for.

    Raises:
        EvalError: a point has no score in a suite, or they were not asked the same in the same way.
    """
    return Difference(
        _held([_changed(one, other, suite) for suite in what.alignment], _sharing(one, what.alignment)),
        _negative(_held([_changed(one, other, suite) for suite in what.capability], _sharing(one, what.capability))))


def missing(one: Point, other: Point, what: Objectives) -> str:
    """In which suites so many items have no score that they are held against every claim, in words; '' in none."""
    said = []
    for suite in what.suites:
        both = both_asked(one.averaged(suite), other.averaged(suite))
        scored = len(scored_pairs(both).ids)
        if many_missing(scored, len(both)):
            said.append(f"{len(both) - scored:,} of {len(both):,} items of {suite}")
    return f"{' and '.join(said)} have no score on both sides and are counted either way" if said else ""


def alignment_of(point: Point, what: Objectives) -> Evidence:
    """Mean score over the suites of alignment, in shares.

    Raises:
        EvalError: it has no score in one of them.
    """
    return _held([_own(point, suite) for suite in what.alignment], _sharing(point, what.alignment))


def dominated(worse: Point, better: Point, what: Objectives, terms: Terms) -> float:
    """P-value against "`better` does not dominate `worse`".

    An intersection-union test (Berger 1982, Technometrics 24:295): better in one objective, and in the other no worse
    by more than the tolerance, each one-sided; twice the smaller over which of the two is which (Bonferroni). Identical
    results have 1. It holds however the objectives depend on each other, so also where they share suites.

    Raises:
        EvalError: as for `difference`.
    """
    return dominates(difference(worse, better, what), terms)


def dominates(found: Difference, terms: Terms) -> float:
    """The same from the difference."""
    gain, saving, margin = found.alignment, _negative(found.tax), terms.tolerance / 100
    return min(1.0, 2 * min(_both(gain, saving, margin), _both(saving, gain, margin)))


def _both(better: Evidence, kept: Evidence, margin: float) -> float:
    """One-sided p-value against "not above 0, or not above −margin"."""
    if better.estimate <= 0 or kept.estimate <= -margin:
        return 1.0
    return max(better.p_value(0.0), kept.p_value(-margin)) / 2


def differs(found: Difference) -> float:
    """P-value against "equal in both objectives"."""
    return min(1.0, 2 * min(found.alignment.p_value(0.0), found.tax.p_value(0.0)))


def _negative(evidence: Evidence) -> Evidence:
    def bounds(alpha: float, grow: float) -> tuple[float, float]:
        low, high = evidence.bounds(alpha, grow)
        return -high, -low

    return evidence._replace(estimate=0.0 - evidence.estimate, bounds=bounds)  # and no -0.0


class _Cases(NamedTuple):
    """Evidence out of the items with a score; and where many have none, that with all of them counted for the one side
    and for the other."""

    scored: Evidence
    worst: tuple[Evidence, ...]

    def each(self, change: Callable[[Evidence], Evidence]) -> _Cases:
        return _Cases(change(self.scored), tuple(map(change, self.worst)))


def _cases(found: Evidence, worst: Sequence[Evidence]) -> _Cases:
    """Where nothing is the worst, as on the scale `log`, nothing is known."""
    return _Cases(found, tuple(worst) or (_only(found, UNIFORM), _only(found, -UNIFORM)))


def _only(found: Evidence, value: float) -> Evidence:
    return found._replace(estimate=value, bounds=lambda alpha, grow: (value, value))


def _held(found: Sequence[_Cases], groups: Sequence[Sequence[int]]) -> Evidence:
    """Mean over suites, with limits that hold whatever the missing items are."""
    scored = _mean([one.scored for one in found], groups)
    if not any(one.worst for one in found):
        return scored
    cases = [scored, *(_mean([one.worst[at] if one.worst else one.scored for one in found], groups) for at in (0, 1))]

    def bounds(alpha: float, grow: float) -> tuple[float, float]:
        lows, highs = zip(*(case.bounds(alpha, grow) for case in cases), strict=True)
        return min(lows), max(highs)

    return scored._replace(method=f"{scored.method}, missing items counted either way", bounds=bounds)


def _own(point: Point, suite: str) -> _Cases:
    """Evidence of the score in one suite."""
    result = point.averaged(suite)
    found = mean_score(result)
    if found is None:
        raise EvalError(f"{point.name} has no item of suite {suite} with a score under all its training seeds; leave "
                        "the point out of the front or evaluate it again")
    if not many_missing(result.tally.scored, result.n):
        return _Cases(found, ()).each(lambda case: _over_seeds(case, [point], suite))
    ends = [mean_score(_filled(result, score)) for score in (1.0, 0.0)] if result.scale != "log" else []
    cases = _cases(found, [end for end in ends if end])
    return cases.each(lambda case: _over_seeds(case, [point], suite))


def _filled(result: SuiteResult, score: float) -> SuiteResult:
    return replace(result, items=tuple(item._replace(score=score) if item.score is None else item
                                       for item in result.items))


def _changed(one: Point, other: Point, suite: str) -> _Cases:
    """Evidence of other − one in one suite."""
    before, after = one.averaged(suite), other.averaged(suite)
    both = both_asked(before, after)
    pairs = scored_pairs(both)
    found = of_pairs(pairs, "alignment", before.scale)
    if found is None:
        raise EvalError(f"{one.name} and {other.name} have no item of suite {suite} that both have a score for; "
                        "evaluate both with the same items (eval.limit)")
    looks = min((side.looks for side in (before, after) if side.looks), key=lambda at: at[0] / at[1], default=None)
    cases = _Cases(found, ())
    if many_missing(len(pairs.ids), len(both)):
        cases = _cases(found, worst_cases(both, "alignment", before.scale))
    return cases.each(lambda case: _over_seeds(repeated(case, looks), [one, other], suite))


def _over_seeds(evidence: Evidence, points: Sequence[Point], suite: str) -> Evidence:
    """Widened by what training seeds make of the mean; nothing where a point has one seed."""
    means = [[result.score for result in point.of(suite)] for point in points if len(point.results) > 1]
    spread = [(float(np.std(np.array(m, dtype=np.float64), ddof=1)) / math.sqrt(len(m)), len(m) - 1.0) for m in means]
    if not spread:
        return evidence

    def bounds(alpha: float, grow: float) -> tuple[float, float]:
        low, high = evidence.bounds(alpha, grow)
        seeds = [error * t_of(alpha, df) for error, df in spread]  # more items do not make up for few seeds
        return (evidence.estimate - math.hypot(evidence.estimate - low, *seeds),
                evidence.estimate + math.hypot(high - evidence.estimate, *seeds))

    said = " and ".join(str(len(m)) for m in means)
    return evidence._replace(method=f"{evidence.method}, {said} seeds", bounds=bounds)


def _mean(found: Sequence[Evidence], groups: Sequence[Sequence[int]]) -> Evidence:
    """Mean over suites, of which those of one group share items."""
    if len(found) == 1:
        return found[0]
    estimate = sum(one.estimate for one in found) / len(found)

    def bounds(alpha: float, grow: float) -> tuple[float, float]:
        limits = [one.bounds(alpha, grow) for one in found]

        def distance(of: Callable[[int], float]) -> float:
            return math.hypot(*(sum(of(at) for at in group) for group in groups)) / len(found)

        return (estimate - distance(lambda at: found[at].estimate - limits[at][0]),
                estimate + distance(lambda at: limits[at][1] - found[at].estimate))

    return Evidence(estimate, sum(one.items for one in found), f"MOVER over {len(found)} suites", bounds)


def _sharing(point: Point, suites: Sequence[str]) -> list[list[int]]:
    """Positions of suites, together where they share something that was asked (a judged suite: with its answers)."""
    groups: list[tuple[set[str], list[int]]] = []
    for at, suite in enumerate(suites):
        keys = {suite.partition(":")[0], *(item.asked for item in point.averaged(suite).items)}
        alike = [group for group in groups if group[0] & keys]
        groups = [group for group in groups if group not in alike]
        groups.append((keys.union(*(found for found, _ in alike)), [*(i for _, group in alike for i in group), at]))
    return [positions for _, positions in groups]
