"""At the stated minimum detectable effect the verdict's own tests find 80 ± 3 % of simulated differences.

1,500 evaluations each: a power of 80 % is known to ± 2.1 (two standard errors). With 20 clusters it is 82 %: the fewer
the clusters, the more the statement errs on the safe side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from eval_suites.results import Expected, SuiteResult
from eval_suites.statistics.bootstrap import bootstrap_mean, cluster_sums
from eval_suites.statistics.evidence import paired
from eval_suites.statistics.intervals import Evidence
from eval_suites.statistics.pairing import Pairs
from eval_suites.verdict.power import (
    Spread,
    Terms,
    assumed,
    detectable,
    foreseen,
    mde,
    promise,
    seen,
    spread_of,
    terms_of,
)
from sft_core.config.evaluate import GateSection
from tasks.plan import too_few

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


def effect(n: int, clusters: int, alike: float) -> float:
    """Kish's design effect of equal clusters."""
    return 1 + (n / clusters - 1) * alike


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
    stated = mde(n, clusters, spread=assumed(base, agreement, effect(n, clusters, 0.05))).difference
    assert stated is not None
    discordance = 2 * base * (1 - base) * (1 - agreement)
    found = losses(n, clusters, 0.05, cells(base, max(discordance, stated / 100), stated / 100), seed=7)
    power = 100 * np.mean([evidence.bounds(0.05, 1.0)[0] > 0 for evidence in found])
    assert 77 <= power <= 83


@pytest.mark.parametrize(("n", "clusters", "base", "agreement"), CASES)
def test_no_loss_is_shown_within_that_margin_in_80_percent(n: int, clusters: int, base: float, agreement: float
                                                           ) -> None:
    stated = mde(n, clusters, spread=assumed(base, agreement, effect(n, clusters, 0.05))).margin
    assert stated is not None
    found = losses(n, clusters, 0.05, cells(base, 2 * base * (1 - base) * (1 - agreement), 0.0), seed=2)
    power = 100 * np.mean([evidence.bounds(0.05, 1.0)[1] <= stated / 100 for evidence in found])
    assert 77 <= power <= 83


