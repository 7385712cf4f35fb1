"""Score intervals against published numbers, symmetries, and the exact tests."""

from __future__ import annotations

import itertools
import math

import pytest
from scipy import stats as sps

from eval_suites.statistics.intervals import Shares, holm, mcnemar_exact, newcombe, wilson


def shares(both: int, base_only: int, tuned_only: int, neither: int) -> tuple[Shares, int]:
    n = both + base_only + tuned_only + neither
    return Shares(both / n, base_only / n, tuned_only / n, neither / n), n


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Airway hyper-responsiveness before and after transplantation, 1, 1, 7, 12 (Bland 2000); Newcombe's interval
        # as printed by Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850.
        ((1, 1, 7, 12), 0.026, 0.507),
        # Newcombe 1998, Statistics in Medicine 17:2635, method 10, computed by hand from his formula.
        ((36, 2, 12, 0), 0.0569, 0.3404),
        ((20, 2, 12, 16), 0.0562, 0.3292),
    ],
)
def test_newcombe_as_published(table: tuple[int, int, int, int], low: float, high: float) -> None:
    found = newcombe(*shares(*table), alpha=0.05)
    assert found == pytest.approx((low, high), abs=6e-4)


def test_newcombe_uses_wilsons_limits_and_the_corrected_phi() -> None:
    a, b, c, d = 30, 5, 11, 14
    n = a + b + c + d
    (l1, u1), (l2, u2) = wilson((a + c) / n, n, 0.05), wilson((a + b) / n, n, 0.05)
    p1, p2 = (a + c) / n, (a + b) / n
    phi = (a * d - b * c - n / 2) / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    low = p1 - p2 - math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = p1 - p2 + math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    assert newcombe(*shares(a, b, c, d), alpha=0.05) == pytest.approx((low, high), abs=1e-12)


def test_swapping_base_and_tuned_mirrors_the_interval() -> None:
    for both, base_only, tuned_only, neither in itertools.product((0, 1, 7, 40), repeat=4):
        if both + base_only + tuned_only + neither:
            low, high = newcombe(*shares(both, base_only, tuned_only, neither), alpha=0.05)
            assert newcombe(*shares(both, tuned_only, base_only, neither), alpha=0.05) == pytest.approx((-high, -low))
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
