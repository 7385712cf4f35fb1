"""The plug is pulled anywhere, and the same command again ends where an undisturbed one ends.

Seeds are printed; SFT_CHAOS_SEED is the first of them, SFT_CHAOS_KILLS how many kills the long form makes of runs and
of sweeps each, and half as many of runs that a worker has. What befalls is in `bench/chaos*.py`. Kills that end in
another way are in the tests of their kind: SIGTERM at any moment (test_stopping.py), servers that are not replaced
(test_lost_server.py, test_tracking.py), two machines (test_two_hosts.py), what is said of a full disk (test_disk.py).
"""

import hashlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter

from bench import chaos_platform
from bench.chaos import SHORT, Misfortune, World, can_befall, hand, is_kill
from bench.chaos_platform import Platform
from infra.events import Mark, batches
from infra.postgres import Databases, databases, make_databases
from infra.stored import read_earlier
from infra.study import open_study
from infra.study_contract import TrialRow
from sft_core.config.file import load, trial_config
from sft_core.config.followups import as_searched
from sft_core.locks import is_held
from tasks.prepare import prepare
from tasks.stages import Workspace
from tasks.train import train
from tasks.trial import plan_of

KILLS = int(os.environ.get("SFT_CHAOS_KILLS", 50))
SEED = int(os.environ.get("SFT_CHAOS_SEED", 20261129))
OPEN = {"RUNNING", "PENDING", "CANCELLING"}


class End(NamedTuple):
    """What a command leaves behind: equal for equal work, however often it was disturbed."""

    weights: frozenset[str]
    points: Counter[tuple[str, int, float]]  # of training, by name, step and value
    trials: Counter[str]  # values of complete trials of a sweep
    found: frozenset[str] = frozenset()  # their objectives


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

def disturbed(world: World, dealt: Sequence[Misfortune], span_s: float) -> None:
    """Let these befall the command one after the other, at random moments, and let it end after that."""
    for befall in dealt:
        world.keep_up()
        time.sleep(world.rng.uniform(0.0, span_s))
        befall(world)
    world.keep_up()
    world.finish()


def is_result(metric: str) -> bool:
    """Of training, and not of how fast it was."""
    return metric.startswith(("train/", "validation/")) and not metric.endswith(("_s", "per_s", "seconds"))


def weights_in(home: Path) -> frozenset[str]:
    return frozenset(hashlib.sha256(file.read_bytes()).hexdigest()
                     for file in home.glob("stages/train/*/out/model/model.safetensors"))


def points_of(client: MlflowClient, run_ids: list[str]) -> Counter[tuple[str, int, float]]:
    points: Counter[tuple[str, int, float]] = Counter()
    for run_id in run_ids:
        for key in client.get_run(run_id).data.metrics:
            if is_result(key):
                points.update((key, one.step, one.value) for one in client.get_metric_history(run_id, key))
    return points


def history(world: World) -> Iterator[str]:
    """Every run of the store with all that it has of the first metric of training, for whoever looks for a fault."""
    client = MlflowClient(tracking_uri=world.addresses[1])
    for run in client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1000):
        points = client.get_metric_history(run.info.run_id, "train/loss")
        yield (f"{run.info.run_name} {run.info.run_id} {run.info.status} key {run.data.tags.get('sft.run_key')} of "
               f"{run.data.tags.get('mlflow.parentRunId')}: {[(one.step, one.timestamp, one.value) for one in points]}")


def rows_of(world: World) -> list[TrialRow]:
    if world.arguments[0] != "sweep":
        return []
    return read_earlier("two", world.home, world.databases.studies if world.databases else None).rows


def end_of(world: World) -> tuple[End, Counter[str]]:
    """What stands at the end, and what should not stand there."""
    said = world.answer("reconcile", "--json")
    found = json.loads(said[said.index("{\n"):])["found"]
    of_prefect, of_mlflow = world.addresses
    client = MlflowClient(tracking_uri=of_mlflow)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1000)
    with SyncPrefectClient(of_prefect) as prefect:
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
    complete = [row for row in rows_of(world) if row.values]
    trials = Counter(json.dumps(row.params, sort_keys=True) for row in complete)
    objectives = frozenset(json.dumps([row.params, row.values], sort_keys=True) for row in complete)
    return End(weights_in(world.home), points_of(client, [run.info.run_id for run in runs]), trials, objectives), odd


