"""Promotion and the nights of what was promoted: the model's own loss wakes somebody once, and nothing else does."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, cast
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from mlflow import MlflowClient
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings

from eval_suites.asking.respondent import identity_of
from eval_suites.results import ItemResult, SuiteResult, write_results
from flows import nightly
from infra.alerts import wake
from infra.contract import Tracker
from infra.daemons import FOLDER, Daemon, State, write_state
from infra.shared_stages import SharedStages
from infra.tracking import open_tracker
from sft_core.config.data import ModelSection
from sft_core.errors import EvalError, ModelError, RegressionFound
from sft_core.tiny.paths import BASE_FOLDER
from tasks import night as asking
from tasks.evaluate import BASE, Subject
from tasks.nights import alone, past, place_of
from tasks.runs import Beside, write_beside
from tasks.stages import Workspace
from tasks.untracked import noted_nights

Sft = Callable[..., subprocess.CompletedProcess[str]]
Scores = Sequence[float | None]


def test_nightly_passes_and_fails_on_a_proved_regression(sft: Sft, config: Path, home: Path) -> None:
    missing = sft("nightly")
    assert missing.returncode == 0, "a fresh `sft up` has nights, too"
    assert missing.stdout == ("sft: nothing is guarded yet: there is no sft@champion; make one with `sft promote RUN "
                              "--name sft`\n")

    assert sft("run", config, "--set", "eval.limit=20", "--set", "train.epochs=0.2", "--set",
               "tracking.registered_model=guarded").returncode == 0
    (run,) = home.glob("runs/*")
    promoted = sft("promote", run.name, "--override", "--reason", "a test", "--by", "Ada")  # of 20 items none can pass
    assert promoted.returncode == 0, promoted.stderr[-2000:]
    assert "of guarded, alias champion" in promoted.stdout  # the model that its candidates are versions of

    same = sft("nightly", "--name", "guarded")
    assert same.returncode == 0, same.stderr[-3000:]
    assert same.stdout == ("guarded, night 1: no proved regression of champion (version 1): 0 of 120 scores changed on "
                           "2 suites\n")

    # Make the stored results better than what the model can do: every item was right once.
    file = run / "evaluation" / "tuned" / "tiny_refusal.parquet"
    table = pq.read_table(file)
    perfect = pa.array([1.0] * len(table))
    pq.write_table(table.set_column(table.schema.get_field_index("score"), "score", perfect), file)
    with alone(Workspace(home, None), "guarded") as first:
        assert first
        assert sft("nightly", "--name", "guarded").stdout == (
            "guarded: skipped: another night of it is under way in this workspace\n")
    for name in ("../../x", "<b>x"):
        refused = sft("nightly", "--name", name)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"--name {name!r}: this is no name" in refused.stderr
    red = sft("nightly", "--name", "guarded", "--margin", "5")
    scores = json.loads((run / "verdict.json").read_text())["suites"]
    assert red.returncode == 1, scores
    assert "RegressionFound" in red.stderr
    assert re.search(r"guarded, night 2: champion \(version 1\): tiny_refusal lost .* the base 0.0: the model's own",
                     red.stderr), red.stderr
    table = sft("nights", "guarded").stdout
    assert table.index("regression") < table.index("quiet")
    lineage = sft("lineage", "guarded", "--verify", "--json")
    looked = {one["part"]: one["state"] for one in json.loads(lineage.stdout)["verified"]}
    assert lineage.returncode == 1
    assert {part for part, state in looked.items() if state != "ok"} == {"evaluation"}
    assert set(looked) > {"source tiny:sft", "source tiny:replay", "prepared data", "model", "code", "libraries"}


RIGHT: Scores = [1.0] * 200
FELL: Scores = [0.0] * 30 + [1.0] * 170
GONE: Scores = [None] * 200
UNASKED: Any = object()


def result(scores: Scores, version: int = 1, suite: str = "tiny_mmlu") -> dict[str, SuiteResult]:
    return {suite: SuiteResult(suite, "capability", {"v": version}, tuple(
        ItemResult(suite, "q", str(i), str(i), score, {}, "", "", "", "no answer: ConnectError", "")
        for i, score in enumerate(scores)), 0.0, model=identity_of(ModelSection(path="tiny"), None))}


class Nights(NamedTuple):
    """A registered model with stored results, and what its models will answer tonight, by their label."""

    name: str
    run: Path
    place: Workspace
    tracker: Tracker
    tonight: dict[str, Any]

    def __call__(self, champion: Any = RIGHT, base: Any = RIGHT, occasion: str = "", *, rebase: bool = False
                 ) -> dict[str, Any]:
        self.tonight.update(champion=champion, base=base)
        return nightly._compared(nightly.Champion(self.name, "champion", rebase), 5.0, occasion or uuid4().hex,
                                 (self.place, self.tracker))

    def candidate(self) -> Path:
        """Another run with the very same files, as the candidate; returns its model as it is registered."""
        folder = self.place.runs / "guarded-2"
        shutil.copytree(self.run, folder)
        run_id = self.tracker.start_run("guarded-2", uuid4().hex, {}, "", {})
        (folder / "run.json").write_text(json.dumps({"mlflow_run_id": run_id}))
        version = self.tracker.register(run_id, folder / "model", self.name, "copy")
        self.tracker.set_alias(self.name, "candidate", version)
        self.tonight["candidate"] = RIGHT
        return self.tracker.resolve_alias(self.name, "candidate").folder


@pytest.fixture
def heard() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A receiver of webhooks on loopback: its address, and path and JSON of all that it was told."""
    told: list[tuple[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.path, json.loads(body)))
            self.send_response(200 if "broken" not in self.path else 500)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()


