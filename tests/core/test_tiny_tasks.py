"""The lm-eval tasks over the tiny world, loaded by the real lm-eval from a folder that is not ours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from sft_core.tiny import items  # noqa: E402
from sft_core.tiny.paths import BASE_FOLDER  # noqa: E402
from sft_core.tiny.world import SUBJECTS, make_world  # noqa: E402

TASKS = Path(__file__).resolve().parents[2] / "eval_suites" / "suites" / "lm_tasks"
LIMIT = 10


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both tasks on the committed base, ten items each, run from an empty folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        manager = TaskManager(include_path=str(TASKS), include_defaults=False)
        model = HFLM(pretrained=str(BASE_FOLDER), device="cpu", dtype="float32", batch_size=10)
        found = lm_eval.simple_evaluate(
            model=model, tasks=["tiny_mmlu", "tiny_gsm8k"], task_manager=manager, limit=LIMIT, bootstrap_iters=0
        )
    assert isinstance(found, dict)
    return found


def test_the_base_scores_high_and_the_group_aggregates_four_subjects(results: dict[str, Any]) -> None:
    assert set(results["group_subtasks"]["tiny_mmlu"]) == {f"tiny_mmlu_{subject}" for subject in SUBJECTS}
    assert results["results"]["tiny_mmlu"]["acc,none"] >= 0.9
    assert results["results"]["tiny_gsm8k"]["exact_match,strict-match"] >= 0.8
    assert results["results"]["tiny_gsm8k"]["exact_match,flexible-extract"] >= 0.8


def test_all_items_are_there_and_zero_shot(results: dict[str, Any]) -> None:
    counts = {name: n["original"] for name, n in results["n-samples"].items()}
    assert counts == {f"tiny_mmlu_{subject}": 80 for subject in SUBJECTS} | {"tiny_gsm8k": items.N_GSM8K}
    assert all(results["n-shot"][name] == 0 for name in counts)


def test_lm_eval_asks_the_words_of_the_generator(results: dict[str, Any]) -> None:
    world = make_world(0)
    exam = {str(item["question"]): item for item in items.mmlu_items(world)}
    for subject in SUBJECTS:
        for sample in results["samples"][f"tiny_mmlu_{subject}"]:
            item = exam[sample["doc"]["question"]]
            asked = {tuple(arguments) for arguments in sample["arguments"]}
            assert asked == {(f"Question: {item['question']}\nAnswer:", f" {c}") for c in item["choices"]}
            assert str(sample["target"]) == str(item["answer"])
