"""Processes that outlive the command: only our own are ended, in order and with time; what a state file may be."""

import asyncio
import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import requests
from mlflow.server.security_utils import is_allowed_host_header
from prefect._internal.infrastructure_exit_codes import get_infrastructure_exit_info
from prefect.exceptions import TerminationSignal
from prefect.states import exception_to_crashed_state

from infra.alive import Note
from infra.daemons import Daemon, State, end, end_orphans, file_of, identity_of, read_state, write_state
from infra.listening import Listening, check, guarded
from infra.platform import Wanted, _port, _servers, down, up
from infra.servers import Command, Service, can_listen, free_port, mlflow_server, start
from infra.settings import Settings, nightly_webhook, read_settings
from infra.standing import WORKER, _alerts, _worker, standing
from infra.taken import OF_RUN, STOPPED, Run, again_with_servers, schedule_again, take_up_again
from sft_core.errors import ConfigError, OrchestrationError

PARENT = """
import os, signal, subprocess, sys, time
from pathlib import Path
def left(name): Path(name).write_text(str(time.monotonic())); sys.exit()
child = len(sys.argv) > 1
if not child:
    process = subprocess.Popen([sys.executable, sys.argv[0], "child"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: left("child" if child else "parent"))
Path("draft-child" if child else "draft").write_text(str(os.getpid()))
Path("draft-child" if child else "draft").rename("ready-child" if child else "ready")
while True:
    time.sleep(0.02)
    child or process.poll()
"""
Launch = Callable[..., Daemon]


def of(process: subprocess.Popen[bytes], url: str = "http://127.0.0.1:1") -> Daemon:
    return Daemon(process.pid, identity_of(process.pid) or "", "2026-11-29T12:00:00+00:00", url, "log", "1.0")


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts a process, by default a sleeper; all are killed at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str, url: str = "http://127.0.0.1:1") -> Daemon:
        command = [sys.executable, *arguments] if arguments else ["sleep", "60"]
        running.append(subprocess.Popen(command, cwd=tmp_path, start_new_session=True))
        return of(running[-1], url)

    yield begin
    for process in running:
        process.kill()
        process.wait()


def test_another_process_of_the_same_number_is_none_of_ours(launch: Launch) -> None:
    ours = launch()
    other = ours._replace(identity=identity_of(os.getpid()) or "")
    assert ours.lives
    assert not other.lives
    assert not end(other, 1.0)
    assert ours.lives
    assert end(ours, 1.0)
    assert identity_of(ours.pid) is None  # a zombie: nobody has waited for it yet
    assert not end(ours, 1.0)


def test_what_a_killed_server_has_left_ends_and_nothing_else(launch: Launch) -> None:
    server = launch("-c", "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)")
    [child] = psutil.Process(server.pid).children() or [None]
    deadline = time.monotonic() + 10
    while child is None and time.monotonic() < deadline:
        [child] = psutil.Process(server.pid).children() or [None]
    assert child is not None
    end_orphans(server)
    assert server.lives
    os.kill(server.pid, signal.SIGKILL)
    while server.lives:
        time.sleep(0.01)
    end_orphans(server._replace(identity="another-boot/1"))
    assert child.is_running()
    end_orphans(server)
    assert identity_of(child.pid) is None, "whoever starts another one finds its port free"


