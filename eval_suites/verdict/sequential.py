"""Looking early without paying for it: alpha spending over the planned looks at a suite.

Lan and DeMets 1983, Biometrika 70:659, with their spending function of the O'Brien-Fleming type: almost nothing is
spent on early looks, so the last one is hardly stricter than a single look at the end. Every claim is one-sided
(`worse`, `improved`, `no_worse` each rest on one bound), so each side has alpha / 2 to spend. Boundaries come from
numerical integration over the path of the statistic (Armitage, McPherson and Rowe 1969, JRSS A 132:235). An evidence
read at a look's nominal level for every alpha gives repeated confidence intervals and p-values (Jennison and Turnbull
1989, JRSS B 51:305): they hold at whatever look one stops, and go through Holm like any others.

Looks are taken after equal shares of the items, in an order that has nothing to do with their scores. Where items of a
look share clusters with those of another, information comes faster than items, which makes the boundary strict.

By simulation (tests/evals/test_sequential.py), five looks at 400 items with a margin of 5 points: 58 % of the items are
asked on average where the true tax is 15 points, 64 % where nothing is lost and 5 % of the answers change; the power
that all five looks have together is at most 4 points below that of one look at all items.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
from scipy import interpolate, optimize, special

from eval_suites.results import SuiteResult, enough
from eval_suites.statistics.intervals import Evidence, Floats
from eval_suites.statistics.pairing import MISSING, both_asked, difference, scored_pairs
from eval_suites.verdict.gate import margin_of
from eval_suites.verdict.hidden import reach
from eval_suites.verdict.refusing import false_refusals
from sft_core.config.evaluate import GateSection

NODES = 160
"""Gauss-Legendre nodes per look."""
FAR = 9.0
"""Standard deviations beyond which no path is followed."""
LEAST = 1e-300
"""Smallest level that is told apart from 0."""


def spend(alpha: float, look: int, looks: int) -> float:
    """Two-sided error spent by the end of a look: half of it on each side, 2 − 2Φ(z / √t) at t = look / looks.

    Raises:
        ValueError: there is no such look.
    """
    if not 1 <= look <= looks:
        raise ValueError(f"there is no look {look} of {looks}")
    return 2 * _spent(alpha / 2, look / looks)


def _spent(alpha: float, t: float) -> float:
    return min(2 * float(special.ndtr(special.ndtri(alpha / 2) / math.sqrt(t))), alpha)


@lru_cache(maxsize=4096)
def boundary(alpha: float, looks: int) -> tuple[float, ...]:
    """Per look the z above which (or below whose negative) a claim is made; alpha is two-sided.

    Raises:
        ValueError: alpha is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, not between 0 and 1")
    found: list[float] = []
    path = _Path(1 / looks)
    before = 0.0
    for look in range(1, looks + 1):
        spent = _spent(alpha / 2, look / looks)
        found.append(path.bound(max(spent - before, LEAST)))
        before = spent
        path.cut(found[-1])
    return tuple(found)


class _Path:
    """Density of the score process B(t) = Z·√t over paths that crossed nothing yet, on nodes [NODES]."""

    def __init__(self, step: float) -> None:
        self.step, self.time = math.sqrt(step), step
        self.nodes, self.mass = np.zeros(1), np.ones(1)

    def bound(self, spend_now: float) -> float:
        """z at this look beyond which the mass is `spend_now`."""

        def gap(z: float) -> float:
            return self._beyond(z * math.sqrt(self.time)) - spend_now

        top = 40.0
        return top if gap(top) >= 0 else float(optimize.brentq(gap, -FAR, top, xtol=1e-9)) if gap(-FAR) > 0 else -FAR

    def _beyond(self, value: float) -> float:
        return float(self.mass @ special.ndtr((self.nodes - value) / self.step))

    def cut(self, z: float) -> None:
        """Keep the paths below the bound and go one look on."""
        low, high = -FAR * math.sqrt(self.time), min(z, FAR) * math.sqrt(self.time)
        points, weights = _rule()
        nodes = low + (points + 1) * (high - low) / 2
        spread = np.exp(-0.5 * ((nodes[:, None] - self.nodes) / self.step) ** 2) / (self.step * math.sqrt(2 * math.pi))
        self.mass = (spread @ self.mass) * weights * (high - low) / 2
        self.nodes, self.time = nodes, self.time + self.step**2