def difference(wanted: End, found: End, odd: Counter[str], kills: int) -> Tally:
    otherwise = (found.weights != wanted.weights) + bool(wanted.found) * len(wanted.found ^ found.found)
    return Tally(kills, mismatches=otherwise + (found.points - wanted.points).total() + odd["to do"],
                 metrics_lost=(wanted.points - found.points).total(),
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

    def __init__(self, folder: Path, arguments: tuple[object, ...], fresh: Callable[[str], Databases],
                 kind: type[World] = World, deal: Callable[[int, bool], Sequence[Misfortune]] = hand) -> None:
        self.folder, self.arguments, self.fresh, self.kind, self.deal = folder, arguments, fresh, kind, deal

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

    def rounds(self) -> Iterator[tuple[Tally, list[str]]]:
        """One after the other, without end."""
        wanted, calm_s = self.calm()
        for seed in itertools.count(SEED):
            yield self.round(seed, wanted, calm_s / 5)

    def round(self, seed: int, wanted: End, span_s: float, dealt: Sequence[Misfortune] = ()
              ) -> tuple[Tally, list[str]]:
        """One disturbed world; what befalls it is dealt by the seed, unless it is given."""
        name, database = f"seed{seed}", bool(dealt) or seed % 2 == 1
        world = self.kind(self.folder / name, seed, self.arguments, self.fresh(name) if database else None)
        try:
            dealt = dealt or self.deal(seed, database)
            befalls = [one for one in dealt if can_befall(one, world)]
            left_out = [one.__name__ for one in dealt if one not in befalls]
            disturbed(world, befalls, span_s)
            found, odd = end_of(world)
            tally = difference(wanted, found, odd, sum(map(is_kill, befalls)))
            befallen = ", ".join(one.__name__ for one in befalls)
            told = [f"seed {seed}, {'PostgreSQL' if database else 'SQLite'}: {befallen}: {tally} {dict(+odd)}",
                    *(f"{name} cannot be had here: no right to mount, or no C compiler" for name in left_out)]
            if tally._replace(kills=0) != NOTHING:
                told += [*map(str, rows_of(world)), *history(world), world.said.read_text(errors="replace")[-9000:]]
        finally:
            world.close()
        return tally, told


def trained_here(sweep: Path, home: Path) -> End:
    """What the sweep is to leave, without its objectives: proposed and trained in this process, which nobody kills."""
    config = as_searched(load(sweep).config)
    assert config.search
    place, study = Workspace(home, None), open_study(plan_of(config, config.search), home)
    study.join()
    study.begin(config.search.trials)
    trials, points = Counter[str](), Counter[tuple[str, int, float]]()
    while (trial := study.ask()) is not None:
        trials[json.dumps(trial.params, sort_keys=True)] += 1
        chosen = trial_config(config, trial.root, trial.params)
        trained = train.fn(chosen, prepare.fn(chosen, place), place, lambda _: None)
        study.tell(trial.number, {"alignment": 0.0, "tax": 0.0})
        for batch, _ in batches(trained.folder / "events.jsonl", Mark("")):
            points.update((one.key, one.step, one.value) for one in batch if is_result(one.key))
    study.close()
    return End(weights_in(home), points, trials)


def check(rounds: Iterable[tuple[Tally, list[str]]], kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Rounds until so many kills have been made; what befell is printed, with a line of JSON at the end."""
    sums: Counter[str] = Counter()
    for found, told in rounds:
        sums.update(found._asdict())
        with capsys.disabled():
            print("", *told, sep="\n", flush=True)
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
    check(Ordeal(tmp_path, run, fresh).rounds(), KILLS, capsys)


@pytest.mark.chaos
def test_a_sweep_of_four_workers_that_is_killed_anywhere_ends_where_it_would_have_ended(
    tmp_path: Path, sweep: Path, fresh: Callable[[str], Databases], capsys: pytest.CaptureFixture[str]
) -> None:
    data: dict[str, Any] = yaml.safe_load(sweep.read_text())
    data["search"]["trials"] = 6
    sweep.write_text(yaml.safe_dump(data, sort_keys=False))
    check(Ordeal(tmp_path, ("sweep", sweep, "--workers", 4), fresh).rounds(), KILLS, capsys)


@pytest.mark.chaos
def test_a_run_of_the_worker_ends_where_the_command_ends(
    tmp_path: Path, config: Path, fresh: Callable[[str], Databases], capsys: pytest.CaptureFixture[str]
) -> None:
    """With `sft up` after each misfortune."""
    run = ("run", config, "--set", "eval.limit=3", "--set", "eval.parity=off")
    check(Ordeal(tmp_path, run, fresh, Platform, chaos_platform.hand).rounds(), KILLS // 2, capsys)


def test_a_sweep_whose_plug_is_pulled_a_dozen_times(
    tmp_path: Path, sweep: Path, fresh: Callable[[str], Databases], capsys: pytest.CaptureFixture[str]
) -> None:
    """The short form of both."""
    ordeal, wanted = Ordeal(tmp_path, ("sweep", sweep), fresh), trained_here(sweep, tmp_path / "calm")
    check([ordeal.round(SEED, wanted, 4.0, SHORT)], 10, capsys)
