"""What a sweep costs beside its trials.

    python -m bench.sweep [--json FILE] [--quick]

`trial_overhead_s`: a trial whose stages are all found, from the worker's fork to its answer, median of several;
`deployment_overhead_s`: the same as a run of a work pool, see `bench/sweep_deployed.py`.
`two_workers_speedup`: short trials on the tiny world by one worker and by two, one thread each, each from an empty
workspace with the shared stages made before; wall clock from the first trial's start to the last one's end. They are
of one length: how long the last one is waited for, where they are not, is chance and no cost of a worker.
`trials_per_hour_vs_scripts`: a whole sweep by two workers from an empty workspace against the same trials as scripts,
two at a time, see `bench/sweep_scripts.py`.
`saved_by_rungs_pct`, `false_stops_pct`: simulated studies replayed with the default look, see `bench/rungs.py`.
`simulated`: many workers and trials that take no time on a real PostgreSQL, see `bench/sweep_many.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from bench.found import write_found
from bench.postgres import NoPostgres
from bench.rungs import by_default
from bench.sweep_deployed import deployed
from bench.sweep_many import many
from bench.sweep_scripts import scripts
from eval_suites.results import read_results

ROOT = Path(__file__).resolve().parent.parent
SWEEP = "flows/configs/sweep.yaml"
ALIKE = ("search.points=[]", "search.space={train.optim.lr: {low: 3.0e-4, high: 3.0e-3, log: true}, "
         "train.replay.lambda: {low: 0.0, high: 1.0}, train.kl.beta: {low: 0.1, high: 1.0}}", "train.kl.beta=0.5")


class Size(NamedTuple):
    """How much is measured."""

    trials: int  # by one worker and by two
    again: int  # trials whose stages are found
    simulated: tuple[int, int]  # trials, workers
    replayed: int  # studies


FULL = Size(8, 5, (2000, 64), 20)
QUICK = Size(2, 2, (60, 4), 2)
ITEMS = 800
"""Of each suite of a replayed study."""


class Took(NamedTuple):
    """One sweep: when each trial's process began and answered, and the whole command, in seconds."""

    trials: list[tuple[float, float]]
    whole: float

    @property
    def at_work(self) -> float:
        """From the first trial's start to the last one's end."""
        return max(end for _, end in self.trials) - min(start for start, _ in self.trials)


def sweep(home: Path, study: str, trials: int, workers: int, *settings: str) -> Took:
    """Run `sft sweep` on the tiny world.

    Raises:
        SystemExit: it failed; with the end of what it printed.
    """
    command = [sys.executable, "-m", "flows.cli", "sweep", SWEEP, "--trials", str(trials), "--workers", str(workers),
               "--set", f"search.study={study}", "--set", "search.confirm=0",
               *(part for one in settings for part in ("--set", one))]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SFT_", "PREFECT_"))}
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                          env={**outside, "SFT_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        said = done.stdout[-2000:] + done.stderr[-4000:]
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    whole, folder = time.monotonic() - began, home / "sweeps" / study
    answers = sorted(folder.glob("trial-*.answer.json"))  # written at the end; the configuration at the start
    starts = [answer.with_name(answer.name.replace(".answer", "")) for answer in answers]
    return Took([(one.stat().st_mtime, two.stat().st_mtime) for one, two in zip(starts, answers, strict=True)], whole)


def overhead(home: Path, trials: int) -> dict[str, Any]:
    """Trials of the same values once more, in a study of its own: their stages are found, all else is done again."""
    sweep(home, "made", trials, 1)
    found = sweep(home, "found", trials, 1)
    seconds = [end - start for start, end in found.trials]
    return {"trial_overhead_s": statistics.median(seconds), "each_s": seconds, "whole_command_s": found.whole}


def speedup(home: Path, trials: int) -> dict[str, Any]:
    """The same trials by one worker and by two, each from a copy of the workspace."""
    took = {}
    for workers in (1, 2):
        alone = home.with_name(f"{home.name}-{workers}")
        shutil.copytree(home, alone, symlinks=True)
        took[workers] = sweep(alone, "speed", trials, workers, "seed=1", *ALIKE)
    return {"two_workers_speedup": took[1].at_work / took[2].at_work,
            **{f"workers_{workers}": {"at_work_s": one.at_work, "whole_command_s": one.whole,
                                      "trial_s": statistics.median(end - start for start, end in one.trials)}
               for workers, one in took.items()}}


def against_scripts(home: Path, trials: int) -> dict[str, Any]:
    """The whole command, what its trials share included, and then a script per trial."""
    ours = sweep(home, "whole", trials, 2)
    answers = [json.loads(file.read_text()) for file in sorted((home / "sweeps" / "whole").glob("*.answer.json"))]
    run = home / "runs" / answers[0]["run"]
    results = [read_results(run / "evaluation" / "tuned", name) for name in answers[0]["suites"]]
    prepared = next((home / "stages" / "prepare").glob("*/out/train.parquet")).parent
    theirs = scripts(sorted((home / "sweeps" / "whole").glob("trial-???.json")), prepared, results, home / "scripts", 2)
    return {"trials_per_hour_vs_scripts": theirs / ours.whole, "ours_s": ours.whole, "scripts_s": theirs,
            "trials": trials}


def measure(size: Size) -> dict[str, Any]:
    """All numbers of one run."""
    with tempfile.TemporaryDirectory(prefix="sft-bench-sweep-") as scratch:
        home = Path(scratch) / "home"
        alone = overhead(home, size.again)
        print(json.dumps(alone), flush=True)
        pooled = deployed(home, SWEEP, size.again, "search.confirm=0")
        print(json.dumps(pooled), flush=True)
        both = speedup(home, size.trials)
        print(json.dumps(both), flush=True)
        beside = against_scripts(Path(scratch) / "scripts", size.trials)
        print(json.dumps(beside), flush=True)
    looks = by_default(size.replayed, ITEMS)
    print(json.dumps(looks), flush=True)
    try:
        simulated: Mapping[str, Any] = many(*size.simulated)
    except NoPostgres as error:
        simulated = {"not_run": str(error)}
    return {"trial_overhead_s": alone["trial_overhead_s"],
            "deployment_overhead_s": pooled["deployment_overhead_s"],
            "two_workers_speedup": both["two_workers_speedup"],
            "trials_per_hour_vs_scripts": beside["trials_per_hour_vs_scripts"],
            "saved_by_rungs_pct": looks["no limit"]["saved_by_rungs_pct, evaluation 0.3"],
            "false_stops_pct": looks["no limit"]["false_stops_pct"],
            "details": {"overhead": alone, "deployed": pooled, "speedup": both, "scripts": beside, "rungs": looks,
                        "simulated": simulated, "setup": setup()}}


def setup() -> Mapping[str, object]:
    """Where and when."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": platform.machine(),
            "cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "optuna", "prefect", "mlflow")}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few trials, five minutes")
    known = parser.parse_args()
    found = measure(QUICK if known.quick else FULL)
    print(json.dumps(found, indent=2))
    write_found(known.json, found)


if __name__ == "__main__":
    main()
