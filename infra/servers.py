"""Local Prefect, MLflow and model servers and Prefect workers as child processes.

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from infra.children import end_with_parent
from infra.reach import require_prefect, why_unreachable
from infra.settings import MLFLOW_BLOCK, TELEMETRY_OFF, Settings, child_environment, use_prefect
from sft_core.errors import OrchestrationError
from sft_core.locks import exclusive
from sft_core.stopping import sleep

START_TIMEOUT_S = 120.0
"""A first start makes the database's tables: 11 to 15 s on a quiet machine, several times that on a busy one."""
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Service:
    """A started process, the leader of its own process group."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, kill: bool = False) -> None:
        """End the whole process group: SIGTERM, then SIGKILL for what is left (`kill`: SIGKILL at once)."""
        if not kill:
            _signal(self.process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        _signal(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_mlflow(folder: Path, port: int) -> Service:
    """An MLflow server on 127.0.0.1 with SQLite and artifacts in `folder`: one worker, no job runner (0.5 GB).

    Raises:
        OrchestrationError: it does not answer in time; the message ends with the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder.absolute() / 'mlflow.db'}",
        "--artifacts-destination", str(folder.absolute() / "artifacts"),
    ]
    service = _start("mlflow", f"http://127.0.0.1:{port}", command, {**TELEMETRY_OFF, **MLFLOW_BLOCK}, folder)
    return _healthy(service, "/health")


def start_prefect(home: Path, port: int) -> Service:
    """A Prefect server on 127.0.0.1 with SQLite in `home` (its PREFECT_HOME); `url` ends with /api.

    Raises:
        OrchestrationError: it does not answer in time; the message ends with the end of its log.
    """
    home.mkdir(parents=True, exist_ok=True)
    # Its log is a file: what prepare_environment silences for the sake of the terminal may stand there.
    environment = {**TELEMETRY_OFF, "PREFECT_HOME": str(home.absolute()), "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    service = _start("prefect", f"http://127.0.0.1:{port}/api", command, environment, home)
    return _healthy(service, "/health")


def start_serving(model: Path, port: int, *, device: str, dtype: str, folder: Path) -> Service:
    """transformers' own OpenAI-compatible server on 127.0.0.1, pinned to one model folder, without network.

    Args:
        model: the model folder.
        port: where it listens; its API is below /v1.
        device, dtype: as the model is to be loaded.
        folder: where its log goes.

    Raises:
        OrchestrationError: a library that it needs is missing, or it does not answer in time.
    """
    if find_spec("openai") is None:
        raise OrchestrationError("transformers' server needs the package openai; install it with "
                                 "`pip install 'sft-platform[serve]'`, or name a running server")
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "transformers.cli.transformers", "serve", str(model.absolute()), "--host", "127.0.0.1",
        "--port", str(port), "--device", device, "--dtype", dtype,
    ]
    environment = {**TELEMETRY_OFF, "HF_HUB_OFFLINE": "1"}
    return _healthy(_start("serving", f"http://127.0.0.1:{port}", command, environment, folder), "/health")


def ensure_prefect(settings: Settings) -> None:
    """A Prefect server for the flows of this process: the configured one, else a temporary one that ends with it.

    To be called before Prefect is imported. Prefect would start a temporary server by itself, but in our process
    group: Ctrl-C in a terminal reaches it too, and Prefect then tries for 80 s to tell a dead server about the
    interruption and ends with a traceback. Ours is out of the terminal's reach, and two that start in one workspace
    do not meet in the migrations of its database.

    Raises:
        OrchestrationError: the configured server does not answer, or the temporary one does not start.
    """
    if settings.prefect_api_url:
        require_prefect(settings)
        return
    assert "prefect" not in sys.modules, "it has its settings already, and would start another server by itself"
    with exclusive(settings.prefect_home / "start.lock"):
        service = start_prefect(settings.prefect_home, free_port())
    atexit.register(service.stop)  # before Prefect registers its own exit handlers: it runs after them
    use_prefect(service.url)


def start_worker(pool: str, folder: Path, environment: Mapping[str, str], limit: int = 1) -> Service:
    """A worker of a process pool that takes at most `limit` runs at a time.

    Args:
        pool: name of the work pool.
        folder: where its log goes.
        environment: at least PREFECT_API_URL (see `settings.job_environment`).
        limit: runs at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--limit", str(limit)]
    return _start("worker", environment.get("PREFECT_API_URL", ""), command, environment, folder)


def _start(name: str, url: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Service:
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=folder,
            env=child_environment(environment), start_new_session=True, preexec_fn=end_with_parent(),
        )
    return Service(name, url, process, log)


def _healthy(service: Service, path: str) -> Service:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and service.process.poll() is None:
        if why_unreachable(service.url + path) is None:
            return service
        sleep(0.2)
    service.stop(kill=True)
    tail = "\n".join(service.log.read_text(errors="replace").splitlines()[-15:])
    raise OrchestrationError(f"the {service.name} server did not come up at {service.url} within {START_TIMEOUT_S:.0f} "
                             f"s; the end of {service.log}:\n{tail}")


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
