"""The plug is pulled anywhere, and the same command again ends where an undisturbed one ends.

Seeds are printed; SFT_CHAOS_SEED is the first of them. Kills that are in every test run, or that end in another way,
are in the tests of their kind: a run killed in training (test_experiment.py, test_left_behind.py), SIGTERM at any
moment (test_stopping.py), trials and workers (test_study.py, test_study_storages.py, test_two_hosts.py), servers for
good (test_lost_server.py, test_tracking.py), PostgreSQL (test_study_storages.py), full disks (test_disk.py).
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter

from infra.servers import Service, free_port, start_mlflow, start_prefect
from infra.stored import read_earlier
from sft_core.locks import is_held

ROOT = Path(__file__).resolve().parents[2]
KILLS = 60, 40
"""Of runs, and of sweeps."""
TRIES = 12
"""How often the same command is given where nothing disturbs it any more; one has to do."""
OPEN = {"RUNNING", "PENDING", "CANCELLING"}


class End(NamedTuple):
    """What a command leaves behind: equal for equal work, however often it was disturbed."""

    weights: frozenset[str]
    points: Counter[tuple[str, int, float]]  # of training, by name, step and value
    trials: Counter[str]  # values of complete trials of a sweep


class World:
    """A workspace with servers of its own, and the command that is disturbed in it."""

    def __init__(self, folder: Path, rng: random.Random, *arguments: object) -> None:
        self.folder, self.rng, self.arguments = folder, rng, list(map(str, arguments))
        self.home, self.kills = folder / "home", Counter[str]()
        self.prefect = start_prefect(folder / "prefect", free_port())
        self.mlflow = start_mlflow(folder / "mlflow", free_port())
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "SFT_HOME": str(self.home), "PREFECT_API_URL": self.prefect.url, "MLFLOW_TRACKING_URI": self.mlflow.url,
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """In a session of its own, with what it says in a file."""
        with (self.folder / "said.log").open("ab") as said:
            return subprocess.Popen([sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, env=self.environment,
                                    stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True)

    def begin(self) -> None:
        self.process = self.command(*self.arguments)

    def ended(self) -> bool:
        """Whether the command came to its end; where it ended without having done its work, it is given again."""
        assert self.process is not None
        code = self.process.poll()
        if code:
            self.begin()
        return code == 0

    def finish(self) -> None:
        """The same command again, undisturbed, until it has done its work."""
        for _ in range(TRIES):
            assert self.process is not None
            if self.process.wait(600) == 0:
                return
            self.begin()
        raise AssertionError((self.folder / "said.log").read_text()[-4000:])

    def mine(self) -> list[int]:
        """Processes of the workspace, those of its servers aside."""
        found, mark = [], f"SFT_HOME={self.home}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        for pid in self.mine():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.prefect.stop(kill=True)
        self.mlflow.stop(kill=True)


def kill_command(world: World) -> None:
    """Training runs in the command's own process; its children end with it."""
    assert world.process is not None
    world.process.kill()


def kill_any(world: World) -> None:
    """Whatever works in the workspace: the command, a worker, a trial."""
    if there := world.mine():
        with suppress(ProcessLookupError):
            os.kill(world.rng.choice(there), signal.SIGKILL)


def pause(world: World) -> None:
    """The clock jumps for the processes of the workspace."""
    there = world.mine()
    for number, wait in ((signal.SIGSTOP, world.rng.uniform(1.0, 4.0)), (signal.SIGCONT, 0.0)):
        for pid in there:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(wait)


def again(service: Service, start: Callable[[Path, int], Service], away_s: float) -> Service:
    """The service killed and, after a while, on the same port with the same database."""
    service.stop(kill=True)
    time.sleep(away_s)
    port = urlsplit(service.url).port
    assert port
    return start(service.log.parent, port)


def kill_prefect(world: World) -> None:
    world.prefect = again(world.prefect, start_prefect, world.rng.uniform(0.0, 3.0))


def kill_mlflow(world: World) -> None:
    world.mlflow = again(world.mlflow, start_mlflow, world.rng.uniform(0.0, 3.0))


def mlflow_away_for_a_minute(world: World) -> None:
    world.mlflow = again(world.mlflow, start_mlflow, 60.0)


def twice(world: World) -> None:
    """The same command a second time, beside the first."""
    world.command(*world.arguments)


USUAL = (kill_command, kill_command, kill_any, kill_any, pause, kill_prefect, kill_mlflow, twice)


def disturbed(world: World, kills: int, span_s: float, befalls: tuple[Callable[[World], None], ...]) -> None:
    """Let so many things befall the command, at random moments of its time; then let it come to its end."""
    world.begin()
    for _ in range(kills):
        time.sleep(world.rng.uniform(0.0, span_s))
        if world.ended():
            break
        befall = world.rng.choice(befalls)
        befall(world)
        world.kills[befall.__name__] += 1
    world.finish()
    deadline = time.monotonic() + 60
    while world.mine() and time.monotonic() < deadline:  # the second command, and what ends with its parent
        time.sleep(0.1)


