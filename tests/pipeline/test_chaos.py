"""The plug is pulled anywhere, and the same command again ends where an undisturbed one ends.

Seeds are printed; SFT_CHAOS_SEED is the first of them, SFT_CHAOS_KILLS how many kills the long form makes of runs and
of sweeps each. What befalls is in `bench/chaos.py`. Kills that end in another way are in the tests of their kind:
SIGTERM at any moment (test_stopping.py), servers that are not replaced (test_lost_server.py, test_tracking.py), two
machines (test_two_hosts.py), what is said of a full disk (test_disk.py).
"""

import hashlib
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter

from bench.chaos import World, hand, is_kill
from infra.contract import TrialRow
from infra.postgres import Databases, databases, make_databases
from infra.stored import read_earlier
from sft_core.locks import is_held

KILLS = int(os.environ.get("SFT_CHAOS_KILLS", 50))
SEED = int(os.environ.get("SFT_CHAOS_SEED", 20261129))
OPEN = {"RUNNING", "PENDING", "CANCELLING"}


class End(NamedTuple):
    """What a command leaves behind: equal for equal work, however often it was disturbed."""

    weights: frozenset[str]
    points: Counter[tuple[str, int, float]]  # of training, by name, step and value
    trials: Counter[str]  # values and objectives of complete trials of a sweep


class Tally(NamedTuple):
    """The line at the end; all but the kills are to be 0."""

    kills: int
    mismatches: int
    metrics_lost: int
    zombies: int
    orphans: int
    trials_lost: int
    trials_doubled: int


NOTHING = Tally(0, 0, 0, 0, 0, 0, 0)

def disturbed(world: World, seed: int, span_s: float) -> list[str]:
    """Let a hand of misfortunes befall the command, at random moments of its time, and let it end after that."""
    dealt, chance = hand(seed, world), random.Random(seed)
    for befall in dealt:
        world.keep_up()
        time.sleep(chance.uniform(0.0, span_s))
        befall(world)
    world.keep_up()
    world.finish()
    return [befall.__name__ for befall in dealt]


def points_of(client: MlflowClient, run_ids: list[str]) -> Counter[tuple[str, int, float]]:
    points: Counter[tuple[str, int, float]] = Counter()
    for run_id in run_ids:
        for key in client.get_run(run_id).data.metrics:
            if key.startswith(("train/", "validation/")) and not key.endswith(("_s", "per_s", "seconds")):
                points.update((key, one.step, one.value) for one in client.get_metric_history(run_id, key))
    return points


def rows_of(world: World) -> list[TrialRow]:
    if world.arguments[0] != "sweep":
        return []
    return read_earlier("two", world.home, world.databases.studies if world.databases else None).rows


def end_of(world: World) -> tuple[End, Counter[str]]:
    """What stands at the end, and what should not stand there."""
    said = world.answer("reconcile", "--json")
    found = json.loads(said[said.index("{\n"):])["found"]
    client = MlflowClient(tracking_uri=world.mlflow.url)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1000)
    with SyncPrefectClient(world.prefect.url) as prefect:
        flows = prefect.read_flow_runs(flow_run_filter=FlowRunFilter(), limit=200)
    keys = Counter(run.data.tags.get("sft.run_key", run.info.run_id) for run in runs)
    of_lost = {str(path) for path in world.home.glob("alive/*.json") if world.gone and '"prefect"' in path.read_text()}
    odd = Counter({
        "runs open": sum(run.info.status == "RUNNING" for run in runs),
        "flows open": sum(one.state is not None and one.state.type.value in OPEN for one in flows),
        "doubled": sum(count - 1 for count in keys.values()), "orphans": len(world.mine()),
        "held": sum(is_held(lock) for lock in world.home.rglob("lock")),
        "notes": len({str(path) for path in world.home.glob("alive/*.json")} - of_lost),
        "to do": sum(one["todo"] and not (world.gone and "the prefect run" in one["what"]) for one in found),
    })
    weights = frozenset(hashlib.sha256(file.read_bytes()).hexdigest()
                        for file in world.home.glob("stages/train/*/out/model/model.safetensors"))
    trials = Counter(json.dumps([row.params, row.values], sort_keys=True) for row in rows_of(world) if row.values)
    return End(weights, points_of(client, [run.info.run_id for run in runs]), trials), odd


