"""A suite of the user's own, from its path to verdict, MLflow and comparison: it has one name everywhere."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient

from eval_suites.results import read_results

Sft = Callable[..., subprocess.CompletedProcess[str]]


def write(folder: Path, name: str) -> str:
    """A suite of two questions; its path."""
    rows = [{"id": f"a{n}", "kind": "bare", "cluster": str(n), "messages": [{"role": "user", "content": question}],
             "expect": {"answers": ["hello"]}} for n, question in enumerate(("Say hello.", "Say something."))]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({
        "about": "Mine.", "kind": "alignment", "engine": "generate", "items": f"{name}.jsonl", "max_new_tokens": 8}))
    return str(folder / f"{name}.yaml")


def asked(config: Path, **changes: Any) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["train"] = {**settings["train"], "epochs": 0.3, "replay": {}}
    config.write_text(yaml.safe_dump({**settings, **changes}))


def latest(home: Path) -> Path:
    """The run folder that was written last."""
    return max(home.glob("runs/*/summary.json"), key=lambda file: file.stat().st_mtime).parent


def test_a_run_with_a_suite_given_by_its_path(sft: Sft, config: Path, home: Path, tmp_path: Path) -> None:
    """It ran to the end and then had the path for a name; a second suite trained the same weights again."""
    evaluation = {"suites": [write(tmp_path, "my_qa"), "tiny_mmlu"], "limit": 2, "max_new_tokens": 8}
    gate = {"margins": {"tiny_mmlu": 99.0}, "at_least": {"my_qa": 0.0}, "must_improve": ["my_qa"]}
    asked(config, eval=evaluation, gate=gate)
    first = sft("run", config)
    assert first.returncode == 0, first.stdout + first.stderr
    run = latest(home)
    assert [one["suite"] for one in json.loads((run / "verdict.json").read_text())["suites"]] == ["my_qa", "tiny_mmlu"]
    assert (run / "evaluation" / "tuned" / "my_qa.json").exists()
    assert read_results(run / "evaluation" / "base", "tiny_mmlu").chance == 0.25, "one over four choices"
    kept = MlflowClient(f"sqlite:///{home / 'mlflow.db'}").get_run(
        json.loads((run / "run.json").read_text())["mlflow_run_id"])
    assert {"score/my_qa.base", "score/my_qa.tuned", "win/my_qa", "win/my_qa.low"} <= set(kept.data.metrics)
    assert str(tmp_path) not in " ".join(kept.data.metrics)

    evaluation["suites"].append(write(tmp_path, "another"))
    asked(config, eval=evaluation, gate=gate)
    assert sft("run", config).returncode == 0
    summary = json.loads((latest(home) / "summary.json").read_text())
    assert set(summary["suites"]) == {"my_qa", "tiny_mmlu", "another"}
    assert summary["reused"] == {"prepare": False, "train": True}
    shown = sft("compare", run.name, latest(home).name, "--must-improve", "my_qa")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "only in one of the two: another" in shown.stdout
