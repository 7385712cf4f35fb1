"""Settings: one reader of the environment, absolute paths, what the user set wins, unreachable servers said quickly."""

import ast
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread, Timer

import pytest

from infra import settings as module
from infra.daemons import Daemon, State, identity_of, write_state
from infra.reach import require_mlflow, require_prefect, why_unreachable
from infra.servers import free_port
from infra.settings import Settings, job_environment, prepare_environment, read_settings
from sft_core.errors import ConfigError, DiskError, OrchestrationError, TrackingError

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "http://127.0.0.1:9/api"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a Prefect profile, and an empty working folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def hung_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api"


@pytest.mark.usefixtures("home")
def test_everything_defaults_to_the_workspace(tmp_path: Path) -> None:
    settings = read_settings({})
    workspace = tmp_path / ".sft"
    assert settings == Settings(workspace, None, f"sqlite:///{workspace}/mlflow.db", None, workspace / "prefect")
    assert read_settings({"SFT_HOME": " ", "SFT_MIRROR": "", "PREFECT_API_URL": ""}) == settings


@pytest.mark.usefixtures("home")
def test_relative_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    settings = read_settings({"SFT_HOME": "w", "SFT_MIRROR": "hub", "MLFLOW_TRACKING_URI": "sqlite:///my/runs.db"})
    assert settings.workspace == tmp_path / "w"
    assert settings.mirror == tmp_path / "hub"
    assert settings.mlflow_uri == f"sqlite:///{tmp_path}/my/runs.db"
    assert read_settings({"MLFLOW_TRACKING_URI": "http://h:5000"}).mlflow_uri == "http://h:5000"
    assert read_settings({"SFT_STUDY_STORAGE": "sqlite:///s.db"}).study_storage == f"sqlite:///{tmp_path}/s.db"


@pytest.mark.parametrize(("name", "value"), [("SFT_MIRROR", "nowhere"), ("SFT_HOME", "file")])
@pytest.mark.usefixtures("home")
def test_wrong_folders_are_said(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"{name}=.*{value} is not a folder; .*unset it"):
        read_settings({name: value})


def test_server_of_the_users_profile_is_honoured(home: Path, tmp_path: Path) -> None:
    """`prefect config set PREFECT_API_URL=…` is how most people name their server."""
    profiles = 'active = "{}"\n[profiles.a]\nPREFECT_API_URL = "http://a/api"\n[profiles.b]\n'
    (home / ".prefect").mkdir(parents=True)
    (home / ".prefect" / "profiles.toml").write_text(profiles.format("a"))
    assert read_settings({}).prefect_api_url == "http://a/api"
    assert read_settings({"PREFECT_API_URL": "http://b/api"}).prefect_api_url == "http://b/api"
    other = tmp_path / "other"
    other.mkdir()
    (other / "profiles.toml").write_text(profiles.format("b"))
    assert read_settings({"PREFECT_HOME": str(other)}).prefect_api_url is None
    (other / "profiles.toml").write_text("not toml [")
    assert read_settings({"PREFECT_HOME": str(other)}).prefect_api_url is None


@pytest.mark.usefixtures("home")
def test_environment_is_filled_and_nothing_is_overridden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = {"DO_NOT_TRACK": "1", "PREFECT_HOME": "", "HF_HUB_OFFLINE": "0"}
    monkeypatch.setattr(os, "environ", environment)
    prepare_environment(read_settings(environment))
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["PREFECT_HOME"] == str(tmp_path / ".sft" / "prefect")
    assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/.sft/mlflow.db"
    assert environment["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "true"
    assert "PREFECT_API_URL" not in environment
    assert (tmp_path / ".sft").is_dir()


@pytest.mark.usefixtures("home")
def test_no_temporary_server_where_one_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"PREFECT_API_URL": NOBODY}
    monkeypatch.setattr(os, "environ", environment)
    prepare_environment(read_settings(environment))
    assert not module.PREFECT_TEMPORARY_SERVER.keys() & environment.keys()


@pytest.mark.usefixtures("home")
def test_unwritable_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the workspace .*set SFT_HOME"):
        prepare_environment(read_settings({"SFT_HOME": "file/inside"}))


@pytest.mark.usefixtures("home")
def test_a_workspace_of_a_newer_version_or_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    settings = read_settings({"SFT_HOME": str(tmp_path / "made")})
    for make in (False, True):
        prepare_environment(settings, make=make)
        assert (tmp_path / "made").exists() == make, "a look makes nothing"
    note = tmp_path / "made" / "layout"
    assert note.read_text() == "1\n"
    note.write_text("2\n")
    for make in (False, True):
        with pytest.raises(ConfigError, match="a newer version .*layout 2, this one knows 1.*; install that version"):
            prepare_environment(settings, make=make)
    note.write_text("torn {")
    with pytest.raises(ConfigError, match="does not hold the number of a layout any more; remove it"):
        prepare_environment(settings)
    note.write_text("")  # another process is about to write it

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")  # what a network folder says that is mounted without

    prepare_environment(settings)
    monkeypatch.setattr("infra.layout.fcntl.flock", refused)
    with pytest.raises(DiskError, match="takes no file locks .No locks available.*point SFT_HOME at a local disk"):
        prepare_environment(settings)


