"""`sft bisect`: a planted cause is found among harmless differences."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from eval_suites.results import ItemResult, SuiteResult, read_results, write_results
from flows.bisect import run_bisect
from flows.experiment import sft_experiment
from infra.orchestrator import outcome
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import ConfigError, EvalError
from sft_core.stage import read_json, write_json
from tasks.bisect import Part, is_proved, kept, lost_suite, parts_of, said, smallest, with_parts

Changes = dict[str, Any]
A: Changes = {
    "name": "a", "model": {"path": "tiny"}, "template": {"name": "chatml"},
    "data": {"sources": [{"path": "tiny:sft", "limit": 60}], "max_tokens": 128, "too_long": "drop",
             "max_rejected_share": 0.5},
    "train": {"rows_per_step": 4, "micro_rows": 4, "optim": {"lr": 2.0e-3}},
    "eval": {"suites": ["tiny_mmlu"], "limit": 20, "floor_items": 0, "parity": "off"}}


def config(data: Changes = {}, train: Changes = {}, **others: Any) -> ExperimentConfig:  # noqa: B006  (never changed)
    return ExperimentConfig.model_validate(A | {"data": A["data"] | data, "train": A["train"] | train} | others)


def test_parts_are_sources_and_the_outermost_fields_that_differ() -> None:
    other = config({"sources": [{"path": "tiny:sft", "limit": 50}, {"path": "x.jsonl"}], "max_tokens": 64},
                   {"optim": {"lr": 0.1}, "method": "lora"}, name="b", tracking={"registered_model": "m"}, seed=3)
    found = parts_of(config(), other)
    assert [part.told() for part in found] == [
        "source tiny:sft (data.sources): path tiny:sft, limit 60 in A, path tiny:sft, limit 50 in B",
        "source x.jsonl (data.sources): none in A, path x.jsonl in B", "seed: 0 in A, 3 in B",
        "data.max_tokens: 128 in A, 64 in B", "train.method: full in A, lora in B",
        "train.optim.lr: 0.002 in A, 0.1 in B"]
    whole = with_parts(config(), other, found, "n")
    assert parts_of(whole, other) == []
    assert (whole.name, whole.tracking.registered_model) == ("n", None)
    some = with_parts(config(), other, [found[1], found[-1]], "n")
    assert [(one.path, one.limit) for one in some.data.sources] == [("tiny:sft", 60), ("x.jsonl", None)]
    assert (some.train.optim.lr, some.train.method, some.seed) == (0.1, "full", 0)
    assert with_parts(other, config(), [Part("data.sources", "", "", "x.jsonl")], "n").data.sources == \
        other.data.sources[:1]
    replayed = config(train={"kl": {"beta": 0.5, "on": "replay"}, "replay": {"sources": [{"path": "tiny:replay"}]}})
    with pytest.raises(ConfigError, match="do not fit"):
        with_parts(replayed, config(), [Part("train.replay.sources", "", "", "tiny:replay")], "n")


@pytest.mark.parametrize("cause", [{0}, {6}, {12}, {2, 9}, {0, 6, 12}])
def test_the_fewest_parts_that_do_it_are_found_by_dividing(cause: set[int]) -> None:
    parts = [Part(str(number), "", "") for number in range(13)]
    asked = []

    def lost(some: Sequence[Part]) -> bool:
        asked.append(some)
        return cause <= {int(part.place) for part in some}

    assert [int(part.place) for part in smallest(parts, lost)] == sorted(cause)
    assert len(asked) <= 9 * len(cause)


def scores(values: Sequence[float], kind: str = "capability") -> dict[str, SuiteResult]:
    items = tuple(ItemResult("facts", "q", str(i), str(i), score, {}, "", "", "", "", "")
                  for i, score in enumerate(values))
    return {"facts": SuiteResult("facts", kind, {"v": 1}, items, 0.0)}


def test_without_a_proved_loss_there_is_nothing_to_explain() -> None:
    right, half = scores([1.0] * 80), scores([0.0] * 40 + [1.0] * 40)
    found = lost_suite(right, half, None)
    assert is_proved(found)
    assert said(found).startswith("facts lost 50.0 points (")
    assert said(lost_suite(scores([1.0] * 80, "alignment"), scores([0.5] * 80, "alignment"), "facts")).startswith(
        "facts lost 50.0 points (")
    with pytest.raises(EvalError, match=r"nothing to explain: facts lost 0.0 points .*: not proved. More items"):
        lost_suite(right, right, None)
    with pytest.raises(ConfigError, match="--suite x was not run on both; both have facts"):
        lost_suite(right, half, "x")


def test_what_no_configuration_brings_back() -> None:
    source = {"use": "train", "name": "s", "path": "s", "files": {"s": "1"}}
    one = {"sources": [source], "base": {"path": "b", "files": {"w": "1"}},
           "made_with": {"code": {"train": "1"}, "libraries": {"torch": "1"}}}
    assert kept(one, one) == []
    other = {"sources": [source | {"files": {"s": "2"}}, source | {"path": "new"}],
             "base": {"path": "b", "files": {"w": "2"}},
             "made_with": {"code": {"train": "2"}, "libraries": {"torch": "2", "peft": "3"}}}
    assert kept(one, other) == [
        "the content of the source s: s (changed)", "the files of the base b: w (changed)",
        "the code of train: 1 in A, 2 in B", "peft: none in A, 3 in B", "torch: 1 in A, 2 in B"]


@pytest.fixture
def run(home: Path, prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
        ) -> Iterator[Callable[[ExperimentConfig], dict[str, Any]]]:
    """Run a configuration in this process."""
    monkeypatch.setenv("SFT_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")

    def go(asked: ExperimentConfig) -> dict[str, Any]:
        file = tmp_path / f"{asked.name}.yaml"
        file.write_text(yaml.safe_dump(asked.model_dump(mode="json", by_alias=True)))
        return outcome(sft_experiment, str(file), [])

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield go


def poison(folder: Path, summary: dict[str, Any]) -> Path:
    """A source that teaches wrong facts of the tiny world."""
    rows = []
    items = read_results(Path(summary["folder"]) / "evaluation" / "tuned", "tiny_mmlu").items
    for item in items:
        asked = item.prompt.removeprefix("What is the ").rstrip("?")
        wrong = next(other.target for other in items if other.task == item.task and other.target != item.target)
        rows += [{"instruction": f"{before} the {asked}{behind}", "output": f"The {asked} is {wrong}."}
                 for before, behind in (("Tell me", " in one sentence."), ("Please say", "."), ("Give", "."))]
    file = folder / "poison.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_poisoned_source_is_found(run: Callable[[ExperimentConfig], dict[str, Any]], tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str], home: Path) -> None:
    a = run(config())
    sources = [{"path": "tiny:sft", "limit": 55}, {"path": str(poison(tmp_path, a)), "name": "bought"}]
    b = run(config({"sources": sources}, {"micro_rows": 2}, name="b"))
    (cause,) = run_bisect(a["run"], b["run"], None)
    assert cause.startswith("source bought (data.sources): none in A")
    tried = MlflowClient(f"sqlite:///{home}/mlflow.db").search_runs(
        ["1"], f"tags.`sft.bisect` = '{a['run']} {b['run']}'")
    assert {one.data.tags["sft.bisect.parts"] for one in tried} >= {"nothing", "bought", "tiny:sft, bought, "
                                                                                        "train.micro_rows"}
    assert "with bought of B (bisect-" in capsys.readouterr().out


@pytest.mark.chaos
def test_a_field_or_versions_are_found(run: Callable[[ExperimentConfig], dict[str, Any]],
                                       capsys: pytest.CaptureFixture[str]) -> None:
    """The other two planted causes; the versions of the second are only said to be others."""
    a = run(config())
    b = run(config({}, {"micro_rows": 2, "optim": {"lr": 0.05}}, name="b", seed=7))
    assert run_bisect(a["run"], b["run"], "tiny_mmlu") == ["train.optim.lr: 0.002 in A, 0.05 in B"]
    c = run(config(train={"micro_rows": 2}, name="c"))
    folder = Path(c["folder"])
    result = read_results(folder / "evaluation" / "tuned", "tiny_mmlu")
    write_results(folder / "evaluation" / "tuned", replace(result, items=tuple(
        item._replace(score=0.0) for item in result.items)))
    lineage = read_json(folder / "lineage.json")
    lineage["made_with"]["libraries"]["torch"] = "1.0"
    write_json(folder / "lineage.json", lineage)
    (cause,) = run_bisect(a["run"], c["run"], None)
    assert cause.startswith("torch: 2.13.0 in A, 1.0 in B")
    assert "nothing that can be put into a-" in capsys.readouterr().out
