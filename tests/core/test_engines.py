"""One contract for every engine of training: the own loop, the own loop on two processes, and TRL."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_core.config.train import TrainSection
from sft_core.errors import TrainingError
from sft_core.train.engine import engine_of
from sft_core.train.finish import TrainReport
from sft_core.train.inputs import TrainInputs

ENGINES: dict[str, dict[str, Any]] = {"own": {}, "two processes": {"processes": 2}, "trl": {"engine": "trl"}}


class Run(NamedTuple):
    """A finished run."""

    out: Path
    report: TrainReport
    heard: list[int]  # bytes of events.jsonl whenever the follower was told
    section: TrainSection


@pytest.fixture(scope="module", params=ENGINES)
def run(request: pytest.FixtureRequest, train_inputs: TrainInputs, train_section: Callable[..., TrainSection],
        tmp_path_factory: pytest.TempPathFactory) -> Run:
    section = train_section(epochs=1.6, validate_every_steps=2, checkpoint_every_s=0.01,
                            **ENGINES[request.param])
    out, heard = tmp_path_factory.mktemp("engine"), []
    report = engine_of(section)(train_inputs, section, out, on_events=lambda file: heard.append(file.stat().st_size),
                                sync_every_s=0.0)
    return Run(out, report, heard, section)


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in (run.out / "events.jsonl").read_text().splitlines()]
    return [event for event in told if event["event"] == kind]


class TestContract:
    """What every engine does."""

    def test_every_step_of_the_plan_is_taken_and_told_once(self, run: Run) -> None:
        start, = events(run, "start")
        steps = events(run, "step")
        assert [event["step"] for event in steps] == list(range(1, start["steps"] + 1))
        plan = start["plan"]
        assert (run.report.rows, run.report.tokens, run.report.trained_tokens) == (
            plan["rows"], plan["tokens"], plan["trained_tokens"])
        assert steps[-1]["trained_tokens"] == plan["trained_tokens"]
        assert len(events(run, "end")) == 1

    def test_the_follower_hears_of_what_stands_in_the_file(self, run: Run) -> None:
        assert run.heard == sorted(run.heard)
        assert run.heard[-1] == (run.out / "events.jsonl").stat().st_size

    def test_validation_begins_with_the_base_and_ends_with_the_model(self, run: Run) -> None:
        told = [(event["step"], event["loss"]) for event in events(run, "validation")]
        assert told == list(run.report.validation)
        assert (told[0][0], told[-1][0]) == (0, run.report.steps)
        assert told[-1][1] < told[0][1]

    def test_the_folder_is_one_that_transformers_reads(self, run: Run) -> None:
        assert AutoTokenizer.from_pretrained(run.report.model_folder).chat_template
        model = AutoModelForCausalLM.from_pretrained(run.report.model_folder)
        assert all(torch.isfinite(weight).all() for weight in model.parameters())

    def test_a_checkpoint_of_other_settings_is_no_start(self, run: Run, train_inputs: TrainInputs) -> None:
        other = run.section.model_copy(update={"optim": run.section.optim.model_copy(update={"lr": 1e-5})})
        with pytest.raises(TrainingError, match="belongs to another run"):
            engine_of(other)(train_inputs, other, run.out)


def test_all_engines_make_the_same_model(train_inputs: TrainInputs, train_section: Callable[..., TrainSection],
                                         tmp_path: Path) -> None:
    made = {}
    for name, fields in ENGINES.items():
        section = train_section(epochs=1, **fields)
        report = engine_of(section)(train_inputs, section, tmp_path / name)
        made[name] = load_file(report.model_folder / "model.safetensors")
    for name in ("two processes", "trl"):
        assert made[name].keys() == made["own"].keys()
        for key, weight in made["own"].items():
            torch.testing.assert_close(made[name][key], weight, rtol=0, atol=1e-4)
