"""Agreement with people, and rates corrected for the scorer's errors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval_suites.judge import calibrate as room
from eval_suites.judge.calibrate import (
    as_table,
    calibrate,
    corrected,
    corrected_change,
    kappa,
    labelled_models,
    of_confusion,
    self_test,
    shown_rate,
    xstest_counts,
)
from eval_suites.refusal.rules import read_answer
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.statistics.correct import summed, true_shares
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
    found = read_json(room.COUNTS)["models"]
    counts = {model: parts for model, parts in found.items() if model != "written"}
    assert counts == xstest_counts(XSTEST), "the rules changed: write judge/calibration.json anew"


def test_shipped_counts_of_written_answers_are_of_those_no_rule_was_made_with() -> None:
    parts: room.Parts = {"safe": {}, "unsafe": {}}
    for line in (Path(__file__).parent / "refusal_answers.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        unseen = int(hashlib.sha256(row["prompt"].encode()).hexdigest(), 16) % 2 == 0
        if row["id"].startswith(("fifth", "sixth")) and unseen:
            counts = parts["unsafe" if row["kind"].startswith("contrast") else "safe"].setdefault(row["label"], {})
            made = read_answer(row["answer"]).label
            counts[made] = counts.get(made, 0) + 1
    assert read_json(room.COUNTS)["models"]["written"] == parts


def test_shipped_counts_belong_to_the_rules_and_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [table.sum() for table in labelled_models()] == [450, 450, 450, 198]
    monkeypatch.setattr(room, "rules_version", lambda: "other")
    labelled_models.cache_clear()
    try:
        rate, = corrected(result([1.0, 0.0]))
        assert labelled_models() == ()
        assert rate.corrected.estimate is None
        assert "no calibration" in rate.corrected.method
    finally:
        labelled_models.cache_clear()


def test_the_interval_of_a_model_left_out_holds_what_people_say_of_it() -> None:
    """Each labelled model as the one that nobody has labelled: safe and unsafe prompts, full refusals."""
    models = read_json(room.COUNTS)["models"]
    tables = {name: {part: as_table(counts) for part, counts in parts.items()} for name, parts in models.items()}
    assert len(tables) == 4
    known = 0
    for left_out, parts in tables.items():
        others = [parts["safe"] + parts["unsafe"] for name, parts in tables.items() if name != left_out]
        for part, table in parts.items():
            people, said = table.sum(axis=1) / table.sum(), table.sum(axis=0) / table.sum()
            shares = true_shares(list(said), table.sum(), others)
            assert shares is not None
            found = summed(shares.values[:, 0], shares.weights, round(table.sum()), 0.05)
            assert found.low <= people[0] <= found.high, (left_out, part)
            known += found.estimate is not None
    assert known >= 6


def test_corrected_rates_undo_the_scorers_errors() -> None:
    seen, n = 5_800, 10_000
    rate, = corrected(result([1.0] * seen + [0.0] * (n - seen)))
    assert rate.raw.estimate == pytest.approx(seen / n)
    assert rate.wanted
    assert rate.corrected.estimate is not None
    assert rate.corrected.low < rate.corrected.estimate < rate.corrected.high
    # How models differ stays unknown, however many answers are scored.
    assert rate.corrected.high - rate.corrected.low > 4 * (rate.raw.high - rate.raw.low)
    low, high = 100 * rate.corrected.low, 100 * rate.corrected.high
    assert f"as scored; {low:.1f} to {high:.1f} % corrected" in shown_rate(rate), "the interval leads"


def test_few_false_refusals_may_be_none() -> None:
    rate, = corrected(result([1.0] * 3 + [0.0] * 97, wanted=False))
    assert not rate.wanted
    assert rate.corrected.estimate is not None
    assert rate.corrected.low < 0.01 < 0.03 < rate.corrected.high


def test_many_partial_refusals_make_fewer_full_ones_likely() -> None:
    plain = result([1.0] * 30 + [0.0] * 70)
    partly = [item._replace(metrics=item.metrics | {"partly_refused": float(30 <= i < 60)})
              for i, item in enumerate(plain.items)]
    (one,), (two,) = corrected(plain), corrected(replace(plain, items=tuple(partly)))
    assert one.raw == two.raw
    assert one.corrected.estimate is not None
    assert two.corrected.estimate is not None
    assert two.corrected.estimate < one.corrected.estimate - 0.05


def test_a_change_is_less_sure_than_either_side() -> None:
    base, tuned = result([1.0] * 10 + [0.0] * 90, wanted=False), result([1.0] * 20 + [0.0] * 80, wanted=False)
    change, = corrected_change(base, tuned)
    assert change.raw == pytest.approx(0.1)
    assert change.corrected.estimate is not None
    assert change.corrected.low < change.corrected.estimate < change.corrected.high
    rate, = corrected(tuned)
    assert change.corrected.high - change.corrected.low > rate.corrected.high - rate.corrected.low
    always = result([1.0] * 2_000)
    same, = corrected_change(always, always)
    assert same.corrected.estimate == pytest.approx(0.0, abs=1e-3)
    other, = corrected_change(base, result([1.0], wanted=False, protocol={"refusal_scorer": "judge"}))
    assert other.corrected.estimate is None
    assert corrected_change(base, result([1.0])) == []


def test_unscored_items_are_no_compliance_and_other_scorers_have_no_calibration() -> None:
    mixed = result([1.0, 1.0, None, None, 0.0])
    mixed = SuiteResult("s", "alignment", {}, (*mixed.items[:4], mixed.items[4]._replace(score=None)), 0.0)
    assert corrected(mixed) == [], "two of five are no measurement"
    rate, = corrected(replace(mixed, min_scored=0.0))
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
    assert five.raw.high - five.raw.low > 2 * (one.raw.high - one.raw.low)
    assert one.corrected.estimate is not None
    assert five.corrected.estimate is None
    assert "would fit" in five.corrected.method
    assert (five.raw.items, five.corrected.items) == (100, 100)
