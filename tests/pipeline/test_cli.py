"""The command line: help that teaches, schema, and a clear error with the right exit code for bad input."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from rich.console import Console
from typer.testing import CliRunner

from flows import cli, console
from flows.panels import PANELS
from infra.standing import Part

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "flows" / "configs" / "demo.yaml"
Sft = Callable[..., subprocess.CompletedProcess[str]]


def test_help_teaches_the_first_steps(sft: Sft) -> None:
    done = sft("--help")
    assert done.returncode == 0
    for verb in ("run", "sweep", "eval", "compare", "suites", "promote", "nightly", "deploy", "story", "doctor", "data",
                 "config", "tiny", "model", "plan", "runs", "clean"):
        assert f" {verb} " in done.stdout
    assert "sft run demo " in done.stdout
    heads = [done.stdout.index(f" {panel} ─") for panel in PANELS]
    assert heads == sorted(heads)


def test_schema_accepts_the_demo_and_refuses_an_unknown_key(sft: Sft) -> None:
    schema = json.loads(sft("config", "schema").stdout)
    validator = Draft202012Validator(schema)
    data = yaml.safe_load(DEMO.read_text())
    assert list(validator.iter_errors(data)) == []
    assert list(validator.iter_errors(data | {"modell": {}})) != []
    assert schema["$defs"]["OptimSection"]["properties"]["lr"]["description"].startswith("Peak learning rate")


def test_model_import_says_what_is_no_model(sft: Sft, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    done = sft("model", "import", tmp_path / "text.gguf", tmp_path / "made")
    assert done.returncode == 1
    assert "ModelError: " in done.stderr
    assert "text.gguf is not a GGUF file: it begins with b'hell'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nosuch.yaml"], "there is no configuration file nosuch.yaml"),
        (["run", DEMO, "--set", "train.optim.lrr=1"], "did you mean lr?"),
        (["run", DEMO, "--set", "nonsense"], "is not of the form section.field=value"),
        (["run"], "Missing argument 'CONFIG'"),
        (["rnu"], "No such command"),
        (["sweep", DEMO, "--trials", "0"], "greater than or equal to 1"),
        (["sweep", DEMO], "has no search section"),
        (["eval", "tiny", "--suite", "tiny_refusal", "--template", "llama9"], "'llama9' is not one of"),
        (["parity", "tiny", "--template", "llama9"], "'llama9' is not one of"),
        (["eval", "tiny", "--suite", "tiny_refusal", "--looks", "3"], "say with --against"),
        (["compare", "a", "b", "--limit", "3"], "say with --suite which one"),
        (["eval", "tiny", "--suite", "tiny_refusal", "--limit", "tiny_refusal=x"], "--limit 'tiny_refusal=x' is not N"),
        (["eval", "tiny", "--suite", "tiny_refusal", "--limit", "tiny_refusl=3"], "did you mean tiny_refusal?"),
        (["parity", "tiny", "--served-name", "x"], "the model's name at --endpoint"),
        (["promote", "run", "--name", "../evil"], "--name '../evil': this is no name"),
        (["promote", "run", "--alias", "latest"], "--alias 'latest' is no alias"),
        (["deploy", "--pool", "a/b"], "--pool 'a/b': this is no name"),
        (["config", "check", "flows/configs/sweep.yaml", "--set", "search.space={train.lora.rank: {low: 0, high: 4}}"],
         "--set search.space={train.lora.rank: {low: 0, high: 4}}: search.space.train.lora.rank.low = 0: "),
        (["suites", "--mirror", "/nowhere"], "--mirror: '/nowhere' is not a folder"),
    ],
)
def test_usage_errors_end_with_2(sft: Sft, arguments: list[object], said: str) -> None:
    done = sft(*arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_that_yaml_takes_for_a_truth_value_is_the_key(sft: Sft, tmp_path: Path) -> None:
    """`on` is how docs/TRAINING.md writes it; unquoted, YAML 1.1 reads it as true."""
    data = yaml.safe_load(DEMO.read_text())
    data["train"]["replay"] = {"sources": [{"path": "tiny:replay"}]}
    text = yaml.safe_dump(data).replace("train:\n", "train:\n  kl:\n    beta: 0.5\n    on: both\n", 1)
    config = tmp_path / "on.yaml"
    config.write_text(text)
    assert "on: both" in text
    for extra in ((), ("--set", "train.kl={beta: 0.1, on: assistant}")):
        done = sft("config", "check", config, *extra)
        assert done.returncode == 0, done.stderr
    config.write_text(text.replace("on: both", "off: both"))
    done = sft("config", "check", config)
    assert done.returncode == 2
    assert "train.kl.off: unknown key; " in done.stderr


def test_a_shipped_configuration_goes_by_its_name(sft: Sft) -> None:
    done = sft("config", "check", "demo")
    assert done.stdout.strip() == f"{DEMO}: valid"


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
def test_what_cannot_work_is_said_before_training(sft: Sft, changes: list[str], said: str) -> None:
    sets = [part for change in changes for part in ("--set", change)]
    done = sft("run", DEMO, *sets)
    assert done.returncode in (1, 2), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr.split("Error:")[-1]


def test_unreachable_prefect_server_is_said_at_once(sft: Sft) -> None:
    done = sft("run", DEMO, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "PREFECT_API_URL" in done.stderr


CYCLE = """
from flows.cli import begin
class Circle:
    def __init__(self): self.itself = self
    def __del__(self): print("collected")
