"""The registry: promotion, rollback and lineage of recorded runs, with kills between any two steps."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from eval_suites.results import ItemResult, SuiteResult, write_results
from flows import promotion, registry
from infra.contract import Tracker
from infra.tracking import open_tracker
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import ConfigError, GateFailed, TrackingError
from sft_core.stage import file_digest, write_json
from tasks import lineage
from tasks.catalog import Listed, named_run, told_steps
from tasks.experiment import Experiment
from tasks.promotion import Asked, Step, history, promote, roll_back
from tasks.runs import Recorded, find
from tasks.stages import Done, Workspace
from tasks.versions import made_with

ADA = Asked("Ada")
CHANGES = ("register", "note", "set_alias", "drop_alias", "set_tags")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home", None)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, empty: they take seconds to make."""
    folder = tmp_path_factory.mktemp("database")
    open_tracker(f"sqlite:///{folder}/mlflow.db", "other", folder)
    return folder / "mlflow.db"


@pytest.fixture
def tracker(place: Workspace, database: Path) -> Tracker:
    place.root.mkdir()
    shutil.copy(database, place.root)
    return open_tracker(f"sqlite:///{place.root}/mlflow.db", "e", place.root)


def made(place: Workspace, tracker: Tracker, name: str, gate: str = "pass") -> Recorded:
    """A recorded run whose source is a file and whose model is a text."""
    folder, stage = place.runs / name, place.root / "stages" / "train" / name
    source = place.root / f"{name}.jsonl"
    (model := stage / "out" / "model").mkdir(parents=True)
    (model / "model.safetensors").write_text(f"weights of {name}")
    source.write_text('{"instruction": "Say 1.", "output": "1"}\n')
    config = {"name": "small", "model": {"path": "tiny"},
              "data": {"sources": [{"path": str(source)}], "max_tokens": 99},
              "train": {"epochs": 1, "optim": {"lr": 0.001}}, "eval": {"suites": ["tiny_refusal"]}}
    section = ExperimentConfig.model_validate(config)
    run_id = tracker.start_run(name, name, {}, "text", {"sft.gate": gate})
    tracker.log_metrics(run_id, {"win/tiny_refusal": 40.0, "tax/tiny_mmlu": 1.5})
    write_json(folder / "run.json", {"mlflow_run_id": run_id})
    write_json(folder / "verdict.json", {"gate": gate, "reason": "Because."})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    item = ItemResult("tiny_refusal", "q", "1", "1", 1.0, {}, "", "", "", "", "")
    for label in ("base", "tuned"):
        write_results(folder / "evaluation" / label, SuiteResult("tiny_refusal", "alignment", {"v": 1}, (item,), 0.0))
    (folder / "model").symlink_to(model)
    prepared = place.stages.open("prepare", name)
    (prepared.fresh() / "template.json").write_text("{}")
    sources = [{"name": name, "use": "train", "path": str(source), "files": {source.name: file_digest(source)}}]
    lineage.write_lineage(
        Experiment(section, folder, tracker, run_id), Done(name, prepared.work, {"sources": sources}, reused=False),
        Done(name, stage / "out", {"made_with": made_with()}, reused=False), place)
    prepared.finish({})
    write_json(folder / "summary.json", {})
    return find(name, place, tracker)


class Killed(BaseException):
    pass


