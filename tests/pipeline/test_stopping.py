"""SIGTERM at random moments of a run: it always ends soon, with a message and exit code 1."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

Start = Callable[..., subprocess.Popen[str]]
Sft = Callable[..., subprocess.CompletedProcess[str]]
TIMES = 20
SOON_S = 20.0


def test_sigterm_at_any_moment_ends_the_run_soon(start: Start, sft: Sft, config: Path, home: Path) -> None:
    """From the first line of code on, through preparing, the base's evaluation and training."""
    long = ("--set", "train.epochs=200", "--set", "eval.limit=60")
    assert sft("data", "show", config).returncode == 0  # a warm page cache: all tries begin alike
    rng, took = random.Random(0), []
    for number in range(TIMES):
        process = start("run", config, *long, "--set", f"seed={number}")  # nothing is found from the try before
        assert process.stderr
        time.sleep(rng.uniform(1.0, 14.0))
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, said = process.communicate(timeout=SOON_S)
        took.append(time.monotonic() - began)
        assert process.returncode == 1, f"try {number}: {said[-2000:]}"
        assert "Interrupted:" in said, f"try {number}: {said[-2000:]}"
        assert "Traceback" not in said, said
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    left = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.info.status for run in left} == {"KILLED"}
    assert not list(home.glob("alive/*.json"))
    print(f"{TIMES} stops, the slowest took {max(took):.1f} s")
