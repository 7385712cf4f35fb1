"""`sft clean` on a real MLflow store: what goes by which rule, and what stays because somebody needs it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.clean import run_clean, seconds_of
from infra.contract import Tracker
from infra.settings import MLFLOW_BLOCK, TELEMETRY_OFF
from infra.tracking import open_tracker
from sft_core import locks
from sft_core.errors import ConfigError, TrackingError
from sft_core.stage import USED, write_json
from tasks.clean import Rules, chosen, remove, things
from tasks.runs import find
from tasks.stages import Workspace

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = 400_000  # bytes
MONTH_S = 31 * 86400.0
HOLD = """
import sys
from pathlib import Path
from sft_core.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
TAKE = """
import sys
from pathlib import Path
from sft_core.stage import Stage, use
folder = Path(sys.argv[1])
if folder.name == "model":
    use(folder)
else:
    assert Stage("train", folder.name, folder).take() == {}
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for name, value in {**TELEMETRY_OFF, **MLFLOW_BLOCK, "SFT_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workspace(tmp_path, None)


@pytest.fixture
def tracker(place: Workspace) -> Tracker:
    return open_tracker(f"sqlite:///{place.root}/mlflow.db", "e", place.root)


def process_ended(stage: Path) -> None:
    """This process needs the stage no more, as if it were another one that has ended."""
    locks._SHARED.pop(stage / USED).close()


def run_of(place: Workspace, tracker: Tracker, name: str, score: float, *, registered: bool = False) -> Path:
    """A finished run as `record` leaves it; returns its train stage."""
    stage = place.stages.open("train", f"stamp-{name}")
    with stage.lock():
        model = stage.fresh() / "model"
        model.mkdir()
        (model / "model.safetensors").write_bytes(os.urandom(WEIGHTS))
        (stage.work / "checkpoints" / "step-3").mkdir(parents=True)
        (stage.work / "checkpoints" / "step-3" / "moments").write_bytes(b"1" * 3 * WEIGHTS)
        stage.finish({})
    process_ended(stage.folder)
    run_id = tracker.start_run(name, name, {}, "", {})
    tracker.log_model(run_id, model, "auto")
    if registered:
        tracker.set_alias("m", "champion", tracker.register(run_id, model, "m"))
    write_json(place.runs / name / "run.json", {"name": name, "mlflow_run_id": run_id, "experiment": "e"})
    write_json(place.runs / name / "summary.json", {"gate": {"outcome": "pass"}, "suites": {"s": {"tuned": score}}})
    (place.runs / name / "model").symlink_to(model)
    return stage.folder


def clean(place: Workspace, tracker: Tracker, later_s: float = 0.0, **rules: object) -> set[str]:
    """Remove by these rules, and say what went by kind and folder."""
    going = chosen(things(place, tracker), Rules(**rules), time.time() + later_s)  # type: ignore[arg-type]
    assert all(remove(one, tracker) for one in going)
    return {f"{one.kind}: {one.paths[0].name}" for one in going}


@contextmanager
def held(file: Path, program: str = HOLD) -> Iterator[None]:
    """A second process that holds a lock of this workspace."""
    process = subprocess.Popen([sys.executable, "-c", program, str(file)], cwd=ROOT, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield
    process.communicate("go on\n")


def on_disk(place: Workspace) -> int:
    """Blocks of 512 bytes of all weights, each file once."""
    return sum({path.stat().st_ino: path.stat().st_blocks for path in place.root.rglob("model.safetensors")}.values())


def test_models_go_with_their_links_and_an_alias_keeps_its_own(place: Workspace, tracker: Tracker) -> None:
    stages = {name: run_of(place, tracker, name, score, registered=name == "champion")
              for name, score in (("champion", 0.1), ("good", 0.9), ("bad", 0.2))}
    one = on_disk(place) // 3
    assert {thing.needed for thing in things(place, tracker) if thing.kind == "stage train"} == {"m@champion", ""}
    assert clean(place, tracker) == set()
    assert clean(place, tracker, checkpoints=True) == {"checkpoints of finished training: checkpoints"}
    assert not list(place.root.rglob("checkpoints"))
    assert clean(place, tracker, keep_best=1) == {"stage train: stamp-bad"}
    assert not stages["bad"].exists()
    assert on_disk(place) == 2 * one  # MLflow's names are gone too, else nothing would be freed
    with pytest.raises(TrackingError, match="the model of the run bad was removed"):
        find("bad", place, tracker).model()
    assert clean(place, tracker, later_s=MONTH_S, keep_best=0, older_than_s=MONTH_S) == {"stage train: stamp-good"}
    assert stages["champion"].exists()
    assert (tracker.resolve_alias("m", "champion").folder / "model.safetensors").stat().st_size == WEIGHTS


def test_an_alias_that_moved_on_frees_the_version_behind_it(place: Workspace, tracker: Tracker) -> None:
    run_of(place, tracker, "old", 0.1, registered=True)
    run_of(place, tracker, "new", 0.2, registered=True)
    assert [one.aliases for one in sorted(tracker.registered(), key=lambda one: one.version)] == [(), ("champion",)]
    assert clean(place, tracker, keep_best=0) == {"stage train: stamp-old"}
    assert [(one.version, one.aliases) for one in tracker.registered()] == [("2", ("champion",))]
    assert len({path.stat().st_ino for path in place.root.rglob("model.safetensors")}) == 1
    with pytest.raises(TrackingError, match="has an alias by now"):
        tracker.forget(tracker.registered()[0])


def test_what_was_used_lately_stays(place: Workspace, tracker: Tracker) -> None:
    for name, age_s in (("old", MONTH_S), ("new", 0.0)):
        stage = place.stages.open("prepare", name)
        with stage.lock():
            stage.resume()
            stage.finish({})
        process_ended(stage.folder)
        os.utime(stage.folder / "done.json", (time.time() - age_s,) * 2)
    place.stages.open("prepare", "new").touch()
    assert clean(place, tracker, older_than_s=seconds_of("30d")) == {"stage prepare: old"}
    with pytest.raises(ConfigError, match="--older-than 'soon' is no age; .*12h, 30d, 4w"):
        seconds_of("soon")


def test_a_run_under_way_keeps_all_that_it_may_read(place: Workspace, tracker: Tracker) -> None:
    stage = run_of(place, tracker, "done", 0.5)
    (place.root / "scratch").mkdir()
    rules = {"caches": True, "keep_best": 0, "older_than_s": 0.0}
    with held(place.runs / "under-way" / "lock"):
        assert clean(place, tracker, later_s=MONTH_S, **rules) == set()
        assert {one.needed for one in things(place, tracker) if one.rule and one.rule != "--checkpoints"} == {
            "the run under-way, at work now"}
    going = chosen(things(place, tracker), Rules(True, True, 0.0, 0), time.time() + MONTH_S)
    with held(stage / "lock"):  # it began between the look and the removal
        assert [remove(one, tracker) for one in going if one.kind == "stage train"] == [False]
    for needed in (stage, place.runs / "done" / "model"):  # found by a run, or read by `sft eval` as a run's model
        with held(needed, TAKE):
            assert [remove(one, tracker) for one in going if one.kind == "stage train"] == [False]
            assert {one.needed for one in things(place, tracker) if one.kind == "stage train"} == {
                "a process, at work now"}
    with held(place.runs / "under-way" / "lock"):
        assert not any(remove(one, tracker) for one in going if one.rule == "--caches")
    assert stage.exists()
    assert (place.root / "scratch").exists()
    assert "stage train: stamp-done" in clean(place, tracker, later_s=MONTH_S, **rules)


def test_a_stopped_sweep_keeps_what_it_continues_from(place: Workspace, tracker: Tracker) -> None:
    trial = place.root / "sweeps" / "two" / "trial-000.json"
    write_json(trial, {})
    stage = place.stages.open("train", "half")
    with stage.lock():
        (stage.resume() / "events.jsonl").write_text("{}")
    assert clean(place, tracker, later_s=MONTH_S, older_than_s=1.0) == set()
    assert {one.needed for one in things(place, tracker) if one.kind == "stage train, unfinished"} == {
        "the sweep two, which can continue"}
    write_json(trial.with_suffix(".answer.json"), {})
    assert clean(place, tracker, later_s=MONTH_S, older_than_s=1.0) == {"stage train, unfinished: half"}


def test_nothing_goes_without_yes_and_json_says_all(place: Workspace, tracker: Tracker,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    stage = run_of(place, tracker, "one", 0.5)
    run_clean(Rules(), yes=True, as_json=False)
    assert "nothing is removed without a rule" in capsys.readouterr().out
    run_clean(Rules(keep_best=0), yes=False, as_json=False)
    assert "would remove 1 things, 0.4 MiB; nothing was removed: add --yes" in capsys.readouterr().out
    assert stage.exists()
    run_clean(Rules(keep_best=0), yes=True, as_json=True)
    told = json.loads(capsys.readouterr().out)["things"]
    assert [(one["kind"], one["runs"], one["gone"]) for one in told if one["goes"]] == [("stage train", ["one"], True)]
    assert not stage.exists()


def test_what_no_run_has_made_is_counted_and_stays(place: Workspace, tracker: Tracker) -> None:
    """`make real` puts a model there; it was left out of the sum."""
    (place.root / "smollm2").mkdir()
    (place.root / "smollm2" / "model.safetensors").write_bytes(os.urandom(WEIGHTS))
    (found,) = (one for one in things(place, tracker) if one.kind == "smollm2 (of no run)")
    assert found.bytes >= WEIGHTS
    assert found not in chosen([found], Rules(True, True, 0.0, 0), time.time() + 1)


def test_what_links_lead_to_is_neither_counted_nor_removed_and_small_things_are_one_line(
        place: Workspace, tracker: Tracker, tmp_path_factory: pytest.TempPathFactory,
        capsys: pytest.CaptureFixture[str]) -> None:
    """A link to a model elsewhere was counted as 260 MiB "of no run"."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "model.safetensors").write_bytes(os.urandom(WEIGHTS))
    for name in ("smollm2", "cache"):
        (place.root / name).symlink_to(elsewhere)
    found = {one.kind: one for one in things(place, tracker)}
    assert (found["smollm2 (of no run)"].bytes, found["cache"].bytes) == (0, 0)
    remove(found["cache"], tracker)
    assert (elsewhere / "model.safetensors").stat().st_size == WEIGHTS
    run_clean(Rules(), yes=False, as_json=False)
    shown = capsys.readouterr().out
    assert "smaller things" in shown
    assert "smollm2" not in shown


def test_a_look_makes_no_workspace(sft: Callable[..., subprocess.CompletedProcess[str]], home: Path) -> None:
    assert "there is no run in" in sft("runs").stdout
    said = sft("clean")
    assert (said.returncode, "there is no workspace" in said.stderr) == (2, True)
    assert not home.exists()