def difference(wanted: End, found: End, odd: Counter[str], kills: int) -> Tally:
    return Tally(kills, mismatches=(found.weights != wanted.weights) + (found.points - wanted.points).total()
                 + odd["to do"], metrics_lost=(wanted.points - found.points).total(),
                 zombies=odd["runs open"] + odd["flows open"] + odd["notes"] + odd["held"], orphans=odd["orphans"],
                 trials_lost=(wanted.trials - found.trials).total(),
                 trials_doubled=(found.trials - wanted.trials).total() + odd["doubled"])


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Callable[[str], Databases]:
    """Databases of a world of this name."""
    url: str = request.getfixturevalue("postgres_url")

    def named(name: str) -> Databases:
        given = f"{url.rpartition('/')[0]}/{name}"
        make_databases(given)
        return databases(given)

    return named


class Ordeal:
    """An undisturbed world, and disturbed ones until so many kills have befallen them."""

    def __init__(self, folder: Path, arguments: tuple[object, ...], fresh: Callable[[str], Databases]) -> None:
        self.folder, self.arguments, self.fresh = folder, arguments, fresh
        self.told: list[str] = []

    def calm(self) -> tuple[End, float]:
        """What is to be there, and how long it takes."""
        world = World(self.folder / "calm", 0, self.arguments)
        try:
            began = time.monotonic()
            world.begin()
            world.finish()
            span_s = time.monotonic() - began
            wanted, odd = end_of(world)
        finally:
            world.close()
        assert not odd.total(), odd
        assert wanted.weights
        assert wanted.points
        return wanted, span_s

    def round(self, seed: int, wanted: End, span_s: float) -> Tally:
        """One disturbed world."""
        name = f"seed{seed}"
        world = World(self.folder / name, seed, self.arguments, self.fresh(name) if seed % 2 else None)
        try:
            befallen = disturbed(world, seed, span_s)
            found, odd = end_of(world)
            tally = difference(wanted, found, odd, sum(map(is_kill, befallen)))
            if tally._replace(kills=0) != NOTHING:
                self.told += [*map(str, rows_of(world)), world.said.read_text(errors="replace")[-9000:]]
        finally:
            world.close()
        self.told.insert(0, f"seed {seed}, {'PostgreSQL' if world.databases else 'SQLite'}: {', '.join(befallen)}: "
                         f"{dict(tally._asdict())} {dict(+odd)}")
        return tally


def check(ordeal: Ordeal, kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Rounds until so many kills have been made; what befell is printed, with a line of JSON at the end."""
    wanted, calm_s = ordeal.calm()
    sums: Counter[str] = Counter()
    for seed in itertools.count(SEED):
        sums.update(ordeal.round(seed, wanted, calm_s / 5)._asdict())
        with capsys.disabled():
            print("", *ordeal.told, sep="\n", flush=True)
        ordeal.told.clear()
        if sums["kills"] >= kills:
            break
    tally = Tally(*(sums[field] for field in Tally._fields))
    with capsys.disabled():
        print(json.dumps(tally._asdict()), flush=True)
    assert tally._replace(kills=0) == NOTHING


@pytest.mark.chaos
def test_a_run_that_is_killed_anywhere_ends_where_it_would_have_ended(
    tmp_path: Path, config: Path, fresh: Callable[[str], Databases], capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", config, "--set", "eval.limit=3", "--set", "eval.parity=off")
    check(Ordeal(tmp_path, run, fresh), KILLS, capsys)


@pytest.mark.chaos
def test_a_sweep_of_four_workers_that_is_killed_anywhere_ends_where_it_would_have_ended(
    tmp_path: Path, sweep: Path, fresh: Callable[[str], Databases], capsys: pytest.CaptureFixture[str]
) -> None:
    data: dict[str, Any] = yaml.safe_load(sweep.read_text())
    data["search"]["trials"] = 6
    sweep.write_text(yaml.safe_dump(data, sort_keys=False))
    check(Ordeal(tmp_path, ("sweep", sweep, "--workers", 4), fresh), KILLS, capsys)


def test_a_sweep_whose_plug_is_pulled_a_dozen_times(
    tmp_path: Path, sweep: Path, fresh: Callable[[str], Databases], capsys: pytest.CaptureFixture[str]
) -> None:
    """The short form of both: one round, in PostgreSQL."""
    ordeal = Ordeal(tmp_path, ("sweep", sweep, "--workers", 2), fresh)
    check(ordeal, 10, capsys)
