"""Intervals and exact tests: Wilson for a rate, limits of gains and losses for a paired difference, McNemar, Holm.

Both intervals stay honest at 0 and 1 and with no discordant pair, where the usual standard error is zero. `n` may be
an effective number of items and need not be whole. `stats.py` makes the evidence out of scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from scipy import stats as sps

Floats = NDArray[np.float64]
Bounds = Callable[[float, float], tuple[float, float]]
"""(alpha, grow) → (low, high) as if there were `grow` times as many items with the same outcome."""

TINY = 1e-12
SETTLES = 0.9
"""Share of cases in which so many more items would settle a question if it were known how often answers change. As that
is an estimate too, they do in 80 % and more of cases from 100 items on, in 66 to 80 % of 20 to 40 with few changes."""
FORETOLD = special.ndtri((np.arange(40) + 0.5) / 40)
"""Equally likely values of a standard normal."""


class Interval(NamedTuple):
    """An estimate with its two-sided interval. Without any item the estimate is None and the interval is everything."""

    estimate: float | None
    low: float
    high: float
    items: int
    method: str


class Shares(NamedTuple):
    """Shares of the four outcomes of a pair; they add up to 1."""

    both: float
    base_only: float
    tuned_only: float
    neither: float


class Tables(NamedTuple):
    """The same for many samples at once: arrays of one shape."""

    both: Floats
    base_only: Floats
    tuned_only: Floats
    neither: Floats


class Evidence(NamedTuple):
    """What is known of one quantity: enough for its interval at any level and for any number of further items."""

    estimate: float
    items: int
    method: str
    bounds: Bounds

    def interval(self, alpha: float) -> Interval:
        """Two-sided interval of level 1 − alpha."""
        low, high = self.bounds(alpha, 1.0)
        return Interval(self.estimate, low, high, self.items, self.method)

    def p_value(self, null: float) -> float:
        """Smallest alpha whose interval excludes `null`, so that the p-value and the interval never disagree."""

        def gap(log_alpha: float) -> float:
            low, high = self.bounds(math.exp(log_alpha), 1.0)
            return low - null if self.estimate > null else null - high

        least, most = math.log(1e-15), math.log(1 - 1e-9)
        if self.estimate == null or gap(most) <= 0:
            return 1.0
        if gap(least) > 0:
            return math.exp(least)
        return math.exp(float(optimize.brentq(gap, least, most, xtol=1e-10)))

    def more_items(self, alpha: float, settled: Callable[[float, float], bool], most: float = 1e4) -> int | None:
        """How many more items would settle the question in `SETTLES` of cases.

        `settled(low, high)` says whether an interval answers it. 0 when it is settled already, None when
        even `most` times as many would not.
        The truth is not what was seen but about it, so the mean after n · grow items is foretold as normal about the
        one after n with the variance s² · (grow − 1) / grow, s its standard error now (the predictive distribution
        without a prior); taking what was seen for the truth settled a third to two thirds of cases.
        """
        low, high = self.bounds(alpha, 1.0)
        if settled(low, high):
            return 0
        error = (high - low) / (2 * z_of(alpha))

        def chance(grow: float) -> float:
            low, high = self.bounds(alpha, grow)
            moves = error * math.sqrt((grow - 1) / grow) * FORETOLD
            return sum(settled(low + move, high + move) for move in moves) / len(moves)

        if chance(most) < SETTLES:
            return None
        few, many = 1.0, most
        while many - few > 1e-3 * many:
            middle = math.sqrt(few * many)
            few, many = (few, middle) if chance(middle) >= SETTLES else (middle, many)
        return math.ceil((many - 1.0) * self.items)


NOTHING = Interval(None, -1.0, 1.0, 0, "not measured")
NO_RATE = Interval(None, 0.0, 1.0, 0, "no item was scored")


def z_of(alpha: float) -> float:
    """Two-sided normal quantile: z with P(|Z| > z) = alpha."""
    return -float(special.ndtri(alpha / 2))


def t_of(alpha: float, df: float) -> float:
    """Two-sided quantile of Student's t."""
    return -float(special.stdtrit(df, alpha / 2))


