"""`sft reconcile`: what MLflow lacks of the workspace is found and mended once, and what is under way is left alone."""

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from infra.alive import FOLDER, Note
from infra.contract import Tracker
from infra.daemons import State, write_state
from infra.open_runs import close_run
from infra.plans import Dimension, Plan
from infra.stores import store_of
from infra.study import open_study
from infra.tracking import open_tracker
from sft_core.config.file import load
from sft_core.locks import exclusive
from sft_core.stage import write_json
from tasks.experiment import FOLLOWED, Experiment
from tasks.listing import listed_runs
from tasks.reconcile import Finding, Reconciling, notes, runs, trials
from tasks.record import _send
from tasks.stages import Workspace

Sft = Callable[..., subprocess.CompletedProcess[str]]
STEPS = 10


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return open_tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "tests", tmp_path)


def a_run(tracker: Tracker, name: str, *, sent: int = STEPS, status: str = "FINISHED", done: bool = True) -> Path:
    """A run folder as training and recording leave it, of whose steps MLflow has so many."""
    folder, out = tracker.workspace / "runs" / name, tracker.workspace / "stages" / "train" / name / "out"
    (out / "model").mkdir(parents=True)
    folder.mkdir(parents=True)
    run_id = tracker.start_run(name, name, {}, "", {})
    write_json(folder / "run.json", {"name": name, "mlflow_run_id": run_id, "mlflow_uri": tracker.shown, "key": name,
                                     "parent_run_id": None})
    lines = [json.dumps({"event": "step", "step": step, "time": 1e9 + step, "loss": 1 / step})
             for step in range(1, STEPS + 1)]
    (out / "events.jsonl").write_text("\n".join(lines[:sent]) + "\n")
    assert tracker.follow(run_id, out / "events.jsonl", folder / FOLLOWED)
    (out / "events.jsonl").write_text("\n".join(lines) + "\n")
    if done:
        (folder / "model").symlink_to(out / "model")
        write_json(folder / "summary.json", {})
    if status != "RUNNING":
        tracker.finish(run_id, status)
    return folder


def run_id(folder: Path) -> str:
    return str(json.loads((folder / "run.json").read_text())["mlflow_run_id"])


def look(tracker: Tracker, *, dry: bool = False) -> list[Finding]:
    asked = Reconciling(Workspace(tracker.workspace, None), tracker, dry)
    return [*notes(asked, lambda note: close_run(tracker, note)), *runs(asked)]


def test_what_mlflow_lacks_is_mended_and_only_once(tracker: Tracker, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=tracker.uri)
    a_run(tracker, "whole")
    late = a_run(tracker, "late", sent=6)
    restored = a_run(tracker, "restored")
    client.delete_run(run_id(a_run(tracker, "deleted")))
    a_run(tracker, "torn", status="KILLED")
    left = a_run(tracker, "left", status="RUNNING", done=False)
    noted = a_run(tracker, "noted", status="RUNNING", done=False)
    busy = a_run(tracker, "busy", status="RUNNING", done=False)
    (tmp_path / FOLDER).mkdir()
    write_json(tmp_path / FOLDER / "dead.json", Note("mlflow", run_id(noted), tracker.shown)._asdict())
    # A database that was restored has less than the mark says was sent.
    mark = json.loads((restored / FOLLOWED).read_text())
    write_json(restored / FOLLOWED, {**mark, "steps": {"train/loss": STEPS, "train/other": STEPS}})
    events = restored.joinpath("model").resolve().parent / "events.jsonl"
    events.write_text("".join(json.dumps({**json.loads(line), "other": 1.0}) + "\n"
                              for line in events.read_text().splitlines()))

    def points(folder: Path, name: str = "train/loss") -> int:
        return len(client.get_metric_history(run_id(folder), name))

    with exclusive(busy / "lock"):
        listed = listed_runs(Workspace(tmp_path, None))
        foreseen = look(tracker, dry=True)
        assert listed_runs(Workspace(tmp_path, None)) == listed, "a lock is no change"
        assert points(late) == 6, "nothing is changed by a look"
        assert client.get_run(run_id(left)).info.status == "RUNNING"
        found = look(tracker)
        assert client.get_run(run_id(busy)).info.status == "RUNNING"
    assert [one.what for one in foreseen] == [one.what for one in found]
    said = {one.what: one.did for one in found}
    assert said.pop(f"the mlflow run {run_id(noted)} of a process that is gone") == "closed"
    assert said.pop("run late") == "sent 4 points that MLflow lacked"
    assert said.pop("run restored") == f"sent {STEPS} points that MLflow lacked"
    assert said.pop("run left") == "ended as KILLED: it was RUNNING in MLflow without a process"
    assert said.pop("run torn").startswith("is done, and KILLED in MLflow")
    assert said.pop("run deleted").startswith(f"is not in {tracker.shown}")
    assert not said
    assert (points(late), points(restored), points(restored, "train/other")) == (STEPS, STEPS, STEPS)
    assert {client.get_run(run_id(one)).info.status for one in (left, noted)} == {"KILLED"}
    assert {one.what for one in look(tracker) if not one.todo} == {"run busy"}, "its process is gone now"
    assert {one.what for one in look(tracker)} == {"run torn", "run deleted"}