def test_what_it_has_started_ends_before_it(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    parent = launch("parent.py")
    while not (tmp_path / "ready-child").exists() or not (tmp_path / "ready").exists():
        time.sleep(0.02)
    assert end(parent, 5.0)
    assert float((tmp_path / "child").read_text()) < float((tmp_path / "parent").read_text())


def test_what_takes_too_long_is_killed(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text(PARENT.replace("lambda *_: left(\"child\" if child else \"parent\")",
                                                     "signal.SIG_IGN if child else signal.SIG_DFL"))
    parent = launch("deaf.py")
    while not (tmp_path / "ready-child").exists() or not (tmp_path / "ready").exists():
        time.sleep(0.02)
    assert end(parent, 0.3)
    assert not parent.lives
    assert identity_of(int((tmp_path / "ready-child").read_text())) is None


def test_the_state_is_its_owners_alone_and_whole(tmp_path: Path) -> None:
    file_of(tmp_path).parent.mkdir()
    state = State({"prefect": of_this()}, {"prefect": 4200}, database="postgresql://me:s3cr3t@host/db")
    write_state(tmp_path, state)
    write_state(tmp_path, state)
    assert stat.S_IMODE(file_of(tmp_path).stat().st_mode) == 0o600
    assert read_state(tmp_path) == state
    for damaged in ("", "[]", '{"daemons": {"x": {}}}', '{"daemons": 1}'):
        file_of(tmp_path).write_text(damaged)
        with pytest.raises(ConfigError, match="state.json is damaged .* remove the file, and say"):
            read_state(tmp_path)


def of_this() -> Daemon:
    return Daemon(os.getpid(), identity_of(os.getpid()) or "", "2026-11-29T12:00:00+00:00", "http://127.0.0.1:7/api",
                  "log", "1.0")


def test_settings_use_what_lives_and_the_user_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without a profile of Prefect
    file_of(tmp_path).parent.mkdir()
    lives = of_this()
    write_state(tmp_path, State({"prefect": lives, "mlflow": lives._replace(url="http://127.0.0.1:8")}))
    found = read_settings({"SFT_HOME": str(tmp_path)})
    assert (found.prefect_api_url, found.mlflow_uri) == ("http://127.0.0.1:7/api", "http://127.0.0.1:8")
    given = {"SFT_HOME": str(tmp_path), "PREFECT_API_URL": "http://mine/api", "MLFLOW_TRACKING_URI": "http://mine"}
    assert read_settings(given).prefect_api_url == "http://mine/api"
    assert read_settings(given).mlflow_uri == "http://mine"
    rebooted = lives._replace(identity=lives.identity.replace(lives.identity[:8], "00000000"))
    write_state(tmp_path, State({"prefect": rebooted, "mlflow": rebooted}))
    alone = read_settings({"SFT_HOME": str(tmp_path)})
    assert (alone.prefect_api_url, alone.mlflow_uri) == (None, f"sqlite:///{tmp_path}/mlflow.db")


def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, None, f"sqlite:///{tmp_path / 'mlflow.db'}", None, tmp_path / "prefect")


def test_a_port_that_is_taken_or_another_than_last_time(tmp_path: Path, launch: Launch) -> None:
    taken = free_port()
    launch("-m", "http.server", str(taken), "--bind", "127.0.0.1")
    while subprocess.run([sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {taken}))"],
                         stderr=subprocess.DEVNULL).returncode:
        pass
    with pytest.raises(OrchestrationError, match=f"port {taken} of 127.0.0.1 is taken; give --prefect-port another"):
        up(settings(tmp_path), Wanted(prefect_port=taken))
    assert not read_state(tmp_path).daemons
    write_state(tmp_path, State({"prefect": of_this()}, {"prefect": 7}))
    with pytest.raises(OrchestrationError, match="prefect runs on port 7; say `sft down` first to have it on 4200"):
        up(settings(tmp_path), Wanted(prefect_port=4200))


@pytest.mark.parametrize("other", [{"prefect_api_url": "http://other/api"}, {"mlflow_uri": "http://me:s3cr3t@other"}])
def test_other_servers_that_are_configured_are_left_alone(tmp_path: Path, other: dict[str, str]) -> None:
    with pytest.raises(OrchestrationError, match=r"names http://.*other.*, which is not of `sft up`; unset it") as told:
        up(replace(settings(tmp_path), **other), Wanted())
    assert "s3cr3t" not in str(told.value)


def test_a_server_that_does_not_answer_is_told_within_seconds(tmp_path: Path, launch: Launch) -> None:
    hung = launch(url=f"http://127.0.0.1:{free_port()}")
    prefect, mlflow, worker, deployments, alerts = standing(State({"prefect": hung}), ["sft-nightly"])
    assert "does not answer (connection refused" in prefect.says
    assert "does not run; `sft up` starts it" in mlflow.says
    assert not any(part.well for part in (prefect, mlflow, worker, deployments))


def test_nights_tell_whom_up_was_told_unless_they_are_told_otherwise(tmp_path: Path) -> None:
    state = State(webhook="https://hooks.example/s3cr3t")
    file_of(tmp_path).parent.mkdir()
    write_state(tmp_path, state)
    assert nightly_webhook({"SFT_HOME": str(tmp_path), "SFT_NIGHTLY_WEBHOOK": ""}) == "https://hooks.example/s3cr3t"
    assert nightly_webhook({"SFT_HOME": str(tmp_path), "SFT_NIGHTLY_WEBHOOK": "http://other"}) == "http://other"
    assert nightly_webhook({"SFT_HOME": str(tmp_path / "elsewhere")}) is None
    assert "s3cr3t" not in repr(state)


