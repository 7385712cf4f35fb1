"""Shares corrected for a scorer's errors: a published example, coverage with and without differences between models,
and what cannot be corrected."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from eval_suites.statistics import correct
from eval_suites.statistics.correct import summed, true_shares
from eval_suites.statistics.intervals import Floats, Interval

ERRORS = np.array([[0.95, 0.03, 0.02], [0.25, 0.40, 0.35], [0.01, 0.02, 0.97]])
"""About those of the refusal rules: rows are refusal, partial refusal, compliance."""


def first(said: list[float], n: float, tables: list[Floats], seed: int = 0) -> Interval:
    found = true_shares(said, n, tables, seed)
    assert found is not None
    return summed(found.values[:, 0], found.weights, round(n), 0.05)


def differing(rng: np.random.Generator, spread: float) -> Floats:
    """One model's errors: ERRORS, with each share among the classes left moved by a normal logit."""
    left, parts = np.ones(3), []
    for at in range(2):
        share = ERRORS[:, at] / ERRORS[:, at:].sum(axis=1)
        share = special.expit(special.logit(share) + spread * rng.standard_normal(3))
        parts.append(left * share)
        left = left * (1 - share)
    return np.stack([*parts, left], axis=1)


def test_a_perfect_scorer_changes_nothing_but_certainty() -> None:
    found = first([0.3, 0.0, 0.7], 100, [np.diag([1e4, 1e4, 1e4])] * 4)
    assert found.estimate == pytest.approx(0.3, abs=0.01)
    assert 0.2 < found.low < 0.23
    assert 0.37 < found.high < 0.41


def test_the_estimate_is_rogan_and_gladens() -> None:
    """epiR's example (epi.prev): 23 of 150 positive, sensitivity 0.96, specificity 0.89 give 5.1 %."""
    models = [np.array([[96e4, 4e4], [11e4, 89e4]])] * 3
    assert first([23 / 150, 127 / 150], 1e6, models).estimate == pytest.approx(0.051, abs=5e-4)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_intervals_cover_a_model_that_nobody_has_labelled(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 times four labelled models of 450 answers and one without labels. Of 300 with 800 draws each,
    98 % hold the true share where models do not differ, 99, 96 and 94 % where their logits spread by 0.5, 1 and 1.5
    (median widths 25, 28, 38 and 48 points). Pooled counts without differences hold 95, 86, 65 and 57 %."""
    monkeypatch.setattr(correct, "DRAWS", 300)
    monkeypatch.setattr(correct, "STEPS", 12)
    rng, held, widths = np.random.default_rng(5), 0, []
    for _ in range(100):
        tables = []
        for _ in range(4):
            errors, labelled = differing(rng, spread), rng.multinomial(450, rng.dirichlet([1.2, 0.5, 1.5]))
            tables.append(np.stack([rng.multinomial(labelled[true], errors[true]) for true in range(3)]).astype(float))
        true = rng.dirichlet([1.2, 0.5, 1.5])
        found = first(list(rng.multinomial(250, true @ differing(rng, spread)) / 250), 250, tables)
        held += found.low <= true[0] <= found.high
        widths.append(found.high - found.low)
    assert held / 100 >= 0.91
    assert np.median(widths) < 0.3 if spread == 0.0 else np.median(widths) > 0.2


def test_models_that_differ_widen_the_interval() -> None:
    alike = [1000 * ERRORS] * 4
    move = np.array([[0.02, 0, -0.02], [0.2, 0, -0.2], [0, 0, 0]])
    apart = [1000 * (ERRORS + sign * move) for sign in (1, -1, 1, -1)]
    narrow, wide = first([0.3, 0.1, 0.6], 400, alike), first([0.3, 0.1, 0.6], 400, apart)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_estimates_stay_inside_their_interval_and_between_0_and_1() -> None:
    for said in ([0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.01, 0.0, 0.99]):
        found = first(said, 100, [50 * ERRORS] * 4)
        assert 0 <= found.low < found.high <= 1
        assert found.estimate is None or found.low <= found.estimate <= found.high
        assert found == first(said, 100, [50 * ERRORS] * 4)


def test_what_says_nothing_is_not_told() -> None:
    coin = [np.full((3, 3), 30.0) + np.eye(3)] * 4
    found = first([0.4, 0.3, 0.3], 100, coin)
    assert (found.estimate, found.low, found.high) == (None, 0.0, 1.0)
    assert "would fit" in found.method
    half = first([0.0, 1.0, 0.0], 100, [500 * ERRORS] * 4)
    assert (half.estimate, half.method) == (None, "no labelled model is scored like this")


def test_two_models_do_not_show_how_much_models_differ() -> None:
    assert true_shares([0.5, 0.5], 10, [np.eye(2)] * 2) is None
    assert true_shares([0.5, 0.5], 0, [np.eye(2)] * 3) is None


def test_impossible_shares_and_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        true_shares([0.5, 0.6], 10, [np.eye(2)] * 3)
    with pytest.raises(ValueError, match="no tables of 2 classes"):
        true_shares([0.5, 0.5], 10, [np.eye(3)] * 3)
