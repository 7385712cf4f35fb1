"""From scores to evidence: one rate, a paired difference, several training seeds pooled.

Which interval, chosen by simulated coverage (tests/evals/test_coverage.py):

    scores of 0 and 1, independent          Wilson for a rate, exact limits of gains and losses for a paired difference
                                            (`intervals.change_limits`); McNemar's exact test stands beside it
    scores of 0 and 1, clustered, weighted  the same, with the counts scaled to an effective number of items and widened
    or under several seeds                  by Student's t for the few clusters or seeds that the scaling was estimated
                                            from (after Korn and Graubard 1998, Survey Methodology 24:193)
    other scores                            clustered, weighted bootstrap-t (`bootstrap.py`); several seeds: t

Scale `share`: scores in [0, 1]. Scale `log`: any finite number (minus nats per byte). Weights make a mean Σ w·v / Σ w.
Missing is not zero: a function here sees scored items only; who calls it pairs and counts (`verdict.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eval_suites.statistics.bootstrap import Sums, bootstrap_mean, cluster_sums
from eval_suites.statistics.intervals import (
    NO_RATE,
    NOTHING,
    Bounds,
    Evidence,
    Floats,
    Interval,
    Shares,
    change_limits,
    foreseen,
    t_of,
    wilson,
    z_of,
)

Scores = Mapping[str, float]
"""Item id → score in [0, 1]; an item without a score is absent."""
EffectiveItems = Callable[[float, float], float]
"""(alpha, grow) → effective number of items."""
GAINS = "limits of gains and losses"
NO_SPREAD = 1e-12
"""A half width below this is rounding: all values are equal."""
UNIFORM = math.log(256)
"""Nats per byte of a model that knows nothing: no score or difference on the scale `log` is taken for larger."""


def _shares(before: Floats, after: Floats, weights: Sequence[float] | None = None) -> Shares:
    """The paired table; a mean over several seeds splits its pair over the cells."""
    return Shares(*(float(np.average(x, weights=weights)) for x in (
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
            v / (grow if grows else 1.0) * t_of(alpha, df * grow if grows else df) ** 2
            for v, df, grows in zip(self.variances, self.dfs, self.grows, strict=True)))


def _cluster_spread(sums: Sums, known: float = math.inf) -> _Spread:
    """With one degree of freedom per effective cluster less one: where one cluster holds most items, the others say
    little of how it would have come out (8 clusters of 5 to 200 items: 68 % covered with seven). `known` of them show
    how alike the items of a cluster are (`telling`): where few did, losses alone were missed by 7 to 17 % for 2.5."""
    return _Spread((sums.robust**2,), (min(sums.df, max(known - 1.0, 1.0)),), (True,))


def telling(values: Floats, clusters: Sequence[str] | None, sums: Sums) -> float:
    """Clusters of equal weight that would tell as much of how alike items are: of those that hold something else than
    the commonest value. Their squares count as weights where items of a cluster are all alike, their sizes where they
    are independent; in between, as here, no error to one side is much above its rate for sizes as uneven as MMLU's."""
    found, counts = np.unique(values, return_counts=True)
    others = cluster_sums((values != found[counts.argmax()]).astype(np.float64), clusters).value > 0
    weight = sums.weight[others] ** 1.5
    return float(weight.sum() ** 2 / (weight**2).sum()) if len(weight) else 0.0


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


def _effective(variance: float, spread: _Spread, least: float, most: float, floor: float = 0.0) -> EffectiveItems:
    """Effective items: how many independent ones of that variance would be as uncertain as `spread`.

    `least`: what counts when nothing varies or all is one cluster, which tells nothing about the clustering. `most`: a
    design effect below one is taken for chance. `floor`: what they count for where items of a cluster are all alike, or
    what their variance says where that is less, as heavy ones changed more often than light ones.
    """
    alone, varies = least <= 1, sum(spread.variances)
    floor = min(floor, variance / varies) if varies > NO_SPREAD**2 else floor

    def items(alpha: float, grow: float) -> float:
        if variance <= 0 or alone:
            return least * grow
        half, z = spread.half(alpha, grow), z_of(alpha)
        return most * grow if half <= NO_SPREAD else min(most * grow, max(variance * (z / half) ** 2, floor * grow))

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
            return _with_unseen(mean, mean, floor, unseen(alpha, groups * grow))
        return max(mean - half, floor), min(mean + half, 1.0)

    return bounds


def unseen(alpha: float, groups: float) -> float:
    """Largest share of the population, at two-sided `alpha`, of which so many independent draws may show nothing."""
    return float(1 - (alpha / 2) ** (1 / groups))


def _with_unseen(low: float, high: float, floor: float, share: float) -> tuple[float, float]:
    """Bounds of a mean of values between `floor` and 1 if this share of them was not seen and lies at either end."""
    return low - share * (low - floor), high + share * (1.0 - high)


def _mean_bounds(sums: Sums, scale: str, floor: float) -> Bounds:
    """Bounds of a mean of any scores from the bootstrap; equal values on the scale `share` as in `_t_bounds`.

    Where hardly any value differs from the others, drawn samples often show no spread at all and the bootstrap has no
    bound on that side. Scores that lie in an interval have one all the same: Student's t about what was seen, with the
    share that may not have been seen at the end of the interval.

    Equal values on the scale `log` are the same computation twice, which is certain to show no difference.
    """
    if scale == "log":  # minus nats are never above 0; a broken model may be worse than one that knows nothing
        return bootstrap_mean(sums, (min(-UNIFORM, sums.mean), max(UNIFORM if floor else 0.0, sums.mean)))
    spread = _cluster_spread(sums)
    if len(sums.value) < 2 or sums.error <= NO_SPREAD:
        return _t_bounds(sums.mean, spread, int(sums.effective), floor)
    drawn = bootstrap_mean(sums, (floor, 1.0))

    def bounds(alpha: float, grow: float) -> tuple[float, float]:
        half = spread.half(alpha, grow)
        least, most = _with_unseen(max(sums.mean - half, floor), min(sums.mean + half, 1.0), floor,
                                   unseen(alpha, sums.effective * grow))
        low, high = drawn(alpha, grow)
        return max(low, least), min(high, most)

    return bounds


