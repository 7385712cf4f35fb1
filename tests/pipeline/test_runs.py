"""`sft runs`: one run done, one whose model was removed, one stopped, one under way in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.runs import show_runs
from infra.settings import read_settings
from sft_core.errors import ConfigError
from sft_core.locks import exclusive
from sft_core.stage import write_json
from tasks.listing import note_sweep
from tasks.runs import link_to

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = {"gate": {"outcome": "pass"}, "seconds": {"training": 106.2, "saving": 63.4}}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for number, name in enumerate(("done", "removed", "stopped", "under-way")):
        folder = tmp_path / "runs" / name
        write_json(folder / "run.json", {"name": name})
        write_json(folder / "followed.json", {"run_id": "1", "steps": {"train/loss": 10 + number}})
        (folder / "lock").write_text("")
        if number < 2:
            write_json(folder / "summary.json", SUMMARY)
            (folder / "model").symlink_to(tmp_path if name == "done" else tmp_path / "gone")
        for file in folder.iterdir():
            os.utime(file, (1e9 + number, 1e9 + number), follow_symlinks=False)
    return tmp_path


def test_runs_are_told_by_their_state(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = read_settings({"SFT_HOME": str(home)})
    (home / "runs" / "stopped" / "followed.json").write_text("{torn")
    with exclusive(home / "runs" / "under-way" / "lock"):
        show_runs(settings, 20, as_json=True)
        told = json.loads(capsys.readouterr().out)
        show_runs(settings, 3, as_json=False)
    assert {one["name"]: (one["state"], one["gate"], one["step"], one["trained_s"], one["model"]) for one in told} == {
        "under-way": ("under way", "", 13, None, ""), "stopped": ("stopped", "", None, None, ""),
        "removed": ("done", "pass", 11, 106.2, "removed"), "done": ("done", "pass", 10, 106.2, "there")}
    shown = capsys.readouterr().out
    assert [one["saved_s"] for one in told] == [None, None, 63.4, 63.4]
    assert "63 s" in shown
    assert "the 3 of 4 that changed last; --last shows more" in shown
    assert f"continue stopped: sft run {home / 'runs' / 'stopped' / 'config.yaml'}" in shown.replace("\n", "")
    assert "continue under-way" not in shown


def test_trials_are_found_by_their_sweep_which_continues_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sft run` with a trial's configuration began another run, which is no trial of the sweep."""
    settings = read_settings({"SFT_HOME": str(home)})
    note_sweep(home / "sweeps" / "two", "f00")
    write_json(home / "runs" / "stopped" / "run.json", {"name": "stopped", "parent_run_id": "f00"})
    write_json(home / "runs" / "done" / "run.json", {"name": "done", "parent_run_id": None})
    show_runs(settings, 20, "two", as_json=False)
    shown = capsys.readouterr().out
    assert "continue stopped: sft sweep-worker two" in shown
    assert "done" not in shown
    with pytest.raises(ConfigError, match=r"is a trial of the sweep too; there are trials of two"):
        show_runs(settings, 20, "too", as_json=False)


def test_an_empty_workspace_says_what_makes_a_run(tmp_path: Path) -> None:
    code = ("import sys; from flows.cli import main\nsys.argv[1:] = ['runs']\ntry: main()\nexcept SystemExit: pass\n"
            "print([name for name in ('torch', 'mlflow', 'prefect', 'scipy') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"SFT_HOME": str(tmp_path / "new")},
                          capture_output=True, text=True, timeout=120)
    assert "there is no run in" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"  # listing runs takes a second, not ten


def test_the_model_of_a_run_is_found_where_its_workspace_was_moved(tmp_path: Path) -> None:
    """Its link was absolute, and every model was said to be removed."""
    for part in ("runs/one", "stages/train/f/out/model"):
        (tmp_path / "old" / part).mkdir(parents=True)
    (tmp_path / "old/stages/train/f/out/model/weights").write_text("w")
    link_to(tmp_path / "old/runs/one/model", tmp_path / "old/stages/train/f/out/model")
    (tmp_path / "old").rename(tmp_path / "new")
    assert (tmp_path / "new/runs/one/model/weights").read_text() == "w"
