"""One contract for every tracker: SQLite in the workspace and a real MLflow server, also one that dies in mid-run."""

import base64
import hashlib
import json
import logging
import math
import shutil
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine, text

from infra import events as event_file
from infra import naming
from infra.contract import Tracker
from infra.door import door
from infra.open_runs import running
from infra.servers import Service, free_port, start_mlflow
from infra.settings import MLFLOW_BLOCK, TELEMETRY_OFF
from infra.tracking import MlflowTracker, open_tracker
from sft_core.errors import EvalError, Interrupted, SftError, TrackingError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TELEMETRY_OFF, **MLFLOW_BLOCK}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/deep/mlflow.db"


@pytest.fixture(params=["sqlite", "server"])
def tracker(request: pytest.FixtureRequest, tmp_path: Path) -> Tracker:
    """Every test sees an experiment of its own."""
    uri = request.getfixturevalue("database") if request.param == "sqlite" else request.getfixturevalue("mlflow_url")
    return open_tracker(uri, f"e-{uuid4().hex}", tmp_path / "workspace")


def start(tracker: Tracker, name: str = "run", key: str = "key", parent: str | None = None) -> str:
    return tracker.start_run(name, key, {"train.lr": 1e-3}, "name: run\n", {"kind": "test"}, parent)


def step(number: int, loss: float, when: float = 1_700_000_000.0) -> str:
    event = {"event": "step", "step": number, "loss": loss, "kl": None, "tokens": 64, "time": when + number}
    return json.dumps(event) + "\n"


def history(tracker: Tracker, run_id: str, key: str) -> list[tuple[int, float]]:
    """All points of a metric as the store has them, in order of their steps."""
    points = MlflowClient(tracker.uri).get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in points)


def test_a_run_is_opened_once_per_key(tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = tracker.start_run("a", "key", {"lr": 1e-3, "long": "x" * 501, "list": [1, 2]}, "one", {"t": "1"})
    again = tracker.start_run("b", "key", {"lr": 2e-3, "new": "n", "list": [1, 2]}, "two", {"t": "2"})
    assert again == first
    assert start(tracker, key="other") != first
    run = tracker.find_run(first)
    assert (run.name, run.status, run.tags["t"]) == ("b", "RUNNING", "2")
    assert run.params == {"lr": "0.001", "list": "[1, 2]", "new": "n"}
    assert "other values of lr" in caplog.text
    assert tracker.download(first, "config.yaml", tmp_path / "d").read_text() == "two"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_closed_run_is_opened_again(tracker: Tracker, status: str) -> None:
    run_id = start(tracker)
    tracker.finish(run_id, status)
    assert tracker.find_run(run_id).status == status
    assert start(tracker) == run_id
    assert tracker.find_run(run_id).status == "RUNNING"


@pytest.mark.parametrize(("error", "status", "said"), [
    (EvalError("no score at https://me:s3cr3t@host\n" + 200 * "x y "), "FAILED",
     "EvalError: no score at https://me:***@host x y x y"),
    (Interrupted("stopped by SIGTERM; the state is saved"), "KILLED", "Interrupted: stopped by SIGTERM; the state is")])
def test_a_run_that_fails_says_why_until_it_goes_on(tracker: Tracker, error: SftError, status: str, said: str) -> None:
    run_id = start(tracker)
    with pytest.raises(type(error)), running(tracker, run_id):
        raise error
    run = tracker.find_run(run_id)
    assert run.status == status
    assert run.tags["sft.error"].startswith(said)
    assert len(run.tags["sft.error"]) <= 500
    assert start(tracker) == run_id
    assert tracker.find_run(run_id).tags["sft.error"] == ""


def test_the_page_of_a_run_says_what_it_is_and_what_it_used(tracker: Tracker) -> None:
    run_id, used = start(tracker), naming.Input("my data", "d1", "training", "/data/x.jsonl", {"rows": 3})
    tracker.describe(run_id, "first", ["report.html"], [used])
    said = naming.in_markdown("<script>x</script> | a_b\n# no [head](http://evil.example) *loud*")
    assert said == r"&lt;script&gt;x&lt;/script&gt; \| a\_b \# no \[head\](http://evil.example) \*loud\*"
    for _ in range(2):  # a run that is recorded again
        tracker.describe(run_id, said, ["a b.html"], [used], {"derived.steps": 506, "derived.machine": "a, b"})
    run = MlflowClient(tracker.uri).get_run(run_id)
    page = f"#/experiments/{run.info.experiment_id}/runs/{run_id}/artifacts"
    assert run.data.tags["mlflow.note.content"] == f"{said}\n\n[a b.html]({page}/a%20b.html{naming.RUNS_FIRST})"
    [one] = run.inputs.dataset_inputs
    assert (one.dataset.name, one.dataset.digest, one.tags[0].value) == ("my data", "d1", "training")
    assert json.loads(one.dataset.profile) == {"rows": 3}
    assert {key: text for key, text in run.data.params.items() if key.startswith("derived.")} == {
        "derived.steps": "506", "derived.machine": "a, b"}


def experiment_of(tracker: Tracker) -> str:
    return str(MlflowClient(tracker.uri).get_run(start(tracker)).info.experiment_id)


def view_of(tracker: Tracker) -> tuple[dict[str, Any], dict[str, Any]]:
    """The saved view of the experiment's runs, and the state of the page in it."""
    experiment = MlflowClient(tracker.uri).get_experiment(experiment_of(tracker))
    view = json.loads(experiment.tags["mlflow.sharedViewState.sft"])
    return view, json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))