def _checked(values: Sequence[float], scale: str = "share") -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all() or (scale == "share" and not ((array >= 0).all() and (array <= 1).all())):
        where = " and lie in [0, 1]" if scale == "share" else ""
        raise ValueError(f"scores must be finite{where}; leave an item without a score out")
    return array


def _binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _alone(sums: Sums, items: int) -> bool:
    """Every item is a cluster of its own and weighs the same."""
    return len(sums.value) == items and bool(np.ptp(sums.weight) == 0)


def rate(scores: Sequence[float], clusters: Sequence[str] | None = None, weights: Sequence[float] | None = None,
         scale: str = "share") -> Evidence | None:
    """Mean score of items that are a sample of those that could have been asked. None without items.

    Args:
        scores: in [0, 1], or of any size on the scale `log`.
        clusters: what item i shares with others (a phrasing, an entity, a subject); None when items are independent.
        weights: what item i counts in the mean; None when all count the same.

    Raises:
        ValueError: a score is not finite or lies outside its scale, or a weight is not above 0.
    """
    values = _checked(scores, scale)
    n = len(values)
    if n == 0:
        return None
    sums = cluster_sums(values, clusters, weights)
    mean, groups = sums.mean, len(sums.value)
    if scale == "log" or not _binary(values):
        return Evidence(mean, n, f"bootstrap-t, {groups} clusters", _mean_bounds(sums, scale, 0.0))
    if _alone(sums, n):
        return Evidence(mean, n, "Wilson", lambda alpha, grow: wilson(mean, n * grow, alpha))
    size = _rate_size(sums, _worth(weights, n), telling(values, clusters, sums))
    return Evidence(mean, n, f"Wilson, {groups} clusters", lambda alpha, grow: wilson(mean, size(alpha, grow), alpha))


def _worth(weights: Sequence[float] | None, items: int) -> float:
    """Items of equal weight that these are worth (Kish 1965). Where only light ones happen to have changed, nothing in
    the scores tells that heavy ones count for more: no fewer are asked for than if all were independent."""
    return cluster_sums(np.ones(items), None, weights).effective


def _rate_size(sums: Sums, items: float, known: float) -> EffectiveItems:
    alike = sums.effective
    return _effective(sums.mean * (1 - sums.mean), _cluster_spread(sums, known), alike, items, alike)


def effective_items(scores: Sequence[float], clusters: Sequence[str], weights: Sequence[float], alpha: float) -> float:
    """How many independent items are as uncertain as these scores of 0 and 1, as `rate` takes them. 0 without items.

    Raises:
        ValueError: as for `rate`.
    """
    values = _checked(scores)
    if not len(values):
        return 0.0
    sums = cluster_sums(values, clusters, weights)
    worth = _worth(weights, len(values))
    return float(len(values)) if _alone(sums, len(values)) else (
        _rate_size(sums, worth, telling(values, clusters, sums))(alpha, 1.0))


def paired(base: Sequence[float], tuned: Sequence[float], clusters: Sequence[str] | None = None,
           weights: Sequence[float] | None = None, scale: str = "share") -> Evidence | None:
    """Mean of tuned − base over the same items in the same order. None without items.

    Args:
        base, tuned: `base[i]` and `tuned[i]` of the same item; in [0, 1], or of any size on the scale `log`.
        clusters, weights: as for `rate`.

    Raises:
        ValueError: lengths differ, a score is not finite or outside its scale, or a weight is not above 0.
    """
    before, after = _checked(base, scale), _checked(tuned, scale)
    n = len(before)
    if n != len(after):
        raise ValueError(f"{n} base scores and {len(after)} tuned scores are no pairs")
    if n == 0:
        return None
    sums = cluster_sums(after - before, clusters, weights)
    mean, groups = sums.mean, len(sums.value)
    if scale == "log" or not (_binary(before) and _binary(after)):
        return Evidence(mean, n, f"bootstrap-t, {groups} clusters", _mean_bounds(sums, scale, -1.0))
    shares = _shares(before, after, weights)
    if _alone(sums, n):
        return Evidence(mean, n, f"exact {GAINS}",
                        lambda alpha, grow: change_limits(foreseen(shares, n, grow), n * grow, alpha, exact=True))
    spread = _cluster_spread(sums, telling(after - before, clusters, sums))
    size = _effective(shares.base_only + shares.tuned_only - mean**2, spread, sums.effective, _worth(weights, n),
                      sums.effective)
    still = not shares.base_only + shares.tuned_only  # the clusters are then counted whole
    return Evidence(mean, n, f"{GAINS}, {groups} clusters", lambda alpha, grow: change_limits(
        foreseen(shares, size(alpha, 1.0), grow), size(alpha, grow), alpha, exact=still))


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
    return Evidence(mean, items, f"{GAINS}, {seeds} seeds",
                    lambda alpha, grow: change_limits(shares, size(alpha, grow), alpha, exact=False))


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
