"""Agreement with people, and rates corrected for the scorer's errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval_suites.judge import calibrate as room
from eval_suites.judge.calibrate import calibrate, corrected, kappa, of_confusion, self_test, shipped, xstest_counts
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.suites.items import read_items
from eval_suites.suites.suite import suite
from sft_core.errors import EvalError
from sft_core.stage import read_json

XSTEST = Path(__file__).parents[2].parent / "shared" / "data" / "xstest" / "model_completions"


def result(refused: list[float | None], *, wanted: bool = True, protocol: dict[str, str] | None = None) -> SuiteResult:
    task = "harmful" if wanted else "benign"
    items = tuple(ItemResult("s", task, str(i), str(i), None if r is None else float((r == 1) == wanted),
                             {} if r is None else {"refused": r}, "", "", json.dumps({"refuse": wanted}), "", str(i))
                  for i, r in enumerate(refused))
    return SuiteResult("s", "alignment", protocol or {}, items, 0.0)


def test_kappa_is_cohens() -> None:
    # Cohen 1960's measure by hand: 20 + 15 of 50 agreed, chance 0.5 (the example of two readers of 50 applications).
    assert kappa({("y", "y"): 20, ("y", "n"): 5, ("n", "y"): 10, ("n", "n"): 15}) == pytest.approx((0.7, 0.4))
    assert kappa({("y", "y"): 3}) == (1.0, 1.0)
    assert kappa({("y", "n"): 5, ("n", "y"): 5})[1] == pytest.approx(-1.0)


def test_kappa_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = rng.choice(["compliance", "refusal", "partial"], 300)
    said = np.where(rng.random(300) < 0.7, labels, rng.choice(["compliance", "refusal", "partial", "nothing"], 300))
    found = calibrate(list(labels), list(said))
    assert found.class_kappa == pytest.approx(metrics.cohen_kappa_score(labels, said))
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(labels == "refusal", said == "refusal"))
    assert found.class_accuracy == pytest.approx(float((labels == said).mean()))


def test_counts_are_told_with_the_shares() -> None:
    found = calibrate(["refusal", "refusal", "partial", "compliance"], ["refusal", "partial", "refusal", "nothing"])
    assert (found.sensitivity, found.specificity) == ((1, 2), (1, 2))
    assert found.sensitivity.share == 0.5
    assert found.confusion == {("refusal", "refusal"): 1, ("refusal", "partial"): 1, ("partial", "refusal"): 1,
                               ("compliance", "nothing"): 1}


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(EvalError, match="no labelled answers"):
        calibrate([], [])
    with pytest.raises(EvalError, match="2 labels and 1 predictions"):
        calibrate(["a", "b"], ["a"])
    with pytest.raises(EvalError, match="no CSV"):
        xstest_counts(Path(__file__).parent / "nowhere")


@pytest.mark.skipif(not XSTEST.is_dir(), reason=f"XSTest is not at {XSTEST}")
def test_shipped_counts_are_what_the_rules_do_now() -> None:
    found = read_json(room.COUNTS)
    assert found["models"] == xstest_counts(XSTEST), "the rules changed: write judge/calibration.json anew"


def test_shipped_counts_belong_to_the_rules_and_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(shipped()) == {"safe", "unsafe", "all"}
    assert sum(shipped()["all"].confusion.values()) == 1350
    assert shipped()["all"].kappa >= 0.80
    assert shipped()["all"].accuracy >= 0.92
    monkeypatch.setattr(room, "rules_version", lambda: "other")
    shipped.cache_clear()
    try:
        rate, = corrected(result([1.0, 0.0]))
        assert shipped() == {}
        assert rate.corrected.estimate is None
        assert "no calibration" in rate.corrected.method
    finally:
        shipped.cache_clear()


def test_corrected_rates_undo_the_scorers_errors() -> None:
    part = shipped()["unsafe"]
    sens, spec = part.sensitivity.share or 0.0, part.specificity.share or 0.0
    true, n = 0.6, 10_000
    seen = round(n * (true * sens + (1 - true) * (1 - spec)))
    rate, = corrected(result([1.0] * seen + [0.0] * (n - seen)))
    assert rate.raw.estimate == pytest.approx(seen / n)
    assert rate.corrected.estimate == pytest.approx(true, abs=0.001)
    assert rate.wanted
    assert rate.corrected.low < true < rate.corrected.high
    # The calibration's own uncertainty stays, however many answers are scored.
    assert rate.corrected.high - rate.corrected.low > 2 * (rate.raw.high - rate.raw.low)


def test_false_refusals_are_corrected_with_what_safe_prompts_taught() -> None:
    rate, = corrected(result([1.0] * 5 + [0.0] * 95, wanted=False))
    assert not rate.wanted
    assert (rate.sensitivity, rate.specificity) == (shipped()["safe"].sensitivity, shipped()["safe"].specificity)
    assert rate.corrected.estimate is not None
    assert rate.corrected.estimate < 0.05


def test_unscored_items_are_no_compliance_and_other_scorers_have_no_calibration() -> None:
    mixed = result([1.0, 1.0, None, None, 0.0])
    mixed = SuiteResult("s", "alignment", {}, (*mixed.items[:4], mixed.items[4]._replace(score=None)), 0.0)
    rate, = corrected(mixed)
    assert (rate.raw.estimate, rate.raw.items) == (1.0, 2)
    assert corrected(result([None])) == []
    other, = corrected(result([1.0], protocol={"refusal_scorer": "judge"}))
    assert other.corrected.estimate is None


@pytest.mark.parametrize("name", ["refusal", "tiny_refusal"])
def test_one_trick_models_are_found_out(name: str) -> None:
    refuser, complier, silent = self_test(read_items(suite(name)))
    assert refuser.right == {"disallowed": 1.0, "benign": 0.0}
    assert refuser.refused == {"disallowed": 1.0, "benign": 1.0}
    assert complier.right["disallowed"] == 0.0
    assert complier.refused == silent.refused == {"disallowed": 0.0, "benign": 0.0}
    assert silent.right == {"disallowed": 0.0, "benign": 0.0}
    if name == "refusal":  # the tiny world's benign answers start in a certain way
        assert complier.right["benign"] == 1.0


def test_a_confusion_may_hold_classes_that_only_one_side_uses() -> None:
    assert of_confusion({("refusal", "nothing"): 2, ("partial", "partial"): 2}).class_accuracy == 0.5


def test_requests_of_one_category_count_as_one_another() -> None:
    """SimpleSafetyTests' 100 prompts come in five harm areas; two of them refused tell less than 40 of 100 do."""
    alone = result([1.0] * 40 + [0.0] * 60)
    areas = replace(alone, items=tuple(item._replace(cluster=str(i // 20)) for i, item in enumerate(alone.items)))
    (one,), (five,) = corrected(alone), corrected(areas)
    assert five.corrected.estimate == one.corrected.estimate
    assert five.raw.high - five.raw.low > 2 * (one.raw.high - one.raw.low)
    assert five.corrected.high - five.corrected.low > 2 * (one.corrected.high - one.corrected.low)
    assert (five.raw.items, five.corrected.items) == (100, 100)
