"""The command line: help that teaches, schema, and a clear error with the right exit code for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "flows" / "configs" / "demo.yaml"


def sft(*arguments: object, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in its own process and workspace."""
    outside = {"SFT_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | outside, capture_output=True, text=True, timeout=120)


def test_help_teaches_the_first_steps(tmp_path: Path) -> None:
    done = sft("--help", home=tmp_path)
    assert done.returncode == 0
    for verb in ("run", "sweep", "eval", "compare", "suites", "promote", "nightly", "deploy", "story", "data", "config",
                 "tiny"):
        assert f" {verb} " in done.stdout
    assert "sft run flows/configs/demo.yaml" in done.stdout


def test_schema_accepts_the_demo_and_refuses_an_unknown_key(tmp_path: Path) -> None:
    import yaml

    schema = json.loads(sft("config", "schema", home=tmp_path).stdout)
    validator = Draft202012Validator(schema)
    data = yaml.safe_load(DEMO.read_text())
    assert list(validator.iter_errors(data)) == []
    assert list(validator.iter_errors(data | {"modell": {}})) != []
    assert schema["$defs"]["OptimSection"]["properties"]["lr"]["description"].startswith("Peak learning rate")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nosuch.yaml"], "there is no configuration file nosuch.yaml"),
        (["run", DEMO, "--set", "train.optim.lrr=1"], "did you mean lr?"),
        (["run", DEMO, "--set", "nonsense"], "is not of the form section.field=value"),
        (["run"], "Missing argument 'CONFIG'"),
        (["rnu"], "No such command"),
        (["sweep", DEMO, "--trials", "0"], "0"),
        (["sweep", DEMO], "has no search section"),
    ],
)
def test_usage_errors_end_with_2(tmp_path: Path, arguments: list[object], said: str) -> None:
    done = sft(*arguments, home=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.path=nosuch/folder"], "nosuch/folder"),
        (["data.sources.0.path=nosuch.json"], "nosuch.json"),
        (["eval.suites=[tiny_mlmu]", "gate.must_improve=[]", "gate.at_least={}"], "tiny_mmlu"),
        (["template.name=model"], "chat template"),
        (["tracking.uri=http://127.0.0.1:9"], "127.0.0.1:9"),
    ],
)
def test_what_cannot_work_is_said_before_training(tmp_path: Path, changes: list[str], said: str) -> None:
    sets = [part for change in changes for part in ("--set", change)]
    done = sft("run", DEMO, *sets, home=tmp_path)
    assert done.returncode in (1, 2), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr.split("Error:")[-1]


def test_unreachable_prefect_server_is_said_at_once(tmp_path: Path) -> None:
    done = sft("run", DEMO, home=tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "PREFECT_API_URL" in done.stderr


def test_unwritable_workspace_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = sft("run", DEMO, home=tmp_path / "file")
    assert done.returncode == 2
    assert "SFT_HOME" in done.stderr
