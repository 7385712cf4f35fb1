"""`sft sweep`: two short trials, nested MLflow runs, the Pareto table; a killed sweep continues."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import yaml
from mlflow import MlflowClient

from flows.sweep import _record
from flows.worker import work
from infra.contract import Study, Tracker, TrialRow
from infra.settings import read_settings
from infra.study import open_study
from sft_core.config.file import load
from sft_core.errors import ConfigError, OrchestrationError, TrackingError
from tasks.trial import plan_of

Sft = Callable[..., subprocess.CompletedProcess[str]]


def begun(sweep: Path, workspace: Path, trials: int) -> Study:
    loaded = load(sweep)
    assert loaded.config.search
    study = open_study(plan_of(loaded.config, loaded.config.search), workspace)
    study.begin(trials, loaded.text)
    return study


def test_values_that_do_not_fit_together_fail_their_trial(
    sweep: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fits by itself; the trial stayed RUNNING and the sweep ended with a ConfigError."""
    data = yaml.safe_load(sweep.read_text())
    data["search"]["space"] = {"train.method": {"choices": ["lora"]}, "train.optim.name": {"choices": ["muon"]}}
    sweep.write_text(yaml.safe_dump(data))
    study = begun(sweep, home, 8)
    monkeypatch.setenv("SFT_HOME", str(home))
    with pytest.raises(OrchestrationError, match=r"3 trials in a row failed, .*muon needs method: full"):
        work("two", read_settings())
    assert [row.state for row in study.trials()] == ["FAIL"] * 3
    assert "muon needs method: full" in study.trials()[0].notes["why"]
    with pytest.raises(OrchestrationError, match="3 trials in a row"):
        work("two", read_settings())
    study.begin(8, study.aim().config)  # the same command again: perhaps the cause is mended
    with pytest.raises(OrchestrationError, match="3 trials in a row"):
        work("two", read_settings())
    assert len(study.trials()) == 6


def test_values_that_were_tried_are_not_paid_for_again(
    sweep: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = yaml.safe_load(sweep.read_text())
    data["search"]["space"] = {"train.replay.lambda": {"choices": [0.1]}}
    sweep.write_text(yaml.safe_dump(data))
    study = begun(sweep, home, 3)
    study.join()
    assert (asked := study.ask())
    study.tell(asked.number, {"alignment": 7.0, "tax": 0.5}, {"run": "r0"})
    monkeypatch.setenv("SFT_HOME", str(home))
    assert work("two", read_settings()) == 2
    assert [row.values for row in study.trials()] == [{"alignment": 7.0, "tax": 0.5}] * 3
    assert study.trials()[2].notes == {"run": "r0", "run_id": "", "why": "the values of trial 0"}


def test_a_trial_that_is_recorded_elsewhere_ends_no_sweep(caplog: pytest.LogCaptureFixture) -> None:
    """As of a worker with another workspace and no common server, of whose runs MLflow says that there are none."""
    tracker = mock.create_autospec(Tracker, instance=True)
    tracker.log_metrics.side_effect = TrackingError("Run with id=0 not found")
    _record(TrialRow(3, "COMPLETE", {"lr": 0.1}, {"alignment": 1.0, "tax": 0.0}, {"run_id": "0"}), tracker)
    assert "trial 3 has no objectives in MLflow" in caplog.text


def test_a_worker_of_no_sweep_is_told_those_there_are(sweep: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(sweep, home, 1)
    monkeypatch.setenv("SFT_HOME", str(home))
    with pytest.raises(ConfigError, match=r"there is no sweep too in .*; there are two; begin one"):
        work("too", read_settings())


def test_killed_sweep_continues_and_ends_with_its_pareto_table(
    sft: Sft, start: Callable[..., subprocess.Popen[str]], sweep: Path, home: Path
) -> None:
    process = start("sweep", sweep)
    deadline = time.monotonic() + 120
    while not list(home.glob("sweeps/two/trial-000.answer.json")):  # killed while the second trial is under way
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()

    done = sft("sweep", sweep)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "★" in done.stdout
    assert {"pareto.png", "pareto.html"} <= {p.name for p in (home / "sweeps" / "two").iterdir()}
    answers = [json.loads(p.read_text()) for p in (home / "sweeps" / "two").glob("*.answer.json")]
    assert len(answers) >= 2

    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in runs if run.data.tags.get("sft.kind") == "sweep"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) >= 2
    assert parent.info.status == "FINISHED"
    found = [run.data.metrics for run in children if "alignment" in run.data.metrics]
    assert len(found) == 2
    assert all({"tax", "search/train.optim.lr", "search/train.replay.lambda"} <= set(one) for one in found)
    # Base evaluation and preparation are shared by all trials.
    assert len(list(home.glob("stages/prepare/*/done.json"))) == 1
    assert len(list(home.glob("stages/train/*/done.json"))) == 2
    assert len(list(home.glob("stages/evaluate/*/done.json"))) == 2 + 2 * 2

    other = sft("sweep", sweep, "--set", "search.space={train.optim.lr: {low: 0.1, high: 0.2}}")
    assert other.returncode == 2
    assert "search.study" in other.stderr
