"""The front: paired differences over suites and seeds, and what is proved of two points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from bench import front as bench
from eval_suites.front.chances import chances, drawn
from eval_suites.front.choice import Limits, choose, prove
from eval_suites.front.differences import alignment_of, difference, differs, dominated
from eval_suites.front.front import front
from eval_suites.front.points import Objectives, Point, Terms
from eval_suites.results import SuiteResult
from eval_suites.statistics.intervals import Interval
from eval_suites.statistics.pairing import difference as of_suite
from eval_suites.statistics.pairing import pair
from sft_core.errors import EvalError

Make = Callable[..., SuiteResult]
WHAT = Objectives(("format",), ("facts",))
LOW = [0.0, 1.0] * 200
HIGH = [1.0, 1.0] * 190 + [0.0, 1.0] * 10


@pytest.fixture
def point(make_result: Make) -> Callable[..., Point]:
    """A point with these scores per suite, of one training seed or several; suites share no item."""

    def make(name: str = "one", **scores: Sequence[float | None] | list[Sequence[float | None]]) -> Point:
        def result(suite: str, row: Sequence[float | None]) -> SuiteResult:
            found = make_result(row, suite=suite)
            return replace(found, items=tuple(i._replace(asked=f"{suite} {i.asked}") for i in found.items))

        first = next(iter(scores.values()))
        seeds = len(first) if isinstance(first[0], list) else 1
        return Point(name, tuple({suite: result(suite, rows[at] if isinstance(rows[0], list) else rows)
                                  for suite, rows in scores.items()} for at in range(seeds)))

    return make


def likely(points: Sequence[Point], what: Objectives, draws: int = 2000) -> list[float]:
    return chances(drawn(points, what, draws))


def ends(found: Interval) -> tuple[float, float]:
    return found.low, found.high


def test_one_suite_has_the_limits_of_its_pairs(point: Callable[..., Point]) -> None:
    one, other = point(format=LOW, facts=HIGH), point(format=HIGH, facts=LOW)
    found = difference(one, other, WHAT)
    gain = of_suite(pair(one.averaged("format"), other.averaged("format")), "alignment", "share")
    tax = of_suite(pair(one.averaged("facts"), other.averaged("facts")), "capability", "share")
    assert gain
    assert tax
    assert ends(found.alignment.interval(0.05)) == ends(gain.interval(0.05))
    assert ends(found.tax.interval(0.05)) == pytest.approx(ends(tax.interval(0.05)))
    back = difference(other, one, WHAT)
    assert back.alignment.estimate == pytest.approx(-found.alignment.estimate)
    assert ends(found.backwards.tax.interval(0.1)) == pytest.approx(ends(back.tax.interval(0.1)))


def test_suites_that_share_items_are_as_uncertain_as_one_and_independent_ones_less(
        point: Callable[..., Point], make_result: Make) -> None:
    one, other = point(format=LOW, facts=LOW), point(format=HIGH, facts=HIGH)
    alone = difference(one, other, WHAT).alignment.interval(0.05)
    both = Objectives(("format", "facts"), ("facts",))
    apart = difference(one, other, both).alignment.interval(0.05)
    assert apart.high - apart.low == pytest.approx((alone.high - alone.low) / 2**0.5)
    shared = [Point("", ({s: make_result(row, suite=s) for s in ("format", "facts")},)) for row in (LOW, HIGH)]
    assert ends(difference(*shared, both).alignment.interval(0.05)) == pytest.approx(ends(alone))


def test_only_a_better_one_that_costs_nothing_that_matters_dominates(point: Callable[..., Point]) -> None:
    rng = np.random.default_rng(0)
    facts = (rng.random(3000) < 0.7).astype(float).tolist()
    worse, better = point(format=LOW, facts=facts), point(format=HIGH, facts=facts)
    assert dominated(worse, better, WHAT, Terms()) < 1e-6
    assert dominated(better, worse, WHAT, Terms()) == 1.0
    assert dominated(worse, worse, WHAT, Terms(tolerance=5.0)) == 1.0, "identical results"
    assert dominated(worse, better, WHAT, Terms(tolerance=0.01)) > 0.05, "3,000 items show no loss below 0.01 points"
    costs = point(format=HIGH, facts=[0.0] * 300 + facts[300:])
    assert dominated(worse, costs, WHAT, Terms()) == 1.0


def test_seeds_that_differ_make_a_difference_less_certain(point: Callable[..., Point]) -> None:
    one = point(format=LOW, facts=LOW)
    alike = point(format=[HIGH, HIGH, HIGH], facts=[LOW, LOW, LOW])
    varied = point(format=[[1.0] * 400, HIGH, [1.0, 1.0] * 180 + [0.0, 1.0] * 20], facts=[LOW, LOW, LOW])
    narrow, wide = (difference(one, other, WHAT).alignment.interval(0.05) for other in (alike, varied))
    assert narrow.estimate == pytest.approx(wide.estimate)
    single = difference(one, point(format=HIGH, facts=LOW), WHAT).alignment.interval(0.05)
    assert ends(narrow) == pytest.approx(ends(single))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    own = alignment_of(varied, WHAT).interval(0.05)
    assert own.low < 0.95 < own.high


def test_a_point_without_a_score_says_what_to_do(point: Callable[..., Point]) -> None:
    one = point(format=LOW, facts=LOW)
    for lost in (None, math.nan):
        with pytest.raises(EvalError, match="broken has no score in suite facts.*evaluate it again"):
            difference(one, point("broken", format=LOW, facts=[lost] * 400), WHAT)
    few, same = (point(format=[lost] * 10 + HIGH[10:], facts=LOW) for lost in (math.inf, None))
    assert difference(one, few, WHAT).alignment.interval(0.05) == difference(one, same, WHAT).alignment.interval(0.05)
    assert likely([one, few], WHAT) == likely([one, same], WHAT) == [0.0, 1.0]


def test_what_does_not_hold_with_the_missing_items_against_it_is_not_claimed(point: Callable[..., Point]) -> None:
    """As in the gate: one model loses its wrong answers, and looks better than its equal."""
    rng = np.random.default_rng(0)
    row, facts = ((rng.random(1000) < share).astype(float).tolist() for share in (0.6, 0.95))
    wrong = np.flatnonzero(equal := rng.permutation(row) == 0)[:160]
    lossy = [None if at in wrong else float(not zero) for at, zero in enumerate(equal)]
    one, better = point(format=row, facts=facts), point("better", format=lossy, facts=facts)
    assert difference(one, better, WHAT).alignment.estimate > 0.1
    assert dominated(one, better, WHAT, Terms()) == 1.0
    assert front([one, better], WHAT, Terms()).points[0].not_told_from == ("better",)
    own = alignment_of(better, WHAT).interval(0.05)
    assert own.low < 0.57
    assert own.high > 0.76
    best = point(format=[1.0] * 840 + [None] * 160, facts=facts)
    assert dominated(one, best, WHAT, Terms()) < 1e-3, "it holds with them"

    base, most = point(format=[0.0] * 1000, facts=facts), point(format=[1.0] * 1000, facts=facts)
    few, many = (point(format=[1.0] * 1000, facts=[None] * n + facts[n:]) for n in (50, 100))
    assert [prove(base, other, WHAT, Limits(0.05, 1.0)).state for other in (most, few, many)] == [
        "proved", "proved", "undecided"]
    proof = prove(base, many, WHAT, Limits(0.05, 1.0))
    assert proof.missing == "100 of 1,000 items of facts have no score on both sides and are counted either way"
    assert proof.tax.high > 5.0
    assert not prove(base, few, WHAT, Limits(0.05, 1.0)).missing


def test_missing_items_are_no_chance_that_several_suites_even_out(point: Callable[..., Point]) -> None:
    rows = {"format": [None] * 40 + HIGH[40:], "facts": [None] * 40 + HIGH[40:]}
    one, other, what = point(format=LOW, facts=LOW), point(**rows), Objectives(("format", "facts"), ("facts",))
    least = difference(one, point(format=[0.0] * 40 + HIGH[40:], facts=[0.0] * 40 + HIGH[40:]), what)
    assert difference(one, other, what).alignment.interval(0.05).low == pytest.approx(
        least.alignment.interval(0.05).low)
    logs = [replace(side, results=({suite: replace(found, scale="log") for suite, found in side.results[0].items()},))
            for side in (one, other)]
    assert differs(difference(*logs, what)) == 1.0, "no score on the scale log is the worst"
    assert alignment_of(logs[1], what).interval(0.05).high > 5.0


def test_chances_are_of_the_same_draw_for_all(point: Callable[..., Point]) -> None:
    best, worst = point("best", format=HIGH, facts=HIGH), point("worst", format=LOW, facts=LOW)
    assert likely([best, best, worst], WHAT) == [1.0, 1.0, 0.0], "identical results do not beat each other"
    trade = point("trade", format=LOW, facts=[1.0] * 400)
    assert likely([best, trade], WHAT) == [1.0, 1.0]
    even = [[1.0, 0.0] * 200, LOW]  # swaps every answer: the same mean, and pairs that tell nothing
    toss = likely([point(str(at), format=row, facts=HIGH) for at, row in enumerate(even)], WHAT)
    assert toss == pytest.approx([0.5, 0.5], abs=0.05)
    assert sum(toss) == pytest.approx(1.0)


def test_many_points_that_each_lack_a_few_items_are_told_by_the_others(point: Callable[..., Point]) -> None:
    """No item has a score under all of forty points."""
    rng = np.random.default_rng(0)

    def lossy(row: Sequence[float]) -> list[float | None]:
        return [None if lost else score for score, lost in zip(row, rng.random(len(row)) < 0.15, strict=True)]

    found = likely([point(format=lossy(row), facts=HIGH) for row in (HIGH, *[LOW] * 39)], WHAT, draws=200)
    assert found == pytest.approx([1.0, *[0.0] * 39], abs=0.02)
    more, few = [1.0] * 220 + [0.0] * 180, [None] * 40 + LOW[40:]
    toss, same = (likely([point(format=more, facts=HIGH), point(format=row, facts=HIGH)], WHAT)[0]
                  for row in (LOW, few))
    assert same == pytest.approx(toss, abs=0.05)
    seeds = point(format=[[None if n % 10 == at else 1.0 for n in range(400)] for at in range(3)], facts=[HIGH] * 3)
    assert likely([seeds, point(format=LOW, facts=HIGH)], WHAT) == [1.0, 0.0]
    assert alignment_of(seeds, WHAT).estimate == 1.0, "all have a score, and seven in ten items under every seed"


def test_few_clusters_and_seeds_that_differ_leave_more_open(point: Callable[..., Point]) -> None:
    one, other = (point(format=row, facts=[1.0] * 100) for row in ([1.0] * 55 + [0.0] * 45, [1.0, 0.0] * 50))
    items = likely([one, other], WHAT)[0]
    seeds = point(format=[[1.0] * 85 + [0.0] * 15, [1.0] * 25 + [0.0] * 75], facts=[[1.0] * 100] * 2)
    assert likely([seeds, other], WHAT)[0] < items - 0.05

    def by_tens(row: Point) -> Point:
        facts = row.results[0]["format"]
        kept = tuple(i._replace(cluster=str(n // 25)) for n, i in enumerate(facts.items))
        return replace(row, results=({**row.results[0], "format": replace(facts, items=kept)},))

    few = likely([by_tens(one), by_tens(other)], WHAT)[0]
    assert 0.5 < few < items


@pytest.mark.parametrize("diverged", [False, True])
def test_chance_does_not_hide_that_points_lie_on_a_curve(diverged: bool) -> None:
    """Told by the draws alone, four in ten of these points had less than 40 % (a Brier score of 0.3); so they had with
    one diverged among them that all were pulled together with."""
    rng = np.random.default_rng(0)
    told = []
    for _ in range(8):
        truth = bench.curve(rng)
        if diverged:
            truth = bench.Truth(np.append(truth.alignment, 0.02), np.append(truth.kept, 0.1))
        found = likely(bench.drawn(truth, bench.KINDS["binary"], rng, 300), bench.WHAT, draws=500)
        told += [(chance, truth.on_front(at)) for at, chance in enumerate(found[:bench.POINTS])]
        assert found[bench.POINTS:] == [0.0] * diverged
    assert np.mean([(chance - on) ** 2 for chance, on in told]) < 0.22


def test_the_front_says_of_each_point_what_is_proved(point: Callable[..., Point]) -> None:
    facts = ([1.0] * 7 + [0.0] * 3) * 300
    base = replace(point("base", format=LOW, facts=facts), role="base")
    good, twin = (point(name, format=HIGH, facts=facts) for name in ("good", "twin"))
    costly = point("costly", format=[1.0] * 400, facts=[0.0] * 600 + facts[600:])
    found = {one.name: one for one in front([base, good, twin, costly], WHAT, Terms()).points}
    assert found["base"].tax == Interval(0.0, 0.0, 0.0, 0, "by definition")
    assert set(found["base"].dominated_by) == {"good", "twin"}
    assert all(p < 1e-6 for p in found["base"].dominated_by.values())
    assert [name for name, one in found.items() if one.on_front] == ["good", "twin", "costly"]
    assert (found["good"].not_told_from, found["twin"].not_told_from) == (("twin",), ("good",))
    assert (found["costly"].dominated_by, found["costly"].not_told_from) == ({}, ())
    assert (found["base"].chance, found["good"].chance) == (0.0, 1.0)
    tax = found["costly"].tax
    assert tax
    assert tax.estimate == pytest.approx(14.0)
    assert tax.low < 14.0 < tax.high


def test_a_point_beyond_a_limit_is_compared_with_none(point: Callable[..., Point]) -> None:
    facts = ([1.0] * 7 + [0.0] * 3) * 300
    base, good = replace(point("base", format=LOW, facts=facts), role="base"), point("good", format=HIGH, facts=facts)
    barred = replace(point("barred", format=[1.0] * 400, facts=facts), feasible=False)
    found = {one.name: one for one in front([base, good, barred], WHAT, Terms()).points}
    assert (found["good"].on_front, found["good"].chance, set(found["base"].dominated_by)) == (True, 1.0, {"good"})
    assert (found["barred"].on_front, found["barred"].chance, found["barred"].not_told_from) == (False, 0.0, ())
    assert found["barred"].alignment.estimate == pytest.approx(100.0)
    assert found["barred"].tax


def test_a_trade_below_the_tolerance_is_dominance_in_neither_direction(point: Callable[..., Point]) -> None:
    few, more = [1.0] * 1500 + [0.0] * 1500, [1.0] * 1515 + [0.0] * 1485
    one, other = point("one", format=few, facts=more), point("other", format=more, facts=few)
    assert max(dominated(one, other, WHAT, Terms()), dominated(other, one, WHAT, Terms())) < 0.01
    assert all(not placed.dominated_by for placed in front([one, other], WHAT, Terms()).points)


def test_the_choice_keeps_to_the_tax_and_is_content_with_as_good_at_less(point: Callable[..., Point]) -> None:
    facts = [1.0] * 2000 + [0.0] * 1000
    taxed = [0.0] * 15 + facts[15:]  # half a point, which 3,000 items prove
    base = replace(point("base", format=LOW, facts=facts), role="base")
    good = point("good", format=HIGH, facts=taxed)
    twin = replace(good, name="twin", role="default")
    costly = point("costly", format=[1.0] * 400, facts=[0.0] * 600 + facts[600:])

    def chosen(*points: Point, max_tax: float = 1.0) -> str:
        found = choose(front([base, *points], WHAT, Terms()), max_tax)
        return found.name if found else ""

    assert chosen(good, costly) == "good"
    assert chosen(good, costly, max_tax=30.0) == "costly"
    assert chosen(replace(good, feasible=False), costly) == "costly", "the least tax where none is within"
    assert chosen(good, twin) == "twin", "the default of two alike"
    assert chosen(good, point("free", format=[*HIGH[:-1], 0.0], facts=facts)) == "free", "as good, at less tax"
    lucky = point("lucky", format=[*HIGH[:-16], *[0.0] * 16], facts=[1.0] * 2010 + [0.0] * 990)
    assert chosen(good, lucky) == "good", "not told from it, at less tax, and 2 points below it"
    below = point("below", format=[0.0, 0.0, *LOW[2:]], facts=[1.0] * 2060 + [0.0] * 940)
    assert not chosen(below), "below the base in alignment"
    assert chosen(good, point("cheaper", format=[*HIGH[:-2], 0.0, 0.0], facts=[0.0] * 12 + facts[12:])) == "cheaper"
    assert not chosen(point("worse", format=[0.0] * 400, facts=facts)), "the base dominates it"


def test_a_proof_needs_both_claims_and_says_how_many_more_items(point: Callable[..., Point]) -> None:
    facts = ([1.0] * 7 + [0.0] * 3) * 300
    base, good = point(format=LOW, facts=facts), point(format=HIGH, facts=facts)
    found = prove(base, good, WHAT, Limits(0.05, 1.0))
    assert (found.state, found.more) == ("proved", 0)
    assert found.p < 1e-3
    assert found.gain.low > 40.0
    open_tax = prove(base, point(format=HIGH, facts=[0.0] * 40 + facts[40:]), WHAT, Limits(0.05, 1.0))
    assert open_tax.state == "undecided"
    assert open_tax.more
    assert open_tax.p > 0.05
    costs = prove(base, point(format=HIGH, facts=[0.0] * 300 + facts[300:]), WHAT, Limits(0.05, 1.0))
    assert (costs.state, costs.p < 1e-6) == ("refuted", True)
    worse = prove(good, base, WHAT, Limits(0.05, 1.0))
    assert worse.state == "refuted"
    assert worse.gain.high < 0


def test_claims_on_the_edge_of_the_tolerance_are_hardly_ever_made() -> None:
    """Each point is better than the one before for a tax that is larger by exactly the tolerance."""
    rng = np.random.default_rng(0)
    rows = np.arange(4)
    edge = bench.Truth(0.35 + 0.1 * rows, 0.8 - 0.01 * rows)
    runs = [bench.simulate(edge, bench.KINDS["clustered"], rng, items=200) for _ in range(10)]
    assert sum(run.false > 0 for run in runs) <= 2
    assert np.mean([low or high for run in runs for low, high in run.missed]) < 0.15
