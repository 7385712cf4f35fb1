"""A Prefect server that is killed in mid-training and does not come back costs a warning."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State

from infra.servers import Service, free_port, start_prefect

Start = Callable[..., subprocess.Popen[str]]
Sft = Callable[..., subprocess.CompletedProcess[str]]
Befalls = Callable[[subprocess.Popen[str], Path], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Service]:
    service = start_prefect(tmp_path / "prefect", free_port())
    yield service
    service.stop(kill=True)


@pytest.fixture
def prefect_api(server: Service) -> str:
    """Instead of the session's: this one is killed."""
    return server.url


def ended(home: Path) -> str:
    run_id = json.loads(next(home.glob("runs/*/run.json")).read_text())["mlflow_run_id"]
    return str(MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db").get_run(run_id).info.status)


def kill_in_training(process: subprocess.Popen[str], server: Service, home: Path) -> None:
    deadline = time.monotonic() + 120
    while not any('"step"' in file.read_text() for file in home.glob("stages/train/*/out/events.jsonl")):
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.stop(kill=True)


def test_run_whose_server_is_gone_shows_its_verdict_and_ends_well(
    start: Start, config: Path, home: Path, server: Service
) -> None:
    process = start("run", config, "--set", "eval.limit=3")
    kill_in_training(process, server, home)
    began = time.monotonic()
    shown, said = process.communicate(timeout=180)
    assert process.returncode == 0, said[-3000:]
    assert "Verdict: tuned against base" in shown
    assert "Gate:" in shown
    assert "Prefect" in said
    assert "is lost" in said
    assert "could not be told" in said
    assert "Traceback" not in said, said
    # For the artifacts, and by the watch where the run goes on for longer than it waits.
    assert 1 <= said.count("is lost (") <= 2, said
    assert "Unable to connect" not in said
    assert "Error logging to API" not in said
    assert len(said.splitlines()) < 60, said
    assert ended(home) == "FINISHED"
    assert time.monotonic() - began < 75, "the rest of the run, one report that is tried for 14 s, one event"


@pytest.mark.chaos
def test_run_that_fails_without_its_server_says_why_it_failed(
    start: Start, config: Path, home: Path, server: Service
) -> None:
    process = start("run", config, "--set", "train.epochs=200")
    kill_in_training(process, server, home)
    process.terminate()
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 12, "nothing waits for the server"
    assert process.returncode == 1
    assert "training stopped by SIGTERM" in said
    assert "Traceback" not in said, said
    assert ended(home) == "KILLED"


def flow_run_of(home: Path) -> str:
    """The one that is noted as open or untold."""
    found = [json.loads(file.read_text()) for file in home.glob("alive/*.json")]
    (run_id,) = {note["run_id"] for note in found if note["kind"] == "prefect"}
    return str(run_id)


def state_of(api: str, run_id: str) -> State:
    with SyncPrefectClient(api) as client:
        state = client.read_flow_run(UUID(run_id)).state
    assert state is not None
    return state


def go_on(process: subprocess.Popen[str], home: Path) -> None:
    """Nothing more happens to it."""


def stop(process: subprocess.Popen[str], home: Path) -> None:
    process.terminate()


def break_stages(process: subprocess.Popen[str], home: Path) -> None:
    """The evaluation that is to come finds a file where its folder has to be."""
    (home / "stages" / "evaluate").rename(home / "elsewhere")
    (home / "stages" / "evaluate").write_text("")


def come_back(server: Service) -> Service:
    """On the same port, with the same database."""
    port = urlsplit(server.url).port
    assert port
    return start_prefect(server.log.parent, port)


@pytest.mark.parametrize(("befalls", "end"), [
    pytest.param(go_on, "COMPLETED: ", marks=pytest.mark.chaos),
    pytest.param(break_stages, "FAILED: SftError: cannot make", marks=pytest.mark.chaos),
    (stop, "FAILED: Interrupted: "),
])
def test_next_start_tells_a_server_that_came_back_how_the_run_ended(
    start: Start, sft: Sft, config: Path, server: Service, befalls: Befalls, end: str
) -> None:
    home = config.with_name("home")
    process = start("run", config, "--set", "eval.limit=3", *(("--set", "train.epochs=200") if befalls is stop else ()))
    kill_in_training(process, server, home)
    befalls(process, home)
    process.communicate(timeout=180)
    again = come_back(server)
    try:
        run_id = flow_run_of(home)
        assert state_of(server.url, run_id).is_running()
        sft("run", config, "--set", "eval.limit=3", "--set", "name=next")
        told = state_of(server.url, run_id)
        assert f"{told.type.value}: {told.message or ''}".startswith(end)
        assert not list(home.glob("alive/*.json"))
    finally:
        again.stop(kill=True)