def test_the_list_of_runs_has_a_view_by_which_they_are_compared(tracker: Tracker) -> None:
    tracker.arrange(["win/b", "validation/saved.loss"])
    tracker.arrange(["tax/a", "win/b"])  # a run with other suites
    view, state = view_of(tracker)
    assert view["name"] == "Wins and tax"
    assert state["selectedColumns"][:5] == [
        "tags.`sft.gate`", "metrics.`tax/a`", "metrics.`win/b`", "metrics.`validation/saved.loss`", "tags.`sft.lr`"]
    assert [one["metricKey"] for one in state["compareRunCharts"]][:5] == [
        "tax/a", "win/b", "validation/saved.loss", "train/loss", "train/sft"]
    assert {one["metricSectionId"] for one in state["compareRunCharts"]} == {
        one["uuid"] for one in state["compareRunSections"]}


def test_a_view_of_many_suites_is_bounded_and_one_that_somebody_saved_stays(tracker: Tracker) -> None:
    tracker.arrange([f"tax/{hashlib.shake_128(bytes([n])).hexdigest(120)}" for n in range(99)])
    view, state = view_of(tracker)
    assert len(json.dumps(view)) <= 5000
    assert 3 < sum(one["type"] == "BAR" for one in state["compareRunCharts"]) < 24
    client = MlflowClient(tracker.uri)
    experiment = experiment_of(tracker)
    for theirs in (json.dumps({**view, "updatedAt": 7}), "deflate;nothing of ours", "[]"):
        client.set_experiment_tag(experiment, "mlflow.sharedViewState.sft", theirs)
        tracker.arrange(["tax/a"])
        assert client.get_experiment(experiment).tags["mlflow.sharedViewState.sft"] == theirs


def test_many_parameters_with_awkward_names(tracker: Tracker) -> None:
    params = {f"eval.suites.{i}": i for i in range(230)} | {"gate.at_least.lm:x,y=z": 0.5, "none": None}
    run = tracker.find_run(tracker.start_run("run", "key", params, "", {}))
    assert len(run.params) == 232
    assert run.params[naming.name("gate.at_least.lm:x,y=z")] == "0.5"