@pytest.mark.parametrize(("n", "clusters"), [(60, 60), (240, 40)])
def test_other_scores(n: int, clusters: int) -> None:
    """Nats per byte: normal changes, alike within clusters."""
    stated = mde(n, clusters, spread=Spread(design=effect(n, clusters, 0.1), sd=0.03)).difference
    assert stated is not None
    rng, hits, size = np.random.default_rng(3), 0, n // clusters
    shared = math.sqrt(0.1) if clusters < n else 0.0
    names = [str(i // size) for i in range(n)]
    for run in range(RUNS):
        noise = shared * np.repeat(rng.normal(0, 1, clusters), size) + math.sqrt(1 - shared**2) * rng.normal(0, 1, n)
        sums = cluster_sums(stated / 100 + 0.03 * noise, names)
        hits += bootstrap_mean(sums, (-9.0, 9.0), draws=3_000, seed=run)(0.05, 1.0)[0] > 0
    assert 77 <= 100 * hits / RUNS <= 83


@pytest.mark.parametrize(("n", "clusters", "alike"), [(500, 500, 0.0), (600, 60, 0.3)])
def test_what_is_promised_before_is_what_the_finished_comparison_says(
        make_result: Callable[..., SuiteResult], n: int, clusters: int, alike: float) -> None:
    """The promise was of independent items and, with clusters, three times too good."""
    base, agreement = 0.7, 0.6
    true = mde(n, clusters, spread=assumed(base, agreement, effect(n, clusters, alike))).difference
    assert true is not None
    rng, names = np.random.default_rng(4), [str(i // (n // clusters)) for i in range(n)]
    before, after = [], []
    for _ in range(20):
        one, two = drawn(rng, n, clusters, alike, cells(base, 2 * base * (1 - base) * (1 - agreement), 0.0))
        result = make_result(one.tolist(), clusters=names)
        before.append(promise(seen(result, GateSection()), Terms(GateSection())))
        pairs = Pairs(one.tolist(), two.tolist(), names, [1.0] * n, [str(i) for i in range(n)])
        after.append(detectable(pairs, "capability", "share", 0.05))
    assert np.median(after) == pytest.approx(true, rel=0.1)
    assert np.median([one.worst.difference for one in before]) == pytest.approx(true, rel=0.1)
    best = np.median([one.best.difference for one in before])
    assert best == pytest.approx(true, rel=0.1) if alike == 0.0 else best < 0.7 * true


def test_a_base_that_does_not_tell_how_alike_clusters_are_promises_both_ends(make_result: Callable[..., SuiteResult]
                                                                             ) -> None:
    """From 0 to two thirds, whole clusters at a time: beforehand 6 points were promised, afterwards it was 22."""
    names = [str(i // 5) for i in range(180)]
    base = make_result([0.0] * 180, kind="alignment", clusters=names)
    gained = [float(int(name) % 3 > 0) for name in names]
    best, worst = promise(seen(base, GateSection()), Terms(GateSection()))
    after = detectable(Pairs([0.0] * 180, gained, names, [1.0] * 180, names), "alignment", "share", 0.05)
    assert best.difference is not None
    assert worst.difference is not None
    assert after is not None
    assert best.difference < 7 < 2.5 * best.difference < after
    assert after == pytest.approx(worst.difference, rel=0.15)
    sure = detectable(Pairs([0.0] * 180, [1.0] * 180, names, [1.0] * 180, names), "alignment", "share", 0.05)
    assert sure == pytest.approx(worst.difference, rel=0.01)
    assert spread_of(Pairs([0.0] * 9, [1.0] * 9, names[:9], [1.0] * 9, names[:9]), "alignment", "share").churn == 0.0


def test_suites_that_share_alpha_and_looks_promise_less(make_result: Callable[..., SuiteResult]) -> None:
    """As the verdict reads them: alignment suites divide alpha, capability suites do not, and looks cost a little."""
    win = seen(make_result([0.0, 1.0] * 100, kind="alignment"), GateSection())
    alone, four = (promise(win, terms_of(GateSection(), ["alignment"] * n + ["capability"])).best for n in (1, 4))
    assert alone.difference == mde(200, spread=assumed(0.5)).difference
    assert four.difference == mde(200, alpha=0.0125, spread=assumed(0.5)).difference
    assert (promise(win, Terms(GateSection(), looks=5)).best.difference or 0) > (alone.difference or 100)


def test_what_makes_effects_easier_to_find() -> None:
    def points(items: int, clusters: int | None = None, kind: str = "capability", scale: str = "share",
               base: float | None = None) -> float:
        found = promise(Expected("facts", kind, scale, items, clusters or items, base), Terms(GateSection()))
        assert found.worst.difference is not None
        return found.worst.difference

    plain = points(1000)
    for other in (points(4000), points(1000, base=0.95), points(1000, base=0.05, kind="alignment")):
        assert other < 0.8 * plain
    assert points(1000, 200) > 1.3 * plain
    assert points(1000, scale="log") < plain / 5
    assert points(4000) == pytest.approx(plain / 2, rel=0.05)


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
    assert mde(1, spread=Spread(sd=0.1)).difference is None
    with pytest.raises(ValueError, match="0 items"):
        mde(0)
    with pytest.raises(ValueError, match="5 items in 6 clusters"):
        mde(5, 6)


def test_what_can_be_found_is_said_before_the_tuned_model_is_asked(make_result: Callable[..., SuiteResult]) -> None:
    """Of the items that have a score, at the base's own score and the gate's own level."""
    base = make_result([1.0] * 240 + [0.0] * 60 + [None] * 9)
    at = assumed(0.8)
    for gate in (GateSection(max_tax=5.0), GateSection(max_tax=20.0), GateSection(max_tax=5.0, alpha=0.2)):
        known = mde(300, alpha=gate.alpha, spread=at)
        assert known.margin
        few = ": too few items" if known.margin > gate.max_tax else ""
        assert foreseen(base, Terms(gate)) == (
            f"facts: 300 items find a loss of {known.difference:.1f} points and can prove a tax of at most "
            f"{known.margin:.1f} points, the gate asks for {gate.max_tax:g}{few} (80 % power)")
    assert "too few" in foreseen(base, Terms(GateSection(max_tax=5.0)))
    assert "too few" not in foreseen(base, Terms(GateSection(max_tax=20.0)))
    plain = Terms(GateSection())
    win = foreseen(replace(base, kind="alignment"), plain)
    points = mde(300, spread=assumed(0.2)).difference
    assert win == f"facts: 300 items find a win of {points:.1f} points (80 % power)"
    alike = make_result([1.0] * 240 + [0.0] * 60, clusters=[str(n // 30) for n in range(300)])
    best, worst = mde(300, 10, spread=at), mde(300, 10, spread=assumed(0.8, design=30 * 10 / 9))
    said = foreseen(alike, plain)
    assert f"in 10 clusters find a loss of {best.difference:.1f} to {worst.difference:.1f} points" in said
    assert "where items of a cluster change independently, and where alike)" in said
    text = replace(make_result([-1.0]), scale="log")
    assert foreseen(text, plain).startswith(
        "facts: 1 item finds a loss of no size and can prove a tax of at most no size, the gate asks for 1: too few")
    assert "nothing can be found" in foreseen(make_result([None]), plain)


def test_a_margin_is_told_whether_or_not_the_base_was_asked() -> None:
    """The warning came only once the base's results lay there."""
    terms, asked = Terms(GateSection(max_tax=3.0)), Expected("facts", "capability", "share", 320, 320)
    before = too_few(asked, 3.0, terms)
    cannot = "320 items cannot prove a tax of at most 3"
    found = re.fullmatch(rf"the base was not asked yet, and if it scores below (\d+), {cannot} \(at 50, (.*) at best\)",
                         before)
    assert found is not None
    enough = int(found[1]) / 100
    assert too_few(asked._replace(base=enough), 3.0, terms) == ""
    assert too_few(asked._replace(base=enough - 0.01), 3.0, terms).startswith(cannot)
    assert too_few(asked._replace(base=0.5), 3.0, terms).endswith(f"at best {found[2]}")
    assert too_few(asked, 10.0, terms) == ""
    assert "of a base that has all of them right" in too_few(asked._replace(items=20, clusters=20), 3.0, terms)
    text = Expected("text", "capability", "log", 32, 32)
    assert too_few(text, 4.0, terms) == ""
    assert too_few(text, 3.0, terms) == "32 items cannot prove a tax of at most 3, at best 3.8"
