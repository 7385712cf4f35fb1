"""SIGTERM at random moments of a run: it always ends soon, with a message and exit code 1."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

Start = Callable[..., subprocess.Popen[str]]
MOMENTS = ("Beginning flow run", "rows read as", "evaluating base", "A/A floor of base", "items find")
"""What a run says when it has begun, has read, asks the base, asks it again, and goes on to train."""
SOON_S = 30.0


def statuses(home: Path) -> set[str]:
    """Of all runs in a workspace's tracker."""
    if not (home / "mlflow.db").exists():
        return set()
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    return {run.info.status for run in client.search_runs([e.experiment_id for e in client.search_experiments()])}


@pytest.mark.parametrize("moments", [(MOMENTS[0], MOMENTS[2], MOMENTS[4]),
                                     pytest.param(4 * MOMENTS, marks=pytest.mark.chaos)], ids=["short", "long"])
def test_sigterm_at_any_moment_ends_the_run_soon(start: Start, config: Path, tmp_path: Path,
                                                 moments: tuple[str, ...]) -> None:
    rng, left = random.Random(0), set[str]()
    for number, moment in enumerate(moments):
        home = tmp_path / f"home-{number}"  # nothing is found from the try before
        process = start("run", config, "--set", "train.epochs=200", "--set", "eval.limit=60", SFT_HOME=str(home))
        assert process.stderr
        assert any(moment in line for line in process.stderr), f"try {number} never came to {moment!r}"
        time.sleep(rng.uniform(0.0, 1.5))
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=SOON_S)
        assert process.returncode == 1, f"try {number}, {moment}: {said[-2000:]}"
        assert "Interrupted:" in said, f"try {number}, {moment}: {said[-2000:]}"
        assert "Traceback" not in said, said
        assert not list(home.glob("alive/*.json"))
        left |= statuses(home)
    assert left == {"KILLED"}