def test_events_are_followed_line_by_line(tracker: Tracker, tmp_path: Path) -> None:
    events, mark = tmp_path / "events.jsonl", tmp_path / "marks" / "mark.json"
    run_id = start(tracker)
    assert tracker.follow(run_id, events, mark)  # not there yet
    whole = '{"event": "start", "steps": 3}\n' + step(1, 3.0) + "garbage\n" + step(2, 2.0)
    events.write_text(whole + step(3, 1.0)[:20])
    assert tracker.follow(run_id, events, mark)
    assert history(tracker, run_id, "train/loss") == [(1, 3.0), (2, 2.0)]
    validation = '{"event": "validation", "step": 3, "loss": NaN, "done": true, "time": 1700000004.5}\n'
    saved = '{"event": "saved", "step": 3, "loss": 1.5, "form": "float32", "merge_gap": null, "time": 1700000005}\n'
    events.write_text(whole + step(3, 1.0) + validation + saved)
    reopened = MlflowTracker(tracker.uri, tracker.experiment_id, tracker.workspace)
    assert reopened.follow(run_id, events, mark)
    assert reopened.follow(run_id, events, mark)
    assert history(tracker, run_id, "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    metrics = tracker.find_run(run_id).metrics
    assert metrics.keys() == {"train/loss", "train/tokens", "validation/loss", "validation/saved.loss"}
    assert math.isnan(metrics["validation/loss"])


def test_steps_written_again_after_a_kill_are_sent_once(tracker: Tracker, tmp_path: Path) -> None:
    events, mark = tmp_path / "events.jsonl", tmp_path / "mark.json"
    run_id = start(tracker)
    events.write_text("".join(step(n, float(n), when=1_700_000_000.123456) for n in range(1, 41)))
    assert tracker.follow(run_id, events, mark)
    lines = events.read_text().splitlines(keepends=True)
    kept = "".join(lines[:4]) + '{"event": "resume", "step": 4}\n'  # cut back to the checkpoint at step 4
    events.write_text(kept)
    assert tracker.follow(run_id, events, mark)
    # Other times, other lengths: the old place in the file is now in the middle of a line that was never sent.
    events.write_text(kept + "".join(step(n, float(n), when=1_800_000_000.0) for n in range(5, 61)))
    assert tracker.follow(run_id, events, mark)
    assert history(tracker, run_id, "train/loss") == [(n, float(n)) for n in range(1, 61)]


def test_what_came_to_the_store_before_a_kill_could_be_noted_is_not_sent_again(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process trains the lost steps again, at other times, at which they would be other points."""
    events, mark = tmp_path / "events.jsonl", tmp_path / "mark.json"
    run_id = start(tracker)
    events.write_text("".join(step(n, float(n)) for n in range(1, 31)))
    with patch("infra.events.save_mark", side_effect=OSError("no answer, and then no process")):
        assert not tracker.follow(run_id, events, mark)
    assert not mark.exists()
    events.write_text("".join(step(n, float(n), when=1_800_000_000.0) for n in range(1, 41)))
    later = MlflowTracker(tracker.uri, tracker.experiment_id, tracker.workspace)
    assert later.follow(run_id, events, mark)
    assert history(tracker, run_id, "train/loss") == [(n, float(n)) for n in range(1, 41)]
    event_file.save_mark(mark, event_file.Mark(run_id))  # what the store lost of it: all is sent again
    assert later.follow(run_id, events, mark)
    assert len(history(tracker, run_id, "train/loss")) == 70


def test_the_same_events_can_go_to_another_run(tracker: Tracker, tmp_path: Path) -> None:
    """A reused training stage is recorded in a run that did not train."""
    events, mark = tmp_path / "events.jsonl", tmp_path / "mark.json"
    events.write_text("".join(step(n, 1.0) for n in range(2000)))
    for key in ("one", "two"):
        run_id = start(tracker, key=key)
        assert tracker.follow(run_id, events, mark)
        assert len(history(tracker, run_id, "train/loss")) == 2000


def test_a_clock_that_was_put_back_hides_no_later_value(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow shows the value with the latest time, which was the earlier one."""
    run_id = start(tracker)
    tracker.log_metrics(run_id, {"tuned/a": 1.0})
    now = time.time()
    monkeypatch.setattr("infra.tracking.time.time", lambda: now - 3600)
    tracker.log_metrics(run_id, {"tuned/a": 2.0})
    assert tracker.find_run(run_id).metrics == {"tuned/a": 2.0}


def test_final_metrics_are_not_doubled_and_missing_is_not_zero(tracker: Tracker) -> None:
    run_id = start(tracker)
    for score in (0.5, 0.5, 0.75):
        tracker.log_metrics(run_id, {"acc,none": score, "nan": float("nan"), "missing": None})
    assert [value for _, value in history(tracker, run_id, naming.name("acc,none"))] == [0.5, 0.75]
    assert len(history(tracker, run_id, "nan")) == 1
    assert tracker.find_run(run_id).metrics.keys() == {naming.name("acc,none"), "nan"}


def test_names_that_differ_stay_apart_and_can_be_read(tracker: Tracker) -> None:
    """`tuned/精度` and `tuned/语言` both used to be `tuned/__`: one curve of two metrics."""
    names = ["tuned/精度", "tuned/语言", "tuned/génie", "tuned/g_nie", "acc,none", "acc_none", "acc;none",
             "../up", "up", "a//b", "a/b", "x" * 300, "x" * 301]
    run_id = start(tracker)
    tracker.log_metrics(run_id, {key: float(index) for index, key in enumerate(names)})
    found = tracker.find_run(run_id).metrics
    assert [found[naming.name(key)] for key in names] == [float(index) for index in range(len(names))]
    assert found.keys() >= {"tuned/精度", "tuned/语言", "tuned/génie", "acc_none", "up", "a/b"}
    assert naming.name("acc,none") == "acc_none-04004e"
    there = naming.pages_of("http://host:5000/", "7")
    assert naming.run_page(there, "1f") == "http://host:5000/#/experiments/7/runs/1f?workflowType=machine_learning"
    assert naming.run_page(there, "") is None
    assert naming.run_page(naming.pages_of("sqlite:///mlflow.db", "7"), "1f") is None


def test_tables_and_folders_replace_themselves(tracker: Tracker, tmp_path: Path) -> None:
    run_id = start(tracker)
    source = tmp_path / "report"
    (source / "deep").mkdir(parents=True)
    for said in ("old", "new"):
        (source / "deep" / "a.txt").write_text(said)
        tracker.log_artifacts(run_id, source, "report")
        tracker.log_artifacts(run_id, source / "deep" / "a.txt")
        tracker.log_table(run_id, "eval/items.json", {"item": ["a", "b"], "score": [1.0, None], "why": [said, "ä"]})
    assert (tracker.download(run_id, "report", tmp_path / "d") / "deep" / "a.txt").read_text() == "new"
    assert tracker.download(run_id, "a.txt", tmp_path / "d").read_text() == "new"
    table = json.loads(tracker.download(run_id, "eval/items.json", tmp_path / "d").read_text())
    assert table == {"columns": ["item", "score", "why"], "data": [["a", 1.0, "new"], ["b", None, "ä"]]}
    assert "eval/items.json" in tracker.find_run(run_id).tags["mlflow.loggedArtifacts"]
    with pytest.raises(TrackingError, match="could not download nosuch.txt"):
        tracker.download(run_id, "nosuch.txt", tmp_path / "d")


def test_model_folders_versions_and_aliases(tracker: Tracker, tmp_path: Path) -> None:
    name, folder = f"m.{uuid4().hex}", tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"\0\1weights")
    (folder / "sub" / "config.json").write_text("{}")
    run_id = start(tracker)
    assert [tracker.register(run_id, folder, name) for _ in range(2)] == ["1", "1"]
    tracker.set_alias(name, "champion", "1")
    old = tracker.resolve_alias(name, "champion")
    (folder / "model.safetensors").unlink()  # a model folder is made anew, never written over
    (folder / "model.safetensors").write_bytes(b"\0\1other")
    assert tracker.register(run_id, folder, name) == "2"
    assert tracker.resolve_alias(name, "champion") == old
    tracker.set_alias(name, "champion", "2")
    new = tracker.resolve_alias(name, "champion")
    assert (old.version, new.version, new.run_id) == ("1", "2", run_id)
    assert (old.folder / "model.safetensors").read_bytes() == b"\0\1weights"
    assert (new.folder / "model.safetensors").read_bytes() == b"\0\1other"
    assert (new.folder / "sub" / "config.json").read_text() == "{}"
    with pytest.raises(TrackingError, match=r"its aliases are \['champion'\]"):
        tracker.resolve_alias(name, "candidate")
    with pytest.raises(TrackingError, match="there is no registered model of that name"):
        tracker.resolve_alias("nosuch", "champion")
    tracker.note(name, "2", {"why": "because"})
    versions = {one.version: one for one in tracker.registered(name)}
    assert (versions["2"].aliases, versions["2"].tags["why"], versions["1"].aliases) == (("champion",), "because", ())
    tracker.drop_alias(name, "champion")
    assert (tracker.aliases(name), tracker.aliases("nosuch"), tracker.registered("nosuch")) == ({}, {}, [])
    (new.folder / "sub" / "config.json").write_text("written over")
    (new.folder / "model.safetensors").unlink()
    tracker.set_alias(name, "champion", "2")
    with pytest.raises(TrackingError, match=r"model.safetensors \(gone\), sub/config.json \(changed\); restore"):
        tracker.resolve_alias(name, "champion")


def test_a_server_without_room_in_its_database_is_told_so() -> None:
    """The client of MLflow tries again and again, and then tells how often."""
    tired = "Max retries exceeded with url: /api (Caused by ResponseError('too many 503 error responses'))"
    with pytest.raises(TrackingError, match="HTTP 503; look whether its database and its disk") as told, \
            door("http://127.0.0.1:5000", "start the run"):
        raise MlflowException(f"API request failed with exception {tired}")
    assert "retries" not in str(told.value)


def test_every_registered_model_is_seen_not_the_first_hundred_alone(tmp_path: Path) -> None:
    """`sft clean` did not see the aliases of the others, and would have removed what they name."""
    client = MlflowClient(uri := f"sqlite:///{tmp_path}/mlflow.db")
    tracker = open_tracker(uri, "e", tmp_path)
    run_id = start(tracker)
    for number in range(101):
        client.create_registered_model(f"m{number:03}")
    client.create_model_version("m100", "file:///nowhere", run_id)
    assert [one.name for one in tracker.registered()] == ["m100"]


def test_an_alias_of_a_version_that_is_gone_is_said(tmp_path: Path) -> None:
    tracker = open_tracker(uri := f"sqlite:///{tmp_path}/mlflow.db", "e", tmp_path)
    version = tracker.register(start(tracker), model_of(tmp_path / "model"), "m")
    tracker.set_alias("m", "champion", version)
    with create_engine(uri).begin() as database:  # MLflow itself takes the aliases of what it deletes along
        database.execute(text("update registered_model_aliases set version = 7"))
    with pytest.raises(TrackingError, match="m@champion points at version 7, which was deleted in the registry"):
        tracker.resolve_alias("m", "champion")


def model_of(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("{}")
    return folder


def test_a_model_is_stored_once_where_the_store_is_a_folder(tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    folder, name = model_of(tmp_path / "model"), f"m-{uuid4().hex}"
    tracker = open_tracker(f"sqlite:///{tmp_path}/mlflow.db", "e", tmp_path / "workspace")
    run_id = start(tracker)
    for _ in range(2):
        tracker.log_model(run_id, folder, "auto")
    tracker.set_alias(name, "champion", tracker.register(run_id, folder, name))
    weights = list((tmp_path / "workspace").rglob("model.safetensors"))
    assert len(weights) == 2  # of the run and of the registry
    assert {path.stat().st_ino for path in weights} == {(folder / "model.safetensors").stat().st_ino}
    assert tracker.artifacts(run_id) == {"config.yaml", "model", "model.json"}
    said = json.loads(tracker.download(run_id, "model.json", tmp_path / "d").read_text())
    assert (said["folder"], said["digest"]) == (str(folder), naming.folder_digest(folder))

    shutil.rmtree(folder)  # the other names keep the files
    found = tracker.resolve_alias(name, "champion").folder
    assert (found / "sub" / "config.json").read_text() == "{}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    loaded = download_artifacts(artifact_uri=f"models:/{name}@champion", dst_path=str(tmp_path / "mlflow"))
    assert (Path(loaded) / "model.safetensors").read_bytes() == b"weights" * 1000
    (found / "model.safetensors").write_bytes(b"written over")
    with pytest.raises(TrackingError, match="not those that were registered: something has changed"):
        tracker.resolve_alias(name, "champion")
    shutil.rmtree(folder, ignore_errors=True)
    assert tracker.register(run_id, model_of(folder), name) == "1"  # the run, made again
    assert (tracker.resolve_alias(name, "champion").folder / "model.safetensors").read_bytes() == b"weights" * 1000


def test_a_copy_is_one_where_it_is_asked_for_or_nothing_else_can_be(tmp_path: Path, mlflow_url: str) -> None:
    folder, files = model_of(tmp_path / "model"), {"config.yaml", "model.json"}
    local = open_tracker(f"sqlite:///{tmp_path}/mlflow.db", "e", tmp_path / "workspace")
    run_id = start(local)
    local.log_model(run_id, folder, "copy")
    (copy,) = (tmp_path / "workspace").rglob("model.safetensors")
    assert copy.stat().st_ino != (folder / "model.safetensors").stat().st_ino
    remote = open_tracker(mlflow_url, f"e-{uuid4().hex}", tmp_path / "workspace")
    named, sent = start(remote, key="named"), start(remote, key="sent")
    remote.log_model(named, folder, "link")
    assert remote.artifacts(named) == files
    remote.log_model(sent, folder, "auto")
    assert remote.artifacts(sent) == files | {"model"}


def test_experiments_open_in_the_view_of_training(tracker: Tracker, tmp_path: Path) -> None:
    client = MlflowClient(tracker.uri)

    def kind(name: str) -> str | None:
        open_tracker(tracker.uri, name, tmp_path / "workspace")
        return client.get_experiment_by_name(name).tags.get("mlflow.experimentKind")

    new, old, foreign = (f"{word}-{uuid4().hex}" for word in ("new", "old", "foreign"))
    assert kind(new) == "custom_model_development"
    for name, tags in ((old, {}), (foreign, {}), (f"chosen-{foreign}", {"mlflow.experimentKind": "genai_development"})):
        client.create_experiment(name, tags=tags)
    start(open_tracker(tracker.uri, old, tmp_path / "workspace"))
    assert kind(old) == "custom_model_development"  # ours, made before there was a tag
    assert kind(foreign) is None
    start(open_tracker(tracker.uri, f"chosen-{foreign}", tmp_path / "workspace"))
    assert kind(f"chosen-{foreign}") == "genai_development"


def test_an_empty_store_has_no_latest_runs(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="the latest runs: none yet"):
        open_tracker(f"sqlite:///{tmp_path}/mlflow.db", "first", tmp_path).find_run("a")


def test_runs_are_found_by_id_prefix_and_name(tracker: Tracker) -> None:
    old = start(tracker, "same", "1")
    time.sleep(0.01)
    new, other = start(tracker, "same", "2"), start(tracker, "o'ther", "3")
    assert tracker.find_run("same").run_id == new
    assert tracker.find_run(old).run_id == old
    assert tracker.find_run(other[:12]).run_id == other
    with pytest.raises(TrackingError, match=f"nosuch is no run .* the latest runs: .*same .{new[:8]}"):
        tracker.find_run("nosuch")
    elsewhere = open_tracker(tracker.uri, "another experiment", tracker.workspace)
    with pytest.raises(TrackingError, match=f"the latest runs: .*same .{new[:8]}"):
        elsewhere.find_run("nosuch")


def test_trials_are_nested_in_their_sweep(tracker: Tracker) -> None:
    sweep = start(tracker, "sweep", "sweep")
    trials = {start(tracker, f"t{n}", f"t{n}", parent=sweep) for n in range(3)}
    assert {run.run_id for run in tracker.recent(10, {"mlflow.parentRunId": sweep})} == trials
    assert len(tracker.recent(2)) == 2


def test_a_server_that_dies_does_not_stop_training_and_loses_nothing(
    mlflow_services: list[Service], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = mlflow_services[-1]
    tracker = open_tracker(server.url, f"e-{uuid4().hex}", tmp_path)
    run_id = start(tracker)
    events, mark = tmp_path / "events.jsonl", tmp_path / "mark.json"
    written = 0

    def train_on() -> None:
        nonlocal written
        with events.open("a") as stream:
            stream.write("".join(step(n, float(n)) for n in range(written, written + 50)))
        written += 50

    train_on()
    assert tracker.follow(run_id, events, mark)
    server.stop(kill=True)
    try:
        began = time.monotonic()
        for _ in range(100):
            train_on()
            assert not tracker.follow(run_id, events, mark)
        assert not tracker.follow(run_id, events, mark, last=True)
        assert time.monotonic() - began < 5
        assert caplog.text.count("metrics are not sent for now") == 1
        with pytest.raises(TrackingError, match="could not log metrics: .*repeat the command"):
            tracker.log_metrics(run_id, {"x": 1.0})
    finally:
        mlflow_services.append(start_mlflow(server.log.parent, urlsplit(server.url).port or 0))
    assert not tracker.follow(run_id, events, mark)  # it was down a moment ago: training is not kept waiting
    assert tracker.follow(run_id, events, mark, last=True)
    assert history(tracker, run_id, "train/loss") == [(n, float(n)) for n in range(written)]
    train_on()
    assert tracker.follow(run_id, events, mark)
    assert tracker.find_run(run_id).metrics["train/loss"] == float(written - 1)


def test_a_batch_whose_answer_was_lost_is_not_doubled(tracker: Tracker, tmp_path: Path) -> None:
    """The server stored it, the place was not kept: the same points are sent again."""
    events, mark = tmp_path / "events.jsonl", tmp_path / "mark.json"
    events.write_text("".join(step(n, 1.0) for n in range(10)))
    run_id = start(tracker)
    assert tracker.follow(run_id, events, mark)
    mark.write_text("{torn")
    events.write_text(events.read_text() + step(10, 1.0))
    assert tracker.follow(run_id, events, mark)
    assert history(tracker, run_id, "train/loss") == [(n, 1.0) for n in range(11)]


RACE = """
import sys
from pathlib import Path
from infra.tracking import MlflowTracker, open_tracker

def meet(where):
    print(where, flush=True)
    sys.stdin.readline()

meet("imported")
tracker = open_tracker(sys.argv[1], "e", Path(sys.argv[2]))
meet("open")
print(tracker.start_run("run", "key", {"a": 1}, "text", {}))
"""


def test_processes_that_meet_an_empty_database_share_one_run(tmp_path: Path) -> None:
    """Without the locks all of them die in MLflow's migrations, or each makes a run of its own."""
    command = [sys.executable, "-c", RACE, f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                 for _ in range(3)]

    def all_meet(where: str) -> None:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline().strip() == where
        for process in processes:
            assert process.stdin
            process.stdin.write("go on\n")
            process.stdin.flush()

    all_meet("imported")
    all_meet("open")
    run_ids = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(run_ids) == 1
    assert len(run_ids.pop()) == 32


@pytest.fixture
def hung() -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_unreachable_server_is_an_error_within_seconds(tmp_path: Path, hung: str) -> None:
    for uri in (f"http://127.0.0.1:{free_port()}", hung):
        began = time.monotonic()
        with pytest.raises(TrackingError, match=f"no MLflow server answers at {uri} .*MLFLOW_TRACKING_URI.*unset"):
            open_tracker(uri, "e", tmp_path)
        assert time.monotonic() - began < 10


def not_a_database(folder: Path) -> str:
    (folder / "x.db").write_text("this is no database, and long enough to be seen as none " * 50)
    return f"sqlite:///{folder}/x.db"


def no_permission(folder: Path) -> str:
    (folder / "file").write_text("")
    return f"sqlite:///{folder}/file/mlflow.db"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: str(folder / "mlruns"), "is a folder, which MLflow no longer takes; use sqlite:///"),
        (lambda folder: f"file://{folder}/mlruns", "is a folder"),
        (lambda folder: "nosuch://x", "could not open the store"),
        (not_a_database, "could not open the store: .*not a database"),
        (no_permission, "could not open the store: .*file"),
    ],
)
def test_stores_that_cannot_work(tmp_path: Path, make: Callable[[Path], str], said: str) -> None:
    with pytest.raises(TrackingError, match=said):
        open_tracker(make(tmp_path), "e", tmp_path)


def test_a_deleted_experiment_is_said(database: str, tmp_path: Path) -> None:
    tracker = open_tracker(database, "gone", tmp_path)
    MlflowClient(database).delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match=f"gone is deleted; restore it .*-x {tracker.experiment_id}"):
        open_tracker(database, "gone", tmp_path)


def test_opening_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.WARNING):
        start(open_tracker(f"sqlite:///{tmp_path}/mlflow.db", "e", tmp_path))
    assert caplog.text == ""
    assert capfd.readouterr().out == ""


def test_a_look_makes_nothing(tmp_path: Path) -> None:
    """`sft clean` and `sft compare` left an empty experiment `sft`, and a database where there was none."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    look = open_tracker(uri, "e", tmp_path, make=False)
    assert look.registered() == []
    with pytest.raises(TrackingError, match="could not look for the run x: nothing was recorded in sqlite:"):
        look.find_run("x")
    assert list(tmp_path.iterdir()) == []
    open_tracker(uri, "e", tmp_path)
    assert open_tracker(uri, "other", tmp_path, make=False).recent(3) == []
    assert {one.name for one in MlflowClient(uri).search_experiments()} == {"Default", "e"}
