"""What killed processes leave: children end with them, and the next run closes what they had open."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO
from uuid import UUID

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient

from infra import alive as alive_module
from infra.alive import Note, alive, bury

Start = Callable[..., subprocess.Popen[str]]
Sft = Callable[..., subprocess.CompletedProcess[str]]


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def training(home: Path) -> bool:
    return any('"step"' in file.read_text() for file in home.glob("stages/train/*/out/events.jsonl"))


def notes(home: Path) -> dict[str, str]:
    """Kind → id of what is open."""
    found = [json.loads(file.read_text()) for file in home.glob("alive/*.json")]
    return {note["kind"]: note["run_id"] for note in found}


def flow_state(api: str, run_id: str) -> str:
    with SyncPrefectClient(api) as client:
        state = client.read_flow_run(UUID(run_id)).state
    assert state is not None
    return state.type.value


def test_next_run_closes_what_a_killed_one_had_open_and_nothing_of_a_live_one(
    start: Start, config: Path, home: Path, prefect_api: str
) -> None:
    long = ("--set", "train.epochs=200")
    killed = start("run", config, *long, "--set", "name=killed")
    wait_for(lambda: training(home))
    dead = notes(home)
    assert set(dead) == {"prefect", "mlflow"}
    killed.kill()
    killed.wait()
    assert flow_state(prefect_api, dead["prefect"]) == "RUNNING"

    start("run", config, *long, "--set", "name=live")
    wait_for(lambda: set(notes(home).values()).isdisjoint(dead.values()) and len(notes(home)) == 2)
    live = notes(home)
    assert flow_state(prefect_api, dead["prefect"]) == "CRASHED"
    start("run", config, *long, "--set", "name=third")
    wait_for(lambda: len(list(home.glob("alive/*.json"))) == 4)
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    assert client.get_run(dead["mlflow"]).info.status == "KILLED"
    assert client.get_run(dead["mlflow"]).data.tags["sft.error"] == "its process was killed"
    assert client.get_run(live["mlflow"]).info.status == "RUNNING"
    assert flow_state(prefect_api, live["prefect"]) == "RUNNING"


HOLDER = """
import sys, time
from pathlib import Path
from infra.alive import Note, alive
with alive(Path(sys.argv[1]), Note("prefect", sys.argv[2], "")):
    print("open", flush=True)
    time.sleep(60)
"""


def hold(workspace: Path, run_id: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(workspace), run_id]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    return process


def test_notes_of_dead_processes_are_told_from_those_of_live_ones(tmp_path: Path) -> None:
    live, dead, continued = hold(tmp_path, "live"), hold(tmp_path, "dead"), hold(tmp_path, "continued")
    again = hold(tmp_path, "continued")
    seen: list[str] = []

    def close(note: Note) -> bool:
        seen.append(note.run_id)
        return False

    try:
        with alive(tmp_path, Note("prefect", "mine", "")):
            for process in (dead, continued):
                process.kill()
                process.wait()
            bury(tmp_path, close)
            assert seen == ["dead"]
            bury(tmp_path, lambda note: True)
            bury(tmp_path, close)
            assert seen == ["dead"], "what was closed is not closed again"
            assert len(list((tmp_path / "alive").glob("*.json"))) == 3
    finally:
        for process in (live, again):
            process.kill()
            process.wait()


def test_note_is_seen_only_when_it_is_whole_and_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later run that starts in between would take an unlocked note for one of the dead."""
    seen: list[Note] = []
    inner = alive_module.locked

    def between(handle: IO[str]) -> bool:
        monkeypatch.setattr(alive_module, "locked", inner)
        bury(tmp_path, lambda note: bool(seen.append(note)))
        return inner(handle)

    monkeypatch.setattr(alive_module, "locked", between)
    with alive(tmp_path, Note("prefect", "mine", "")):
        bury(tmp_path, lambda note: bool(seen.append(note)))
    assert not seen


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_trial_ends_with_its_sweep(start: Start, sweep: Path, home: Path, number: signal.Signals) -> None:
    process = start("sweep", sweep, "--set", "train.epochs=200", PREFECT_API_URL="")  # its server dies with it
    wait_for(lambda: training(home))
    (worker,) = (child for child in children_of(process.pid) if b"sweep-worker" in cmdline(child))
    (trial,) = children_of(worker)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    wait_for(lambda: is_gone(trial) and is_gone(worker), 20)
    assert "state is saved" in (home / "sweeps" / "two" / "trial-000.log").read_text()
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    status = {run.data.tags["sft.kind"]: run.info.status for run in runs}
    assert status["experiment"] == "KILLED"
    if number == signal.SIGTERM:
        assert (process.returncode, status["sweep"]) == (1, "KILLED")
        assert "stopped by SIGTERM" in said


def end_unread(process: subprocess.Popen[str], home: Path) -> None:
    """Close the readers of both streams in mid-training; the run ends well all the same."""
    assert process.stdout
    assert process.stderr
    wait_for(lambda: training(home))
    process.stdout.close()
    process.stderr.close()
    assert process.wait(180) == 0


def test_output_that_nobody_reads_does_not_end_a_run(start: Start, config: Path, home: Path) -> None:
    """As under a worker that dies: both streams are pipes without a reader."""
    process = start("run", config, "--set", "eval.limit=3")
    end_unread(process, home)
    run_id = json.loads(next(home.glob("runs/*/run.json")).read_text())["mlflow_run_id"]
    assert MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db").get_run(run_id).info.status == "FINISHED"


WORKER_RUN = """
import sys
import prefect  # as a worker's child does: its handlers hold the streams before the flow begins
from infra.settings import prepare_environment, read_settings
from flows.experiment import sft_experiment
sft_experiment(sys.argv[1], ["eval.limit=3"])
"""


def test_worker_that_dies_does_not_end_its_flow(start: Start, config: Path, home: Path) -> None:
    process = start(config, program=("-c", WORKER_RUN))
    end_unread(process, home)
    assert list(home.glob("runs/*/summary.json"))


@pytest.mark.parametrize("torn", ["", "{", '{"kind": "mlflow"}'])
def test_a_note_that_a_power_cut_tore_stops_no_later_run(tmp_path: Path, torn: str) -> None:
    with alive(tmp_path, Note("mlflow", "1", "here")):
        (tmp_path / "alive" / "torn.json").write_text(torn)
        bury(tmp_path, lambda note: pytest.fail(str(note)))
        assert len(list((tmp_path / "alive").glob("*.json"))) == 1
