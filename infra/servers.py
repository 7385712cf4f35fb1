"""Local Prefect and MLflow servers and Prefect workers as child processes.

Each is started from Python in its own session: `&` of a non-interactive shell makes a Prefect worker deaf to
SIGTERM, and only killing the whole process group takes the children along.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from infra.children import end_with_parent
from infra.daemons import listens
from infra.postgres import databases, make_databases
from infra.reach import require_prefect, why_unreachable
from infra.settings import MLFLOW_BLOCK, TELEMETRY_OFF, Settings, child_environment, use_prefect
from sft_core.errors import OrchestrationError
from sft_core.locks import exclusive
from sft_core.stopping import sleep

START_TIMEOUT_S = 120.0
"""A first start makes the database's tables: 11 to 15 s on a quiet machine, several times that on a busy one."""
STOP_TIMEOUT_S = 10.0
LOG_BYTES = 20_000_000
"""A longer log of a lasting server is put aside when it starts again, in place of the one before."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of an address of this machine that nobody listens on now.

    Raises:
        OSError: this machine has no such address.
    """
    return _bound(host, 0)


def can_listen(host: str, port: int) -> bool:
    """Whether this machine has the address, and nobody listens on this port of it; port 0: whether it has it."""
    try:
        _bound(host, port)
    except (OSError, UnicodeError):  # no name of a host at all
        return False
    return True


def _bound(host: str, port: int) -> int:
    """The port that a socket gets there; it is given back at once."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        if port:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are over do not matter
        probe.bind(address)
        return int(probe.getsockname()[1])


LEASES = "prefect.server.concurrency.lease_storage.filesystem"
"""In its PREFECT_HOME. In memory, where Prefect has them by default, they would be lost with the server; the place of a
night that died before then stays taken for ever."""


class Command(NamedTuple):
    """How a service is started. `environment` is what it has besides this process's."""

    name: str
    url: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    """Where it works and its log is."""
    health: str = "/health"
    patience_s: float = START_TIMEOUT_S
    """How long it may take to answer."""

    def __repr__(self) -> str:
        """Without what it has in its environment, where passwords are."""
        return f"Command({self.name} at {self.url}: {' '.join(self.arguments)})"