@pytest.mark.usefixtures("home")
def test_jobs_get_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    block = job_environment(read_settings({"SFT_MIRROR": "hub", "PREFECT_API_URL": NOBODY}))
    for name in ("SFT_HOME", "SFT_MIRROR", "PREFECT_HOME"):
        assert Path(block[name]).is_absolute()
    assert block["PREFECT_API_URL"] == NOBODY
    assert block["MLFLOW_TRACKING_URI"].startswith("sqlite:////")


def test_it_can_be_called_before_prefect_and_mlflow_are_imported() -> None:
    code = "import sys, infra.settings; print(sorted({'prefect', 'mlflow', 'optuna', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_settings_reads_the_environment() -> None:
    """bootstrap.py runs before anything is installed and only hands the environment on."""
    for file in [*(ROOT / "infra").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        names = {ast.unparse(node) for node in tree if isinstance(node, ast.Attribute)}
        if file.name not in {"settings.py", "bootstrap.py"}:
            assert not names & {"os.environ", "os.getenv"}, f"{file} reads the environment"


@pytest.mark.usefixtures("home")
def test_unreachable_prefect_is_an_error_within_seconds(hung_server: str) -> None:
    settings = read_settings({})
    require_prefect(settings)  # none configured: nothing to check
    for url in (f"http://127.0.0.1:{free_port()}/api", hung_server):
        began = time.monotonic()
        with pytest.raises(OrchestrationError, match=f"{url}.*PREFECT_API_URL.*unset"):
            require_prefect(replace(settings, prefect_api_url=url))
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(("answer", "said"), [(b'"2.20.1"', "is of version 2.20.1, and 3"), (b'"3.0.0"', None),
                                              (b"2.9.0", "is of version 2.9.0, and 3"), (b"<html>", None)])
def test_a_server_of_another_version_is_named(answer: bytes, said: str | None, tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(OrchestrationError, match=said) if said else nullcontext():
            require_prefect(Settings(tmp_path, None, "", f"{url}/api", tmp_path))
        with pytest.raises(TrackingError, match=said) if said else nullcontext():
            require_mlflow(url)
        server.shutdown()


def test_dask_tells_of_faults_alone(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    code = "import logging, distributed.scheduler as s; s.logger.info('a key went'); s.logger.warning('a worker went')"
    quiet = job_environment(read_settings({"SFT_HOME": str(tmp_path), "SFT_DASK": "local:2"}))
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **quiet}, capture_output=True, text=True,
                          check=True)
    assert "a worker went" in done.stderr
    assert "a key went" not in done.stderr


class _Starting(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"3.9.1")

    def log_message(self, *args: object) -> None:
        """Nothing."""


def test_a_server_that_sft_up_is_starting_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "platform").mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = Settings(tmp_path, None, url, f"{url}/api", tmp_path)

    def started(age_s: float) -> None:
        since = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
        itself = os.getpid(), identity_of(os.getpid()) or "", since
        write_state(tmp_path, State({"prefect": Daemon(*itself, f"{url}/api", "its.log", "3"),
                                     "mlflow": Daemon(*itself, url, "its.log", "3")}))

    started(age_s=1000)
    with pytest.raises(OrchestrationError, match="that `sft up` started at .* does not answer .* look at its.log"):
        require_prefect(settings)
    with pytest.raises(TrackingError, match="that `sft up` started at .* does not answer .* look at its.log"):
        require_mlflow(url, tmp_path)

    started(age_s=0)
    servers: list[ThreadingHTTPServer] = []

    def come_up() -> None:
        servers.append(ThreadingHTTPServer(("127.0.0.1", port), _Starting))
        servers[0].serve_forever()

    later = Timer(0.7, come_up)
    later.start()
    try:
        require_prefect(settings)
        require_mlflow(url, tmp_path)
    finally:
        later.cancel()
        for one in servers:
            one.shutdown()
            one.server_close()


def test_reasons() -> None:
    assert "refused" in (why_unreachable(f"http://127.0.0.1:{free_port()}") or "")
    assert why_unreachable("nonsense") is not None


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("terminal", [True, False])
def test_bars_of_libraries_are_for_terminals(terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sft model import 2> log` wrote a line for every tensor."""
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(os, "environ", {})
    prepare_environment(read_settings({"SFT_HOME": str(tmp_path)}))
    assert ("TQDM_DISABLE" in os.environ) == (not terminal)
