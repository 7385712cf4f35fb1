"""`sft sweep`: two short trials, nested MLflow runs, the Pareto table; a killed sweep continues."""

import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
import yaml
from mlflow import MlflowClient

from flows import trial as one_trial
from flows.sweep import AXES, _check_any, _record
from flows.worker import work
from infra.contract import Tracker
from infra.pareto import table
from infra.settings import read_settings
from infra.stored import AIM
from infra.study import open_study
from infra.study_contract import Study, TrialRow
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import load
from sft_core.config.followups import as_searched
from sft_core.errors import ConfigError, DiskError, OrchestrationError, TrackingError
from tasks.earlier import Beginnings, beginnings
from tasks.stages import Workspace
from tasks.trial import Order, Place, TrialOutcome, plan_of, run_trial
from tasks.versions import differing, found_here

Sft = Callable[..., subprocess.CompletedProcess[str]]


def begun(sweep: Path, workspace: Path, trials: int) -> Study:
    loaded = load(sweep)
    assert loaded.config.search
    study = open_study(plan_of(as_searched(loaded.config), loaded.config.search), workspace)
    study.begin(trials, loaded.text)
    return study


def check_prefect(api: str) -> None:
    """What a person finds there of the sweep `two`: its flow runs by tag, their values, and the way to them."""
    def found(what: str, where: dict[str, object]) -> list[dict[str, Any]]:
        return list(requests.post(f"{api}/{what}/filter", json=where, timeout=10).json())

    def runs(kind: str) -> list[dict[str, Any]]:
        return found("flow_runs", {"flow_runs": {"tags": {"all_": ["study:two", f"kind:{kind}"]}}})

    titles = [run["name"].partition(" · ") for run in runs("trial")]
    assert all(re.fullmatch(r"lr [\d.e-]+, lambda [\d.]+", values) for _, _, values in titles), titles
    trials = {run["name"].partition(" · ")[0]: run for run in runs("trial")}
    assert {(name, *sorted(trials[name]["tags"])) for name in ("two t000", "two t002")} == {
        (f"two t00{at}", "kind:trial", "study:two", f"trial:{at}") for at in (0, 2)}
    last = trials["two t002"]
    assert set(last["parameters"]["searched"]) == {"train.optim.lr", "train.replay.lambda"}
    for name in ("two t000", "two t002"):
        lines = [line["message"] for line in found("logs", {"logs": {"flow_run_id": {"any_": [trials[name]["id"]]}}})]
        assert any(line.startswith("searched values: train.optim.lr ") for line in lines)
        assert any(line.startswith("gate: ") for line in lines), f"the last lines of {name} are missing: {lines}"
        if name == "two t000":  # what was killed may have trained the last one to its end
            assert any(re.match(r"trained for \d+ steps: loss .* on held-out examples", line) for line in lines)
    assert {run["name"] for run in runs("sweep")} == {"two"}
    assert {run["name"].partition(" · ")[0].partition("-")[2] for run in runs("follow-up")} == {"a050", "confirm"}
    (of,) = [run for run in runs("sweep") if run["state_type"] == "COMPLETED"]  # the other one was killed
    (page,) = found("artifacts", {"artifacts": {"key": {"any_": ["trials-two"]}, "flow_run_id": {"any_": [of["id"]]}}})
    assert f"/runs/flow-run/{last['id']}) | complete | alignment " in page["data"]


