"""Passwords of servers and databases, and API keys: nowhere in what is written or said, and all still works."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import SQLAlchemyError

from eval_suites.backends.remote import endpoint_of
from infra import listening
from infra.bucket import check_bucket
from infra.daemons import State
from infra.databases import check_driver, try_connection, why_not
from infra.door import door
from infra.postgres import databases, make_databases
from infra.reach import require_mlflow, require_prefect
from infra.servers import free_port, prefect_server, start_mlflow
from infra.settings import read_settings
from sft_core.config.evaluate import EndpointSection
from sft_core.config.experiment import TrackingSection
from sft_core.config.file import checked
from sft_core.errors import ConfigError, SftError, TrackingError
from sft_core.masking import has_secret, masked

Sft = Callable[..., subprocess.CompletedProcess[str]]
SECRET = "s3cr3t-Pa55"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:s3cr3t-Pa55@host:5000/x@y", "http://me:***@y"),
        ("https://s3cr3t-Pa55@host", "https://***@host"),
        ("https://s3cr/3t@host", "https://***@host"), ("http://a/b:s3cr3t@host", "http://***@host"),
        ("http://me:77/s3#cr?3t@x@host:5000/x", "http://me:***@host:5000/x"), ("http:///me:s3@h", "http://***@h"),
        ("http://me:s3@cr3t@host", "http://me:***@host"),
        ("http://:s3cr3t@host", "http://:***@host"),
        ("postgresql+psycopg://me:s3/cr@3t@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("postgresql://host/db?user=me&password=s3cr3t&sslmode=require",
         "postgresql://host/db?user=me&password=***&sslmode=require"),
        ("('http://me:s3cr3t@host') and mysql://me:s3cr3t@host", "('http://me:***@host') and mysql://me:***@host"),
    ],
)
def test_passwords_in_urls_are_hidden(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert has_secret(url)
    assert str(SftError(f"no answer at {url}")) == f"no answer at {shown}"


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000/v1#a@b", "http://[::1]/#/x:y@z", "http://10.1.2.3/a@b",
                                 "sqlite:////x/mlflow.db", "postgresql://me@host/db",
                                 "models:/sft@champion", "file:///a:b@c",
                                 "databricks://profile", "a@b.c: http://x"])
def test_urls_without_a_password_stay(url: str) -> None:
    assert masked(url) == url


class Proxy(BaseHTTPRequestHandler):
    """A server that asks for a password and hands what comes with it to the one behind it."""

    behind = ""

    def do_any(self) -> None:
        if not self.headers.get("Authorization", "").startswith("Basic "):
            self.send_error(401)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "authorization")}
        answer = requests.request(self.command, self.behind + self.path, data=body, headers=kept, timeout=60)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any

    def log_message(self, *args: object) -> None:
        """Nothing."""


def guarded(url: str) -> Iterator[str]:
    """The address, with its password, of a server in front of the one at `url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("To", (Proxy,), {"behind": url}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:{SECRET}@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[str]:
    service = start_mlflow(tmp_path / "mlflow", free_port())
    yield from guarded(service.url)
    service.stop(kill=True)


@pytest.fixture
def prefect(prefect_api: str) -> Iterator[str]:
    yield from (f"{url}/api" for url in guarded(prefect_api.removesuffix("/api")))


def leaks(*folders: Path) -> list[str]:
    """Files that hold the secret."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if SECRET.encode() in file.read_bytes()]


def told_by(prefect: str) -> Iterator[tuple[str, str]]:
    """All that Prefect's API tells, by what it tells it of."""
    for what in ("flow_runs", "task_runs", "logs", "artifacts", "deployments", "work_pools", "block_documents",
                 "variables", "automations", "concurrency_limits", "v2/concurrency_limits"):
        for offset in range(0, 10_000, 200):
            answer = requests.post(f"{prefect}/{what}/filter", json={"limit": 200, "offset": offset}, timeout=30)
            answer.raise_for_status()
            if not answer.json():
                break
            yield what, answer.text
    for event in (answer := requests.post(f"{prefect}/events/filter", json={"limit": 50}, timeout=30).json())["events"]:
        yield "events", str(event)
    assert answer["total"]


@contextmanager
def processes_watched(home: Path) -> Iterator[list[bytes]]:
    """Command lines in which the secret stands meanwhile, of all processes of a workspace."""
    found: list[bytes] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    line = (process / "cmdline").read_bytes()
                    if SECRET.encode() in line and str(home).encode() in (process / "environ").read_bytes():
                        found.append(line)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield found
    finally:
        over.set()
        watching.join()


def test_servers_with_passwords(sft: Sft, config: Path, home: Path, mlflow: str, prefect: str, tmp_path: Path) -> None:
    """It stood in run.json, summary.json, the artifacts, deployments.yaml and on the terminal."""
    data = yaml.safe_load(config.read_text())
    data["search"] = {"study": "one", "trials": 1, "confirm": 0, "alignment": ["tiny_refusal"],
                      "capability": ["tiny_mmlu"],
                      "space": {"train.optim.lr": {"low": 1e-4, "high": 1e-3}}}
    config.write_text(yaml.safe_dump(data))
    storage = f"sqlite:///{tmp_path}/study.db?password={SECRET}"
    env = {"MLFLOW_TRACKING_URI": mlflow, "PREFECT_API_URL": prefect, "SFT_STUDY_STORAGE": storage}
    keys = {"HF_TOKEN": f"hf_{SECRET}", "AWS_SECRET_ACCESS_KEY": SECRET, "OPENAI_API_KEY": f"sk-{SECRET}",
            "SFT_NIGHTLY_WEBHOOK": f"http://127.0.0.1:9/{SECRET}", "PREFECT_API_AUTH_STRING": f"me:{SECRET}",
            "MLFLOW_TRACKING_PASSWORD": SECRET, "MLFLOW_TRACKING_USERNAME": "me"}
    with processes_watched(home) as shown:
        swept = sft("sweep", config, **env, **keys)
        assert swept.returncode == 0, swept.stderr
        deployed = sft("deploy", **env, **keys)
    assert not shown
    assert deployed.returncode == 0, deployed.stderr
    for name in env:
        assert f"secret    {name} holds a password" in deployed.stdout
    nowhere = {name: value.replace("127.0.0.1:", "127.0.0.1:1") for name, value in env.items()}
    untracked = env | {"MLFLOW_TRACKING_URI": nowhere["MLFLOW_TRACKING_URI"]}
    failed = [sft("compare", "nosuch", "none", **env), sft("run", config, **keys | untracked),
              sft("run", config, **keys | nowhere)]
    assert all(done.returncode == 1 for done in failed)
    said = "".join(done.stdout + done.stderr for done in (swept, deployed, *failed))
    assert "me:***@127.0.0.1" in said
    assert SECRET not in said
    assert not leaks(home, tmp_path / "mlflow")
    told = list(told_by(prefect))
    assert {"flow_runs", "logs", "artifacts", "deployments", "work_pools", "events"} <= {what for what, _ in told}
    assert not [(what, text[max(0, (at := text.find(SECRET)) - 200):at]) for what, text in told if SECRET in text]


@pytest.mark.parametrize("setting", ["tracking.uri", "search.storage", "eval.judge.endpoint.url"])
def test_no_password_in_a_configuration(sft: Sft, config: Path, setting: str) -> None:
    """Configurations are recorded, so it is refused, and not repeated."""
    done = sft("config", "check", config, "--set", f"{setting}=http://me:{SECRET}@127.0.0.1:9/v1", "--set",
               "eval.judge.endpoint.model=m", "--set", "search.study=s")
    assert done.returncode == 2
    assert f"{setting}: holds a password or token, and configurations are recorded; " in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_no_password_of_a_judge_or_a_server_on_the_command_line(sft: Sft, tmp_path: Path) -> None:
    url = f"http://me:{SECRET}@127.0.0.1:9/v1"
    for command in (("judge", tmp_path, tmp_path, "--endpoint", url, "--model", "m"),
                    ("parity", "tiny", "--endpoint", url), ("eval", f"{url}#m", "--suite", "tiny_refusal")):
        done = sft(*command)
        assert done.returncode in (1, 2), done.stderr
        assert "holds a password" in done.stderr
        assert SECRET not in done.stdout + done.stderr


ADDRESS = {
    "SFT_DATABASE_URL": "postgresql://me:{}@127.0.0.1:1/sft",
    "SFT_STUDY_STORAGE": "postgresql+psycopg://me:{}@127.0.0.1:1/studies",
    "SFT_ARTIFACTS": "s3://KEY:{}@bucket/x",
    "SFT_NIGHTLY_WEBHOOK": "http://me:{}@127.0.0.1:1/hook",
    "MLFLOW_TRACKING_URI": "http://me:{}@127.0.0.1:1",
    "MLFLOW_S3_ENDPOINT_URL": "http://me:{}@127.0.0.1:1",
    "PREFECT_API_URL": "http://me:{}@127.0.0.1:1/api",
}
FIRST, LAST = "Qx7fJ", "Vw9kZ"
BETWEEN = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=4) | (
    st.text("/#?@:[]%' \"\\\t\n", min_size=1, max_size=4))


def doors(environ: dict[str, str], folder: Path) -> Iterator[str]:
    """What each of the doors says of the addresses in an environment."""
    known = {"SFT_HOME": str(folder / "w"), **environ}
    try:
        read = read_settings(known)
    except SftError as error:
        yield str(error)
        return
    yield repr(read)
    for attempt in (lambda: require_prefect(read), lambda: require_mlflow(read.mlflow_uri),
                    lambda: check_driver("search.storage", read.study_storage or ""),
                    lambda: try_connection(read.study_storage or ""),
                    lambda: make_databases(read.database or ""), lambda: check_bucket("s3://bucket")):
        try:
            attempt()
        except SftError as error:
            yield str(error)
        except SQLAlchemyError as error:
            yield str(SftError(why_not(error)))


@pytest.mark.parametrize("name", sorted(ADDRESS))
@given(between=BETWEEN, scheme=st.booleans())
@example(between="/", scheme=True)
@example(between="@", scheme=True)
@example(between="#", scheme=True)
@example(between="\u2100", scheme=True)
@example(between="\xdf%2F", scheme=True)
@example(between="", scheme=False)
@example(between="://", scheme=False)
@settings(max_examples=20)
def test_no_door_shows_a_part_of_a_password(
    name: str, between: str, scheme: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Libraries that are given an address which is not quoted take a part of the password for the host, and say so."""
    url = ADDRESS[name].format(FIRST + between + LAST)
    environ = {name: url if scheme else url.partition("://")[2]}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("infra.reach.TIMEOUT_S", 0.5)
        patched.setattr("infra.settings.os.environ", {"HOME": "/nowhere", **environ})
        said = "".join(doors(environ, tmp_path_factory.getbasetemp()))
    assert FIRST not in said
    assert LAST not in said


def test_an_address_that_programs_read_differently_is_refused_early() -> None:
    for name, address in ADDRESS.items():
        with pytest.raises(ConfigError, match=f"{name} is no address that can be used: programs would not agree .*%2F"):
            read_settings({"SFT_HOME": "/nowhere", name: address.format("a/b")})
    with pytest.raises(ConfigError, match="programs would not agree"):  # as letters they are one host to some
        read_settings({"SFT_HOME": "/nowhere", "SFT_NIGHTLY_WEBHOOK": "http://me:\u2100@h"})
    with pytest.raises(ConfigError, match="programs would not agree"):  # the mask ends at a quote
        read_settings({"SFT_HOME": "/nowhere", "SFT_STUDY_STORAGE": "postgresql://h/db?password=a'b"})
    assert read_settings({"SFT_DATABASE_URL": "postgresql://me:a%2Fb%40c:d@h/sft"}).database
    assert read_settings({"MLFLOW_TRACKING_URI": "sqlite:////data/a:b@c/m.db"}).mlflow_uri
    assert read_settings({"SFT_ARTIFACTS": "/data/a:b@c"}).artifacts
    assert read_settings({"SFT_STUDY_STORAGE": "postgresql+psycopg://me:s@/studies?host=/run/postgresql"}).study_storage
    with pytest.raises(ConfigError, match="takes no keys there; write s3://bucket/prefix"):
        read_settings({"SFT_ARTIFACTS": f"s3://KEY:{SECRET}@bucket/x"})


def test_a_password_is_hidden_before_an_error_is_cut() -> None:
    with pytest.raises(TrackingError) as told, door("http://host", "log"):
        raise OSError("x" * 580 + f" http://me:{SECRET}{'y' * 100}@host")
    assert SECRET[:3] not in str(told.value)


@given(between=BETWEEN)
@example(between="#")
@example(between="77#")
def test_no_password_of_a_judge_or_a_model_server_is_taken_or_shown(between: str) -> None:
    url = f"http://me:{FIRST}{between}{LAST}@127.0.0.1:9/v1"
    for attempt in (lambda: endpoint_of(url), lambda: endpoint_of(f"{url}#m"),
                    lambda: checked(EndpointSection, url=url, model="m"), lambda: checked(TrackingSection, uri=url),
                    lambda: endpoint_of(f"http://me:77#{LAST}@127.0.0.1:9/v1")):
        with pytest.raises(SftError) as told:
            attempt()
        assert FIRST not in str(told.value)
        assert LAST not in str(told.value)
    assert endpoint_of("http://gpu1:8000/v1#org/model@rev").model == "org/model@rev"


class Echo(BaseHTTPRequestHandler):
    """A server that sends the key back, cut wherever a client cuts."""

    def do_POST(self) -> None:
        body = ("x" * 290 + self.headers["Authorization"]).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


def test_a_key_that_a_server_sends_back_is_not_shown_in_part() -> None:
    from eval_suites.backends.endpoint import Endpoint, EndpointError

    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    section = EndpointSection(url=f"http://127.0.0.1:{server.server_port}/v1", model="m")
    with pytest.raises(EndpointError) as caught:
        Endpoint(section, SECRET).chat([{"role": "user", "content": "q"}], max_tokens=1)
    server.shutdown()
    server.server_close()
    assert SECRET[:3] not in str(caught.value)


def test_errors_hide_what_they_are_made_of() -> None:
    assert SECRET not in str(ConfigError(f"--set tracking.uri=http://me:{SECRET}@h is wrong"))


def test_no_repr_holds_one() -> None:
    """What is in a traceback with its values, in a log, or printed by whoever looks for a fault."""
    url = f"postgresql://me:{SECRET}@host/sft"
    settings = read_settings({"SFT_HOME": "/nowhere", "SFT_DATABASE_URL": url, "MLFLOW_TRACKING_PASSWORD": SECRET,
                              "PREFECT_API_URL": f"http://me:{SECRET}@host/api",
                              "PREFECT_API_AUTH_STRING": f"me:{SECRET}"})
    assert settings.database == url
    command = listening.guarded(prefect_server(Path("/tmp"), 4200, databases(url).prefect),
                                listening.Listening("0.0.0.0"), settings.credentials)
    assert SECRET in str(dict(command.environment))
    for one in (settings, databases(url), command, State(database=url, environment=settings.credentials)):
        assert SECRET not in f"{one!r} {one} {one!s}"
        assert "host" in repr(one) or "prefect" in repr(one)
