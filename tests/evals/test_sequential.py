"""Alpha spending: published boundaries, the error over all looks by simulation, and when a suite may stop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as sps

from eval_suites.results import SuiteResult
from eval_suites.statistics.evidence import paired
from eval_suites.verdict.sequential import boundary, certain, first_items, nominal, repeated, spend
from eval_suites.verdict.verdict import compare
from sft_core.config.evaluate import GateSection

Make = Callable[..., SuiteResult]
LOOKS = 5
ITEMS = 400


@pytest.mark.parametrize(("looks", "published"), [
    # Lan and DeMets' O'Brien-Fleming type bounds, two-sided 0.05, as printed by R's ldbounds and gsDesign.
    (2, (2.963, 1.969)), (3, (3.710, 2.511, 1.993)), (5, (4.877, 3.357, 2.680, 2.290, 2.031)),
])
def test_boundaries_as_published(looks: int, published: tuple[float, ...]) -> None:
    assert boundary(0.05, looks) == pytest.approx(published, abs=6e-4)


def test_one_look_spends_all_and_changes_nothing() -> None:
    assert (spend(0.05, 1, 1), nominal(0.05, 1, 1)) == (pytest.approx(0.05), 0.05)
    evidence = paired([1.0] * 30, [1.0] * 20 + [0.0] * 10)
    assert evidence is not None
    assert repeated(evidence, None) is evidence
    assert repeated(evidence, (1, 1)) is evidence


@pytest.mark.parametrize("looks", [2, 5, 20])
def test_spending_rises_to_alpha_and_levels_to_nearly_alpha(looks: int) -> None:
    spent = [spend(0.05, look, looks) for look in range(1, looks + 1)]
    levels = [nominal(0.05, look, looks) for look in range(1, looks + 1)]
    assert spent == sorted(spent)
    assert levels == sorted(levels)
    assert spent[-1] == pytest.approx(0.05)
    assert 0.65 * 0.05 < levels[-1] < 0.05
    assert levels[0] == pytest.approx(spent[0])


def test_looks_that_do_not_exist_are_refused() -> None:
    evidence = paired([1.0] * 3, [1.0] * 3)
    assert evidence is not None
    for act in (lambda: spend(0.05, 3, 2), lambda: repeated(evidence, (0, 5)), lambda: repeated(evidence, (6, 5))):
        with pytest.raises(ValueError, match="no look"):
            act()
    with pytest.raises(ValueError, match="alpha"):
        boundary(1.0, 3)


@pytest.mark.parametrize(("alpha", "looks"), [(0.05, 2), (0.05, 5), (0.2, 10), (0.01, 4)])
def test_paths_without_drift_cross_with_probability_alpha(alpha: float, looks: int) -> None:
    """200,000 paths: each side is crossed by alpha / 2 of them, ± 2 % to 4 % of that (two standard errors)."""
    steps = np.random.default_rng(0).normal(0, 1, (200_000, looks))
    z = np.cumsum(steps, axis=1) / np.sqrt(np.arange(1, looks + 1))
    bounds = np.asarray(boundary(alpha, looks))
    assert (z > bounds).any(axis=1).mean() == pytest.approx(alpha / 2, rel=0.06)
    assert (np.abs(z) > bounds).any(axis=1).mean() <= alpha * 1.03


def looked_at(discordance: float, tax: float, runs: int, spent: bool, seed: int) -> list[list[tuple[float, float]]]:
    """Intervals of the tax at every look of simulated evaluations of ITEMS items."""
    rng = np.random.default_rng(seed)
    lost, gained = (discordance + tax) / 2, (discordance - tax) / 2
    found = []
    for _ in range(runs):
        kinds = rng.choice(4, ITEMS, p=[0.75 - lost, lost, gained, 0.25 - gained])
        base, tuned = np.isin(kinds, (0, 1)).astype(float).tolist(), np.isin(kinds, (0, 2)).astype(float).tolist()
        looks = []
        for look in range(1, LOOKS + 1):
            n = first_items(ITEMS, look, LOOKS)
            evidence = paired(tuned[:n], base[:n])
            assert evidence is not None
            looks.append(repeated(evidence, (look, LOOKS) if spent else None).bounds(0.05, 1.0))
        found.append(looks)
    return found


def ever(found: list[list[tuple[float, float]]], claim: Callable[[float, float], bool]) -> float:
    """Percent of evaluations that make the claim at any of their looks."""
    return 100 * float(np.mean([any(claim(*bounds) for bounds in looks) for looks in found]))


def test_no_claim_errs_more_often_for_looking_five_times() -> None:
    """Simulated answers, 1,500 evaluations at each truth: a one-sided error of 2.5 % is known to ± 0.8.

    At a tax of exactly the margin both `worse` and `no_worse` are wrong claims.
    """
    same, at_margin = looked_at(0.15, 0.0, 1500, True, 1), looked_at(0.15, 0.05, 1500, True, 2)
    assert ever(same, lambda low, high: low > 0) <= 3.2
    assert ever(same, lambda low, high: low > 0 or high < 0) <= 6.0
    assert ever(at_margin, lambda low, high: low > 0.05) <= 3.2
    assert ever(at_margin, lambda low, high: high <= 0.05) <= 3.2
    assert ever(at_margin, lambda low, high: high <= 0.05 or low > 0.05) >= 3.0  # and the level is used


def test_clusters_that_looks_share_make_no_more_errors() -> None:
    """40 subjects of 20 items, asked in any order, so that every look has items of all subjects; 800 evaluations: a
    one-sided error of 2.5 % is known to ± 1.1."""
    rng, lost, won = np.random.default_rng(6), 0, 0
    names = np.repeat(np.arange(40), 20).astype(str)
    for _ in range(800):
        risk, chance = (np.repeat(rng.beta(0.9, 8.1, 40), 20) for _ in range(2))
        base, luck, order = rng.random(800) < 0.5, rng.random(800), rng.permutation(800)
        tuned = np.where(base, luck >= risk, luck < chance).astype(float)
        ends = []
        for look in range(1, LOOKS + 1):
            asked = order[:first_items(800, look, LOOKS)]
            evidence = paired(base[asked].astype(float).tolist(), tuned[asked].tolist(), names[asked].tolist())
            assert evidence is not None
            ends.append(repeated(evidence, (look, LOOKS)).bounds(0.05, 1.0))
        lost += any(high < 0 for _, high in ends)
        won += any(low > 0 for low, _ in ends)
    assert max(lost, won) / 8 <= 3.6
    assert lost + won > 0


def test_looking_five_times_at_5_percent_would_err_far_more_often() -> None:
    careless = looked_at(0.15, 0.0, 600, False, 1)
    assert ever(careless, lambda low, high: low > 0 or high < 0) > 8


def test_stopping_saves_items_and_hardly_any_power() -> None:
    """Two truths at a margin of 5 points; what is asked on average, in percent of the items."""
    def asked(found: list[list[tuple[float, float]]]) -> float:
        stops = [next((k for k, (low, high) in enumerate(looks, 1) if high <= 0.05 or low > 0.05), LOOKS)
                 for looks in found]
        return 100 * float(np.mean(stops)) / LOOKS

    lossless, worse = looked_at(0.05, 0.0, 400, True, 3), looked_at(0.2, 0.15, 400, True, 4)
    assert 60 < asked(lossless) < 68
    assert 54 < asked(worse) < 62
    once = looked_at(0.15, 0.05, 400, False, 5)
    often = looked_at(0.15, 0.05, 400, True, 5)
    power = [100 * float(np.mean([looks[-1][0] > 0 for looks in found])) for found in (once, often)]
    assert power[0] - power[1] < 4


def test_repeated_p_values_agree_with_repeated_intervals() -> None:
    evidence = paired([1.0] * 100, [1.0] * 80 + [0.0] * 20)
    assert evidence is not None
    early, late = repeated(evidence, (2, 5)), repeated(evidence, (5, 5))
    assert evidence.p_value(0.0) < late.p_value(0.0) < early.p_value(0.0)
    for one in (early, late):
        p = one.p_value(0.0)
        assert one.interval(p * 0.97).high > 0 > one.interval(p * 1.03).high
    assert early.interval(0.05).method.endswith("look 2 of 5")


def results(make: Make, lost: int, right: int, **named: object) -> tuple[SuiteResult, SuiteResult]:
    return make([1.0] * (lost + right), **named), make([0.0] * lost + [1.0] * right, **named)


def test_a_suite_stops_when_its_verdict_stands(make_result: Make) -> None:
    gate = GateSection(max_tax=2.0)
    lost_much, lost_nothing = results(make_result, 40, 60), results(make_result, 0, 500)
    assert not certain(*lost_much, 1, 5, GateSection(max_tax=30.0))
    assert certain(*lost_much, 1, 5, gate)
    assert certain(*lost_nothing, 4, 5, gate)
    assert not certain(*results(make_result, 0, 100), 1, 5, gate)
    assert not certain(*lost_nothing, 4, 5, GateSection(max_tax=2.0, at_least={"facts": 0.5}))
    assert not certain(*lost_nothing, 4, 5, GateSection(max_tax=2.0, must_improve=("facts",)))
    assert certain(*lost_nothing, 4, 5, GateSection(max_tax=0.5, margins={"facts": 2.0}))
    assert not certain(make_result([]), make_result([]), 1, 5, gate)
    half = make_result([None] * 250 + [1.0] * 250)
    assert not certain(half, half, 4, 5, gate)


def test_missing_items_keep_a_suite_going(make_result: Make) -> None:
    """They may hold the answer: with more than 5 % of them missing, no verdict is certain."""
    gate = GateSection(max_tax=2.0)
    for missing, stops in ((40, True), (60, False)):
        tuned = make_result([1.0] * (1000 - missing) + [None] * missing)
        assert certain(make_result([1.0] * 1000), tuned, 4, 5, gate) is stops
        assert certain(tuned, make_result([1.0] * 1000), 4, 5, gate) is stops


def test_an_alignment_suite_stops_when_its_sign_stands(make_result: Make) -> None:
    before, after = results(make_result, 30, 70, suite="format", kind="alignment")
    assert certain(before, after, 2, 5, GateSection())
    assert certain(after, before, 2, 5, GateSection())
    assert not certain(before, before, 2, 5, GateSection())


def test_more_suites_ask_for_more_certainty(make_result: Make) -> None:
    gate = GateSection(max_tax=0.0)
    lost = next(k for k in range(1, 60) if certain(*results(make_result, k, 100 - k), 5, 5, gate))
    pair = results(make_result, lost, 100 - lost)
    assert not certain(*pair, 5, 5, gate, suites=40)


def test_the_verdict_of_a_stopped_suite_stands_at_its_looks_level(make_result: Make) -> None:
    """The base has all items, the tuned model those of two looks of five: only these are compared."""
    gate = GateSection(max_tax=2.0)
    base = make_result([1.0] * 200 + [0.0] * 300)
    part = make_result([0.0] * 60 + [1.0] * 140)
    stopped = SuiteResult(part.suite, part.kind, part.protocol, part.items, 0.1, looks=(2, 5))
    assert certain(base, stopped, 2, 5, gate, suites=1)
    verdict = compare({"facts": base}, {"facts": stopped}, gate)
    suite = verdict.suites[0]
    assert (suite.outcome, suite.looks, suite.asked, suite.pairs, suite.base) == ("worse", (2, 5), 200, 200, 1.0)
    assert suite.notes == ()
    assert suite.p_mcnemar is None
    whole = compare({"facts": make_result([1.0] * 200)}, {"facts": part}, gate).suites[0]
    assert suite.points == whole.points
    assert suite.high - suite.low > 1.3 * (whole.high - whole.low)
    assert suite.p > 10 * whole.p


def test_looks_are_equal_shares_of_the_items() -> None:
    assert [first_items(103, look, 4) for look in range(1, 5)] == [26, 52, 78, 103]
    assert sps.norm.sf(boundary(0.05, 4)[0]) * 2 == pytest.approx(nominal(0.05, 1, 4))
