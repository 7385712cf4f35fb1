"""Two commands at once in one workspace: the second waits for the first and takes what that has made."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

Start = Callable[..., subprocess.Popen[str]]


def both(start: Start, *arguments: object) -> list[tuple[str, str]]:
    """Output and errors of the command, given twice at once; both end well."""
    running = [start(*arguments), start(*arguments)]
    said = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(err[-2000:] for _, err in said)
    return said


def test_evaluations_of_one_model(start: Start, home: Path) -> None:
    """They used to end with "Directory not empty": both measured into one pending folder."""
    suites = ("--suite", "tiny_mmlu", "--suite", "tiny_refusal", "--limit", "40")
    said = both(start, "eval", "tiny", *suites, "--template", "chatml")
    measured = [err for _, err in said if "evaluating tiny" in err]
    assert len(measured) == 1, "the second took the results of the first"
    assert len(list(home.glob("stages/evaluate/*/done.json"))) == 2


def test_preparations_of_one_configuration(start: Start, config: Path, home: Path) -> None:
    both(start, "data", "show", config)
    (stage,) = home.glob("stages/prepare/*")
    assert json.loads((stage / "done.json").read_text())["fingerprint"] == stage.name


def test_runs_of_one_configuration(start: Start, config: Path, home: Path) -> None:
    both(start, "run", config, "--set", "eval.limit=3")
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    (run_file,) = home.glob("runs/*/run.json")
    run_id = json.loads(run_file.read_text())["mlflow_run_id"]
    assert client.get_run(run_id).info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run_id, "train/loss")]
    assert steps == list(range(1, len(steps) + 1)), "no step is told twice"
    assert len(list(home.glob("stages/train/*/done.json"))) == 1
    assert not list((home / "alive").iterdir())
