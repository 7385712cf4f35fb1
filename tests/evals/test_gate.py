"""What a verdict takes back, notes and says: missing items, the A/A floor, contamination, margins, checks, words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from eval_suites.report.plot import forest_svg
from eval_suites.results import Expected, SuiteResult
from eval_suites.statistics.floor import Floor
from eval_suites.statistics.pairing import mean_score
from eval_suites.verdict.known import Known
from eval_suites.verdict.power import Terms, provable
from eval_suites.verdict.sequential import certain
from eval_suites.verdict.verdict import Check, SuiteVerdict, Verdict, compare
from sft_core.config.evaluate import GateSection
from sft_core.errors import EvalError

Make = Callable[..., SuiteResult]
GATE = GateSection(max_tax=2.0)


def judged(base: SuiteResult, tuned: SuiteResult, gate: GateSection = GATE, **known: object) -> Verdict:
    return compare({base.suite: base}, {tuned.suite: tuned}, gate, Known(**known))  # type: ignore[arg-type]


def one(base: SuiteResult, tuned: SuiteResult, gate: GateSection = GATE, **known: object) -> SuiteVerdict:
    return judged(base, tuned, gate, **known).suites[0]


def weighing(result: SuiteResult, weights: list[float], scale: str = "share") -> SuiteResult:
    items = tuple(item._replace(weight=w) for item, w in zip(result.items, weights, strict=True))
    return replace(result, items=items, scale=scale)


def test_margins_of_single_suites(make_result: Make) -> None:
    base, tuned = make_result([1.0] * 300), make_result([0.0] * 8 + [1.0] * 292)
    assert one(base, tuned).outcome == "undecided"
    wide = one(base, tuned, GateSection(max_tax=2.0, margins={"facts": 6.0, "other": 0.0}))
    assert (wide.outcome, wide.margin, wide.said) == ("no_worse", 6.0, "no worse than 6.0 (proved)")
    tight = judged(base, tuned, GateSection(max_tax=5.0, margins={"facts": 0.25}))
    assert (tight.suites[0].outcome, tight.gate) == ("worse", "fail")
    assert "above 0.25" in tight.reason
    assert tight.rows()[0]["margin"] == "0.25"


def test_a_failed_check_fails_the_gate(make_result: Make) -> None:
    same = make_result([1.0] * 300)
    passed, failed = Check("parity", True, "same ids"), Check("parity", False, "token 7 differs")
    assert judged(same, same, checks=[passed]).gate == "pass"
    verdict = judged(same, same, checks=[passed, failed])
    assert (verdict.gate, verdict.reason) == ("fail", "The check parity did not pass (token 7 differs).")
    assert json.loads(json.dumps(verdict.to_dict()))["checks"][1] == ["parity", False, "token 7 differs"]


def test_a_demand_on_a_suite_that_was_not_run_is_not_met(make_result: Make) -> None:
    same = make_result([1.0] * 300)
    verdict = judged(same, same, GateSection(max_tax=2.0, must_improve=("format",)))
    assert verdict.gate == "undecided"
    assert "gate asks for format, which was not run" in verdict.reason


def test_the_reason_stays_a_sentence(make_result: Make) -> None:
    sides = {name: make_result([1.0, 0.0] * 20, suite=name) for name in "abcde"}
    verdict = compare(sides, sides, GATE)
    assert verdict.gate == "undecided"
    assert [f"tax on {name} is" in verdict.reason for name in "abcde"] == [True, True, True, False, False]
    assert verdict.reason.endswith("; and so for 2 more.")
    text = replace(make_result([-1.0]), scale="log")
    assert "(+0.0 points, interval unknown, 1 item)" in judged(text, text).reason
    better = make_result([0.0] * 20 + [1.0] * 3, suite="format", kind="alignment")
    worse = make_result([0.0] * 22 + [1.0], suite="format", kind="alignment")
    asked = judged(worse, better, GateSection(must_improve=("format",)))
    assert "is not proved better than its base, very roughly 3,000 more items " in asked.reason


def test_a_fail_says_what_else_is_undecided(make_result: Make) -> None:
    """It was silent on false refusals that were seen beyond their limit."""
    base, tuned = make_result([1.0] * 300), make_result([0.0] * 60 + [1.0] * 240)
    asked = [make_result([0.0] * 40, suite="refusal", kind="alignment") for _ in range(2)]
    sides = [replace(one, items=tuple(item._replace(target='{"refuse": false}', metrics={
        "refused": float(at < many)}) for at, item in enumerate(one.items)))
        for one, many in zip(asked, (0, 7), strict=True)]
    gate = GateSection(max_tax=2.0, max_false_refusals=10.0, must_improve=("refusal", "other"))
    verdict = compare({"facts": base, "refusal": sides[0]}, {"facts": tuned, "refusal": sides[1]}, gate)
    assert verdict.gate == "fail"
    assert verdict.reason.endswith(
        "; and 3 more undecided: false refusals on refusal (0.0 → 17.5 %, at most 10 points more are allowed), whether "
        "refusal is better than its base, other, which was not run."), verdict.reason
    alone = compare({"refusal": sides[0]}, {"refusal": sides[1]}, gate)
    assert (alone.gate, "more undecided" in alone.reason) == ("undecided", False)


def test_an_interval_of_few_clusters_is_told(make_result: Make) -> None:
    for clusters, told in ((2, True), (5, True), (6, False)):
        result = make_result([1.0] * 30, clusters=[str(n % clusters) for n in range(30)])
        assert bool(one(result, result).notes) is told
        assert not told or f"30 items make {clusters} clusters" in one(result, result).notes[0]


def test_a_capability_suite_that_must_improve(make_result: Make) -> None:
    low, high = make_result([1.0] * 60 + [0.0] * 60), make_result([1.0] * 120)
    gate = GateSection(max_tax=2.0, must_improve=("facts",))
    assert judged(low, high, gate).gate == "pass"
    assert judged(high, high, gate).gate == "undecided"
    assert judged(high, low, gate).gate == "fail"


def test_few_missing_items_are_told_and_many_withdraw_the_claim(make_result: Make) -> None:
    """No loss on 400 items, but some that the tuned model has no score for: were those lost, it would be worse."""
    base = make_result([1.0] * 400)
    few, many, most = (one(base, make_result([None] * k + [1.0] * (400 - k))) for k in (1, 12, 40))
    assert (few.outcome, few.notes) == ("no_worse", ())
    assert many.outcome == "no_worse"
    assert "12 of 400 items have no score on both sides; 'no worse' would not hold" in many.notes[0]
    assert (most.outcome, most.points, most.more_items) == ("undecided", 0.0, 0)
    assert most.said == "undecided: see its notes"
    verdict = judged(base, make_result([None] * 40 + [1.0] * 360))
    assert verdict.gate == "undecided"
    assert "because 40 of 400 items have no score on both sides" in verdict.reason


def test_a_win_on_a_capability_suite_counts_missing_items_too(make_result: Make) -> None:
    """60 of 400 gained and 55 without a score was a tax of at most 5 and proved better."""
    gate = GateSection(max_tax=5.0, must_improve=("facts",))
    base = make_result([0.0] * 60 + [1.0] * 340)

    def asked(missing: int) -> Verdict:
        return judged(base, make_result([1.0] * (400 - missing) + [None] * missing), gate)

    many = asked(55)
    assert (many.gate, many.suites[0].outcome) == ("undecided", "no_worse")
    assert many.suites[0].high < 0
    assert many.reason.startswith("facts is not proved better than its base, because it would not be with all items "
                                  "counted against it that have no score (-18.9 to +4.2 points)")
    for missing in (0, 20, 25):
        assert asked(missing).gate == "pass"


def test_missing_items_that_cannot_change_it_leave_the_claim(make_result: Make) -> None:
    base, tuned = make_result([1.0] * 200), make_result([0.0] * 100 + [1.0] * 80 + [None] * 20)
    found = one(base, tuned)
    assert found.outcome == "worse"
    assert found.notes == ("20 of 200 items have no score on both sides; it would hold with all of them counted "
                           "against it",)
    won = one(make_result([0.0] * 170 + [None] * 30, kind="alignment"),
              make_result([1.0] * 60 + [0.0] * 140, kind="alignment"))
    assert won.outcome == "improved"
    lucky = one(make_result([0.0] * 170 + [None] * 30, kind="alignment"),
                make_result([1.0] * 14 + [0.0] * 186, kind="alignment"))
    assert lucky.outcome == "not_proved"
    assert lucky.low > 0  # the scored items alone would show it


def test_a_suite_on_the_log_scale_has_no_worst_case(make_result: Make) -> None:
    nats = [-0.7 - 0.01 * (i % 5) for i in range(60)]
    whole = weighing(make_result(nats), [1.0] * 60, "log")
    gaps = weighing(make_result([*nats[:50], *[None] * 10]), [1.0] * 60, "log")
    assert one(whole, whole).outcome == "no_worse"
    assert one(whole, gaps).outcome == "undecided"


def test_a_floor_is_carried_and_its_noise_is_not_claimed(make_result: Make) -> None:
    base, tuned = make_result([1.0] * 200), make_result([0.0] * 20 + [1.0] * 180)
    still, batch = Floor("facts", 8, 0, 0, 0.0), Floor("facts", 8, 0, 1, 1.0)
    noisy, little = Floor("facts", 8, 2, 2, 1.0), Floor("facts", 100, 2, 0, 1.0)
    quiet = one(base, tuned, floors={"facts": still})
    assert (quiet.outcome, quiet.floor, quiet.notes) == ("worse", still, ())
    told = one(base, tuned, floors={"facts": batch})
    assert told.outcome == "worse"
    assert "under another batch size 1 of 8 items" in told.notes[0]
    withdrawn = judged(base, tuned, floors={"facts": noisy})
    assert withdrawn.suites[0].outcome == "undecided"  # 10 points are within 2 / 8 of a suite
    assert "does not repeat itself" in withdrawn.reason
    beyond = one(base, tuned, floors={"facts": little})
    assert beyond.outcome == "worse"
    assert "up to 2.0 points of the suite" in beyond.notes[0]


def test_items_found_in_the_training_data_are_weighed_apart(make_result: Make) -> None:
    """The tuned model knows 100 items by heart and has lost a fifth of the others."""
    base, tuned = make_result([1.0] * 300 + [0.0] * 100), make_result([0.0] * 60 + [1.0] * 340)
    learnt = [f"q/{i}" for i in range(300, 400)]
    found = one(base, tuned, contaminated={"facts": learnt})
    assert (found.outcome, found.points) == ("no_worse", pytest.approx(-10.0))
    assert found.uncontaminated is not None
    assert (found.uncontaminated.points, found.uncontaminated.pairs) == (pytest.approx(20.0), 300)
    assert found.uncontaminated.low > 15
    assert "300 items not found in the training data do not show it" in found.notes[0]
    assert one(base, tuned).uncontaminated is None
    clean = one(base, tuned, contaminated={"facts": []})
    assert clean.uncontaminated == (clean.points, clean.low, clean.high, clean.pairs)
    assert clean.notes == ()
    none = one(base, tuned, contaminated={"facts": [item.item_id for item in base.items]})
    assert none.uncontaminated is not None
    assert (none.uncontaminated.points, none.uncontaminated.pairs) == (None, 0)


def test_variants_of_a_contaminated_item_are_contaminated(make_result: Make) -> None:
    result = make_result([1.0, 0.0, 1.0])
    items = tuple(item._replace(item_id=name) for item, name in zip(result.items, ("q/0", "q/0~typos", "q/1"),
                                                                    strict=True))
    part = one(replace(result, items=items), replace(result, items=items), contaminated={"facts": {"q/0"}})
    assert part.uncontaminated is not None
    assert part.uncontaminated.pairs == 1


def test_weights_reach_scores_and_points(make_result: Make) -> None:
    """100 lost items that stand for one each, 100 kept ones that stand for nine."""
    weights = [1.0] * 100 + [9.0] * 100
    base, tuned = make_result([1.0] * 200), make_result([0.0] * 100 + [1.0] * 100)
    found = one(weighing(base, weights), weighing(tuned, weights))
    assert (found.points, found.tuned) == (pytest.approx(10.0), pytest.approx(0.9))
    assert found.low < 10 < found.high < 30
    assert one(base, tuned).points == pytest.approx(50.0)
    assert (found.p_mcnemar, one(base, tuned).p_mcnemar is None) == (None, False)


def test_perplexity_is_weighed_by_bytes_and_shown_as_perplexity(make_result: Make) -> None:
    weights = [100.0 + 50 * (i % 7) for i in range(80)]
    before = [-0.7 - 0.02 * (i % 3) for i in range(80)]
    after = [score - 0.05 - 0.004 * (i % 4) for i, score in enumerate(before)]
    base, tuned = (weighing(make_result(s, suite="text"), weights, "log") for s in (before, after))
    gate = GateSection(max_tax=1.0, margins={"text": 8.0})
    found = judged(base, tuned, gate)
    text = found.suites[0]
    assert (text.outcome, text.scale, found.gate) == ("no_worse", "log", "pass")
    assert 5.0 < text.low < (text.points or 0.0) < text.high < 6.5
    assert found.rows()[0]["base"].startswith("ppl 2.0")
    assert one(base, tuned).outcome == "worse"
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))
    share = replace(tuned, scale="share")
    with pytest.raises(EvalError, match="scale log against share"):
        one(base, share)


def test_texts_that_lose_much_may_not_be_among_those_asked(make_result: Make) -> None:
    """Of 60 texts none lost much, which 5 of 100 samples show where one text in twenty loses 0.3 nats per byte: the
    gate called a tax of 1.5 proved to be at most 1."""
    after = [-0.7 + 0.002 * (i % 5 - 2) for i in range(240)]
    few, many = ((replace(make_result([-0.7] * n, suite="text"), scale="log"),
                  replace(make_result(after[:n], suite="text"), scale="log")) for n in (60, 240))
    verdict = judged(*few, GateSection(max_tax=1.0))
    text = verdict.suites[0]
    assert (text.outcome, verdict.gate) == ("undecided", "undecided")
    assert "6.0 % of such texts may be of a kind that is not among these 60" in text.notes[0]
    assert text.more_items is not None
    assert 60 < text.more_items < 90
    assert [certain(*sides, 1, 1, GateSection(max_tax=1.0)) for sides in (few, many)] == [False, True]
    assert "more items would settle it" in verdict.reason
    proved = judged(*many, GateSection(max_tax=1.0))
    assert (proved.suites[0].outcome, proved.gate) == ("no_worse", "pass")
    assert "the tax is up to 0.5 points" in proved.suites[0].notes[0]
    assert judged(few[0], replace(few[0], model="b"), GateSection(max_tax=1.0)).gate == "pass"  # nothing changed at all
    asked = Expected("text", "capability", "log", 60, 60)
    assert provable(asked, Terms(GateSection())) == pytest.approx(35 * (1 - 0.025 ** (1 / 60)))


def test_the_score_of_one_model_has_clusters_weights_and_its_scale(make_result: Make) -> None:
    result = make_result([1.0] * 60 + [0.0] * 30 + [None] * 10, clusters=[str(i // 10) for i in range(100)])
    alone, weighed = mean_score(result), mean_score(weighing(result, [1.0] * 60 + [4.0] * 40))
    assert alone is not None
    assert weighed is not None
    assert (alone.estimate, alone.items) == (pytest.approx(2 / 3), 90)
    assert "9 clusters" in alone.method
    assert weighed.estimate == pytest.approx(1 / 3)
    nats = mean_score(weighing(make_result([-0.5, -0.7, -0.9]), [1.0, 1.0, 2.0], "log"))
    assert nats is not None
    assert nats.estimate == pytest.approx(-0.75)
    assert mean_score(make_result([None])) is None


def test_words(make_result: Make) -> None:
    """Every outcome as it stands in the table."""
    right, half = make_result([1.0] * 300), make_result([0.0] * 150 + [1.0] * 150)
    few, none = make_result([1.0] * 40), make_result([None] * 40)
    assert one(right, right).said == "no worse than 2.0 (proved)"
    assert one(right, half).said == "worse (proved)"
    undecided, more = one(few, few), one(make_result([1.0] * 100), make_result([1.0] * 100))
    assert re.fullmatch(r"undecided: very roughly [1-9][0,]+ more items needed to prove it no worse", undecided.said)
    assert more.said == f"undecided: about {more.more_items:,} more items needed to prove it no worse"
    assert one(few, none).said.startswith("not measured: 0 of 40 items have a score on both sides")
    before, after = (replace(r, kind="alignment") for r in (half, right))
    assert one(before, after).said == "improved (proved)"
    assert one(after, before).said == "worse (proved)"
    assert one(after, after).said.startswith("not proved: ")
    row = judged(right, half).rows()[0]
    assert (row["margin"], row["outcome"], row["tax / win"]) == ("2.0", "worse (proved)", "tax +50.0")
    assert float(row["detectable"]) > 1


def test_the_detectable_effect_is_that_of_the_comparison(make_result: Make) -> None:
    """Four times the items find half the effect; several alignment suites share alpha, capability margins do not."""
    scores = [1.0] * 70 + [0.0] * 30
    other = [0.0] * 10 + [1.0] * 80 + [0.0] * 10
    small, large = one(make_result(scores), make_result(other)), one(make_result(scores * 4), make_result(other * 4))
    assert small.mde is not None
    assert large.mde == pytest.approx(small.mde / 2, rel=0.05)

    def of(kind: str, count: int) -> float:
        sides = [{str(i): make_result(s, suite=str(i), kind=kind) for i in range(count)} for s in (scores, other)]
        return compare(sides[0], sides[1], GATE).suites[0].mde or 0.0

    assert of("alignment", 4) > 1.15 * of("alignment", 1)
    assert of("capability", 4) == of("capability", 1)


def test_a_suite_that_was_stopped_is_read_at_the_earlier_look_also_without_contaminated_items(make_result: Make
                                                                                             ) -> None:
    base, tuned = make_result([1.0] * 300), make_result([0.0] * 20 + [1.0] * 280)
    learnt = {"facts": {"q/0", "q/1"}}

    def read(first: tuple[int, int] | None, second: tuple[int, int] | None) -> SuiteVerdict:
        return one(replace(base, looks=first), replace(tuned, looks=second), contaminated=learnt)

    whole, early, late = read(None, None), read((1, 4), (1, 4)), read((3, 4), (3, 4))
    for pair in ((1, 4), (3, 4)), ((3, 4), (1, 4)):
        assert read(*pair).looks == (1, 4)
        assert (read(*pair).low, read(*pair).high) == (early.low, early.high)
    assert whole.uncontaminated and late.uncontaminated and early.uncontaminated  # noqa: PT018
    assert early.uncontaminated.high > late.uncontaminated.high > whole.uncontaminated.high


def test_a_tax_is_claimed_where_it_passes_the_margin_by_more_than_the_floor(make_result: Make) -> None:
    """A tax of 20 points with a floor of 12.5: proved above a margin of 5, and within the noise of one of 10."""
    base, tuned = make_result([1.0] * 500), make_result([0.0] * 100 + [1.0] * 400)
    noisy = {"facts": Floor("facts", 8, 1, 0, 1.0)}
    assert one(base, tuned, GateSection(max_tax=5.0), floors=noisy).outcome == "worse"
    assert one(base, tuned, GateSection(max_tax=10.0)).outcome == "worse"
    assert one(base, tuned, GateSection(max_tax=10.0), floors=noisy).outcome == "undecided"


def test_no_worse_is_not_better_and_a_level_of_a_suite_that_was_not_run_is_not_met(make_result: Make) -> None:
    same = make_result([1.0] * 500)
    assert judged(same, same).gate == "pass"
    assert judged(same, same, GateSection(max_tax=2.0, must_improve=("facts",))).gate == "undecided"
    unmet = judged(same, same, GateSection(max_tax=2.0, at_least={"format": 0.5}))
    assert (unmet.gate, "format, which was not run" in unmet.reason) == ("undecided", True)


def test_the_very_same_model_is_equal_and_no_sample(make_result: Make) -> None:
    """It was undecided: about so many more items needed."""
    few, none = (replace(make_result(scores), model="a") for scores in ([1.0, 0.0, 1.0, 0.0, None] * 3, [None] * 5))
    verdict = judged(few, few)
    found = verdict.suites[0]
    assert (verdict.gate, found.outcome, found.points, found.low, found.high) == ("pass", "equal", 0.0, 0.0, 0.0)
    assert (found.said, found.notes) == ("equal: the very same model, no item changed", ())
    assert verdict.reason == "facts was asked of the very same model and no item changed."
    unmet = judged(few, few, GateSection(must_improve=("facts",)))
    assert unmet.gate == "fail"
    assert "facts is no better than its base: it is the very same model" in unmet.reason
    assert judged(few, replace(few, model="b")).gate == "undecided"  # two models that do not differ on 10 items
    drifted = replace(make_result([1.0] * 15), model="a")
    assert one(few, drifted).outcome != "equal"
    assert one(none, none).outcome == "not_measured"
    assert forest_svg(verdict).count("equal") >= 1
