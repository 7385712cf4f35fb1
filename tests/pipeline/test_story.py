"""The story's numbers come from per-item results: pooled over seeds, taxes in points with their sign, claims."""

from pathlib import Path

import pytest

from eval_suites.results import ItemResult, SuiteResult
from sft_core.stage import read_json
from tasks.story import claims, pool, write_story


def result(suite: str, scores: list[float], task: str) -> SuiteResult:
    kind = "capability" if suite in ("tiny_mmlu", "tiny_gsm8k") else "alignment"
    items = tuple(ItemResult(suite, task, f"{task}-{n}", f"{n}", score, {}, "", "", "", "", "")
                  for n, score in enumerate(scores))
    return SuiteResult(suite, kind, {}, items, 0.0)


def results(right: int, of: int = 200) -> dict[str, SuiteResult]:
    """Every suite with `right` of `of` items right."""
    scores = [1.0] * right + [0.0] * (of - right)
    tasks = {"tiny_mmlu": "towns", "tiny_gsm8k": "sums", "tiny_format": "json", "tiny_refusal": "benign"}
    made = {suite: result(suite, scores, task) for suite, task in tasks.items()}
    made["tiny_format"] = SuiteResult("tiny_format", "alignment", {}, tuple(
        item for task in ("json", "tool", "one_sentence") for item in result("tiny_format", scores, task).items), 0.0)
    return made


def test_taxes_have_the_sign_of_a_loss_and_name_the_suite_that_lost_most(tmp_path: Path) -> None:
    plain = results(190) | {"tiny_gsm8k": results(100)["tiny_gsm8k"]}
    numbers = pool(results(200), {"sft": [plain, plain, plain], "mitigated": [results(200)] * 3})
    assert numbers["sft_tax_points"]["value"] == pytest.approx(50.0)
    assert numbers["sft_tax_points"]["suite"] == "tiny_gsm8k"
    assert numbers["sft_tax_mmlu"]["value"] == pytest.approx(5.0)
    assert numbers["sft_tax_points"]["low"] < 50.0 < numbers["sft_tax_points"]["high"]
    assert f"{numbers['mitigated_tax_points']['value']:.1f}" == "0.0"
    assert numbers["sft_json_right"]["value"] == pytest.approx(0.95)
    assert {row["holds"] for row in claims(numbers)} == {"yes"}
    write_story(tmp_path / "story.json", numbers)
    assert {"base_mmlu", "sft_json_right", "sft_refusal_right", "sft_tax_points", "mitigated_tax_points",
            "mitigated_json_right"} <= set(read_json(tmp_path / "story.json"))


def test_a_claim_that_does_not_hold_is_said() -> None:
    numbers = pool(results(200), {"sft": [results(198)] * 3, "mitigated": [results(190)] * 3})
    said = {str(row["claim"]): row["holds"] for row in claims(numbers)}
    assert said["sft_tax_points ≥ 10, proved"] == "NO"
    assert said["mitigated_tax_points ≤ 3"] == "NO"
    assert said["base_mmlu ≥ 90 %"] == "yes"
