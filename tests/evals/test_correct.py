"""Rates corrected for a scorer's errors: a published example, coverage, and what cannot be corrected."""

from __future__ import annotations

import numpy as np
import pytest

from eval_suites.statistics.correct import rogan_gladen


def test_a_perfect_scorer_changes_nothing_but_certainty() -> None:
    found = rogan_gladen(30, 100, 1000, 1000, 1000, 1000)
    assert found.estimate == pytest.approx(0.3)
    assert 0.2 < found.low < 0.23
    assert 0.37 < found.high < 0.41


def test_the_estimate_is_rogan_and_gladens() -> None:
    """epiR's example (epi.prev): 23 of 150 positive, sensitivity 0.96, specificity 0.89 give 5.1 %."""
    assert rogan_gladen(23, 150, 96, 100, 89, 100).estimate == pytest.approx(0.051, abs=5e-4)


@pytest.mark.parametrize(("true", "n", "sens", "spec", "labelled"), [
    (0.7, 100, 0.92, 0.95, (200, 250)), (0.95, 200, 0.9, 0.97, (150, 150)), (0.05, 200, 0.85, 0.9, (60, 80)),
    (0.4, 60, 0.8, 0.8, (50, 50)),
])
def test_intervals_cover(true: float, n: int, sens: float, spec: float, labelled: tuple[int, int]) -> None:
    """1,500 draws of all three samples: ± 1.1 points (two standard errors) around 95 %. At 60 items and 50 labels the
    method is known to err on the wide side (Flor and others 2020 find 97 %)."""
    rng = np.random.default_rng(1)
    seen = rng.binomial(n, true * sens + (1 - true) * (1 - spec), 1500)
    right, wrong = rng.binomial(labelled[0], sens, 1500), rng.binomial(labelled[1], spec, 1500)
    held = 0
    for hits, a, b in zip(seen, right, wrong, strict=True):
        found = rogan_gladen(int(hits), n, int(a), labelled[0], int(b), labelled[1])
        held += found.low <= true <= found.high
    assert 93 <= held / 15 <= 98


def test_unsure_errors_of_the_scorer_widen_the_interval() -> None:
    few, many = rogan_gladen(60, 100, 18, 20, 19, 20), rogan_gladen(60, 100, 1800, 2000, 1900, 2000)
    assert few.estimate == many.estimate
    assert few.high - few.low > 1.2 * (many.high - many.low)


def test_estimates_stay_between_0_and_1_and_inside_their_interval() -> None:
    for hits in (0, 1, 99, 100):
        found = rogan_gladen(hits, 100, 45, 50, 40, 50)
        assert found.estimate is not None
        assert 0 <= found.low <= found.estimate <= found.high <= 1
        assert found.high > found.low


@pytest.mark.parametrize("counts", [(5, 10, 5, 10, 5, 10), (5, 10, 0, 0, 9, 10), (0, 0, 9, 10, 9, 10)])
def test_what_cannot_be_corrected_is_not_known(counts: tuple[int, int, int, int, int, int]) -> None:
    found = rogan_gladen(*counts)
    assert (found.estimate, found.low, found.high) == (None, 0.0, 1.0)


def test_a_rounded_mean_of_ones_is_one() -> None:
    assert rogan_gladen(100 * (1 + 2e-16), 100, 45, 50, 40, 50) == rogan_gladen(100, 100, 45, 50, 40, 50)
    assert rogan_gladen(7 * 1.0000000000000002, 7, 45, 50, 40, 50) == rogan_gladen(7, 7, 45, 50, 40, 50)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="11 hits of 10"):
        rogan_gladen(11, 10, 9, 10, 9, 10)