@dataclass(frozen=True)
class Service:
    """A started process, the leader of its own process group."""

    command: Command
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.command.url

    def stop(self, kill: bool = False) -> None:
        """End the whole process group: SIGTERM, then SIGKILL for what is left (`kill`: SIGKILL at once)."""
        if not kill:
            _signal(self.process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        _signal(self.process.pid, signal.SIGKILL)
        self.process.wait()


def mlflow_server(folder: Path, port: int, store: str | None = None, artifacts: str | None = None) -> Command:
    """An MLflow server on 127.0.0.1: one worker, no job runner (0.5 GB).

    Args:
        folder: where it works.
        port: where it listens.
        store: database; None: SQLite in `folder`.
        artifacts: a folder (file://) that clients of this machine write into themselves, so that models are stored
            once, or a bucket (s3://) that the server keeps them in; None: it does so in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    here = folder.absolute()
    environment = {
        **TELEMETRY_OFF, **MLFLOW_BLOCK, "MLFLOW_BACKEND_STORE_URI": store or f"sqlite:///{here / 'mlflow.db'}",
        **({"MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts} if artifacts and artifacts.startswith("file:")
           else {"MLFLOW_ARTIFACTS_DESTINATION": artifacts or str(here / "artifacts")}),
    }
    return Command("mlflow", f"http://127.0.0.1:{port}", arguments, environment, folder)


def prefect_server(home: Path, port: int, database: str | None = None) -> Command:
    """A Prefect server on 127.0.0.1 with `home` as its PREFECT_HOME; `url` ends with /api.

    Args:
        home: its folder.
        port: where it listens.
        database: its database; None: SQLite in `home`.
    """
    home.mkdir(parents=True, exist_ok=True)
    # Its log is a file: what prepare_environment silences for the sake of the terminal may stand there.
    environment = {**TELEMETRY_OFF, "PREFECT_HOME": str(home.absolute()), "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
                   "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
                   "PREFECT_UI_API_URL": "/api"}  # else its pages ask port 4200, whatever port this is
    if database:  # in the environment and not among the arguments, which everybody on this machine can read
        environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
    arguments = ["-m", "infra.prefect_door", "localhost", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return Command("prefect", f"http://127.0.0.1:{port}/api", arguments, environment, home)


def worker(pool: str, folder: Path, environment: Mapping[str, str], limit: int = 1, name: str | None = None) -> Command:
    """A worker of a process pool that takes at most `limit` runs at a time.

    Args:
        pool: name of the work pool.
        folder: where its log goes.
        environment: at least PREFECT_API_URL (see `settings.job_environment`).
        limit: runs at a time.
        name: what the server calls it; None: Prefect makes one up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["-m", "prefect", "worker", "start", "--pool", pool, "--limit", str(limit)]
    return Command("worker", environment.get("PREFECT_API_URL", ""), arguments + (["--name", name] if name else []),
                   environment, folder)


def reconciling(folder: Path, environment: Mapping[str, str]) -> Command:
    """`sft reconcile`, which ends by itself; what it found is in its log.

    Args:
        folder: where its log goes.
        environment: see `settings.job_environment`.
    """
    return Command("reconcile", "", ["-m", "flows.cli", "reconcile"], environment, folder)


def start_mlflow(folder: Path, port: int) -> Service:
    """An MLflow server on 127.0.0.1 with SQLite and artifacts in `folder`.

    Raises:
        OrchestrationError: it does not answer in time; the message ends with the end of its log.
    """
    return healthy(start(mlflow_server(folder, port)))


def start_prefect(home: Path, port: int, database: str | None = None) -> Service:
    """A Prefect server on 127.0.0.1 with a database, or SQLite in `home`.

    Raises:
        OrchestrationError: it does not answer in time; the message ends with the end of its log.
    """
    return healthy(start(prefect_server(home, port, database)))


def ensure_prefect(settings: Settings) -> None:
    """A Prefect server for the flows of this process, see `begin_prefect`; it answers when this returns."""
    begin_prefect(settings)(())


def begin_prefect(settings: Settings) -> Callable[[Iterable[object]], None]:
    """A Prefect server for the flows of this process: the configured one, else a temporary one that ends with it.

    To be called before Prefect is imported. Prefect would start a temporary server by itself, but in our process
    group: Ctrl-C in a terminal reaches it too, and Prefect then tries for 80 s to tell a dead server about the
    interruption and ends with a traceback. Ours is out of the terminal's reach, and two that start in one workspace
    do not meet in the migrations of its database.

    Returns:
        What waits until the server answers, to be called before the first flow. Other work that is to be done goes on
        meanwhile, as steps of an iterator: the server takes 3 s, and 9 s where it makes its tables.

    Raises:
        OrchestrationError: the configured server does not answer; of the wait: the temporary one does not start.
    """
    if settings.prefect_api_url:
        require_prefect(settings)
        return lambda steps: None
    assert "prefect" not in sys.modules, "it has its settings already, and would start another server by itself"
    starting = ExitStack()
    starting.enter_context(exclusive(settings.prefect_home / "start.lock"))
    if settings.database:
        make_databases(settings.database)
    database = databases(settings.database).prefect if settings.database else None
    service = start(prefect_server(settings.prefect_home, free_port(), database))
    atexit.register(service.stop)  # before Prefect registers its own exit handlers: it runs after them
    use_prefect(service.url)

    def wait(steps: Iterable[object]) -> None:
        with starting:
            for _ in steps:
                if why_unreachable(f"{service.url}/health") is None:
                    return
            healthy(service)

    return wait


def start_worker(pool: str, folder: Path, environment: Mapping[str, str]) -> Service:
    """A worker of a process pool that takes one run at a time; see `worker`."""
    return start(worker(pool, folder, environment))


def start(command: Command, *, lasting: bool = False) -> Service:
    """Start a service; it ends with this process, unless it is a lasting one."""
    log = command.folder / f"{command.name}.log"
    if lasting and log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command.arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            cwd=command.folder, env=child_environment(command.environment), start_new_session=True,
            preexec_fn=None if lasting else end_with_parent(),
        )
    return Service(command, process, log)


def healthy(service: Service) -> Service:
    """Wait until a service answers.

    Raises:
        OrchestrationError: it does not in time; it is ended, and the message ends with the end of its log.
    """
    try:
        wait_for(service.command, service.log, lambda: service.process.poll() is None, service.process.pid)
    except OrchestrationError:
        service.stop(kill=True)
        raise
    return service


def wait_for(command: Command, log: Path, lives: Callable[[], bool], leader: int) -> None:
    """Wait until a service answers, as long as it lives.

    Args:
        command: how it was started.
        log: what it prints.
        lives: whether it does.
        leader: of its process group, which is to be the one that answers: two that start at once may have found the
            same port free, and the later one would be taken for well until it has noticed.

    Raises:
        OrchestrationError: it does not in time; the message ends with the end of its log.
    """
    deadline = time.monotonic() + command.patience_s
    while time.monotonic() < deadline and lives():
        if why_unreachable(command.url + command.health) is None and listens(leader, urlsplit(command.url).port or 0):
            return
        sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise OrchestrationError(f"the {command.name} server did not come up at {command.url} within "
                             f"{command.patience_s:.0f} s; the end of {log}:\n{tail}")


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
