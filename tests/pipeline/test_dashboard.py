"""`sft dashboard`: the real optuna-dashboard on a real study, ended as Ctrl-C ends it."""

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from infra import dashboard
from infra.plans import Dimension, Plan
from infra.study import open_study
from sft_core.errors import ConfigError, Interrupted, OrchestrationError

PLAN = Plan("seen", {"lr": Dimension(1e-5, 1e-2, log=True)}, {"alignment": "maximize", "tax": "minimize"}, "context",
            "random", 0)


def begun(workspace: Path, url: str | None = None) -> None:
    study = open_study(PLAN, workspace, url)
    study.join()
    study.begin(1)
    assert (trial := study.ask())
    study.tell(trial.number, {"alignment": 7.0, "tax": 0.5})
    study.close()


def look(page: str) -> None:
    host, number = page.split("/dashboard/studies/")
    seen = requests.get(f"{host}/api/studies/{number}?after=0", timeout=10).json()
    assert seen["name"] == "seen"
    assert seen["objective_names"] == ["alignment", "tax"]
    assert [value for trial in seen["trials"] for value in trial["values"]] == [7.0, 0.5]


def test_dashboard_shows_named_objectives_until_ctrl_c(home: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    begun(home)
    process = start("dashboard", "--port", 0)  # the only sweep of the workspace
    assert process.stdout
    look(process.stdout.readline().split()[0])
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")


def test_dashboard_of_a_database_shows_no_password(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path, postgres_url)
    pages: list[str] = []

    def leave(_: float) -> None:
        look(pages[0])
        raise Interrupted("stopped by SIGINT")

    monkeypatch.setattr(dashboard, "sleep", leave)
    dashboard.serve("seen", tmp_path, postgres_url, 0, pages.append)
    assert capfd.readouterr() == ("", "")


def test_dashboard_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"which sweep\? There are none in"):
        dashboard.serve(None, tmp_path, None, 0, print)
    begun(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no sweep sean .*; there are seen"):
        dashboard.serve("sean", tmp_path, None, 0, print)
    with socket.create_server(("127.0.0.1", 0)) as other, \
            pytest.raises(OrchestrationError, match=r"cannot be listened on \(Address already in use\); .*--port"):
        dashboard.serve("seen", tmp_path, None, other.getsockname()[1], print)
    monkeypatch.setattr(dashboard, "find_spec", lambda _: None)
    with pytest.raises(OrchestrationError, match=r"pip install 'sft-platform\[dashboard\]'"):
        dashboard.serve("seen", tmp_path, None, 0, print)
