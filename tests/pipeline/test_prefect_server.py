"""Prefect's server starts with the installed FastAPI; a flow without a server leaves a tidy log and heeds Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from infra.prefect_door import Door
from infra.reach import why_unreachable

ROOT = Path(__file__).resolve().parents[2]

FLOW = """
import time
from infra.servers import begin_prefect
from infra.settings import prepare_environment, read_settings
settings = read_settings()
prepare_environment(settings)
steps = iter(range(9999))
begin_prefect(settings)(time.sleep(0.05) for _ in steps)
print("steps meanwhile, and not all:", 1 < next(steps) < 9000)
from prefect import flow, get_run_logger, task

@task
def work(number):
    return number

@flow(name="tidy")
def tidy():
    get_run_logger().info("hello from the flow")
    return sum(work(number) for number in range(60))

print("sum", tidy())
"""

LONG_FLOW = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that SIGINT is ignored
from infra.servers import ensure_prefect
from infra.settings import prepare_environment, read_settings
settings = read_settings()
prepare_environment(settings)
ensure_prefect(settings)
print(os.environ["PREFECT_API_URL"], flush=True)
if sys.argv[1] == "wait":
    time.sleep(60)
from prefect import flow

@flow(name="long")
def long():
    print("begun", flush=True)
    for _ in range(600):  # the kernel may hand the signal to another thread, and one long sleep would go on
        time.sleep(0.1)

long()
"""


def environment(folder: Path) -> dict[str, str]:
    """A user who has configured nothing."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SFT_"))}
    return outside | {"SFT_HOME": str(folder / "w"), "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(("host", "origin", "fine"), [
    ("127.0.0.1:4200", None, True), ("LOCALHOST:4200", None, True), ("[::1]:4200", None, True),
    ("10.1.2.3", None, True),
    ("gpu1.example:4200", None, True), ("gpu2.example:4200", None, False), ("gpu1.example.evil", None, False),
    ("", None, False), ("127.0.0.1.evil.example", None, False), ("localhost@evil.example", None, False),
    ("evil.example@localhost", None, False), ("localhost/evil", None, False), ("localhost#evil", None, False),
    ("[::1", None, False), ("[::1]:4200", "http://[::1]:4200", True), ("localhost:99999999", None, False),
    ("localhost:4200", "http://localhost:99999", False), ("localhost:4200", "http://[::1", False),
    ("localhost:4200", "http://evil.example@localhost:4200", False), ("localhost:x", None, False),
    ("localhost:4200", "http://localhost:4200/", False), ("LOCALHOST:4200", "http://LocalHost:4200", True),
    ("localhost:4200", "http://localhost:4200", True), ("10.1.2.3:80", "http://10.1.2.3:80", True),
    ("127.0.0.1:4200", "http://localhost:4200", True), ("127.0.0.1:4200", "http://localhost:8888", False),
    ("127.0.0.1:4200", "https://evil.example", False), ("127.0.0.1:4200", "null", False)])
def test_who_is_let_in(host: str, origin: str | None, fine: bool) -> None:
    headers = {"host": host} | ({"origin": origin} if origin else {})
    assert (Door(None, ["gpu1.example"]).refusal(headers) is None) is fine  # type: ignore[arg-type]


def test_server_application_can_be_made() -> None:
    """A FastAPI that is too new breaks Prefect's server, and with it every flow, the temporary server included."""
    from prefect.server.api.server import create_app

    assert create_app(ephemeral=True).title


def test_flow_without_a_server_runs_in_the_workspace_with_a_tidy_log(tmp_path: Path) -> None:
    """As the commands start one. A server that Prefect itself starts writes to the terminal while it is stopped."""
    done = subprocess.run([sys.executable, "-c", FLOW], cwd=tmp_path, env=environment(tmp_path), capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["steps meanwhile, and not all: True", f"sum {sum(range(60))}"]
    assert "hello from the flow" in done.stderr
    for noise in ("ERROR", "Traceback", "temporary server", "telemetry"):
        assert noise not in done.stderr
    assert (tmp_path / "w" / "prefect" / "prefect.db").exists()
    assert not (tmp_path / "home" / ".prefect").exists()


def start(folder: Path, what: str) -> tuple[subprocess.Popen[str], str]:
    """A process with a temporary server of ours, and that server's URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_FLOW, what], cwd=folder, env=environment(folder), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )
    assert process.stdout
    url = process.stdout.readline().strip()
    assert why_unreachable(f"{url}/health") is None
    return process, url


def ends(url: str) -> bool:
    """Whether nobody answers any more, within 40 s."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        if why_unreachable(f"{url}/health"):
            return True
        time.sleep(0.2)
    return False


def test_ctrl_c_ends_a_flow_quickly_and_the_temporary_server_with_it(tmp_path: Path) -> None:
    """With Prefect's own temporary server this takes 80 s and ends with "Connection refused"."""
    process, url = start(tmp_path, "run")
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole process group
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert "Finished in state Crashed" in said
    assert "Connect" not in said
    assert ends(url)


def test_temporary_server_ends_when_its_process_is_killed(tmp_path: Path) -> None:
    process, url = start(tmp_path, "wait")
    process.kill()
    process.communicate()
    assert ends(url)


def test_its_pages_ask_the_server_that_they_come_from(prefect_api: str) -> None:
    """They asked port 4200, and showed that nobody answers there."""
    settings = requests.get(f"{prefect_api.removesuffix('/api')}/ui-settings", timeout=10).json()
    assert settings["api_url"] == "/api"