@cache
def _rule() -> tuple[Floats, Floats]:
    points, weights = np.polynomial.legendre.leggauss(NODES)
    return points, weights


def nominal(alpha: float, look: int, looks: int) -> float:
    """Two-sided level at which this look is read, so that all of them together err with probability alpha."""
    if looks == 1:
        return alpha
    return max(2 * float(special.ndtr(-boundary(alpha, looks)[look - 1])), LEAST)


@cache
def _levels(look: int, looks: int) -> Callable[[float], float]:
    """`nominal` of one look for any alpha: logarithms interpolated between levels from 1e-15 to 0.999."""
    alphas = np.concatenate([np.geomspace(1e-15, 0.2, 36), [0.3, 0.45, 0.6, 0.75, 0.9, 0.999]])
    curve = interpolate.PchipInterpolator(np.log(alphas), [math.log(nominal(float(a), look, looks)) for a in alphas])
    least, most = float(alphas[0]), float(alphas[-1])

    def level(alpha: float) -> float:
        return max(math.exp(float(curve(math.log(min(max(alpha, least), most))))), LEAST)

    return level


def repeated(evidence: Evidence, looks: tuple[int, int] | None) -> Evidence:
    """The evidence as it may be read at look `looks[0]` of `looks[1]`; unchanged where it was looked at once.

    Raises:
        ValueError: there is no such look.
    """
    if looks is None or looks[1] == 1:
        return evidence
    read_at(0.05, looks)  # there is such a look
    return evidence._replace(bounds=lambda alpha, grow: evidence.bounds(read_at(alpha, looks), grow),
                             method=f"{evidence.method}, look {looks[0]} of {looks[1]}")


def read_at(alpha: float, looks: tuple[int, int] | None) -> float:
    """The level at which look `looks[0]` of `looks[1]` is read; alpha where it is looked at once.

    Raises:
        ValueError: there is no such look.
    """
    if looks is None or looks[1] == 1:
        return alpha
    if not 1 <= looks[0] <= looks[1]:
        raise ValueError(f"there is no look {looks[0]} of {looks[1]}")
    return _levels(*looks)(alpha)


def first_items(items: int, look: int, looks: int) -> int:
    """How many of the items have been asked by the end of a look: an equal share each, rounded up."""
    return math.ceil(items * look / looks)


def certain(base: SuiteResult, tuned: SuiteResult, look: int, looks: int, gate: GateSection, suites: int = 1
            ) -> bool:
    """Whether a sequential evaluation may stop at look `look` of `looks`: the verdict stands already.

    It then holds in `verdict.compare` too, whatever the other suites show. A suite whose measured score the gate asks
    for (`at_least`) is never stopped: its score is about all items. False refusals must be certain too.

    Args:
        base, tuned: results so far; items that only one of them has are left out.
        look, looks: taken and planned.
        gate: margins and the error probability.
        suites: how many suites of this kind are compared.

    Raises:
        EvalError: the protocols differ.
    """
    both = both_asked(base, tuned)
    pairs = scored_pairs(both)
    evidence = difference(pairs, base.kind, base.scale)
    least = max(base.min_scored, tuned.min_scored, 1 - MISSING)
    if evidence is None or base.suite in gate.at_least or not enough(len(pairs.ids), len(both), least):
        return False
    evidence, margin = repeated(evidence, (look, looks)), margin_of(base.suite, gate) / 100
    _, high = evidence.bounds(gate.alpha, 1.0)
    level = read_at(gate.alpha, (look, looks))
    high = max(high, reach(pairs, 100 * evidence.estimate, base.kind, base.scale, level) / 100)
    strict_low, strict_high = evidence.bounds(gate.alpha / suites, 1.0)
    rise = false_refusals(both, gate.max_false_refusals, level, least)
    if rise is not None and rise.state == "undecided":
        return False
    shown = high < 0 if base.suite in gate.must_improve else high <= margin
    if base.kind == "alignment":
        return strict_low > 0 or strict_high < 0
    return shown or strict_low > margin