@pytest.mark.parametrize(("webhook", "block", "said"), [
    (None, False, "NOBODY"), ("https://hooks.example/s3cr3t", False, "told to the webhook at hooks.example"),
    (None, True, "told to a notification block")])
def test_status_says_who_is_told_of_a_red_night(webhook: str | None, block: bool, said: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.standing.found", lambda *_: [{}] if block else [])
    assert said in _alerts("", State(webhook=webhook)).says
    assert "s3cr3t" not in _alerts("", State(webhook=webhook)).says


@pytest.mark.parametrize(("started", "heard", "well"), [(-60, -1, True), (-60, -120, False), (3600, -1, True)])
def test_a_worker_is_heard_also_after_the_clock_was_put_back(
    started: int, heard: int, well: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had to be started before it was heard, and `sft up` failed until the clock had come there again."""
    now = datetime.now(UTC)
    monkeypatch.setattr("infra.standing.found", lambda *_: [
        {"name": WORKER, "status": "ONLINE", "last_heartbeat_time": (now + timedelta(seconds=heard)).isoformat()}])
    daemon = Daemon(1, "", (now + timedelta(seconds=started)).isoformat(), "", "log", "1.0")
    assert _worker("", daemon, State()).well == well


def test_down_where_nothing_was_up(tmp_path: Path) -> None:
    assert down(settings(tmp_path)) == ([], [])
    assert not list(tmp_path.iterdir())


def test_a_look_at_no_workspace_makes_none_and_nobody_complains(tmp_path: Path) -> None:
    """Prefect did, twice, that it cannot make its home in it."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SFT_", "MLFLOW_"))}
    done = subprocess.run([sys.executable, "-m", "flows.cli", "status"], capture_output=True, text=True, timeout=120,
                          env=known | {"SFT_HOME": str(tmp_path / "w"), "HOME": str(tmp_path)},
                          cwd=Path(__file__).resolve().parents[2])
    assert (done.returncode, done.stderr) == (1, "")
    assert "prefect     DOWN  does not run; `sft up` starts it" in done.stdout
    assert not (tmp_path / "w").exists()


def test_who_lets_others_in_needs_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"PREFECT_API_AUTH_STRING": "me:s3cr3t-of-all", "MLFLOW_TRACKING_USERNAME": "me",
             "MLFLOW_TRACKING_PASSWORD": "s3cr3t-of-all"}
    for local in ("127.0.0.1", "127.8.8.8", "localhost", "::1"):
        check(Listening(local), {})
    for missing in known:
        with pytest.raises(ConfigError, match="needs authentication; set .*, or leave --host out"):
            check(Listening("0.0.0.0"), {**known, missing: ""})
        if missing != "MLFLOW_TRACKING_USERNAME":
            with pytest.raises(ConfigError, match="need 12 characters or more"):
                check(Listening("0.0.0.0"), {**known, missing: "me:short"})
    monkeypatch.setattr("infra.listening.find_spec", lambda name: None)
    with pytest.raises(OrchestrationError, match=r"pip install 'sft-platform\[auth\]'"):
        check(Listening("0.0.0.0"), known)


@pytest.mark.parametrize("host", ["192.0.2.7", "x" * 70, "2001:db8::7"])
def test_a_host_that_is_none_of_this_machine_is_told_before_anything_starts(tmp_path: Path, host: str) -> None:
    """`sft up` waited, and then told of a port that was in use."""
    known = {"PREFECT_API_AUTH_STRING": "me:s3cr3t-of-all", "MLFLOW_TRACKING_USERNAME": "me",
             "MLFLOW_TRACKING_PASSWORD": "s3cr3t-of-all"}
    with pytest.raises(ConfigError, match=f"--host {host} is no address of this machine"):
        up(replace(settings(tmp_path), credentials=known), Wanted(host=host))
    assert not read_state(tmp_path).daemons


def test_a_port_is_free_where_the_servers_listen() -> None:
    """127.0.0.1 was looked at, whatever the host was."""
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        assert can_listen("127.0.0.1", port)
        assert not can_listen("127.0.0.2", port)
        assert not can_listen("0.0.0.0", port)
        with pytest.raises(OrchestrationError, match=f"port {port} of 0.0.0.0 is taken"):
            _port("prefect", port, State(), Listening("0.0.0.0").address)
    assert Listening("::1").address == "127.0.0.1"
    assert can_listen("0.0.0.0", free_port("0.0.0.0"))


