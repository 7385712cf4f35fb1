"""From scores in [0, 1] to evidence: one rate, a paired difference, several training seeds pooled.

Scores of 0 and 1 get Wilson's and Newcombe's intervals (`intervals.py`). Where items share a cluster, or several seeds
answer the same item, the counts are first scaled to an effective number of items, and widened by Student's t for the
few clusters or seeds that the scaling was estimated from (after Korn and Graubard 1998, Survey Methodology 24:193).
Other scores get a cluster-robust t interval.

Missing is not zero: a function here sees scored items only; who calls it pairs and counts (`verdict.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as sps

from eval_suites.intervals import NO_RATE, NOTHING, Bounds, Evidence, Interval, Shares, newcombe, wilson

Floats = NDArray[np.float64]
Scores = Mapping[str, float]
"""Item id → score in [0, 1]; an item without a score is absent."""
EffectiveItems = Callable[[float, float], float]
"""(alpha, grow) → effective number of items."""
NO_SPREAD = 1e-12
"""A half width below this is rounding: all values are equal."""


def _shares(before: Floats, after: Floats) -> Shares:
    """The paired table; a mean over several seeds splits its pair over the cells."""
    return Shares(*(float(np.mean(x)) for x in (
        before * after, before * (1 - after), (1 - before) * after, (1 - before) * (1 - after))))


class _Spread(NamedTuple):
    """How uncertain a mean is: per source of chance its variance and the degrees of freedom that estimate has.

    `grows` says whether more items make that source smaller; more items do not make up for few training seeds.
    """

    variances: tuple[float, ...]
    dfs: tuple[float, ...]
    grows: tuple[bool, ...]

    def half(self, alpha: float, grow: float) -> float:
        """Half width of a t interval: each source with its own t, added in squares.

        Adding widths and not variances (as Howe 1974, JASA 69:789, does) keeps a source known from two degrees of
        freedom wide; pooled degrees of freedom after Satterthwaite covered 90 % where this covers 93 % (3 seeds).
        """
        return math.sqrt(sum(
            v / (grow if grows else 1.0) * float(sps.t.isf(alpha / 2, df * grow if grows else df)) ** 2
            for v, df, grows in zip(self.variances, self.dfs, self.grows, strict=True)))


def _cluster_spread(values: Floats, clusters: Sequence[str]) -> tuple[_Spread, int]:
    """Cluster-robust variance of a mean (sums of residuals per cluster, times G / (G − 1)), and the clusters G."""
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    count = int(index.max()) + 1
    sums = np.bincount(index, weights=values - values.mean())
    variance = float(np.sum(sums**2)) * count / max(count - 1, 1) / len(values) ** 2
    return _Spread((variance,), (max(count - 1.0, 1.0),), (True,)), count


def _two_way_spread(cells: Floats) -> _Spread:
    """Spread of the grand mean of cells [items, seeds], both being samples: two-way layout without replication.

    Var = MS_items / (I·S) + max(MS_seeds − MS_error, 0) / (I·S); the first part also holds the error.
    """
    items, seeds = cells.shape
    mean, rows, columns = cells.mean(), cells.mean(axis=1), cells.mean(axis=0)
    ms_items = seeds * float(np.sum((rows - mean) ** 2)) / (items - 1)
    ms_seeds = items * float(np.sum((columns - mean) ** 2)) / (seeds - 1)
    rest = cells - rows[:, None] - columns[None, :] + mean
    ms_error = float(np.sum(rest**2)) / ((items - 1) * (seeds - 1))
    parts = ms_items / (items * seeds), max(ms_seeds - ms_error, 0.0) / (items * seeds)
    return _Spread(parts, (items - 1.0, seeds - 1.0), (True, False))


def _effective(variance: float, spread: _Spread, least: int, most: int) -> EffectiveItems:
    """Effective items: how many independent ones of that variance would be as uncertain as `spread`.

    `least`: what counts when nothing varies, which tells nothing about the clustering. `most`: a design effect
    below one is taken for chance.
    """

    def items(alpha: float, grow: float) -> float:
        if variance <= 0:
            return least * grow
        half, z = spread.half(alpha, grow), float(sps.norm.isf(alpha / 2))
        return most * grow if half <= NO_SPREAD else min(most * grow, variance * (z / half) ** 2)

    return items


def _t_bounds(mean: float, spread: _Spread, groups: int, floor: float) -> Bounds:
    """Bounds of a mean of values between `floor` and 1 (0 for rates, −1 for differences) from a t interval.

    Where nothing varies the bound is that of what was not seen: a share of at most 1 − (alpha / 2)^(1 / groups) of
    the population, which could lie at either end.
    """

    def bounds(alpha: float, grow: float) -> tuple[float, float]:
        if groups < 2:
            return floor, 1.0
        half = spread.half(alpha, grow)
        if half <= NO_SPREAD:
            unseen = 1 - (alpha / 2) ** (1 / (groups * grow))
            return mean - unseen * (mean - floor), mean + unseen * (1.0 - mean)
        return max(mean - half, floor), min(mean + half, 1.0)

    return bounds


def _checked(values: Sequence[float]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not (np.isfinite(array).all() and (array >= 0).all() and (array <= 1).all()):
        raise ValueError("scores must be finite and lie in [0, 1]; leave an item without a score out")
    return array


def _binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _own_clusters(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def rate(scores: Sequence[float], clusters: Sequence[str] | None = None) -> Evidence | None:
    """Mean score of items that are a sample of those that could have been asked. None without items.

    Raises:
        ValueError: a score is not a finite number in [0, 1].
    """
    values = _checked(scores)
    n = len(values)
    if n == 0:
        return None
    spread, groups = _cluster_spread(values, clusters if clusters is not None else _own_clusters(n))
    mean = float(values.mean())
    if not _binary(values):
        return Evidence(mean, n, f"t, {groups} clusters", _t_bounds(mean, spread, groups, 0.0))
    if groups == n:
        return Evidence(mean, n, "Wilson", lambda alpha, grow: wilson(mean, n * grow, alpha))
    size = _effective(mean * (1 - mean), spread, groups, n)
    return Evidence(mean, n, f"Wilson, {groups} clusters", lambda alpha, grow: wilson(mean, size(alpha, grow), alpha))


def paired(base: Sequence[float], tuned: Sequence[float], clusters: Sequence[str] | None = None) -> Evidence | None:
    """Mean of tuned − base over the same items in the same order. None without items.

    Args:
        base, tuned: scores in [0, 1], `base[i]` and `tuned[i]` of the same item.
        clusters: what item i shares with others (a phrasing, an entity); None when items are independent.

    Raises:
        ValueError: lengths differ, or a score is not a finite number in [0, 1].
    """
    before, after = _checked(base), _checked(tuned)
    n = len(before)
    if n != len(after):
        raise ValueError(f"{n} base scores and {len(after)} tuned scores are no pairs")
    if n == 0:
        return None
    spread, groups = _cluster_spread(after - before, clusters if clusters is not None else _own_clusters(n))
    mean, shares = float((after - before).mean()), _shares(before, after)
    if not (_binary(before) and _binary(after)):
        return Evidence(mean, n, f"t, {groups} clusters", _t_bounds(mean, spread, groups, -1.0))
    if groups == n:
        return Evidence(mean, n, "Newcombe", lambda alpha, grow: newcombe(shares, n * grow, alpha))
    size = _effective(shares.base_only + shares.tuned_only - mean**2, spread, groups, n)
    return Evidence(mean, n, f"Newcombe, {groups} clusters",
                    lambda alpha, grow: newcombe(shares, size(alpha, grow), alpha))


def pooled_rate(scores_by_seed: Sequence[Scores]) -> Evidence | None:
    """Mean score over training seeds and items; only items that every seed has a score for. None without items.

    Covers what another training run, with another seed, would score on other items of the same kind: items count as
    clusters (their answers under several seeds are alike) and seeds as replicates. Three seeds say little about
    seeds: their part of the width has two degrees of freedom.

    Raises:
        ValueError: no seed, or a score that is not a finite number in [0, 1].
    """
    cells = _cells(scores_by_seed, _common(scores_by_seed))
    items, seeds = cells.shape
    if seeds == 1 or items < 2:
        return rate(cells.mean(axis=1).tolist())
    mean, spread = float(cells.mean()), _two_way_spread(cells)
    method = f"{seeds} seeds"
    if not _binary(cells):
        return Evidence(mean, items, f"t, {method}", _t_bounds(mean, spread, items, 0.0))
    size = _effective(mean * (1 - mean), spread, items, items * seeds)
    return Evidence(mean, items, f"Wilson, {method}", lambda alpha, grow: wilson(mean, size(alpha, grow), alpha))


def pooled_paired(base: Scores, tuned_by_seed: Sequence[Scores]) -> Evidence | None:
    """Mean of tuned − base over training seeds and items; only items scored by the base and by every seed.

    Covers the difference that another training run of this base would show on other items of the same kind (see
    `pooled_rate`); the base is one fixed model, so it has no seed. None without items.

    Raises:
        ValueError: no seed, or a score that is not a finite number in [0, 1].
    """
    common = _common([base, *tuned_by_seed])
    before, cells = _cells([base], common)[:, 0], _cells(tuned_by_seed, common)
    items, seeds = cells.shape
    if seeds == 1 or items < 2:
        return paired(before.tolist(), cells.mean(axis=1).tolist())
    change = cells - before[:, None]
    mean, spread, shares = float(change.mean()), _two_way_spread(change), _shares(before, cells.mean(axis=1))
    if not (_binary(before) and _binary(cells)):
        return Evidence(mean, items, f"t, {seeds} seeds", _t_bounds(mean, spread, items, -1.0))
    size = _effective(shares.base_only + shares.tuned_only - mean**2, spread, items, items * seeds)
    return Evidence(mean, items, f"Newcombe, {seeds} seeds",
                    lambda alpha, grow: newcombe(shares, size(alpha, grow), alpha))


def pooled_rate_interval(scores_by_seed: Sequence[Scores], alpha: float = 0.05) -> Interval:
    """Interval of `pooled_rate`; everything when no item has a score under every seed."""
    evidence = pooled_rate(scores_by_seed)
    return evidence.interval(alpha) if evidence else NO_RATE


def pooled_paired_interval(base: Scores, tuned_by_seed: Sequence[Scores], alpha: float = 0.05) -> Interval:
    """Interval of `pooled_paired`; everything when no item is scored by the base and under every seed."""
    evidence = pooled_paired(base, tuned_by_seed)
    return evidence.interval(alpha) if evidence else NOTHING


def _common(scores: Sequence[Scores]) -> list[str]:
    return sorted(set.intersection(*(set(s) for s in scores))) if scores else []


def _cells(scores: Sequence[Scores], items: Sequence[str]) -> Floats:
    """Scores [items, seeds]."""
    if not scores:
        raise ValueError("no training seed was given")
    return _checked([s[i] for i in items for s in scores]).reshape(len(items), len(scores))
