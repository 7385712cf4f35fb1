"""The clustered bootstrap: against SciPy's, its symmetries, its speed, and ends where nothing varies."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats as sps

from eval_suites.statistics.bootstrap import Sums, bootstrap_mean, bootstrap_paired, cluster_sums, resample
from eval_suites.statistics.evidence import paired

RNG = np.random.default_rng(0)
WIDE = (-99.0, 99.0)
SKEWED = -np.log(1 - (np.arange(25) + 0.5) / 25)  # quantiles of the exponential distribution


def test_draws_spread_as_scipys_do() -> None:
    values = RNG.exponential(1.0, 60)
    ours = resample(cluster_sums(values), 20_000).means
    theirs = sps.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).bootstrap_distribution
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert np.quantile(ours, share) == pytest.approx(np.quantile(theirs, share), abs=0.03)


def test_both_ways_of_drawing_agree() -> None:
    """Few different clusters are drawn by their counts, many one by one: the same distribution, with weights or not."""
    values = np.repeat([0.0, 0.0, 0.0, 1.0, 5.0], 20)
    for weights in (np.ones(100), np.where(values > 0, 2.0, 1.0)):
        sums = cluster_sums(values, None, weights)
        counted, single = (resample(cluster_sums(values + noise, None, weights), 40_000)
                           for noise in (0.0, RNG.normal(0, 1e-6, 100)))
        for found in (counted, single):
            assert found.means.mean() == pytest.approx(sums.mean, abs=0.01)
            assert found.means.std() == pytest.approx(sums.error, rel=0.03)
        shares = [0.025, 0.25, 0.5, 0.75, 0.975]
        assert np.quantile(counted.pivots, shares) == pytest.approx(np.quantile(single.pivots, shares), abs=0.06)


def test_one_seed_gives_one_interval_and_another_seed_nearly_the_same() -> None:
    values, names = RNG.exponential(1.0, 150), [str(i // 3) for i in range(150)]
    sums = cluster_sums(values, names)
    one, again, other = (bootstrap_mean(sums, WIDE, seed=seed)(0.05, 1.0) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert one == pytest.approx(other, abs=0.02)


def test_order_scale_and_sign_do_not_matter() -> None:
    values, names = RNG.exponential(1.0, 120), [str(i // 4) for i in range(120)]
    weights = RNG.uniform(1, 3, 120)
    low, high = bootstrap_mean(cluster_sums(values, names, weights), WIDE)(0.05, 1.0)
    turned = cluster_sums(values[::-1], names[::-1], weights[::-1])
    heavier = cluster_sums(values, names, 7 * weights)
    assert bootstrap_mean(turned, WIDE)(0.05, 1.0) == pytest.approx((low, high), abs=0.03)
    assert bootstrap_mean(heavier, WIDE)(0.05, 1.0) == pytest.approx((low, high), abs=0.03)
    mirrored = bootstrap_mean(cluster_sums(-values, names, weights), WIDE)(0.05, 1.0)
    assert mirrored == pytest.approx((-high, -low), abs=0.03)


def test_copies_of_a_cluster_say_nothing_new() -> None:
    """Every item ten times in its own cluster: the same sums up to a factor, so the same interval."""
    values = RNG.normal(0, 1, 40)
    names = [str(i) for i in range(40)]
    one = bootstrap_mean(cluster_sums(values, names), WIDE)(0.05, 1.0)
    ten = bootstrap_mean(cluster_sums(np.repeat(values, 10), [n for n in names for _ in range(10)]), WIDE)(0.05, 1.0)
    assert ten == pytest.approx(one, abs=1e-9)


def test_skewed_values_give_a_skewed_interval() -> None:
    sums = cluster_sums(SKEWED)
    low, high = bootstrap_mean(sums, WIDE)(0.05, 1.0)
    student = sps.t.isf(0.025, 24) * sums.error
    assert high - sums.mean > 1.15 * student
    assert sums.mean - low == pytest.approx(student, rel=0.05)  # never narrower than t


def test_levels_beyond_the_draws_go_on_as_t_does() -> None:
    sums = cluster_sums(RNG.exponential(1.0, 50))
    bounds = bootstrap_mean(sums, WIDE)
    ends = [bounds(alpha, 1.0)[1] for alpha in (0.05, 1e-3, 1e-6, 1e-12, 1e-15)]
    assert all(a < b for a, b in zip(ends, ends[1:], strict=False))
    assert math.isfinite(ends[-1])


def test_more_items_shrink_the_interval_and_its_skewness() -> None:
    bounds = bootstrap_mean(sums := cluster_sums(SKEWED), WIDE)
    low, high = bounds(0.05, 100.0)
    assert high - low == pytest.approx(2 * 1.96 * sums.error / 10, rel=0.05)
    assert (high - sums.mean) / (sums.mean - low) < 1.1


def test_ends() -> None:
    assert bootstrap_mean(Sums(np.ones(1), np.ones(1)), (-1.0, 1.0))(0.05, 1.0) == (-1.0, 1.0)
    assert bootstrap_mean(cluster_sums(np.full(9, 0.25)), (-1.0, 1.0))(0.05, 1.0) == (0.25, 0.25)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_too_few_clusters_to_draw_from_are_students(count: int) -> None:
    """Of three clusters every ninth draw is one of them three times; the interval is t's and not everything."""
    values = np.linspace(0.0, 0.03, count)
    low, high = bootstrap_mean(cluster_sums(values), (-5.0, 5.0))(0.05, 1.0)
    assert (low, high) == pytest.approx(sps.t.interval(0.95, count - 1, values.mean(), sps.sem(values)))
    tenfold = bootstrap_mean(cluster_sums(values), (-5.0, 5.0))(0.05, 10.0)
    assert tenfold == pytest.approx(
        sps.t.interval(0.95, 10 * (count - 1), values.mean(), sps.sem(values) / math.sqrt(10)))