def wilson(share: float, n: float, alpha: float) -> tuple[float, float]:
    """Wilson's score interval (1927, JASA 22:209) for a share seen in n items."""
    low, high = _wilson(np.asarray(share), np.asarray(n), alpha)
    return float(low), float(high)


def _wilson(share: Floats, n: Floats, alpha: float) -> tuple[Floats, Floats]:
    z2 = z_of(alpha) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At the ends the formula gives exactly 0 and 1; rounding must not say otherwise.
    return np.where(share <= 0, 0.0, centre - half), np.where(share >= 1, 1.0, centre + half)


def clopper_pearson(hits: float, n: float, alpha: float) -> tuple[float, float]:
    """Exact limits of the share behind `hits` of n: everything where n is 0."""
    low, high = _exact(np.asarray(hits / n), np.asarray(n), alpha) if n else (0.0, 1.0)
    return float(low), float(high)


def _exact(share: Floats, n: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Clopper and Pearson's limits (1934, Biometrika 26:404) of shares seen in n items."""
    seen, rest = share * n, np.maximum(n - share * n, 0.0)
    low = np.where(seen > 0, special.betaincinv(np.maximum(seen, TINY), rest + 1, alpha / 2), 0.0)
    high = np.where(rest > 0, special.betaincinv(seen + 1, np.maximum(rest, TINY), 1 - alpha / 2), 1.0)
    return low, high


def foreseen(shares: Shares, n: float, grow: float) -> Shares:
    """The table of `grow` times as many items: of more than these with one pair more in each cell, as twenty pairs of
    which none changed promise nothing."""
    return shares if grow == 1.0 else Shares(*((share * n + 1) / (n + 4) for share in shares))


def change_limits(shares: Shares, n: float, alpha: float, exact: bool) -> tuple[float, float]:
    """Interval for P(tuned right) − P(base right), which is P(gained) − P(lost), from n pairs.

    The limits of both shares, their distances squared and added with the correlation of two cells of a multinomial (Zou
    and Donner 2008, Statistics in Medicine 27:1693): `exact` ones (Clopper and Pearson) of n independent pairs;
    Wilson's of an effective number, as means over clusters do not come in steps of 1 / n. Where only one kind of change
    was seen the bound on its side is the limit of that share; no base rate comes into it. The correlation is that of
    the table with half a pair more in each of three cells: without, few pairs of which nearly all change have errors of
    twice the nominal rate. Errors to either side over all tables are in tests/evals/test_one_sided.py.
    """
    low, high = change_limits_many(Tables(*(np.asarray(share) for share in shares)), np.asarray(n), alpha, exact)
    return float(low), float(high)


def change_limits_many(table: Tables, n: Floats, alpha: float, exact: bool) -> tuple[Floats, Floats]:
    """`change_limits` of many tables at once (shape [tables], or none)."""
    p, q = table.tuned_only, table.base_only
    limits = _exact if exact else _wilson
    (p_low, p_high), (q_low, q_high) = limits(p, n, alpha), limits(q, n, alpha)
    p_more, q_more = (p * n + 0.5) / (n + 1.5), (q * n + 0.5) / (n + 1.5)
    alike = -np.sqrt(p_more * q_more / ((1 - p_more) * (1 - q_more)))

    def distance(a: Floats, b: Floats) -> Floats:
        return np.asarray(np.sqrt(a * a - 2 * alike * a * b + b * b))

    low, high = p - q - distance(p - p_low, q_high - q), p - q + distance(p_high - p, q - q_low)
    return np.maximum(low, -1.0), np.minimum(high, 1.0)


def mcnemar_exact(base_only: int, tuned_only: int) -> float:
    """Two-sided exact p of McNemar's test: under no difference each discordant pair falls either way by a fair coin."""
    pairs = base_only + tuned_only
    return 1.0 if pairs == 0 else float(sps.binomtest(tuned_only, pairs, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: the chance of any false claim stays below alpha."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min((len(p_values) - rank) * p_values[index], 1.0))
        adjusted[index] = running
    return adjusted
