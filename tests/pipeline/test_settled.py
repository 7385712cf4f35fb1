"""A run that is whole is told again without a flow, and run again as soon as anything that it hangs on is another."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import tasks.inputs
from infra.contract import Registered, Tracker
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import TrackingError
from sft_core.tiny.paths import BASE_FOLDER
from tasks.settled import asked, settle, settled
from tasks.stages import Workspace

ROW = {"instruction": "Say yes.", "output": "yes"}


class Made:
    """A workspace with a run that is whole, in a store as its tracker tells it."""

    def __init__(self, folder: Path) -> None:
        self.place = Workspace(folder / "home", None)
        self.source, self.template = folder / "s.jsonl", folder / "t.jinja"
        self.base, self.suite = folder / "base", folder / "suite"
        self.base.mkdir()
        for file in BASE_FOLDER.glob("*.*"):
            (self.base / file.name).write_bytes(file.read_bytes())
        self.suite.mkdir()
        (self.suite / "items.jsonl").write_text('{"id": "a", "prompt": "1 + 1?", "expect": {"number": 2}}\n')
        (self.suite / "suite.yaml").write_text(
            "name: own\nkind: alignment\nengine: generate\nabout: t\nitems: items.jsonl\nmax_new_tokens: 4\n"
            "scorer: score.py:scored\n")
        (self.suite / "score.py").write_text(
            "from eval_suites.scorers.base import Score\n\ndef scored(expect, answer):\n    return Score(1.0)\n")
        self.source.write_text(json.dumps(ROW) + "\n")
        self.template.write_text("{{ messages }}")
        self.asked: dict[str, Any] = {
            "name": "one", "model": {"path": str(self.base)}, "train": {"optim": {"lr": 1e-3}},
            "data": {"sources": [{"path": str(self.source)}], "max_tokens": 64},
            "template": {"path": str(self.template)},
            "eval": {"suites": ["tiny_refusal", str(self.suite / "suite.yaml")]},
            "tracking": {"registered_model": "m"}}
        self.run = self.place.runs / "one-1"
        (self.run / "model").mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (self.run / "model" / name).write_text("ab")
        (self.run / "summary.json").write_text(json.dumps({"run": "one-1", "mlflow_run_id": "r", "mlflow_uri": "u"}))
        (self.run / "evaluation").mkdir()
        for name in ("report.html", "verdict.json", "lineage.json", "evaluation/own.json", "lock", "followed.json"):
            (self.run / name).write_text("ab")
        self.stages = [self.place.stages.open(name, "f") for name in ("prepare", "evaluate")]
        for stage in self.stages:
            (stage.fresh() / "rows.parquet").write_text("ab")
            (stage.work / "checkpoints").mkdir()
            (stage.work / "checkpoints" / "state").write_text("ab")
            stage.finish({})
        self.store: dict[str, Any] = {"status": "FINISHED", "metrics": {"tax": 1.0}, "points": 5,
                                      "artifacts": frozenset({"report.html", "model"})}
        self.uri, self.version = "u", Registered("m", "1", "r", ("candidate",), None)
        settle(self.run, asked(self.config, self.place), self.place, self.tracker())

    @property
    def config(self) -> ExperimentConfig:
        return ExperimentConfig.model_validate(self.asked)

    def tracker(self) -> Tracker:
        def find_run(_: str) -> SimpleNamespace:
            if not self.store:
                raise TrackingError("no run")
            return SimpleNamespace(status=self.store["status"], metrics=self.store["metrics"])

        return cast(Tracker, SimpleNamespace(
            shown=self.uri, pages=f"{self.uri}/#", find_run=find_run, registered=lambda _: [self.version],
            points=lambda *_: self.store["points"], artifacts=lambda _: self.store["artifacts"]))

    def found(self) -> dict[str, Any] | None:
        return settled(self.config, self.place, self.tracker)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_what_is_whole_is_told_again(made: Made) -> None:
    found = made.found()
    assert found
    assert found["run"] == "one-1"
    assert made.found() == found
    made.uri = "v"
    assert made.found() == {**found, "mlflow_uri": "v", "mlflow_pages": "v/#"}, "the same store at another port"
    shutil.rmtree(made.stages[1].work / "checkpoints")
    made.stages[0].touch()
    for name in ("lock", "followed.json"):
        (made.run / name).write_text("b")
    assert made.found(), "that is no result"


def rewritten(file: Path) -> None:
    """Other bytes, as many, with the same time of change."""
    before = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Made, pytest.MonkeyPatch], object]] = {
    "a field": lambda made, _: made.asked.update(seed=1),
    "a source": lambda made, _: rewritten(made.source),
    "a weight of the base": lambda made, _: rewritten(made.base / "model.safetensors"),
    "the template": lambda made, _: rewritten(made.template),
    "a template that is gone": lambda made, _: made.template.unlink(),
    "an item of a suite": lambda made, _: (made.suite / "items.jsonl").write_text(
        '{"id": "a", "prompt": "1 + 2?", "expect": {"number": 3}}\n'),
    "how a suite is scored": lambda made, _: (made.suite / "score.py").write_text(
        "from eval_suites.scorers.base import Score\n\ndef scored(expect, answer):\n    return Score(0.0)\n"),
    "a library": lambda _, patch: patch.setattr(tasks.inputs, "installed", lambda name: "0"),
    "code": lambda _, patch: patch.setattr(tasks.inputs, "digest", lambda files: "another"),
    "a GPU": lambda _, patch: patch.setattr(tasks.inputs, "why_no_cuda", lambda: None),
    "the model": lambda made, _: shutil.rmtree(made.run / "model"),
    "a weight of the model": lambda made, _: rewritten(made.run / "model" / "model.safetensors"),
    "a file of the model": lambda made, _: (made.run / "model" / "config.json").unlink(),
    "the summary": lambda made, _: (made.run / "summary.json").write_text("{"),
    "a link of the model": lambda made, _: (made.run / "model").rename(made.run / "moved"),
    "an edited summary": lambda made, _: rewritten(made.run / "summary.json"),
    "the report": lambda made, _: (made.run / "report.html").unlink(),
    "the verdict": lambda made, _: (made.run / "verdict.json").unlink(),
    "results": lambda made, _: shutil.rmtree(made.run / "evaluation"),
    "a stage": lambda made, _: shutil.rmtree(made.stages[1].folder),
    "a file of a stage": lambda made, _: rewritten(made.stages[0].work / "rows.parquet"),
    "a mark of a stage": lambda made, _: (made.stages[0].folder / "done.json").write_text("{}"),
    "the store": lambda made, _: made.store.clear(),
    "its run": lambda made, _: made.store.update(status="RUNNING"),
    "metrics": lambda made, _: made.store.update(metrics={}),
    "points of metrics": lambda made, _: made.store.update(points=0),
    "artifacts": lambda made, _: made.store.update(artifacts=frozenset()),
    "the candidate": lambda made, _: setattr(made, "version", made.version._replace(run_id="s")),
    "a judge": lambda made, _: made.asked["eval"].update(refusal_scorer="judge", judge={
        "endpoint": {"url": "http://127.0.0.1:1/v1", "model": "j"}}),
    "a source of the hub": lambda made, _: made.asked["data"].update(sources=[{"path": "org/rows"}]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_is_looked_at(what: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made.found()
    CHANGES[what](made, monkeypatch)
    assert made.found() is None


def test_what_changed_during_the_run_is_not_noted(made: Made) -> None:
    began = asked(made.config, made.place)
    (note := made.run / "settled.json").unlink()
    rewritten(made.source)
    settle(made.run, began, made.place, made.tracker())
    assert not note.exists()