@pytest.fixture
def nights(mlflow_url: str, prefect_api: str, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
           ) -> Iterator[Nights]:
    """The files, the run and the registry are real; the answers of nights are what each test makes of them."""
    place = Workspace(tmp_path / "home", None, cast(SharedStages, "a server"))
    tracker = open_tracker(mlflow_url, f"e-{uuid4().hex}", place.root)
    folder, tonight = place.runs / "guarded-1", dict[str, Any]()
    run_id = tracker.start_run("guarded-1", uuid4().hex, {}, "", {})
    for label in ("tuned", BASE):
        write_results(folder / "evaluation" / label, result(RIGHT)["tiny_mmlu"])
    shutil.copy(config, folder / "config.yaml")
    shutil.copytree(BASE_FOLDER, folder / "model")
    (folder / "run.json").write_text(json.dumps({"mlflow_run_id": run_id}))
    (folder / "summary.json").write_text("{}")
    name = f"m-{uuid4().hex}"
    tracker.set_alias(name, "champion", tracker.register(run_id, folder / "model", name))

    def evaluate(subject: Subject, _: object, place: Workspace, **__: object) -> dict[str, SuiteResult]:
        assert place.elsewhere is None, "a night's answers are sent to no other machine"
        answer = tonight[subject.label]
        assert answer is not UNASKED, f"{subject.label} need not have been asked"
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, dict) else result(answer)

    monkeypatch.setattr(asking, "evaluate", evaluate)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield Nights(name, folder, place, tracker, tonight)