def test_a_store_is_the_same_under_another_address(tracker: Tracker, tmp_path: Path) -> None:
    """The servers of `sft up` come and go, with ports of their own; what is in no store that is here is named."""
    client = MlflowClient(tracking_uri=tracker.uri)
    (tmp_path / "platform").mkdir()
    write_state(tmp_path, State(ports={"mlflow": 47057}))
    there = a_run(tracker, "there", status="RUNNING", done=False)
    lost, noted, other = (a_run(tracker, name) for name in ("lost", "noted", "other"))
    for folder, uri, also in ((there, "http://127.0.0.1:5000", {}), (lost, "http://127.0.0.1:47057", {}),
                              (noted, "http://127.0.0.1:5001", {"mlflow_store": store_of(tracker.shown, tmp_path)}),
                              (other, "http://127.0.0.1:5002", {})):
        run = json.loads((folder / "run.json").read_text())
        write_json(folder / "run.json", {**run, "mlflow_uri": uri, **also})
    for folder in (lost, noted, other):
        client.delete_run(run_id(folder))
    anew = f"is not in {tracker.shown}; sft reconcile --record records it anew"
    assert {one.what: one.did for one in look(tracker)} == {
        "run there": "ended as KILLED: it was RUNNING in MLflow without a process", "run lost": anew, "run noted": anew,
        "recorded elsewhere (other)": f"in http://127.0.0.1:5002, and {tracker.shown} has none of them; sft reconcile "
                                      "with MLFLOW_TRACKING_URI set to that store looks there"}


def test_points_that_the_store_has_lost_are_sent_when_the_run_is_recorded_again(
    tracker: Tracker, tmp_path: Path, config: Path
) -> None:
    folder = a_run(tracker, "one")
    events = folder.joinpath("model").resolve().parent / "events.jsonl"
    run = Experiment(load(config).config, folder, tracker, run_id(folder))

    def recorded() -> int:
        assert tracker.follow(run.run_id, events, folder / FOLLOWED, last=True)
        before = (folder / FOLLOWED).stat().st_mtime_ns
        _send(run, events)
        assert ((folder / FOLLOWED).stat().st_mtime_ns == before) is (lost == 0), "only what is lost"
        return tracker.points(run.run_id, "train/loss")

    lost = 0
    assert recorded() == STEPS
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        lost = database.execute("delete from metrics where step > 4").rowcount
    assert recorded() == STEPS


def test_a_dead_process_is_closed_in_the_store_that_has_its_run(tracker: Tracker, tmp_path: Path) -> None:
    mine = run_id(a_run(tracker, "mine", status="RUNNING", done=False))
    own = store_of(tracker.shown, tmp_path)
    assert close_run(tracker, Note("mlflow", mine, "http://127.0.0.1:5000"))
    assert MlflowClient(tracking_uri=tracker.uri).get_run(mine).info.status == "KILLED"
    assert [close_run(tracker, Note("mlflow", "f" * 32, where)) for where in (own, "http://127.0.0.1:5000")] == [
        True, False]


