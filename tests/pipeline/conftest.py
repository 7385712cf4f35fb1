"""What the pipeline tests share: one real Prefect server, and a small experiment on the tiny world."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
import yaml
from sqlalchemy import create_engine, text

from bench.postgres import NoPostgres
from bench.postgres import postgres as real_postgres
from infra.servers import Command, Service, free_port, healthy, start_mlflow, start_prefect
from infra.servers import start as start_service
from infra.settings import MLFLOW_BLOCK, NO_BARS, TELEMETRY_OFF

POSTGRES_PASSWORD = "s3cr3t/Pa55"  # with a character that a URL has to quote
ROOT = Path(__file__).resolve().parents[2]
Sft = Callable[..., subprocess.CompletedProcess[str]]

SMALL = {
    "name": "small",
    "model": {"path": "tiny"},
    "data": {"sources": [{"path": "tiny:sft", "limit": 120}], "max_tokens": 128, "too_long": "drop",
             "max_rejected_share": 0.5, "decontaminate": {"reworded": "off"}},
    "template": {"name": "chatml"},
    "train": {"epochs": 1, "rows_per_step": 4, "micro_rows": 4, "optim": {"lr": 1.0e-3},
              "replay": {"lambda": 0.5, "sources": [{"path": "tiny:replay", "limit": 60}], "tokens_per_step": 128}},
    "eval": {"suites": ["tiny_mmlu", "tiny_refusal"], "limit": 6, "max_new_tokens": 8},
    "tracking": {"experiment": "tests"},
}


@pytest.fixture(scope="session")
def mlflow_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """A real MLflow server on loopback that keeps artifacts itself; who kills it appends the next one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**TELEMETRY_OFF, **MLFLOW_BLOCK}.items():
            patch.setenv(name, value)
        running = [start_mlflow(tmp_path_factory.mktemp("mlflow"), free_port())]
    yield running
    running[-1].stop(kill=True)