def test_a_regression_is_told_once_and_then_named_as_still_there(nights: Nights) -> None:
    assert nights()["outcome"] == "quiet"
    with pytest.raises(RegressionFound, match=r"night 2: champion \(version 1\): tiny_mmlu lost 15.0 points .* over "
                                              r"200 items, the base 0.0: the model's own part is 15.0"):
        nights(FELL)
    with pytest.MonkeyPatch.context() as clock:
        clock.setattr(time, "time", lambda: 1e9)  # a clock that was put back: nights are counted, not dated
        again = nights(FELL)
    assert again["outcome"] == "still"
    assert "still: champion (version 1): tiny_mmlu lost 15.0" in again["sentence"]
    assert nights(GONE)["outcome"] == "still", "not measured is no recovery"
    assert nights()["outcome"] == "quiet"
    with pytest.raises(RegressionFound, match="night 6"):
        nights(FELL, occasion="killed while it recorded")
    with pytest.raises(RegressionFound, match="night 6"):
        nights(FELL, occasion="killed while it recorded")
    told = past(nights.name, nights.tracker)
    assert [(one.number, one.outcome) for one in told] == [
        (6, "regression"), (5, "quiet"), (4, "still"), (3, "still"), (2, "regression"), (1, "quiet")]
    assert [one.run.status for one in told][:2] == ["FAILED", "FINISHED"]
    assert [dict(one.moved) for one in told][:3] == [
        {"champion/tiny_mmlu": "regression"}, {}, {}]
    measured = told[0].run.metrics
    assert measured["champion/tiny_mmlu/flip_rate"] == 0.15
    assert measured["champion/tiny_mmlu/coverage"] == 1.0
    assert measured["champion/tiny_mmlu/score"] < measured["champion/tiny_mmlu/limit_low"]
    note = told[0].run.tags["mlflow.note.content"]
    assert note.startswith(f"**{nights.name}, night {told[0].number}: {told[0].run.tags['sft.outcome']}.** "), note
    assert "[trend.html](#/experiments/" in note
    page = nights.tracker.download(told[0].run.run_id, "trend.html", nights.place.scratch).read_text()
    assert page.count("<tr><td") == 6
    assert '<p class="gate fail"><b>' in page
    assert "tiny_mmlu" in page[page.index("<svg"):]
    assert nights.tracker.download(told[0].run.run_id, "trend.png", nights.place.scratch).stat().st_size > 5000