begin()
Circle()
"""


def test_a_configuration_that_is_wrong_by_itself_starts_no_server(sft: Sft, home: Path) -> None:
    done = sft("run", DEMO, "--set", "train.nosuch=1", PREFECT_API_URL="")
    assert done.returncode == 2, done.stderr
    assert "nosuch" in done.stderr
    assert not (home / "prefect").exists()


def test_nothing_is_collected_on_the_way_out(home: Path) -> None:
    """With torch and lm-eval loaded that takes two seconds of every command, after all is said."""
    done = subprocess.run([sys.executable, "-c", CYCLE], cwd=ROOT, env=os.environ | {"SFT_HOME": str(home)},
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_unwritable_workspace_is_said(sft: Sft, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = sft("run", DEMO, SFT_HOME=str(tmp_path / "file"))
    assert done.returncode == 2
    assert "SFT_HOME" in done.stderr


def test_data_can_be_looked_at_packed_and_rejected(sft: Sft, config: Path, tmp_path: Path) -> None:
    done = sft("data", "show", config, "--packed", "--row", "1", "-n", "1", "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert re.search(r"row 1 · \d+ examples · \d+ of 128 tokens", page)
    assert page.count("── segment") == page.count("<pre") > 0
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "hi", "completion": "yo"}\nbroken\n{"prompt": "hi", "completion": ""}\n')
    done = sft("data", "show", config, "--rejected", "--row", "1", "--set", f"data.sources=[{{path: {rows}}}]")
    assert done.returncode == 1  # they are too many, and can be read all the same
    assert f"{rows}:3: empty_assistant: turn 2 has neither content nor tool calls" in done.stdout
    assert """    {"prompt": "hi", "completion": ""}""" in done.stdout
    assert "1 of 2 rows of --rejected, from 1 on; `-n 2` shows all" in done.stdout
    assert "more than data.max_rejected_share = 0.5 allows" in done.stderr


def test_a_table_that_the_terminal_is_too_narrow_for_is_turned(capsys: pytest.CaptureFixture[str],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger at 80 columns was a letter wide in each of its fifteen."""
    rows = [{"source": name, **{f"head number{n}": 10**n for n in range(9)}} for name in ("one", "one", "a/long-name")]
    for width, borders in ((200, 1), (80, 1), (44, 2)):
        monkeypatch.setattr(console, "console", Console(width=width))
        console.table("Ledger", rows)
        said = capsys.readouterr().out
        assert all(word in said for row in rows for word in (*" ".join(row).split(), *map(str, row.values())))
        assert said.count("┏") == borders, said
        assert max(map(len, said.splitlines())) <= width


@pytest.mark.parametrize("arguments", [
    "eval tiny --suite tiny_mmlu --out FILE", "eval tiny --suite tiny_mmlu --against tiny --html FOLDER",
    "compare a b --html FILE/page.html", "parity tiny --json FOLDER", "data show x.yaml --html FOLDER",
    "judge a b --endpoint http://127.0.0.1:9/v1 --model m --out FILE/new", "human export a b --out FILE",
    "tiny build FILE", "eval tiny --suite tiny_mmlu --device cuda"])
def test_what_cannot_be_written_or_had_is_said_before_any_work(arguments: str, tmp_path: Path) -> None:
    """`sft eval --out FILE` asked all suites first and ended with a traceback."""
    (tmp_path / "file").write_text("")
    told = CliRunner().invoke(cli.app, arguments.replace("FILE", f"{tmp_path}/file").replace(
        "FOLDER", str(tmp_path)).split())
    assert told.exit_code == 2, told.output
    assert "cannot be written: " in told.output or "--device cuda: torch" in told.output


def test_what_a_shell_is_to_evaluate_is_all_that_is_printed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole state of the platform went to the terminal at every `eval`."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    parts = [Part("prefect", True, "is well"), Part("worker", False, "it has ended: `sft up` starts it again")]
    monkeypatch.setattr("infra.platform.up", lambda *_: parts)
    told = CliRunner().invoke(cli.app, ["up", "--shell"])
    assert told.stdout
    assert all(line.startswith("export ") for line in told.stdout.splitlines())
    assert told.stderr == "worker is down: it has ended: `sft up` starts it again\n"