@pytest.mark.parametrize("where", ["journal", "postgres"])
def test_trials_that_nobody_works_on_are_queued_again_and_what_mlflow_lacks_of_others_is_named(
    tracker: Tracker, tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    url = None if where == "journal" else request.getfixturevalue("postgres_url")
    plan = Plan("s", {"lr": Dimension(1e-5, 1e-2, log=True)}, {"tax": "minimize"}, "", "random", 0)
    study = open_study(plan, tmp_path, url, lease_s=0.5)
    study.join()
    study.begin(4)
    (tmp_path / "sweeps" / "s").mkdir(parents=True)
    whole = tracker.start_run("whole", "whole", {}, "", {})
    tracker.finish(whole)
    for run_id in (whole, "gone"):
        assert (asked := study.ask())
        study.tell(asked.number, {"tax": 1.0}, {"run": "elsewhere", "run_id": run_id})
    assert (lost := study.ask())
    if url is None:
        (tmp_path / "studies" / "s.leases" / "2.trial").unlink()  # as the kernel frees the lock of a killed worker
    else:
        time.sleep(0.6)  # longer than the lease

    def found(*, dry: bool) -> list[tuple[str, str]]:
        return [(one.what, one.did) for one in trials(Reconciling(Workspace(tmp_path, None), tracker, dry), url)]

    open_one = ("trial 1 of s", f"is complete, and its run gone is not there in {tracker.shown}; sft reconcile "
                "--record on the machine that ran it records it anew")
    again = "queued again, as its worker is gone; sft sweep-worker s takes it up"
    assert found(dry=True) == [("trial 2 of s", f"would be {again}"), open_one]
    assert [row.state for row in study.trials()] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert found(dry=False) == [("trial 2 of s", again), open_one]
    assert [row.state for row in study.trials()] == ["COMPLETE", "COMPLETE", "FAIL"]
    other = open_study(plan, tmp_path, url)
    other.join()
    assert (taken := other.ask())
    assert (taken.params, taken.root) == (lost.params, lost.number)
    assert found(dry=False) == [open_one], "what has a worker is left alone"


@pytest.mark.chaos
def test_a_finished_run_is_recorded_anew_without_computing(sft: Sft, config: Path, home: Path, tmp_path: Path) -> None:
    """Also one whose data its configuration's own mirror has."""
    (rows := tmp_path / "rows").mkdir()
    (rows / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: rows.jsonl\n---\n")
    (rows / "rows.jsonl").write_text("".join(
        json.dumps({"instruction": f"Say {n}.", "output": str(n)}) + "\n" for n in range(60)))
    asked = yaml.safe_load(config.read_text())
    asked["data"] |= {"sources": [{"path": "org/rows"}], "mirror": {"org/rows": str(rows)}}
    config.write_text(yaml.safe_dump(asked))
    ran = sft("run", config)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (folder,) = home.glob("runs/*")
    marks = {mark: mark.stat().st_ctime_ns for mark in home.glob("stages/*/*/out")}
    (home / "mlflow.db").unlink()
    done = sft("reconcile", "--record", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    (one,) = json.loads(done.stdout[done.stdout.index("{"):])["found"]
    assert (one["what"], one["did"]) == (f"run {folder.name}", "recorded anew")
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    assert client.get_run(run_id(folder)).info.status == "FINISHED"
    steps = [json.loads(line)["step"] for line in (folder / "model").resolve().with_name("events.jsonl").read_text()
             .splitlines() if json.loads(line)["event"] == "step"]
    assert [one.step for one in client.get_metric_history(run_id(folder), "train/loss")] == steps
    assert {mark: mark.stat().st_ctime_ns for mark in home.glob("stages/*/*/out")} == marks
    agreed = sft("reconcile")
    assert "agree" in agreed.stdout