def end_of(world: World) -> tuple[End, dict[str, int]]:
    """What stands at the end, and what should not stand there."""
    reconciled = world.command("reconcile", "--json")
    assert reconciled.wait(300) == 0
    client = MlflowClient(tracking_uri=world.mlflow.url)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
    points: Counter[tuple[str, int, float]] = Counter()
    for run in runs:
        for key in run.data.metrics:
            if key.startswith(("train/", "validation/")) and not key.endswith(("_s", "per_s", "seconds")):
                points.update((key, one.step, one.value) for one in client.get_metric_history(run.info.run_id, key))
    keys = Counter(run.data.tags.get("sft.run_key", run.info.run_id) for run in runs)
    with SyncPrefectClient(world.prefect.url) as prefect:
        flows = prefect.read_flow_runs(flow_run_filter=FlowRunFilter(), limit=200)
    trials = complete_trials(world.home)
    wrong = {
        "zombies": sum(run.info.status == "RUNNING" for run in runs) + sum(
            one.state is not None and one.state.type.value in OPEN for one in flows),
        "doubled": sum(count - 1 for count in keys.values()), "orphans": len(world.mine()),
        "held": sum(is_held(lock) for lock in world.home.rglob("lock")),
        "notes": len(list(world.home.glob("alive/*.json"))),
    }
    weights = frozenset(hashlib.sha256(file.read_bytes()).hexdigest()
                        for file in world.home.glob("stages/train/*/out/model/model.safetensors"))
    return End(weights, points, trials), wrong


def complete_trials(home: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for journal in (home / "studies").glob("*.log"):
        rows = read_earlier(journal.stem, home).rows
        found.update(json.dumps(row.params, sort_keys=True) for row in rows if row.state == "COMPLETE")
    return found


class Tally(NamedTuple):
    """The line at the end; all but the kills are to be 0."""

    kills: int
    mismatches: int
    metrics_lost: int
    zombies: int
    orphans: int
    trials_lost: int
    trials_doubled: int


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(name: str, seed: int, *arguments: object) -> World:
        (folder := tmp_path / name).mkdir()
        made.append(World(folder, random.Random(seed), *arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ordeal(world: Callable[..., World], arguments: tuple[object, ...], kills: int, each: int,
           befalls: tuple[Callable[[World], None], ...]) -> tuple[Tally, list[str]]:
    """An undisturbed world, and disturbed ones until so many kills have befallen them."""
    calm = world("calm", 0, *arguments)
    began = time.monotonic()
    calm.begin()
    calm.finish()
    span_s = time.monotonic() - began
    wanted, odd = end_of(calm)
    assert not any(odd.values()), odd
    assert wanted.weights
    assert wanted.points
    calm.close()
    sums: Counter[str] = Counter()
    told: list[str] = []
    while sums["kills"] < kills:
        seed = int(os.environ.get("SFT_CHAOS_SEED", 20261129)) + sums["rounds"]
        one = world(f"seed-{seed}", seed, *arguments)
        disturbed(one, min(each, kills - sums["kills"]), span_s / 2, befalls)
        found, wrong = end_of(one)
        lost, trials_lost = wanted.points - found.points, wanted.trials - found.trials
        twice_told = found.trials - wanted.trials
        told.append(f"seed {seed}: {dict(one.kills)} {wrong} {sum(lost.values())} points lost")
        print(told[-1], flush=True)
        sums.update(rounds=1, kills=one.kills.total(),
                    mismatches=(found.weights != wanted.weights) + (found.points - wanted.points).total(),
                    metrics_lost=lost.total(), zombies=wrong["zombies"] + wrong["notes"] + wrong["held"],
                    orphans=wrong["orphans"], trials_lost=trials_lost.total(),
                    trials_doubled=twice_told.total() + wrong["doubled"])
        one.close()
    return Tally(*(sums[field] for field in Tally._fields)), told


def check(tally: Tally, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("", *told, json.dumps(tally._asdict()), sep="\n")
    assert tally._replace(kills=0) == Tally(0, 0, 0, 0, 0, 0, 0), told


@pytest.mark.chaos
def test_a_run_that_is_killed_anywhere_ends_where_it_would_have_ended(
    world: Callable[..., World], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", config, "--set", "eval.limit=3", "--set", "eval.parity=off")
    check(*ordeal(world, run, KILLS[0], 6, (*USUAL, *USUAL, *USUAL, mlflow_away_for_a_minute)), capsys)


@pytest.mark.chaos
def test_a_sweep_of_four_workers_that_is_killed_anywhere_ends_where_it_would_have_ended(
    world: Callable[..., World], sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data: dict[str, Any] = yaml.safe_load(sweep.read_text())
    data["search"]["trials"] = 8
    sweep.write_text(yaml.safe_dump(data, sort_keys=False))
    command, befalls = ("sweep", sweep, "--workers", 4), (*USUAL, kill_any, kill_any, kill_any)
    check(*ordeal(world, command, KILLS[1], 10, befalls), capsys)