def test_values_that_do_not_fit_together_fail_their_trial(
    sweep: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fits by itself; the trial stayed RUNNING and the sweep ended with a ConfigError."""
    data = yaml.safe_load(sweep.read_text())
    data["search"] |= {"sampler": "grid", "give_up_after": 4, "space": {
        "train.method": {"choices": ["full", "lora"]}, "train.optim.name": {"choices": ["adamw", "muon"]}}}
    sweep.write_text(yaml.safe_dump(data))
    study = begun(sweep, home, 8)
    monkeypatch.setenv("SFT_HOME", str(home))
    monkeypatch.setattr("flows.worker.run_trial", lambda number, *_: TrialOutcome(
        None, f"exit code 1: no room for {number}.5 GB; see {home}/trial-{number:03d}.log", ""))
    said = r"4 trials in a row failed, 3 of them with: exit code 1: no room for \d\.5 GB; see .*; mend the cause"
    with pytest.raises(OrchestrationError, match=said):
        work("two", read_settings())
    assert [row.state for row in study.trials()] == ["FAIL"] * 4
    assert sum("muon needs method: full" in row.notes["why"] for row in study.trials()) == 1
    with pytest.raises(OrchestrationError, match="4 trials in a row"):
        work("two", read_settings())
    study.begin(8, study.aim().config)  # the same command again: perhaps the cause is mended
    assert study.remaining() == 0, "a grid has no others"
    assert work("two", read_settings()) == 0
    with pytest.raises(OrchestrationError, match=r"4 trials failed and none came .*, 3 of them .* under another name"):
        _check_any(study)


def test_a_worker_with_other_versions_is_refused_or_noted(
    sweep: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = yaml.safe_load(sweep.read_text())
    data["search"]["space"] = {"train.replay.lambda": {"choices": [0.5, 0.1]}}
    sweep.write_text(yaml.safe_dump(data))
    loaded = load(sweep)
    here = found_here(loaded.config, Workspace(home, None))
    assert {"torch", "optuna", "the code of train", "the base model", "the training data"} < set(here)
    study = begun(sweep, home, 3)
    study.begin(3, loaded.text, "", here | {"torch": "1.0", "the code of train": "0"})
    study.begin(3, loaded.text, "", here | {"torch": "1.1"})  # there is no trial to compare with
    assert study.aim().versions["torch"] == "1.1"
    study.join()
    assert (asked := study.ask())
    study.tell(asked.number, {"alignment": 7.0, "tax": 0.5})
    study.begin(3, loaded.text, "", here)
    monkeypatch.setenv("SFT_HOME", str(home))
    says = rf"other versions than the sweep two: torch {here['torch']} \(the sweep began with 1\.1\); its trials would"
    with pytest.raises(ConfigError, match=says):
        work("two", read_settings())
    with pytest.raises(ConfigError, match="the training data"):
        differing(here, here | {"the training data": "0"}, loaded.config.search)

    data["search"]["other_versions"] = "record"
    sweep.write_text(yaml.safe_dump(data))
    study.begin(3, load(sweep).text, "", here)
    monkeypatch.setattr("flows.worker.run_trial", lambda *_: TrialOutcome({"alignment": 6.0, "tax": 0.0}, "", "r", "9"))
    assert work("two", read_settings()) == 2
    assert "which is noted with its trials: torch" in caplog.text
    first, *others = study.trials()
    assert [first.values, *(row.values for row in others)] == [{"alignment": 7.0, "tax": 0.5},
                                                               *[{"alignment": 6.0, "tax": 0.0}] * 2]
    noted = f"torch {here['torch']} (the sweep began with 1.1)"
    assert [row.notes.get("other_versions") for row in (first, *others)] == [None, noted, noted]
    assert [row["state"] for row in table(study.trials(), AXES, {})] == ["complete", *["complete, other versions"] * 2]
    tracker = mock.create_autospec(Tracker, instance=True)
    _record(others[0], tracker)
    tracker.set_tags.assert_called_once_with("9", {"sft.other_versions": noted})


def test_a_trial_without_memory_fails_with_its_forecast_and_once(
    sweep: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own kills cannot be had in a test: `killed_for_memory` counts them."""
    def hungry(_: Order) -> int:
        sys.stdout = sys.stderr = os.fdopen(1, "w")  # not what pytest reads
        print("plan: training 1 min, evaluation 1 min; at least 3.1 GiB of\n  2.0 GiB free memory (cpu), 1 MiB")
        resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
        return len(bytearray(2**34))

    data = yaml.safe_load(sweep.read_text())
    data["search"] |= {"space": {"train.replay.lambda": {"choices": [0.5, 0.1]}}, "give_up_after": 4}
    sweep.write_text(yaml.safe_dump(data))
    study = begun(sweep, home, 3)
    monkeypatch.setenv("SFT_HOME", str(home))
    monkeypatch.setattr("flows.trial.main", hungry)
    assert work("two", read_settings()) == 3
    first, *others = (row.notes["why"] for row in study.trials())
    assert first.startswith("ran out of memory: its forecast was at least 3.1 GiB of 2.0 GiB free memory (cpu); set a")
    assert "exit code 1: MemoryError" in first
    assert any(why.startswith("ran out of memory with the same values in trial ") for why in others), "of two choices"

    config = load(sweep).config
    place = Place(home / "sweeps" / "two", "", {})
    killed = functools.partial(run_trial, 5, config, place, lambda _: os.kill(os.getpid(), signal.SIGKILL), study.renew)
    assert killed().why.startswith("exit code -9: ")
    assert killed().killed
    monkeypatch.setattr("tasks.trial.killed_for_memory", iter([3, 4]).__next__)
    short = killed()
    assert short.why.startswith("ran out of memory: its forecast was not made yet; ")
    assert not short.killed


def test_what_fails_a_trial_from_outside_costs_no_trial(
    sweep: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk, and MLflow or Prefect that were away, failed one trial after the other for ever."""
    study, goes_on = begun(sweep, home, 2), home / "goes on"

    def ends(order: Order) -> int:
        sys.stdout = sys.stderr = os.fdopen(1, "w")  # not what pytest reads
        monkeypatch.setattr("flows.trial.begin", mock.Mock(side_effect=DiskError("full")))
        return one_trial.main(order)

    def outcome(number: int, config: ExperimentConfig, place: Place, *_: object) -> TrialOutcome:
        if goes_on.exists():
            return TrialOutcome({"alignment": 6.0, "tax": 0.0}, "", "r1")
        return run_trial(number, config, place, ends, study.renew)

    monkeypatch.setenv("SFT_HOME", str(home))
    monkeypatch.setattr("flows.worker.run_trial", outcome)
    monkeypatch.setattr("flows.worker.PAUSES_S", (0.01, 0.01))
    with pytest.raises(OrchestrationError, match=r"trial 0 could not be run and is given back: .* 75: DiskError: full; "
                                                 ".* mend that and give the same command again"):
        work("two", read_settings())
    assert caplog.text.count("trial 0 could not be run, and is tried again in") == 2
    assert study.failed_in_a_row() == []
    goes_on.touch()
    assert work("two", read_settings()) == 2
    first, *others = study.trials()
    assert (first.state, [row.state for row in others]) == ("FAIL", ["COMPLETE"] * 2)
    assert others[0].params == first.params


def test_values_that_were_tried_are_not_paid_for_again(
    sweep: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = yaml.safe_load(sweep.read_text())
    data["search"]["space"] = {"train.replay.lambda": {"choices": [0.5, 0.1]}}
    sweep.write_text(yaml.safe_dump(data))
    study = begun(sweep, home, 8)
    study.join()
    assert (asked := study.ask())
    study.tell(asked.number, {"alignment": 7.0, "tax": 0.5}, {"run": "r0", "run_id": "id0"})
    monkeypatch.setenv("SFT_HOME", str(home))
    paid = []
    monkeypatch.setattr("flows.worker.run_trial", lambda number, *_: paid.append(number) or TrialOutcome(
        {"alignment": 6.0, "tax": 0.0}, "", "r1", "id1"))
    assert work("two", read_settings()) == 7
    assert len(paid) == 1
    first, *others = study.trials()
    assert {(row.params["train.replay.lambda"], row.values["alignment"], row.notes["run"], row.notes["run_id"])
            for row in (first, *others) if row.values} == {(0.5, 7.0, "r0", "id0"), (0.1, 6.0, "r1", "id1")}
    again = [row.notes["why"] for row in others if row.notes["run"] == "r0"]
    assert set(again) == {"the values of trial 0"}


def test_values_that_another_trial_runs_with_are_waited_for(
    sweep: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = yaml.safe_load(sweep.read_text())
    data["search"]["space"] = {"train.replay.lambda": {"choices": [0.5, 0.1]}}
    sweep.write_text(yaml.safe_dump(data))
    study = begun(sweep, home, 6)
    study.join()
    assert (asked := study.ask())
    caplog.set_level("INFO", logger="sft")
    monkeypatch.setenv("SFT_HOME", str(home))
    monkeypatch.setattr("flows.worker.run_trial", lambda *_: TrialOutcome({"alignment": 6.0, "tax": 0.0}, "", "r1"))
    told = []
    monkeypatch.setattr("flows.worker.sleep", lambda _: told or told.append(
        study.tell(asked.number, {"alignment": 7.0, "tax": 0.5}, {"run": "r0"})))
    assert work("two", read_settings()) == 5
    assert told == [True]
    assert "trial 0 has the same values and is under way; waiting for it" in caplog.text
    same = [row.values for row in study.trials() if row.params == asked.params]
    assert len(same) > 1
    assert same == [{"alignment": 7.0, "tax": 0.5}] * len(same)


def test_a_sweep_starts_from_earlier_ones(sweep: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sft")
    data = yaml.safe_load(sweep.read_text())
    data["search"]["constraints"] = ["tax <= 2"]
    sweep.write_text(yaml.safe_dump(data))
    earlier = begun(sweep, home, 3)
    earlier.join()
    for tax in (1.0, 3.0, None):
        assert (asked := earlier.ask())
        earlier.tell(asked.number, {"alignment": tax, "tax": tax} if tax else None, {"run_id": f"id{asked.number}"},
                     {"tax <= 2": tax - 2} if tax else {})
    first, second, _ = (row.params for row in earlier.trials())
    data["search"] |= {"study": "next", "start_from": ["two"]}
    data["search"]["space"]["train.epochs"] = {"choices": [0.3, 0.6]}

    def found(here: str = "", **settings: object) -> Beginnings:
        sweep.write_text(yaml.safe_dump(data | settings))
        config = load(sweep).config
        assert config.search
        return beginnings(config, plan_of(config, config.search), {"torch": here} if here else {}, home, None)

    same = found()
    assert same.points == []
    assert [(row.params, row.values, row.broken, row.notes["run_id"]) for row in same.taken["two"]] == [
        (first | {"train.epochs": 0.3}, {"alignment": 1.0, "tax": 1.0}, (), "id0"),
        (second | {"train.epochs": 0.3}, {"alignment": 3.0, "tax": 3.0}, ("tax <= 2",), "id1")]
    del data["search"]["space"]["train.replay.lambda"]
    assert [row.params["train.optim.lr"] for row in found().taken["two"]] == [first["train.optim.lr"]], "0.5 as here"
    for other in (found("9"), found(seed=3)):
        assert other == ({}, [{"train.optim.lr": first["train.optim.lr"], "train.epochs": 0.3}])
    assert "has other versions; 1 points of its front of 1 are tried here" in caplog.text
    data["search"]["start_from"] = ["tow"]
    with pytest.raises(ConfigError, match=r"there is no sweep tow in .*; there are two"):
        found()
    data["search"]["start_from"] = ["next"]
    with pytest.raises(ConfigError, match=r"search.start_from names next, the study itself"):
        found()


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
    sft: Sft, start: Callable[..., subprocess.Popen[str]], sweep: Path, home: Path, prefect_api: str
) -> None:
    data = yaml.safe_load(sweep.read_text())
    data["search"] |= {"confirm": 0.5, "interpolate": [0.5], "rungs": {"train": [0.5], "items": [0.5]}}
    data["search"]["space"]["train.replay.lambda"] = {"choices": [0.5, 1.0]}  # the configuration's own value and more
    sweep.write_text(yaml.safe_dump(data))
    process = start("sweep", sweep)
    deadline = time.monotonic() + 280
    while not list(home.glob("sweeps/two/trial-001.rung-50.log")):  # killed while the second trial is looked at
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()

    done = sft("sweep", sweep)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "★" in done.stdout
    assert " confirmed on " in done.stdout
    front = json.loads((home / "sweeps" / "two" / "front.json").read_text())
    assert {one["name"] for one in front["points"]} > {"base"}
    assert set(front["reached"]) == {"95", "50", "5"}
    assert {"pareto.png", "attainment.png", "sweep.html"} <= {p.name for p in (home / "sweeps" / "two").iterdir()}
    answers = [json.loads(p.read_text()) for p in (home / "sweeps" / "two").glob("*.answer.json")]
    assert len(answers) >= 2

    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in runs if run.data.tags.get("sft.kind") == "sweep"]
    all_runs = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    children = [run for run in all_runs if re.fullmatch("sw-t00.-[^-]{8}", run.data.tags["mlflow.runName"])]
    assert [run.info.status for run in children] == ["FINISHED"] * 2, "a lost trial keeps its run"
    assert parent.info.status == "FINISHED"
    found = [run.data.metrics for run in children]
    assert {"best/alignment", "best/tax", "trials", "trials_on_front"} <= set(parent.data.metrics)
    assert re.match(r"\*\*Trials of two\.\*\* [^|]*\| trial \| state \| alignment score .*★: on the front.*"
                    r"\[pareto/sweep\.html\]\(#/experiments/", parent.data.tags["mlflow.note.content"], re.DOTALL)
    assert parent.data.tags["mlflow.source.name"] == "sft sweep"
    assert "trials.json" in {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert all({"tax_low", "alignment_high", "front_chance"} <= set(one) for one in found)
    assert all({"tax", "search/train.optim.lr", "search/train.replay.lambda"} <= set(one) for one in found)
    check_prefect(prefect_api)
    assert all("rung/alignment" in run.data.metrics for run in children)
    stories = [[json.loads(line)["event"] for line in file.read_text().splitlines()]
               for file in home.glob("stages/train/*/out/events.jsonl")]
    assert [(story.count("start"), story.count("resume")) for story in stories] == [(1, 1)] * 2, "never trained anew"
    # Base evaluation and preparation are shared by all trials.
    assert len(list(home.glob("stages/prepare/*/done.json"))) == 1
    assert len(list(home.glob("stages/train/*/done.json"))) == 2
    assert len(list(home.glob("stages/rung/*/done.json"))) == 2
    # The front halfway to the base, and what is proposed on other items, beside the configuration's own values.
    halfway, confirmed = ([run for run in all_runs if what in run.data.tags["mlflow.runName"]]
                          for what in ("-a050-", "-confirm-"))
    assert all("alignment" in run.data.metrics for run in halfway)
    assert all("confirmed/alignment" in run.data.metrics for run in confirmed), "of other items than the trials'"
    assert halfway
    assert confirmed
    assert len(list(home.glob("stages/interpolate/*/done.json"))) == len(halfway)
    asked_of = 2 * len(found) + len(halfway) + len(confirmed) + 2  # trials at a rung, too; the base on both parts
    assert len(list(home.glob("stages/evaluate/*/done.json"))) == 2 * asked_of
    assert len({one["name"] for one in front["points"] if one["name"].endswith("-a050")}) == len(halfway)

    study = begun(sweep, home, 2)
    assert {"torch", "the training data"} < set(study.aim().versions)
    assert all("other_versions" not in row.notes for row in study.trials())

    aim = study.aim()._replace(versions=study.aim().versions | {"torch": "1.0"})
    study._study.set_user_attr(AIM, aim._asdict())  # type: ignore[attr-defined]
    refused = sft("sweep", sweep, "--trials", 3)
    assert refused.returncode == 2
    assert "(the sweep began with 1.0)" in refused.stderr
    assert study.aim() == aim, "whoever is refused has changed nothing"
