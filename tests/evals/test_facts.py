"""What changed in a run and what it came out of: the same numbers and hashes for its page, the terminal and MLflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from eval_suites.report.plot import LOOK
from eval_suites.results import SuiteResult, ended
from infra.naming import Input, digest_of
from sft_core.config.experiment import ExperimentConfig
from tasks.facts import Count, chain, changed, described, duration, sortable
from tasks.pages.data import DataTold
from tasks.run_page import COUNTS, PREPARED, TOTALS, inputs

Make = Callable[..., SuiteResult]
FILES = {"b.jsonl": "22", "a.json": "11"}
LINEAGE: dict[str, Any] = {
    "made_with": None, "gate": {"outcome": "pass", "reason": "."}, "prepared": {"fingerprint": "f", "digest": "d"},
    "config": {"sha256": "c"}, "base": {"path": "tiny", "digest": "b"}, "model": {"files": {"m": "1"}, "digest": "m"},
    "evaluation": {"protocols": {}, "files": {}}}


def used_by(files: dict[str, str], kept: int = 1, items: tuple[SuiteResult, ...] = (), held_out: tuple[str, ...] = ()
            ) -> list[Input]:
    source = {"name": "s", "use": "train", "path": "s", "files": files}
    counted = {**dict.fromkeys(COUNTS, 1), "source": "s", "kept": kept}
    prepared: Any = SimpleNamespace(result={
        "sources": [source], "ledger": {**dict.fromkeys(TOTALS, 1), "sources": [counted], "replay": []}})
    return list(inputs(prepared, {one.suite: one for one in items}, DataTold("f", 1, 1, [], [], ""), held_out))


def test_a_source_has_one_hash_in_whatever_order_its_files_are_told() -> None:
    """A page, written before the record was read back, had another one than the terminal."""
    def told(files: dict[str, str]) -> tuple[str, str]:
        (data,) = (one for one in used_by(files) if one.name == "s")
        source = {"name": "s", "use": "train", "path": "s", "files": files}
        return str(chain({**LINEAGE, "sources": [source]})[0]["hash"]), data.digest

    assert told(FILES) == told(dict(sorted(FILES.items())))
    shown, in_mlflow = told(FILES)
    assert in_mlflow == shown
    assert digest_of(FILES) != digest_of({"b.jsonl": "11", "a.json": "22"})


def test_what_a_run_says_of_its_data_is_no_other_runs(make_result: Make) -> None:
    """MLflow keeps what the first run said of a name and digest; another's counts stood under the second one."""
    runs = [used_by(FILES, 4557, (make_result([1.0] * 9),)), used_by(FILES, 450, (make_result([1.0] * 5),))]
    said: dict[tuple[str, str], Input] = {}
    for one in (one for run in runs for one in run):
        assert said.setdefault((one.name, one.digest), one) == one
    assert [[one.profile["sources"]["s"]["kept"] for one in run if one.name == PREPARED]  # type: ignore[index]
            for run in runs] == [[4557], [450]]


def test_a_source_of_a_held_out_task_does_not_train() -> None:
    assert [one.use for one in used_by(FILES, held_out=("s",)) if one.name == "s"] == ["held_out"]
    assert [one.use for one in used_by(FILES) if one.name == "s"] == ["training"]


def test_the_length_of_an_answer_is_that_of_what_a_model_wrote(make_result: Make) -> None:
    """Choices, most of all items, made it a number of nothing."""
    chosen = make_result([1.0] * 50)
    wrote = make_result([1.0, None, 0.0], suite="format")
    before, after = (replace(wrote, items=tuple(item._replace(answer="x" * long, metrics=ended(9, stopped=True))
                                                for item in wrote.items)) for long in (7, 40))
    training = {"stored": {"base": 5.0, "loss": 1.15}, "validation": [[0, 5.0], [100, 0.6], [200, 1.15]]}
    counts = [Count(1, 2, 53)]
    loss, scores, length = changed(training, counts, {"facts": chosen, "format": before},
                                   {"facts": chosen, "format": after})
    assert loss.how.endswith("base → the saved model; it was lowest at step 100: 0.6")
    assert scores.value == "2 gained, 1 lost"
    assert (length.value, "median of the 3 answers" in length.how) == ("7 → 40", True)
    near = {**training, "validation": [[100, 1.14], [200, 1.15]]}
    loss, _ = changed(near, counts, {"facts": chosen}, {"facts": chosen})
    assert loss.how.endswith("the saved model")


@pytest.mark.parametrize(("seconds", "said"), [(0.34, "0.3 s"), (68.2, "68 s"), (150, "2.5 min"), (9000, "2.5 h")])
def test_a_time_is_in_the_unit_that_suits_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_outcomes_are_told_apart_without_colours() -> None:
    assert len({marker for _, marker in LOOK.values()}) == len(LOOK)


@pytest.mark.parametrize(("path", "base"), [
    ("tiny", "tiny"), ("org/model", "org/model"), ("/data/models/smollm2", "smollm2"), ("http://h/v1#m", "http://h/v1#m")])
def test_a_folder_is_called_by_its_last_name_in_a_list_of_runs(path: str, base: str) -> None:
    config = ExperimentConfig.model_validate({
        "name": "e", "model": {"path": path}, "data": {"sources": [{"path": "tiny:sft"}], "max_tokens": 99},
        "train": {"epochs": 1, "optim": {"lr": 0.001}}, "eval": {"suites": ["tiny_refusal"]}})
    assert sortable(config)["sft.base"] == base
    assert dict(described(config))["objective"] == "SFT"