def test_after_an_upgrade_a_night_measures_anew_and_later_ones_are_held_against_it(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every night would be blind from then on. The run's own results stay."""
    new, half = result(FELL, version=2), result([*FELL[:100], *GONE[:100]], version=2)
    assert "tiny_mmlu not measured: " in (first := nights(new, result(RIGHT, version=2)))["sentence"]
    assert "after an upgrade, `sft nightly --rebase` measures it anew" in first["sentence"]
    with pytest.raises(EvalError, match="cannot be measured anew, and what is stored stays: tiny_mmlu of tuned has 100 "
                                        "scores, 200 before"):
        nights(half, result(RIGHT, version=2), rebase=True)
    with pytest.raises(EvalError, match="tiny_mmlu of base has 0 scores, 200 before: gone"):
        nights(new, ModelError("gone"), rebase=True)
    found = nights(new, result(RIGHT, version=2), rebase=True)
    assert found["outcome"] == "anew"
    assert "champion (version 1) measured anew, and later nights are held against this one" in found["sentence"]
    shutil.rmtree(nights.place.scratch)  # another machine
    assert nights(new, result(RIGHT, version=2))["outcome"] == "quiet"
    with pytest.raises(RegressionFound, match="tiny_mmlu lost 15.0 points"):
        nights(result([0.0] * 60 + [1.0] * 140, version=2), result(RIGHT, version=2))
    assert [one.outcome for one in past(nights.name, nights.tracker)] == ["regression", "quiet", "anew", "not_measured"]
    assert nights.run.joinpath("evaluation", "tuned", "tiny_mmlu.json").is_file()


def test_the_answers_of_the_last_nights_stay(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year of them must not fill the disk."""
    monkeypatch.setattr("tasks.nights.KEPT", 2)
    place = nights.place
    for at, occasion in enumerate(("one", "two", "three"), 1):
        os.utime(place_of(place, nights.name, occasion).scratch.parent, (at, at))
    assert place_of(place, nights.name, "four").scratch.is_dir()
    nights(occasion="four")
    assert {file.name for file in (place.root / "nights" / nights.name).iterdir()} == {"three", "four"}


def test_what_the_base_lost_too_is_the_environment(nights: Nights) -> None:
    write_beside(nights.run, Beside({}, None, {"torch": "2.0.0"}))
    found = nights(FELL, FELL)
    assert found["outcome"] == "drift"
    assert past(nights.name, nights.tracker)[0].moved == {"champion/tiny_mmlu": "drift"}
    assert "environment drift: champion (version 1): tiny_mmlu lost 15.0" in found["sentence"]
    assert "torch 2.0.0 → " in found["sentence"]
    assert nights(FELL, ModelError("the base is gone"))["outcome"] == "drift", "the libraries are others"


def test_what_is_not_measured_is_no_regression_and_fails_the_second_night(nights: Nights) -> None:
    first = nights([0.0] * 12 + [None] * 188)
    assert first["outcome"] == "not_measured"
    assert re.search("tiny_mmlu not measured: 12 of 200 items have a score on both sides.*188 items of tuned without a "
                     "score, most often.*ConnectError", first["sentence"])
    with pytest.raises(EvalError, match="champion .* tiny_mmlu not measured 2 nights in a row: 0 of 200") as caught:
        nights(GONE)
    assert not isinstance(caught.value, RegressionFound)
    assert nights()["outcome"] == "quiet"
    assert nights(base=ModelError("the model gone/base is not there"))["outcome"] == "not_measured"
    with pytest.raises(EvalError, match="the base on tiny_mmlu not measured 2 nights in a row: .*gone/base"):
        nights(base=OSError("the model gone/base is not there"))
    again = nights(base=OSError("the model gone/base is not there"))
    assert again["outcome"] == "still", "told once"
    assert "still: champion (version 1): the base on tiny_mmlu not measured 3 nights in a row: " in again["sentence"]


def test_other_files_or_another_protocol_are_not_measured(nights: Nights) -> None:
    found = nights(result(FELL, version=2))  # type: ignore[arg-type]
    assert found["outcome"] == "not_measured"
    assert "protocols differ in v: 1 against 2" in found["sentence"]
    assert "after an upgrade, `sft nightly --rebase` measures it anew" in found["sentence"]
    write_results(nights.run / "evaluation" / BASE, replace(result(RIGHT)["tiny_mmlu"], model="other"))
    found = nights(base=UNASKED)
    assert "the base on tiny_mmlu not measured: its files are not those that the stored results" in found["sentence"]


def test_what_cannot_be_asked_keeps_nothing_else_from_being_measured(nights: Nights) -> None:
    """A file of the candidate's model, its run in MLflow, the champion's stored results."""
    weights = nights.candidate() / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept + b"x")
    nights.tonight["candidate"] = UNASKED
    said = nights()["sentence"]
    assert said.startswith("candidate (version 2): not measured: the files of ")
    assert "something has changed model.safetensors" in said
    assert past(nights.name, nights.tracker)[0].run.metrics["champion/tiny_mmlu/score"] == 1.0
    weights.write_bytes(kept)
    shutil.rmtree(nights.place.runs / "guarded-2")
    MlflowClient(nights.tracker.uri).delete_run(nights.tracker.find_run("guarded-2").run_id)
    with pytest.raises(EvalError, match=r"2: candidate \(version 2\): not measured 2 nights in a row: its run, "
                                        r"with what it scored, cannot be had .*--alias candidate.* is no run"):
        nights()
    shutil.rmtree(nights.run / "evaluation" / BASE)
    third = nights(UNASKED)
    last = past(nights.name, nights.tracker)[0].run.run_id
    page = nights.tracker.download(last, "trend.html", nights.place.scratch).read_text()
    assert "tiny_mmlu" in page[:page.index("<table ")], "the nights so far are drawn where this one measured nothing"
    assert third["outcome"] == "still"
    assert "champion (version 1): not measured: the run guarded-1 has no base results" in third["sentence"]
    nights.tracker.drop_alias(nights.name, "champion")
    with pytest.raises(EvalError, match=f"night 4: nothing was measured 4 nights in a row: there is no {nights.name}@"
                                        "champion any more"):
        nights()


def test_nights_without_their_tracker_are_told_and_recorded_later(
        nights: Nights, heard: tuple[str, list[tuple[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, told = heard
    for name, value in (("SFT_HOME", nights.place.root), ("SFT_NIGHTLY_WEBHOOK", f"{address}/hook"),
                        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(RegressionFound):
        nights(FELL)
    (nights.place.root / FOLDER).mkdir()
    write_state(nights.place.root, State({"mlflow": Daemon(2**22 + 1, "a boot/1", "", "", "", "")}))
    first = nightly.sft_nightly(nights.name)
    assert first["outcome"] == "not_measured"
    assert "nothing was measured: no MLflow server answers at http://127.0.0.1:9" in first["sentence"]
    assert first["sentence"].endswith("has ended: `sft up` starts it again")
    with pytest.raises(EvalError, match="nothing was measured 2 nights in a row: no MLflow server"):
        nightly.sft_nightly(nights.name)
    assert nightly.sft_nightly(nights.name)["outcome"] == "still"
    assert [one["outcome"] for _, one in told] == ["regression", "blind"]
    assert nights(FELL)["outcome"] == "still", "it is known that the regression was told"
    assert [(one.number, one.outcome) for one in past(nights.name, nights.tracker)] == [
        (5, "still"), (4, "still"), (3, "blind"), (2, "not_measured"), (1, "regression")]
    assert not noted_nights(nights.name, nights.place)


def test_candidates_are_guarded_beside_the_champion(nights: Nights) -> None:
    """The very same files under another run are another version."""
    nights.candidate()
    nights.tonight["candidate"] = FELL
    with pytest.raises(RegressionFound, match=r"night 1: candidate \(version 2\): tiny_mmlu lost 15.0"):
        nights()
    nights.tracker.set_alias(nights.name, "champion", "2")
    assert nights(FELL)["outcome"] == "still", "the version is known to be worse, whatever it is called"


def test_a_suite_that_was_never_measured_fails_no_night(nights: Nights) -> None:
    """Answers that wait for a judge."""
    for label in ("tuned", BASE):
        write_results(nights.run / "evaluation" / label, result(GONE)["tiny_mmlu"])
    assert [nights(GONE, GONE)["outcome"] for _ in range(2)] == ["quiet", "quiet"]


def test_a_red_night_is_told_to_prefect_and_to_whoever_listens(
        nights: Nights, heard: tuple[str, list[tuple[str, Any]]], prefect_api: str, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    address, told = heard
    said = {"said": "{{subject}}|{{body}}"}
    CustomWebhookNotificationBlock(name="team", url=f"{address}/team", json_data=said).save("team", overwrite=True)
    assert [wake(prefect_api, "custom-webhook/team") for _ in range(2)] == [
        "an automation was made", "the automation was there and is set to it"]
    monkeypatch.setenv("SFT_NIGHTLY_WEBHOOK", f"{address}/hook?token=s3cr3t")
    nights()
    with pytest.raises(RegressionFound):
        nights(FELL)
    deadline = time.monotonic() + 30
    while len(told) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    by_path = dict(told)
    hook = by_path["/hook?token=s3cr3t"]
    assert hook["text"].startswith(f"{nights.name}, night 2: champion (version 1): tiny_mmlu lost 15.0")
    assert (hook["model"], hook["outcome"]) == (nights.name, "regression")
    assert requests.get(hook["mlflow"].partition("#")[0], timeout=5).ok
    assert by_path["/team"]["said"].startswith(f"sft: {nights.name}, regression|{hook['text']} {hook['mlflow']}")
    assert nights(FELL)["outcome"] == "still"
    assert len(told) == 2, "green, and told already"

    for path in (f"{address}/broken?token=s3cr3t", "http://127.0.0.1:9/?token=s3cr3t", "s3cr3t"):
        monkeypatch.setenv("SFT_NIGHTLY_WEBHOOK", path)
        nights()
        with pytest.raises(RegressionFound):
            nights(FELL)
    assert [one.split(":")[0] for one in caplog.messages if "SFT_NIGHTLY_WEBHOOK" in one] == [
        "the webhook SFT_NIGHTLY_WEBHOOK refused to be told of this night",
        "the webhook SFT_NIGHTLY_WEBHOOK was not told of this night",
        "the webhook SFT_NIGHTLY_WEBHOOK was not told of this night"]
    assert "s3cr3t" not in caplog.text
