"""At the stated minimum detectable effect the verdict's own tests find 80 ± 3 % of simulated differences.

1,500 evaluations each: a power of 80 % is known to ± 2.1 (two standard errors). With 20 clusters it is 82 %: the fewer
the clusters, the more the statement errs on the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from eval_suites.results import SuiteResult
from eval_suites.statistics.bootstrap import bootstrap_mean, cluster_sums
from eval_suites.statistics.evidence import paired
from eval_suites.statistics.intervals import Evidence
from eval_suites.verdict.power import Assumed, detectable, foreseen, mde, mde_points
from sft_core.config.evaluate import GateSection

Floats = NDArray[np.float64]
RUNS = 1_500


def cells(base: float, discordance: float, loss: float) -> list[float]:
    """Both right, lost, gained, neither."""
    lost, gained = (discordance + loss) / 2, (discordance - loss) / 2
    return [base - lost, lost, gained, 1 - base - gained]


def drawn(rng: np.random.Generator, n: int, clusters: int, alike: float, shares: list[float]) -> tuple[Floats, Floats]:
    """Answers of base and tuned [items]; clusters share their chances (Dirichlet, intra-cluster correlation)."""
    if clusters == n:
        kinds = rng.choice(4, n, p=shares)
    else:
        chances = rng.dirichlet(np.asarray(shares) * (1 / alike - 1), clusters)
        luck = rng.random((clusters, n // clusters, 1))
        kinds = (luck > np.cumsum(chances, axis=1)[:, None, :]).sum(axis=2).clip(max=3).ravel()
    return np.isin(kinds, (0, 1)).astype(float), np.isin(kinds, (0, 2)).astype(float)


def losses(n: int, clusters: int, alike: float, shares: list[float], seed: int) -> list[Evidence]:
    rng, names = np.random.default_rng(seed), [str(i // (n // clusters)) for i in range(n)]
    found = []
    for _ in range(RUNS):
        base, tuned = drawn(rng, n, clusters, alike, shares)
        evidence = paired(tuned.tolist(), base.tolist(), None if clusters == n else names)
        assert evidence is not None
        found.append(evidence)
    return found


CASES = [(100, 100, 0.5, 0.6), (400, 400, 0.8, 0.6), (1200, 1200, 0.9, 0.7), (600, 60, 0.5, 0.6), (450, 30, 0.7, 0.5)]


@pytest.mark.parametrize(("n", "clusters", "base", "agreement"), CASES)
def test_a_loss_of_that_size_is_found_in_80_percent(n: int, clusters: int, base: float, agreement: float) -> None:
    assumed = Assumed(base, agreement, alike=0.05)
    stated = mde(n, clusters, assumed=assumed).difference
    assert stated is not None
    discordance = 2 * base * (1 - base) * (1 - agreement)
    found = losses(n, clusters, 0.05, cells(base, max(discordance, stated / 100), stated / 100), seed=7)
    power = 100 * np.mean([evidence.bounds(0.05, 1.0)[0] > 0 for evidence in found])
    assert 77 <= power <= 83


@pytest.mark.parametrize(("n", "clusters", "base", "agreement"), CASES)
def test_no_loss_is_shown_within_that_margin_in_80_percent(n: int, clusters: int, base: float, agreement: float
                                                           ) -> None:
    stated = mde(n, clusters, assumed=Assumed(base, agreement, alike=0.05)).margin
    assert stated is not None
    found = losses(n, clusters, 0.05, cells(base, 2 * base * (1 - base) * (1 - agreement), 0.0), seed=2)
    power = 100 * np.mean([evidence.bounds(0.05, 1.0)[1] <= stated / 100 for evidence in found])
    assert 77 <= power <= 83


@pytest.mark.parametrize(("n", "clusters"), [(60, 60), (240, 40)])
def test_other_scores(n: int, clusters: int) -> None:
    """Nats per byte: normal changes, alike within clusters."""
    stated = mde(n, clusters, assumed=Assumed(alike=0.1, sd=0.03)).difference
    assert stated is not None
    rng, hits, size = np.random.default_rng(3), 0, n // clusters
    shared = math.sqrt(0.1) if clusters < n else 0.0
    names = [str(i // size) for i in range(n)]
    for run in range(RUNS):
        noise = shared * np.repeat(rng.normal(0, 1, clusters), size) + math.sqrt(1 - shared**2) * rng.normal(0, 1, n)
        sums = cluster_sums(stated / 100 + 0.03 * noise, names)
        hits += bootstrap_mean(sums, (-9.0, 9.0), draws=3_000, seed=run)(0.05, 1.0)[0] > 0
    assert 77 <= 100 * hits / RUNS <= 83


def test_a_finished_comparison_says_what_it_could_have_found() -> None:
    """The median of what simulated comparisons say of themselves is what was known beforehand."""
    n, base, agreement = 500, 0.7, 0.6
    before = mde(n, assumed=Assumed(base, agreement)).difference
    assert before is not None
    found = losses(n, n, 0.05, cells(base, 2 * base * (1 - base) * (1 - agreement), 0.0), seed=4)
    assert np.median([detectable(evidence, 0.05) for evidence in found]) == pytest.approx(before, rel=0.04)


def test_what_makes_effects_easier_to_find() -> None:
    plain = mde_points(1000)
    assert plain is not None
    for other in (mde_points(4000), mde_points(1000, base=0.95), mde_points(1000, base=0.05, kind="alignment")):
        assert other is not None
        assert other < 0.8 * plain
    clustered, log = mde_points(1000, 20), mde_points(1000, scale="log")
    assert clustered is not None
    assert log is not None
    assert clustered > 1.3 * plain
    assert log < plain / 5
    half = mde_points(4000)
    assert half == pytest.approx(plain / 2, rel=0.05)


def test_a_stricter_level_and_more_power_ask_for_larger_effects() -> None:
    usual, strict, strong = (mde(400, alpha=a, power=p).difference for a, p in ((0.05, 0.8), (0.01, 0.8), (0.05, 0.95)))
    assert usual is not None
    assert strict is not None
    assert strong is not None
    assert strict / usual == pytest.approx((2.576 + 0.842) / (1.96 + 0.842), rel=0.05)
    assert strong / usual == pytest.approx((1.96 + 1.645) / (1.96 + 0.842), rel=0.05)


def test_too_few_items_find_nothing() -> None:
    assert mde(1).difference is None
    assert (mde(2, 1).margin or 0.0) > 70
    assert mde(1, assumed=Assumed(sd=0.1)).difference is None
    with pytest.raises(ValueError, match="0 items"):
        mde(0)
    with pytest.raises(ValueError, match="5 items in 6 clusters"):
        mde(5, 6)


def test_what_can_be_found_is_said_before_the_tuned_model_is_asked(make_result: Callable[..., SuiteResult]) -> None:
    """Of the items that have a score, at the base's own score and the gate's own level."""
    base = make_result([1.0] * 240 + [0.0] * 60 + [None] * 9)
    at = Assumed(base=0.8)
    for gate in (GateSection(max_tax=5.0), GateSection(max_tax=20.0), GateSection(max_tax=5.0, alpha=0.2)):
        known = mde(300, alpha=gate.alpha, assumed=at)
        assert known.margin
        few = ": too few items" if known.margin > gate.max_tax else ""
        assert foreseen(base, gate) == (
            f"facts: 300 items find a loss of {known.difference:.1f} points and can prove a tax of at most "
            f"{known.margin:.1f}, the gate asks for {gate.max_tax:g}{few} (80 % power)")
    assert "too few" in foreseen(base, GateSection(max_tax=5.0))
    assert "too few" not in foreseen(base, GateSection(max_tax=20.0))
    win = foreseen(replace(base, kind="alignment"), GateSection())
    points = mde(300, assumed=Assumed(base=0.2)).difference
    assert win == f"facts: 300 items find a win of {points:.1f} points (80 % power)"
    alike = make_result([1.0] * 240 + [0.0] * 60, clusters=[str(n % 10) for n in range(300)])
    assert f"a loss of {mde(300, 10, assumed=at).difference:.1f} points" in foreseen(alike, GateSection())
    text = replace(make_result([-1.0]), scale="log")
    assert foreseen(text, GateSection()).startswith(
        "facts: 1 item finds a loss of no size and can prove no margin, the gate asks for 1: too few items")
    assert "nothing can be found" in foreseen(make_result([None]), GateSection())