def killed_before(tracker: Tracker, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the process before its n-th change of the store."""
    left = iter(range(number))

    def wrap(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return change(*args, **kwargs)
        return counted

    for name in CHANGES:
        monkeypatch.setattr(tracker, name, wrap(getattr(tracker, name)))


def cuts(act: Callable[[], object], tracker: Tracker) -> Iterator[int]:
    """Do it, killed before its first change, its second and so on, until it comes to its end."""
    for number in range(20):
        with pytest.MonkeyPatch.context() as patch:
            killed_before(tracker, number, patch)
            try:
                act()
                return
            except Killed:
                yield number


def test_only_a_passed_gate_promotes_or_somebody_who_says_why(place: Workspace, tracker: Tracker) -> None:
    run = made(place, tracker, "a", "undecided")
    with pytest.raises(GateFailed, match="a is not promoted, its gate says undecided: Because. Promote another run"):
        promote(run, "m", "champion", ADA, tracker)
    for asked, named in ((Asked("Ada", "", override=True), True), (Asked("x", "why", override=True), False)):
        with pytest.raises(ConfigError, match="--override goes with --reason TEXT and --by NAME"):
            asked.check(named=named)
    with pytest.raises(ConfigError, match="--reason has 2001 characters, and 2000 are kept"):
        Asked("Ada", "x" * 2001).check(named=True)
    assert tracker.registered() == []
    step, moved = promote(run, "m", "champion", Asked("Ada", "a demo", override=True), tracker)
    assert moved
    assert "promoted to champion against its gate (undecided)" in step.told()
    assert step.told().endswith("by Ada: a demo")
    (version,) = tracker.registered("m")
    assert history([version]) == [step]
    assert json.loads(tracker.find_run(run.run_id).tags[step.key])["why"] == "a demo"
    assert {"sft.data", "sft.config", "sft.base", "sft.results", "sft.commit"} <= version.tags.keys()
    assert promote(run, "m", "champion", Asked("Bob", "again", override=True), tracker) == (step, False)
    with pytest.raises(GateFailed):
        promote(run, "m", "champion", ADA, tracker)


def test_a_promotion_keeps_the_old_champion_and_a_rollback_goes_back_once(place: Workspace, tracker: Tracker) -> None:
    a, b, c = (made(place, tracker, name) for name in "abc")
    with pytest.raises(TrackingError, match="m has neither a champion nor a previous one"):
        roll_back("m", ADA, tracker)
    for run in (a, b, c):
        promote(run, "m", "champion", ADA, tracker)
    assert tracker.aliases("m") == {"champion": "3", "previous": "2"}
    step = roll_back("m", Asked("Bob", "it swears"), tracker)
    assert (step.version, step.before) == ("2", "3")
    assert tracker.aliases("m") == {"champion": "2"}
    with pytest.raises(TrackingError, match="no previous champion to go back to: version 2 is the champion, it was "
                                            "rolled back to champion at .* by Bob from version 3: it swears"):
        roll_back("m", ADA, tracker)
    assert promote(c, "m", "champion", ADA, tracker)[0].before == "2"
    assert tracker.aliases("m") == {"champion": "3", "previous": "2"}
    promote(a, "m", "staging", ADA, tracker)
    assert tracker.aliases("m") == {"champion": "3", "previous": "2", "staging": "1"}
    assert [(step.what, step.version, step.alias) for step in history(tracker.registered("m"))] == [
        ("promoted", "1", "champion"), ("promoted", "1", "staging"), ("promoted", "2", "champion"),
        ("promoted", "3", "champion"), ("rolled back", "2", "champion"), ("promoted", "3", "champion")]
    tracker.set_alias("m", "champion", "1")  # by hand, on MLflow's page
    assert promote(c, "m", "champion", ADA, tracker)[0].before == "1"
    assert len(history(tracker.registered("m"))) == 7, "a step of its own"


def test_whoever_is_killed_leaves_a_champion_and_the_same_command_finishes(place: Workspace, tracker: Tracker) -> None:
    runs = {name: made(place, tracker, name) for name in "abc"}
    promote(runs["a"], "m", "champion", ADA, tracker)
    promote(runs["b"], "m", "champion", ADA, tracker)
    seen = []
    for _ in cuts(lambda: promote(runs["c"], "m", "champion", ADA, tracker), tracker):
        aliases = tracker.aliases("m")
        assert tracker.resolve_alias("m", "champion").version == aliases["champion"]
        assert tracker.resolve_alias("m", "previous").version == aliases["previous"]
        seen.append((aliases["champion"], aliases["previous"]))
    assert list(dict.fromkeys(seen)) == [("2", "1"), ("2", "2"), ("3", "2")]
    assert tracker.aliases("m") == {"champion": "3", "previous": "2"}
    steps = history(tracker.registered("m"))
    assert [(step.version, step.before, step.done) for step in steps] == [
        ("1", None, True), ("2", "1", True), ("3", "2", True)]
    seen = []
    for _ in cuts(lambda: roll_back("m", ADA, tracker), tracker):
        aliases = tracker.aliases("m")
        seen.append((aliases["champion"], aliases.get("previous")))
    assert list(dict.fromkeys(seen)) == [("3", "2"), ("2", "2"), ("2", None)]
    assert tracker.aliases("m") == {"champion": "2"}
    assert [(step.what, step.before, step.done) for step in history(tracker.registered("m"))][3:] == [
        ("rolled back", "3", True)]


def test_a_rollback_after_a_promotion_that_was_cut_off_says_so(place: Workspace, tracker: Tracker,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = made(place, tracker, "a"), made(place, tracker, "b")
    promote(a, "m", "champion", ADA, tracker)
    with monkeypatch.context() as patch:
        killed_before(tracker, 4, patch)  # between the two aliases
        with pytest.raises(Killed):
            promote(b, "m", "champion", ADA, tracker)
    assert tracker.aliases("m") == {"champion": "1", "previous": "1"}
    with pytest.raises(TrackingError, match="version 1 is the champion, and version 2 was promoted to champion at .* "
                                            "by Ada from version 1, cut off before its end; the same command again"):
        roll_back("m", ADA, tracker)


def test_two_promotions_at_once_leave_one_champion_and_the_other_as_previous(
        place: Workspace, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two machines, which have the server in common and no lock."""
    a, b, c = (made(place, tracker, name) for name in "abc")
    promote(a, "m", "champion", ADA, tracker)
    other = open_tracker(tracker.uri, "e", tmp_path / "elsewhere")
    move = tracker.set_alias

    def meanwhile(name: str, alias: str, version: str) -> None:
        monkeypatch.undo()
        promote(c, "m", "champion", Asked("Bob"), other)
        move(name, alias, version)

    monkeypatch.setattr(tracker, "set_alias", meanwhile)
    assert promote(b, "m", "champion", ADA, tracker)[0].before == "3"
    assert tracker.aliases("m") == {"champion": "2", "previous": "3"}


def test_changed_files_are_refused_and_named(place: Workspace, tracker: Tracker) -> None:
    a, b = made(place, tracker, "a"), made(place, tracker, "b")
    promote(a, "m", "champion", ADA, tracker)
    promote(b, "m", "champion", ADA, tracker)
    (a.folder / "model" / "model.safetensors").write_text("others")  # under all its names, as they are links
    with pytest.raises(TrackingError, match=r"the model of the run a in .* evaluated: model.safetensors \(changed\)"):
        promote(a, "m", "champion", ADA, tracker)
    with pytest.raises(TrackingError, match=r"m@previous \(version 1\) in .* changed model.safetensors \(changed\)"):
        roll_back("m", ADA, tracker)
    assert tracker.aliases("m") == {"champion": "2", "previous": "1"}


def test_a_run_without_a_verdict_is_not_promoted(place: Workspace, tracker: Tracker) -> None:
    run = made(place, tracker, "a")
    (run.folder / "lineage.json").unlink()
    with pytest.raises(TrackingError, match="the run a has no lineage.json in .*: it is not done, or was recorded"):
        promote(run, "m", "champion", Asked("Ada", "why", override=True), tracker)


def test_lineage_tells_what_has_changed_and_what_is_not_here(place: Workspace, tracker: Tracker) -> None:
    run = made(place, tracker, "a")
    record = lineage.read_lineage(run)

    def looked() -> dict[str, tuple[str, str]]:
        return {one.part: (one.state, one.said) for one in lineage.look_again(run, record, place)}

    assert set(looked().values()) == {("ok", "")}
    (place.root / "a.jsonl").write_text("{}")
    (run.folder / "model" / "added").touch()
    (run.folder / "evaluation" / "tuned" / "tiny_refusal.parquet").write_bytes(b"")
    (run.folder / "config.yaml").write_text((run.folder / "config.yaml").read_text() + "\n")
    (place.root / "stages" / "prepare" / "a" / "out" / "template.json").write_text("[]")
    said = looked()
    assert said["source a"] == ("changed", "a.jsonl (changed)")
    assert said["model"] == ("changed", "added (new)")
    assert said["evaluation"] == ("changed", "tuned/tiny_refusal.parquet (changed)")
    assert (said["configuration"][0], said["prepared data"][0], said["base model"][0]) == ("changed", "changed", "ok")
    (place.root / "a.jsonl").unlink()
    shutil.rmtree(place.root / "stages")
    record = {**record, "made_with": {**record["made_with"], "libraries": {"torch": "1.0"}}}
    said = looked()
    assert [said[part][0] for part in ("source a", "model", "prepared data", "libraries", "code")] == [
        *["not here"] * 4, "ok"]
    assert said["libraries"][1].startswith("torch 2")
    record = {**record, "made_with": None}
    assert looked()["code and libraries"] == ("not here", "trained before they were recorded")


def test_the_history_is_in_the_order_in_which_it_was_done() -> None:
    """It went by version, so that a rollback stood before what it went back from."""
    def step(number: int, alias: str, at: str) -> Step:
        return Step(f"sft.step.{number:04}.{alias}", "moved", alias, "", None, f"by-{number}-{alias}", "", "pass",
                    override=False, at=f"2026-11-29T{at}:00+00:00", done=True)

    def listed(version: str, *steps: Step) -> Listed:
        return Listed("m", version, (), "run", "id", "pass", {}, {}, 0.0, "", steps)

    two = listed("2", step(2, "champion", "11:00"))
    one = listed("1", step(1, "champion", "10:00"), step(3, "champion", "09:00"), step(1, "beta", "10:30"))
    assert [re.sub(".* by by-", "", line) for line in told_steps([two, one])] == [
        "1-champion", "1-beta", "2-champion", "3-champion"]  # the third by a machine whose clock is late
    assert re.fullmatch(r"2026-11-\d\d \d\d:\d\d by by-2-champion", str(two.row()["last moved"]))


def test_the_registry_is_listed(place: Workspace, tracker: Tracker, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(registry, "look", lambda: tracker)
    monkeypatch.setattr(promotion, "look", lambda: tracker)
    for module in (registry, promotion):
        monkeypatch.setattr(module, "workspace", lambda: place)
    registry.show_models(None, as_json=False)
    assert "no model is registered yet" in capsys.readouterr().out
    for name in "abc":
        made(place, tracker, name)
        promotion.run_promotion(name, "m", "champion", "Ada", Asked("", f"{name} is better"))
    assert "before: version 2, now m@previous; `sft rollback m` goes back to it" in capsys.readouterr().out
    client = MlflowClient(tracker.uri)
    client.delete_run(tracker.registered("m")[1].run_id)
    client.delete_model_version("m", "1")
    registry.show_models("m", as_json=True)
    three, two = json.loads(capsys.readouterr().out)
    assert (three["version"], three["aliases"], three["run"], three["gate"]) == ("3", ["champion"], "c", "pass")
    assert (three["alignment"], three["tax"]) == ({"tiny_refusal": 40.0}, {"tiny_mmlu": 1.5})
    assert (two["run"], two["aliases"], two["steps"][0]["why"]) == ("deleted in MLflow", ["previous"], "b is better")
    registry.show_models("m", as_json=False)
    assert "tiny_refusal +40.0" in (shown := capsys.readouterr().out)
    assert re.search(r"m 2 was promoted .*\n.*m 3 was promoted ", shown)
    with pytest.raises(ConfigError, match="there is no registered model x; there are m; `sft promote RUN --name x`"):
        registry.show_models("x", as_json=True)
    assert not registry.show_lineage("m", verify=True, as_json=False)
    shown = capsys.readouterr().out
    assert "m 3 was promoted to champion at" in shown
    (place.root / "c.jsonl").write_text("{}")
    assert registry.show_lineage("models:/m@champion", verify=True, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["run"], said["versions"][0]["version"]) == ("c", "3")
    assert {"part": "source c", "state": "changed"}.items() <= said["verified"][0].items()
    promotion.run_rollback("m", "Ada", "")
    assert "m: version 2 is the champion again, version 3 is not any more" in capsys.readouterr().out


def test_names_that_lead_nowhere(place: Workspace, tracker: Tracker) -> None:
    promote(made(place, tracker, "a"), "m", "champion", ADA, tracker)
    assert [named_run(one, place, tracker)[0].name for one in ("m", "m/1", "models:/m", "a")] == ["a"] * 4
    for name, said in (
        ("m@nosuch", "m@nosuch is not in the registry of .*; there is m/1, with the aliases champion; `sft models`"),
        ("m/7", "m/7 is not in the registry of .*; there is m/1, with"),
        ("x@champion", "there is nothing of that name"),
        ("nosuch", "there is no registered model nosuch, and nosuch is no"),
    ):
        with pytest.raises(TrackingError, match=said):
            named_run(name, place, tracker)


def test_a_rollback_needs_no_run_of_the_model_in_mlflow(place: Workspace, tracker: Tracker) -> None:
    a, b = made(place, tracker, "a"), made(place, tracker, "b")
    promote(a, "m", "champion", ADA, tracker)
    promote(b, "m", "champion", ADA, tracker)
    MlflowClient(tracker.uri).delete_run(a.run_id)
    assert roll_back("m", ADA, tracker).done
    assert tracker.aliases("m") == {"champion": "1"}


def test_previous_is_no_alias_to_promote_to() -> None:
    with pytest.raises(ConfigError, match="--alias previous is moved by promotions of the champion alone"):
        promotion.run_promotion("a", "m", "previous", None, Asked(""))
