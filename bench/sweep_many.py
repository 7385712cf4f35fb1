"""Many workers on one study in a real PostgreSQL, with trials that take no time: what is left is the study's own cost.

Each worker is a process with a workspace of its own, as on a host of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.postgres import postgres
from infra.plans import Dimension, Plan
from infra.study import open_study

PASSWORD = "bench"
PLAN = Plan("many", {"train.optim.lr": Dimension(1e-5, 1e-2, log=True), "train.epochs": Dimension(0.5, 3.0),
                     "train.replay.lambda": Dimension(0.0, 1.0), "train.kl.beta": Dimension(0.0, 1.0)},
            {"alignment": "maximize", "tax": "minimize"}, "", "tpe", 0)
PAUSE_S = 0.2
PARTS = 5
"""Into so many parts the trials are cut, in their order, for the curve of costs."""


def many(trials: int, workers: int) -> dict[str, Any]:
    """Numbers of a study with so many trials and workers.

    Returns:
        lost: trials that were wanted and are not complete; doubled: trials that two workers ran or that stand in the
        study twice; overhead_ms_per_trial: wall clock per trial, all workers at once; worker_mb: largest resident set;
        ask_tell_ms: median of asking and telling by one worker, the trials in their order cut into parts.
    """
    with tempfile.TemporaryDirectory(prefix="sft-many-") as scratch, postgres(PASSWORD) as server:
        url, root = f"postgresql+psycopg://postgres:{PASSWORD}@{server}/postgres", Path(scratch)
        open_study(PLAN, root / "first", url).begin(trials)
        crew = [subprocess.Popen([sys.executable, "-m", "bench.sweep_many", str(root / f"host-{number}")],
                                 stdout=subprocess.PIPE, env=os.environ | {"BENCH_STUDY": url, "OMP_NUM_THREADS": "1"})
                for number in range(workers)]
        said = [json.loads(worker.communicate()[0]) for worker in crew]
        rows = open_study(PLAN, root / "first", url).trials()
    ran = [one for each in said for one in each["ran"]]
    times = Counter(one["number"] for one in ran)
    complete = [row for row in rows if row.values]
    wall = max(each["ended"] for each in said) - min(each["began"] for each in said)
    return {"trials": trials, "workers": workers, "lost": trials - len(complete),
            "doubled": sum(count > 1 for count in times.values()) + max(0, len(complete) - trials),
            "failed": sum(row.state == "FAIL" for row in rows), "overhead_ms_per_trial": 1000 * wall / trials,
            "worker_mb": max(each["mb"] for each in said), "ask_tell_ms": _curve(ran)}


def _curve(ran: Sequence[dict[str, float]]) -> list[float]:
    ordered = [one["ms"] for one in sorted(ran, key=lambda one: one["number"])]
    size = max(1, len(ordered) // PARTS)
    return [statistics.median(ordered[start:start + size]) for start in range(0, size * PARTS, size)
            if ordered[start:start + size]]


def work(workspace: Path, url: str) -> dict[str, Any]:
    """What one worker did: its trials, with the time that the study took for each."""
    study = open_study(PLAN, workspace, url)
    study.join()
    began, ran = time.time(), []
    while study.remaining():
        asked = time.monotonic()
        trial = study.ask()
        if trial is None:
            time.sleep(PAUSE_S)
            continue
        at = {field: float(value or 0) for field, value in trial.params.items()}
        study.tell(trial.number, {"alignment": at["train.epochs"], "tax": at["train.kl.beta"]})
        ran.append({"number": trial.number, "ms": 1000 * (time.monotonic() - asked)})
    study.close()
    return {"ran": ran, "began": began, "ended": time.time(),
            "mb": _largest_mb()}


def _largest_mb() -> float:
    """Largest resident set of this process; that of `getrusage` counts what started it as well."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]), os.environ["BENCH_STUDY"])))