def test_one_heavy_cluster_of_few_widens() -> None:
    values = np.array([0.0, 0.01, 0.02, 0.03])
    even, uneven = (bootstrap_mean(cluster_sums(values, None, weights), (-5.0, 5.0))(0.05, 1.0)
                    for weights in ([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 20.0]))
    assert uneven[1] - uneven[0] > 5 * (even[1] - even[0])


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0]])
def test_weights_must_count(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="finite weight above 0"):
        cluster_sums(np.array([0.0, 1.0]), None, weights)


def test_mmlu_in_ten_thousand_draws_takes_seconds() -> None:
    base, tuned = (RNG.random(14_042) for _ in range(2))
    subjects = [str(s) for s in RNG.integers(0, 57, 14_042)]
    started = time.perf_counter()
    clustered = bootstrap_paired(base, tuned, subjects, draws=10_000).interval(0.05)
    bootstrap_paired(base, tuned, None, RNG.uniform(1, 2, 14_042), draws=10_000)
    assert time.perf_counter() - started < 10  # 0.02 s and 2 s on one core
    assert clustered.low < clustered.high


def test_the_standard_error_is_that_of_independent_values() -> None:
    assert cluster_sums(SKEWED).error == pytest.approx(sps.sem(SKEWED))
    assert cluster_sums(SKEWED[:2]).error == pytest.approx(sps.sem(SKEWED[:2]))
    assert cluster_sums(SKEWED[:4]).jackknife == pytest.approx(sps.sem(SKEWED[:4]))


def test_no_side_is_narrower_than_students() -> None:
    """Whatever is drawn: of a long left tail the bootstrap's own lower end would be."""
    for values in (SKEWED, -SKEWED, np.repeat([0.0, 1.0], [20, 3]), RNG.uniform(0, 1, 12)):
        sums = cluster_sums(values)
        low, high = bootstrap_mean(sums, WIDE)(0.05, 1.0)
        student = sps.t.isf(0.025, len(values) - 1) * sums.error
        assert sums.mean - low >= student - 1e-12
        assert high - sums.mean >= student - 1e-12


def test_beyond_the_draws_a_skewed_side_keeps_its_skewness() -> None:
    """Twenty of 10,000 draws lie beyond 0.2 %; from there on the skewed end grows by the ratio of Student's t."""
    sums = cluster_sums(SKEWED)
    bounds = bootstrap_mean(sums, WIDE)
    near, far = (bounds(alpha, 1.0)[1] - sums.mean for alpha in (0.004, 1e-5))
    assert far / near == pytest.approx(sps.t.isf(5e-6, 24) / sps.t.isf(0.002, 24), rel=0.01)


@pytest.mark.parametrize("changed", [[-0.08], [-0.08, -0.04], [0.3]])
def test_few_small_changes_of_bounded_scores_have_bounds_on_both_sides(changed: list[float]) -> None:
    """Partial credit of 24 items, one of which lost 0.08, was shown as -0.3 (-100 to +0.6): samples drawn without the
    changed item have no spread. What 24 items can hide is a share of 1 − 0.025^(1/24) = 14 %."""
    change = np.array(changed + [0.0] * (24 - len(changed)))
    found = paired([0.5] * 24, list(0.5 + change))
    assert found is not None
    low, high = found.bounds(0.05, 1.0)
    assert -0.2 < low < change.mean() < high < 0.2
    assert low < found.bounds(0.05, 4.0)[0]


@pytest.mark.parametrize(("share", "loss"), [(0.02, 0.3), (0.1, 0.3), (0.3, 0.9)])
def test_rare_losses_are_covered(share: float, loss: float) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        lost = (rng.random(24) < share) * loss
        found = paired([0.95] * 24, list(0.95 - lost))
        assert found is not None
        low, high = found.bounds(0.05, 1.0)
        held += low <= -share * loss <= high
    assert held >= 93