@pytest.fixture
def mlflow_url(mlflow_services: list[Service], monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's address; this process talks to it as ours do."""
    for name, value in {**TELEMETRY_OFF, **MLFLOW_BLOCK}.items():
        monkeypatch.setenv(name, value)
    return mlflow_services[-1].url


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server on loopback, so that each test does not start its own."""
    service = start_prefect(tmp_path_factory.mktemp("prefect"), free_port())
    yield service.url
    service.stop(kill=True)


def environment(home: Path, api: str) -> dict[str, str]:
    """The environment of a run in a workspace of its own, which writes down what it reaches for outside (`alone`). A
    shell that a platform was named to (`sft up --shell`) does not lead tests there."""
    here = {name: text for name, text in os.environ.items() if not name.startswith(("SFT_", "MLFLOW_", "PREFECT_"))}
    return here | {"SFT_HOME": str(home), "PREFECT_API_URL": api, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(Path(__file__).parent / "reached"),
                   "SFT_TEST_REACHED": str(home.with_name("reached"))}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that runs in seconds."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL, sort_keys=False))
    return path


@pytest.fixture
def sweep(config: Path) -> Path:
    """A sweep of two short trials."""
    data = yaml.safe_load(config.read_text())
    data["name"] = "sw"
    data["eval"]["limit"] = 3
    data["train"]["epochs"] = 0.3
    data["search"] = {
        "study": "two", "trials": 2, "confirm": 0.0,
        "alignment": ["tiny_refusal"], "capability": ["tiny_mmlu"], "sampler": "random",
        "space": {"train.optim.lr": {"low": 1e-4, "high": 1e-3, "log": True},
                  "train.replay.lambda": {"choices": [0.1, 1.0]}},
    }
    path = config.with_name("sweep.yaml")
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty workspace."""
    return tmp_path / "home"


@pytest.fixture(scope="session")
def no_network() -> tuple[str, ...]:
    """Starts a command where there is no interface but loopback (Linux, with namespaces of its own)."""
    up = ("import fcntl, os, socket, struct, sys\n"
          "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh22x', b'lo', 0x41))\n"  # SIOCSIFFLAGS: up, running
          "os.execv(sys.argv[1], sys.argv[1:])")
    within = ("unshare", "--map-root-user", "--net", sys.executable, "-c", up)
    try:
        subprocess.run([*within, "/bin/true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespace without network can be made here: {error}")
    return within


@pytest.fixture
def alone(home: Path) -> Iterator[None]:
    """No command of the test may connect to another machine, or look one up: offline means that nothing is tried."""
    yield
    reached = home.with_name("reached")
    assert not reached.exists(), reached.read_text()


class Warm:
    """Runs commands as children of a process that has imported what they import, see `warm/`; one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environment = folder, os.environ | TELEMETRY_OFF | NO_BARS | {
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, "-m", "tests.pipeline.warm"], cwd=ROOT, env=self.environment,
                                        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def fits(self, wanted: dict[str, str]) -> bool:
        """Whether what libraries read when they are imported is the same in an environment."""
        read = {name for name in wanted | self.environment if not name.startswith(("SFT_", "MLFLOW_", "PREFECT_"))}
        return all(wanted.get(name) == self.environment.get(name) for name in read - {
            "PYTHONPATH", "PYTEST_CURRENT_TEST", *TELEMETRY_OFF, *NO_BARS})

    def run(self, arguments: Sequence[str], wanted: dict[str, str],
            folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """As subprocess.run with 300 s, in a folder."""
        assert self.process.stdin
        assert self.process.stdout
        out, err = self.folder / "out", self.folder / "err"
        err.write_bytes(b"")
        order = {"arguments": arguments, "environment": wanted, "out": str(out), "err": str(err),
                 "folder": str(folder)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        late = threading.Timer(300, os.killpg, (int(self.process.stdout.readline()), signal.SIGKILL))
        late.start()
        code = int(self.process.stdout.readline())
        late.cancel()
        return subprocess.CompletedProcess(arguments, code, out.read_text("utf-8"), err.read_text("utf-8"))


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """For `sft`: half of the time of a short command is imports."""
    running = Warm(tmp_path_factory.mktemp("warm"))
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture
def sft(home: Path, prefect_api: str, alone: None, warm: Warm) -> Sft:
    """The real command in its own process, `within` another that starts it."""

    def run(*arguments: object, within: Sequence[str] = (), **extra: str) -> subprocess.CompletedProcess[str]:
        said, wanted = [str(one) for one in arguments], environment(home, prefect_api) | extra
        if not within and warm.fits(wanted):
            return warm.run(said, wanted)
        return subprocess.run([*within, sys.executable, "-m", "flows.cli", *said], cwd=ROOT, env=wanted,
                              capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def start(home: Path, prefect_api: str, alone: None) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The real command, not waited for; killed with its children at the end of the test."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, program: tuple[str, ...] = ("-m", "flows.cli"),
              **extra: str) -> subprocess.Popen[str]:
        command = [sys.executable, *program, *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(home, prefect_api) | extra, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class S3(NamedTuple):
    """An empty bucket `models` of a real S3-speaking server, and the variables by which others reach it."""

    environment: dict[str, str]
    bucket: Any


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    url, keys = f"http://127.0.0.1:{(port := free_port())}", {
        "AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two", "AWS_DEFAULT_REGION": "us-east-1"}
    server = start_service(Command("s3", url, ["-m", "moto.server", "-p", str(port)], keys, tmp_path, "/moto-api/"))
    try:
        healthy(server)
        bucket = boto3.resource("s3", endpoint_url=url, aws_access_key_id="one", aws_secret_access_key="two",
                                region_name="us-east-1").create_bucket(Bucket="models")
        yield S3({**keys, "MLFLOW_S3_ENDPOINT_URL": url}, bucket)
    finally:
        server.stop(kill=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """host:port of a server on loopback that asks the user postgres for POSTGRES_PASSWORD."""
    try:
        with real_postgres(POSTGRES_PASSWORD) as server:
            yield server
    except NoPostgres as error:
        pytest.skip(str(error))


@pytest.fixture
def postgres_url(postgres: str, request: pytest.FixtureRequest) -> str:
    """A database for this test alone."""
    name = re.sub(r"\W+", "_", request.node.name)
    server = f"postgresql+psycopg://postgres:{POSTGRES_PASSWORD.replace('/', '%2F')}@{postgres}"
    with create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f'create database "{name}"'))
    return f"{server}/{name}"
