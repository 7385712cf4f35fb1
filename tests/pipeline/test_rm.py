"""`sft rm` on a real MLflow store: a run goes with its model, and nothing that anybody needs."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from flows.remove import run_rm
from infra.contract import Tracker
from sft_core.errors import TrackingError
from sft_core.stage import write_json
from tasks.clean import AGE, things
from tasks.experiment import Experiment
from tasks.listing import note_sweep
from tasks.stages import Workspace
from tests.pipeline.test_clean import TAKE, held, place, run_of, tracker

__all__ = ["place", "tracker"]


def rm(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, str]:
    """Remove these; run → why it stays, empty where it is gone."""
    run_rm(names, yes=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert all(one["gone"] != bool(one["stays"]) for one in told)
    return {one["run"]: one["stays"] for one in told}


def test_a_run_goes_with_its_model_version_and_place_in_mlflow(
        place: Workspace, tracker: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    gone, stays = run_of(place, tracker, "one", 0.5), run_of(place, tracker, "two", 0.5)
    run_id = tracker.find_run("one").run_id
    tracker.register(run_id, gone / "out" / "model", "m")
    assert run_rm(["one"], yes=False, as_json=False)
    said = capsys.readouterr().out
    assert "would remove 1 run, " in said
    assert "m/1" in said
    assert gone.exists()
    assert rm(capsys, "one") == {"one": ""}
    assert not (place.runs / "one").exists()
    assert not gone.exists()
    assert tracker.registered() == []
    with pytest.raises(TrackingError, match="is no run"):
        tracker.find_run("one")
    assert stays.exists()
    assert tracker.find_run("two").name == "two"
    with pytest.raises(TrackingError, match="there is no run one, ../two in .*; `sft runs` lists"):
        run_rm(["two", "one", "../two"], yes=True, as_json=False)
    assert (place.runs / "two").exists(), "all names are looked at before anything goes"


def test_the_training_that_a_killed_run_began_goes_with_it(
        place: Workspace, tracker: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    """It stayed behind, and nothing led to it any more. One that a second run has begun, too, stays."""
    begun = {}
    for name, stages in {"killed": ("own",), "first": ("both",), "second": ("both",)}.items():
        run_id = tracker.start_run(name, name, {}, "", {})
        write_json(place.runs / name / "run.json", {"name": name, "mlflow_run_id": run_id, "experiment": "e"})
        for stage in stages:
            work = begun.setdefault(stage, place.stages.open("train", stage)).resume()
            (work / "events.jsonl").write_text("{}\n")
            Experiment(Mock(), place.runs / name, Mock(), run_id).follow(work / "events.jsonl")
    (place.stages.open("train", "nobodys").resume() / "events.jsonl").write_text("{}\n")
    assert {one.rule for one in things(place, tracker) if one.runs} == {AGE}, "by `sft clean` only what is old"
    assert rm(capsys, "killed", "first") == {"killed": "", "first": ""}
    assert [file.name for file in sorted((place.root / "stages" / "train").iterdir())] == ["both", "nobodys"]


def test_a_model_that_another_run_has_stays(place: Workspace, tracker: Tracker,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    stage = run_of(place, tracker, "one", 0.5)
    run_id = tracker.start_run("same", "same", {}, "", {})
    write_json(place.runs / "same" / "run.json", {"name": "same", "mlflow_run_id": run_id, "experiment": "e"})
    shutil.copy(place.runs / "one" / "summary.json", place.runs / "same")
    (place.runs / "same" / "model").symlink_to(stage / "out" / "model")
    run_rm(["same"], yes=False, as_json=False)
    assert "stays: of one, too" in " ".join(capsys.readouterr().out.split())
    assert rm(capsys, "same") == {"same": ""}
    assert (stage / "out" / "model" / "model.safetensors").exists()
    assert rm(capsys, "one") == {"one": ""}
    assert not stage.exists()


def test_what_somebody_needs_stays(place: Workspace, tracker: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(place, tracker, "champion", 0.5, registered=True)
    busy, trial = run_of(place, tracker, "busy", 0.5), run_of(place, tracker, "trial", 0.5)
    under_way = place.runs / "under-way"
    write_json(under_way / "run.json", {"name": "under-way", "mlflow_run_id": "f1", "experiment": "e"})
    note_sweep(place.root / "sweeps" / "two", "f00")
    write_json(place.root / "sweeps" / "two" / "trial-000.json", {})
    about = json.loads((place.runs / "trial" / "run.json").read_text())
    write_json(place.runs / "trial" / "run.json", {**about, "parent_run_id": "f00"})
    with held(under_way / "lock"), held(busy, TAKE):
        why = rm(capsys, "champion", "busy", "trial", "under-way")
    assert why["champion"].startswith("m@champion names its model")
    assert why["busy"].startswith("its model may be in use: ")
    assert why["trial"] == "the sweep two needs it, which can continue"
    assert why["under-way"] == "it is under way"
    assert all((place.runs / name).exists() for name in why)
    assert trial.exists()
    write_json(place.root / "sweeps" / "two" / "trial-000.answer.json", {})
    assert rm(capsys, "busy", "trial") == {"busy": "", "trial": ""}
    assert not run_rm(["champion"], yes=True, as_json=False)


def test_a_removal_that_was_killed_goes_on(place: Workspace, tracker: Tracker, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    run_of(place, tracker, "one", 0.5)

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            run_rm(["one"], yes=True, as_json=True)
    assert (place.runs / "one").exists()
    assert rm(capsys, "one") == {"one": ""}
    assert not (place.runs / "one").exists()