def test_the_port_of_a_server_that_died_is_waited_for() -> None:
    """Its last thread may hold it for a moment."""
    dead = of_this()._replace(identity="gone")
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        threading.Timer(0.3, held.close).start()
        assert _port("mlflow", None, State({"mlflow": dead}, {"mlflow": port}), "127.0.0.1") == port


SERVER = """
import http.server, sys
class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b"OK")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Well).serve_forever()
"""


def test_two_that_start_at_once_and_find_the_same_port_free_are_not_taken_for_each_other(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one answers at the address of the second, whose worker would take the first one's runs."""
    theirs, ours, answers = free_port(), free_port(), [True]
    launch("-c", SERVER, str(theirs))
    while can_listen("127.0.0.1", theirs):
        time.sleep(0.02)
    monkeypatch.setattr("infra.platform.PORTS", {"prefect": theirs, "mlflow": ours})
    monkeypatch.setattr("infra.platform.can_listen", lambda *at: answers.pop() if answers else can_listen(*at))
    monkeypatch.setattr("infra.platform._command", lambda name, port, _: Command(
        name, f"http://127.0.0.1:{port}", ["-c", "import time; time.sleep(0.5)\n" + SERVER, str(port)], {}, tmp_path))
    file_of(tmp_path).parent.mkdir()
    (tmp_path / "locks").mkdir()
    try:
        reached = _servers(replace(settings(tmp_path), prefect_home=tmp_path), Wanted(), Listening(), State())
        state = read_state(tmp_path)
        assert str(theirs) not in (reached.prefect_api_url or "")
        assert state.living().keys() == {"prefect", "mlflow"}
        assert reached.prefect_api_url == state.daemons["prefect"].url
        assert reached.mlflow_uri == f"http://127.0.0.1:{ours}"
    finally:
        for daemon in read_state(tmp_path).living().values():
            os.killpg(daemon.pid, signal.SIGKILL)


def test_others_may_ask_under_allowed_names_alone(tmp_path: Path) -> None:
    known = {"PREFECT_API_AUTH_STRING": "me:x", "MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "x"}
    command = guarded(mlflow_server(tmp_path, 5000), Listening("0.0.0.0", ("lab.example",)), known)
    assert command.url == "http://127.0.0.1:5000"
    assert command.arguments[4] == "0.0.0.0"
    hosts = command.environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    mine = [one.address for card in psutil.net_if_addrs().values() for one in card if one.family == socket.AF_INET]
    assert {*mine, *(f"{one}:*" for one in mine)} <= set(hosts)
    assert not is_allowed_host_header(hosts, "10.evil.example")  # what MLflow alone would take
    assert "lab.example,lab.example:*,localhost" in command.environment["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert "https://lab.example:5000" in command.environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert "*" not in command.environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"]
    assert guarded(mlflow_server(tmp_path, 5000), Listening(), {}) == mlflow_server(tmp_path, 5000)


def test_a_full_disk_leaves_no_process_that_nobody_knows_of(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    started: list[Service] = []

    def noted(command: Command, *, lasting: bool) -> Service:
        started.append(start(command._replace(arguments=["-c", "import time; time.sleep(60)"]), lasting=lasting))
        return started[-1]

    monkeypatch.setattr("infra.platform.start", noted)
    monkeypatch.setattr("infra.platform.write_state", full)
    with pytest.raises(OSError, match="No space left"):
        up(settings(tmp_path), Wanted())
    assert [service.process.poll() for service in started] == [-9]
    monkeypatch.undo()
    lives = launch()
    write_state(tmp_path, State({"mlflow": lives}, {"mlflow": 5001}, database="postgresql://me:s3cr3t@h/sft"))
    monkeypatch.setattr("infra.daemons.os.fsync", full)
    monkeypatch.setattr("os.write", full)  # the lock is taken also where its holder cannot be noted
    assert down(settings(tmp_path)).parts == ["mlflow"]
    assert not lives.lives
    assert "the ports are not kept for the next `sft up`" in caplog.text
    assert read_state(tmp_path) == State()  # the password of a database is in it
    assert not list(file_of(tmp_path).parent.glob("state*"))


INTERRUPTED = "Interrupted: by SIGTERM"


def test_prefect_says_of_what_was_told_to_end_what_we_know() -> None:
    told = [asyncio.run(exception_to_crashed_state(error)).message for error in (SystemExit(1), TerminationSignal(15))]
    told.append(get_infrastructure_exit_info(-signal.SIGTERM).explanation)
    assert all(any(each in (message or "") for each in STOPPED) for message in told), told


@pytest.mark.parametrize(("others", "stands", "said", "again"), [
    (False, "RUNNING", None, True), (False, "PENDING", None, True), (True, "RUNNING", None, False),
    (True, "FAILED", INTERRUPTED, True), (False, "FAILED", INTERRUPTED, True), (False, "FAILED", "ValueError", False),
    (False, "CRASHED", "Execution was aborted by Python system exit call.", True),
    (False, "CRASHED", "Execution was aborted by a termination signal.", True),
    (False, "CRASHED", "Process exited with status code: -15. Process exited due to a SIGTERM signal.", True),
    (False, "CRASHED", "Process exited with status code: -9. Process exited due to a SIGKILL signal.", False),
    (False, "CANCELLING", None, False), (False, "COMPLETED", None, False)])
def test_runs_of_other_workers_and_cancelled_ones_are_not_begun_again(
    others: bool, stands: str, said: str | None, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And their notes stay, for whoever tells their ends."""
    sent = prefect_says(stands, said, monkeypatch)
    monkeypatch.setattr("infra.taken.found", lambda *_: [{"status": "ONLINE", "name": "theirs"}] if others else [])
    note = tmp_path / "alive" / "one.json"
    note.parent.mkdir()
    note.write_text(json.dumps(Note("prefect", "id", "")._asdict()))
    assert schedule_again(tmp_path, State({"prefect": of_this()}), [Run("id", "run")]) == ["run"] * again
    assert bool(sent) == again
    assert note.exists() != again


@pytest.mark.parametrize(("said", "dead", "again"), [
    ("TrackingError: no MLflow server answers at http://127.0.0.1:5000 (connection refused)", True, True),
    ("TrackingError: MLflow at http://127.0.0.1:5000 could not look at train/loss: its server", True, True),
    ("TrackingError: no MLflow server answers at http://127.0.0.1:5000 (connection refused)", False, False),
    ("TrackingError: no MLflow server answers at http://127.0.0.1:5001 (connection refused)", True, False),
    ("DataError: no row", True, False)])
def test_what_failed_as_mlflow_was_away_goes_on_when_it_is_started_again(
    said: str, dead: bool, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = prefect_says("FAILED", said, monkeypatch)
    monkeypatch.setattr("infra.taken.found", lambda url, body, _: [] if "workers" in url else [
        {"id": "id", "name": "run", "asked": body}])
    was = of_this()._replace(url="http://127.0.0.1:5000")
    now = State({"prefect": of_this()})
    again_with_servers(tmp_path, State({"mlflow": was._replace(identity="gone") if dead else was}), now)
    assert bool(sent) == again


def test_what_a_begun_run_has_left_may_save_and_what_still_loads_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep's workers have its flow run in their environment, too."""
    prefect_says("RUNNING", None, monkeypatch)
    monkeypatch.setattr("infra.taken.found", lambda url, *_: [] if "workers" in url else [
        {"id": "begun", "name": "a"}, {"id": "loads", "name": "b"}])
    (tmp_path / "alive").mkdir()
    (tmp_path / "alive" / "one.json").write_text(json.dumps(Note("prefect", "begun", "")._asdict()))
    there = {name: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={OF_RUN: name})
             for name in ("begun", "loads", "another")}
    try:
        take_up_again(tmp_path, State({"prefect": of_this()}), 0.1)
        assert there.pop("loads").wait(10) == -signal.SIGKILL
        assert [one.poll() for one in there.values()] == [None, None]
    finally:
        for one in there.values():
            one.kill()
            one.wait()


def prefect_says(stands: str, said: str | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every flow run stands so; the addresses of requests that change something are in the list."""
    sent: list[str] = []

    def answer(method: str, url: str, *_: object) -> requests.Response:
        reply = requests.Response()
        reply.status_code = 200
        reply._content = json.dumps({"state": {"type": stands, "message": said}}).encode()
        if method == "POST":
            sent.append(url)
        return reply

    monkeypatch.setattr("infra.taken.asked", answer)
    return sent
