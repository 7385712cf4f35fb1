"""What the platform costs beside the work itself.

    python -m bench.platform [--json FILE] [--only KEY]

`run_overhead_s`: `sft run` on the tiny world from an empty workspace, its temporary Prefect server included, less the
seconds that its stages say training and evaluation took. `run_overhead_served_s`: the same with a Prefect and an
MLflow server that are up. `rerun_cached_s`: the same command again, where every stage is found.
`metrics_5000_overhead_pct`: how much longer 1,000 steps of 20 ms take where 5 metrics of each go to MLflow meanwhile,
through the event file and the follower of training. `metrics_5000_lost`: how many of the 5,000 points are not there.
`reconcile_1000_runs_s`: `sft reconcile` in a workspace of 1,000 recorded runs, of which a tenth lacks points in MLflow
and another tenth is open without a process; then once more, where all agrees (`reconcile_again_s`).
`up_s`: `sft up` in an empty workspace, until all is well; `up_again_s`: the same after `sft down`; `up_running_s`: the
same where all runs.
Nothing else should run on the machine; of several rounds the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.found import write_found
from infra.contract import Tracker
from infra.servers import free_port, start_mlflow, start_prefect
from sft_core.stage import write_json
from sft_core.train.events import EventLog

ROOT = Path(__file__).resolve().parent.parent
RUN = ("run", "flows/configs/demo.yaml", "--set", "eval.limit=20", "--set", "train.epochs=0.3")
ROUNDS = 3
STEPS, METRICS = 1000, 5
RUNS = 1000
STEP_S = 0.02
WORK = ("train", "evaluate", "floors")
"""Stages that are the work itself."""


def sft(home: Path, *arguments: str, **environment: str) -> float:
    """Seconds that a command took.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "SFT_HOME": str(home), "OMP_NUM_THREADS": "1", "PREFECT_API_URL": "",
             "MLFLOW_TRACKING_URI": "", **environment})
    if done.returncode:
        raise SystemExit(f"sft {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return time.monotonic() - began


def beside(home: Path, took: float) -> float:
    """What of a command's seconds went into neither training nor evaluation."""
    marks = [json.loads(mark.read_text()) for name in WORK for mark in home.glob(f"stages/{name}/*/done.json")]
    return took - sum(mark["seconds"] for mark in marks)


@contextmanager
def workspace() -> Iterator[Path]:
    """An empty one, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sft-platform-"))
    try:
        yield folder / "home"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_alone() -> dict[str, list[float]]:
    """A run from nothing, and the same again."""
    first, again = [], []
    for _ in range(ROUNDS):
        with workspace() as home:
            first.append(beside(home, sft(home, *RUN)))
            again.append(sft(home, *RUN))
    return {"run_overhead_s": first, "rerun_cached_s": again}


def run_served() -> dict[str, list[float]]:
    """A run from nothing, with servers that are up."""
    found = []
    with workspace() as servers:
        prefect = start_prefect(servers / "prefect", free_port())
        mlflow = start_mlflow(servers / "mlflow", free_port())
        try:
            for number in range(ROUNDS):
                with workspace() as home:
                    took = sft(home, *RUN, "--set", f"name=served-{number}", PREFECT_API_URL=prefect.url,
                               MLFLOW_TRACKING_URI=mlflow.url)
                    found.append(beside(home, took))
        finally:
            prefect.stop()
            mlflow.stop()
    return {"run_overhead_served_s": found}


def metrics() -> dict[str, list[float]]:
    """Trainings that are followed: the follower runs in their own thread, and its seconds are what they take longer."""
    from mlflow import MlflowClient

    from infra.tracking import open_tracker

    more, lost = [], []
    with workspace() as home:
        tracker = open_tracker(f"sqlite:///{home / 'mlflow.db'}", "bench", home)
        client = MlflowClient(tracking_uri=tracker.uri)
        for number in range(ROUNDS):
            run_id = tracker.start_run(f"bench-{number}", f"bench-{number}", {}, "", {})
            took, following = _training(home / f"{number}.jsonl", partial(
                tracker.follow, run_id, offset_file=home / f"{number}.json"))
            more.append(100 * following / (took - following))
            there = sum(len(client.get_metric_history(run_id, f"train/m{one}")) for one in range(METRICS))
            lost.append(float(STEPS * METRICS - there))
    return {"metrics_5000_overhead_pct": more, "metrics_5000_lost": lost}


def _training(events: Path, follow: Callable[[Path], object]) -> tuple[float, float]:
    """Seconds that steps took which write events, as the trainer does, and how many of them the follower had."""
    following = [0.0]

    def timed(file: Path) -> None:
        began = time.monotonic()
        follow(file)
        following[0] += time.monotonic() - began

    began = time.monotonic()
    with EventLog(events, timed, every_s=5.0) as log:
        for step in range(1, STEPS + 1):
            until = time.thread_time() + STEP_S  # so much work, however busy the machine is
            while time.thread_time() < until:
                pass
            log.write("step", step=step, **{f"m{one}": float(step + one) for one in range(METRICS)})
    return time.monotonic() - began, following[0]


def reconcile() -> dict[str, list[float]]:
    """A workspace of many runs, put right and looked at again."""
    from infra.tracking import open_tracker

    with workspace() as home:
        tracker = open_tracker(f"sqlite:///{home / 'mlflow.db'}", "bench", home)
        for number in range(RUNS):
            _a_run(tracker, home, number)
        return {"reconcile_1000_runs_s": [sft(home, "reconcile")], "reconcile_again_s": [sft(home, "reconcile")]}


def up() -> dict[str, list[float]]:
    """A platform from nothing, again after it was ended, and where it runs."""
    found: dict[str, list[float]] = {"up_s": [], "up_again_s": [], "up_running_s": []}
    for _ in range(ROUNDS):
        with workspace() as home:
            try:
                found["up_s"].append(sft(home, "up"))
                found["up_running_s"].append(sft(home, "up"))
                sft(home, "down")
                found["up_again_s"].append(sft(home, "up"))
            finally:
                sft(home, "down")
    return found


def _a_run(tracker: Tracker, home: Path, number: int) -> None:
    """A recorded run of 20 steps with 5 metrics each; every tenth was sent half, the one after it is still open."""
    name = f"run-{number}"
    folder, model = home / "runs" / name, home / "stages" / "train" / name / "out" / "model"
    model.mkdir(parents=True)
    run_id = tracker.start_run(name, name, {"number": number}, "", {})
    write_json(folder / "run.json", {"name": name, "mlflow_run_id": run_id, "mlflow_uri": tracker.shown})
    (folder / "model").symlink_to(model)
    write_json(folder / "summary.json", {})
    for half in range(2):
        with EventLog(model.parent / "events.jsonl", None, every_s=5.0) as log:
            for step in range(10 * half, 10 * half + 10):
                log.write("step", step=step, **{f"m{one}": float(step + one) for one in range(METRICS)})
        if half == (number % 10 != 0):
            tracker.follow(run_id, model.parent / "events.jsonl", folder / "followed.json")
    if number % 10 == 1:
        (folder / "summary.json").unlink()
    else:
        tracker.finish(run_id)


MEASURES: Mapping[str, Callable[[], dict[str, list[float]]]] = {
    "run_overhead_s": run_alone, "rerun_cached_s": run_alone, "run_overhead_served_s": run_served,
    "metrics_5000_overhead_pct": metrics, "reconcile_1000_runs_s": reconcile,
    "up_s": up,
}
"""What each key is measured by; one measure may find several."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", choices=sorted(MEASURES), metavar="KEY")
    given = parser.parse_args()
    asked = {MEASURES[given.only]} if given.only else dict.fromkeys(MEASURES.values())
    rounds = {key: values for measure in asked for key, values in measure().items()}
    found = {key: round(statistics.median(values), 2) for key, values in rounds.items()}
    for key, value in found.items():
        print(f"{key:28} {value:8.2f}   ({', '.join(f'{one:.2f}' for one in rounds[key])})")
    write_found(given.json, {**found, "rounds": rounds})


if __name__ == "__main__":
    main()
