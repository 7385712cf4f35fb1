"""`sft show` and the order of `sft runs`: a run that is done, one that was killed, one that is damaged or hostile."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import show
from flows.runs import Order, show_runs
from infra.contract import ERROR, TrackedRun
from infra.settings import read_settings
from sft_core.errors import ConfigError, TrackingError
from sft_core.stage import write_json
from tasks.columns import condition
from tasks.stages import Workspace
from tests.pipeline.conftest import SMALL

HOSTILE = "[bold]a[/bold] [/x] \x1b[2J\u202eb"
SUITE = {"suite": "tiny_mmlu", "kind": "capability", "points": 1.5, "low": -1.0, "high": 4.0, "pairs": 8, "lost": 1,
         "gained": 0, "outcome": "undecided"}
TRAINING = {"stored": {"base": 5.0, "loss": 0.5}, "steps": 10, "tokens": 4000, "trained_tokens": 1500,
            "replay_tokens": 600, "tokens_per_s": 3000.0, "seconds": 2.5, "saving_s": 1.0, "validation": [[10, 0.5]],
            "final": {"loss": 0.6, "sft": 0.5, "replay": 0.1, "kl": None}, "pace": {"machine": "a machine"}}


def run_of(home: Path, name: str, **changes: Any) -> Path:
    """A run as it is before its end; with `summary` a whole one."""
    folder = home / "runs" / name
    write_json(folder / "run.json", {"name": name, "mlflow_run_id": "f00", "mlflow_uri": "http://h:1",
                                     "mlflow_pages": "http://h:1/#/experiments/7"})
    config = {**SMALL, "train": {**SMALL["train"], **changes.get("train", {})}}  # type: ignore[dict-item]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(folder / "followed.json", {"run_id": "f00", "steps": {"train/loss": 7}})
    if gate := changes.get("gate"):
        points = changes.get("tax", 1.5)
        write_json(folder / "training.json", TRAINING)
        write_json(folder / "verdict.json", {"suites": [SUITE], "gate": gate, "reason": HOSTILE, "checks": []})
        write_json(folder / "summary.json", {
            "gate": {"outcome": gate, "reason": HOSTILE}, "verdict_rows": [{"suite": HOSTILE, "tax / win": "tax +1.5"}],
            "ledger": [], "mlflow_uri": "http://h:1", "mlflow_run_id": "f00", "beside": [],
            "mlflow_pages": "http://h:1/#/experiments/7",
            "seconds": {"training": 2.5, "saving": 1.0}, "suites": {"tiny_mmlu": {"tax": points}}})
    return folder


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, name: str,
         tags: dict[str, str] | None = None) -> str:
    """What `sft show` prints where MLflow has these tags, or is away."""
    class Store:
        def find_run(self, ref: str) -> TrackedRun:
            if tags is None:
                raise TrackingError("the store is away")
            return TrackedRun(ref, name, "FAILED", 0.0, {}, {"train/loss": 0.25}, tags)

    monkeypatch.setattr(show, "workspace", lambda: Workspace(home, None))
    monkeypatch.setattr(show, "look", Store)
    show.show_run(name, as_json=False)
    return capsys.readouterr().out


def test_a_run_that_is_done_is_whole_and_nothing_in_it_is_obeyed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, "done", gate="pass")
    said = told(monkeypatch, capsys, tmp_path, "done")
    for part in ("Gate: pass. [bold]a[/bold] [/x] ␛[2J<U+202E>b", "5 → 0.5", "0 gained, 1 lost", "base       tiny",
                 "loss 0.6, sft 0.5, replay 0.1 nats", "train  2.5 s", "http://h:1/#/experiments/7/runs/f00?",
                 "sft promote done"):
        assert part in said, said
    assert "lineage.json is not there" in said
    assert "its model was removed, or never made" in said
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_a_run_without_an_end_says_how_far_it_came_and_how_to_continue(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, "half")
    said = told(monkeypatch, capsys, tmp_path, "half", {ERROR: "Interrupted: SIGTERM"})
    assert "half: stopped\nno verdict: it ended before that, Interrupted: SIGTERM" in said
    assert "7 steps: loss 0.25 nats" in said
    (tmp_path / "runs" / "half" / "events.jsonl").write_text('{"event": "start", "steps": 585}\n{"event"')
    assert "7 of 585 steps: loss" in told(monkeypatch, capsys, tmp_path, "half", {})
    assert f"sft run {tmp_path / 'runs' / 'half' / 'config.yaml'}  (continues it)" in said
    assert "Not to be had" not in said, "that a run has no verdict before its end is no fault"
    away = told(monkeypatch, capsys, tmp_path, "half")
    assert "MLflow does not tell of it: the store is away" in away
    assert "killed, or the machine went down" in away


@pytest.mark.parametrize("file", ["summary.json", "verdict.json", "training.json", "config.yaml", "run.json"])
def test_what_is_torn_is_said_and_the_rest_is_shown(
        file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, "other")
    (run_of(tmp_path, "torn", gate="fail") / file).write_text("{torn")
    said = told(monkeypatch, capsys, tmp_path, "torn", {})
    assert said.startswith("torn: ")
    assert str(tmp_path / "runs" / "torn") in said
    if file in ("verdict.json", "training.json", "config.yaml"):
        assert "Not to be had" in said


def test_runs_are_sorted_and_chosen_by_any_number_or_setting(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, gate, tax, epochs in (("a", "fail", 9.0, 1), ("b", "pass", 0.5, 2), ("c", "undecided", 2.0, 3)):
        run_of(tmp_path, name, gate=gate, tax=tax, train={"epochs": epochs})
        time.sleep(0.01)
    run_of(tmp_path, "half")
    settings = read_settings({"SFT_HOME": str(tmp_path)})

    def names(order: Order) -> list[str]:
        show_runs(settings, 20, None, order, as_json=True)
        return [one["name"] for one in json.loads(capsys.readouterr().out)]

    assert names(Order()) == ["half", "c", "b", "a"]
    assert names(Order(sort="gate")) == ["b", "c", "a", "half"]
    assert names(Order(sort="tax/tiny_mmlu", reverse=True)) == ["a", "c", "b", "half"]
    assert names(Order(sort="train.epochs", where=("tax<=2",))) == ["b", "c"]
    assert names(Order(where=("gate!=pass", "train.epochs>1"))) == ["c"]
    with pytest.raises(ConfigError, match=r"no column taxes; there are .*tax, tax/tiny_mmlu, .*train"):
        names(Order(sort="taxes"))
    with pytest.raises(ConfigError, match="--where 'gate' is no condition"):
        condition("gate")
    show_runs(settings, 20, None, Order(columns=("tax", "train.epochs")), as_json=False)
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("┃"))
    assert [one.strip() for one in head.split("┃")[1:-1]] == ["run", "tax", "train.epochs"]


def test_a_narrow_terminal_has_the_columns_that_matter(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, "a-rather-long-name-of-a-run", gate="pass")
    monkeypatch.setattr("flows.console.console.width", 75)
    show_runs(read_settings({"SFT_HOME": str(tmp_path)}), 20, as_json=False)
    said = capsys.readouterr().out
    assert "left out, as the terminal is narrow: saving" in said
    assert "last change" in said
    assert max(map(len, said.splitlines()[1:4])) <= 75


def test_a_damaged_result_costs_what_it_held_and_no_more(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, "torn", gate="pass")
    (run / "evaluation" / "base").mkdir(parents=True)
    (run / "evaluation" / "base" / "tiny_mmlu.json").write_text("{")
    said = told(monkeypatch, capsys, tmp_path, "torn")
    assert "Gate: pass." in said
    assert "tiny_mmlu.json" in said[said.index("train  2.5 s"):]
    assert "evaluate base" not in said
