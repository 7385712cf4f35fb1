"""Score intervals against published numbers, symmetries, and the exact tests."""

from __future__ import annotations

import itertools
import math

import pytest
from scipy import stats as sps

from eval_suites.statistics.intervals import Shares, change_limits, holm, mcnemar_exact, wilson


def shares(both: int, base_only: int, tuned_only: int, neither: int) -> tuple[Shares, int]:
    n = both + base_only + tuned_only + neither
    return Shares(both / n, base_only / n, tuned_only / n, neither / n), n


def test_only_losses_have_the_exact_limit_of_their_share() -> None:
    """One loss in 400 pairs, whatever the base's score: at most 1.385 points (Clopper and Pearson)."""
    exact = sps.binomtest(1, 400).proportion_ci(0.95, "exact").high
    assert exact == pytest.approx(0.01385, abs=1e-6)
    for both in (399, 239, 0):
        low, high = change_limits(*shares(both, 1, 0, 399 - both), alpha=0.05, exact=True)
        assert -low == pytest.approx(exact, abs=2e-5)
        assert 0.004 < high < 0.01, "no gain was seen: about the 3.7 pairs that may not have been, less the loss"


def test_a_table_by_hand() -> None:
    """12 gained and 2 lost of 50 pairs: the distances of both exact limits, and the cells' correlation."""
    (g_low, g_high), (l_low, l_high) = ((c.low, c.high) for c in (
        sps.binomtest(k, 50).proportion_ci(0.95, "exact") for k in (12, 2)))
    g, lost, p, q = 12 / 50, 2 / 50, 12.5 / 51.5, 2.5 / 51.5
    rho = -math.sqrt(p * q / ((1 - p) * (1 - q)))
    low = g - lost - math.sqrt((g - g_low) ** 2 - 2 * rho * (g - g_low) * (l_high - lost) + (l_high - lost) ** 2)
    high = g - lost + math.sqrt((g_high - g) ** 2 - 2 * rho * (g_high - g) * (lost - l_low) + (lost - l_low) ** 2)
    assert change_limits(*shares(20, 2, 12, 16), alpha=0.05, exact=True) == pytest.approx((low, high), abs=1e-12)
    assert low > 0.04


def test_swapping_base_and_tuned_mirrors_the_interval() -> None:
    for both, base_only, tuned_only, neither in itertools.product((0, 1, 7, 40), repeat=4):
        if both + base_only + tuned_only + neither:
            low, high = change_limits(*shares(both, base_only, tuned_only, neither), alpha=0.05, exact=True)
            mirrored = change_limits(*shares(both, tuned_only, base_only, neither), alpha=0.05, exact=True)
            assert mirrored == pytest.approx((-high, -low))
            assert -1 <= low <= (tuned_only - base_only) / (both + base_only + tuned_only + neither) <= high <= 1


def test_wilson_solves_the_score_equation() -> None:
    for hits, n in ((0, 9), (1, 9), (50, 120), (9, 9)):
        low, high = wilson(hits / n, n, 0.05)
        z = sps.norm.isf(0.025)
        for bound in {low, high} - {0.0, 1.0}:
            assert abs(hits / n - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), abs=1e-12)
    assert wilson(0.0, 9, 0.05)[0] == 0.0
    assert wilson(1.0, 9, 0.05)[1] == 1.0


def test_mcnemar_is_the_sum_of_binomial_tails() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(3, 3) == 1.0
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 2**6, abs=1e-15)
    assert mcnemar_exact(2, 9) == pytest.approx(2 * sum(math.comb(11, k) for k in range(3)) / 2**11, abs=1e-12)
    assert mcnemar_exact(9, 2) == mcnemar_exact(2, 9)


def test_holm_adjusts_in_steps_and_never_reorders() -> None:
    assert holm([]) == []
    assert holm([0.04]) == [0.04]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
