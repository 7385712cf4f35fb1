"""Processes that outlive the command that started them: what was written of them, whether they live, how they end.

A number alone names no process: after a reboot, or a year, another one has it. So the kernel's start tick and the boot
stand beside it. `settings.py` reads this file's records, so it imports nothing of ours but errors.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sft_core.errors import ConfigError
from sft_core.masking import masked

log = logging.getLogger("sft")
FOLDER = "platform"
POLL_S = 0.1
ITSELF_S = 10.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Daemon(NamedTuple):
    """A process that was started, as the state file of its workspace has it."""

    pid: int
    identity: str
    """The boot and the tick in which it began (`identity_of`)."""
    since: str
    """When it was started: ISO 8601, UTC."""
    url: str
    """Where it listens; of a worker, where it asks for work."""
    log: str
    """File of all that it prints."""
    version: str
    """Of the package that it runs."""

    @property
    def lives(self) -> bool:
        """Whether this very process still runs."""
        return bool(self.identity) and identity_of(self.pid) == self.identity


class State(NamedTuple):
    """What `sft up` has started in a workspace, and what it was told then."""

    daemons: Mapping[str, Daemon] = {}
    ports: Mapping[str, int] = {}
    """Last ports of the servers, which they get again."""
    host: str = "127.0.0.1"
    """Where the servers listen."""
    allowed: tuple[str, ...] = ()
    """Further names under which others may ask for them."""
    database: str | None = None
    """URL of the PostgreSQL that everything is kept in, with its password: the file is its owner's alone."""
    artifacts: str | None = None
    """Where MLflow's artifacts are, where that is not the workspace."""
    environment: Mapping[str, str] = {}
    """Variables that clients of these servers need: user and password, where they ask for one."""

    webhook: str | None = None
    """Who is told of red nights; whoever knows such an address may post there."""

    def __repr__(self) -> str:
        """Without passwords."""
        shown = {**self._asdict(), "environment": sorted(self.environment), "webhook": bool(self.webhook)}
        return masked(f"State({shown})")

    def living(self) -> dict[str, Daemon]:
        """Those that still run, by name."""
        return {name: daemon for name, daemon in self.daemons.items() if daemon.lives}


def identity_of(pid: int) -> str | None:
    """The boot and the tick in which a process began; None where none of this number runs (a zombie does not)."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if said[0] in "ZX" else f"{_boot()}{said[19]}"
    except OSError:
        return None


def file_of(workspace: Path) -> Path:
    """Where the state of a workspace's platform is."""
    return workspace / FOLDER / "state.json"


def read_state(workspace: Path) -> State:
    """What was written last; an empty state where nothing was, or where it is somebody else's to read.

    Raises:
        ConfigError: the file is damaged.
    """
    file = file_of(workspace)
    try:
        said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        daemons = {name: Daemon(**one) for name, one in said["daemons"].items()}
        return State(**{**said, "daemons": daemons, "allowed": tuple(said["allowed"])})
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return State()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{file} is damaged ({error}); end what `ps` shows of `prefect` and `mlflow` in this "
                          "workspace, remove the file, and say `sft up` again") from error


def write_state(workspace: Path, state: State) -> None:
    """Replace the state as a whole; only its owner may read it."""
    file = file_of(workspace)
    draft = file.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    said = {**state._asdict(), "daemons": {name: one._asdict() for name, one in state.daemons.items()}}
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
        json.dump(said, handle, indent=2)
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(file)


def forget(workspace: Path, state: State) -> None:
    """Keep of a platform that was ended where it listened, and no password. Where that cannot be written, as on a full
    disk, nothing is kept: what has ended is ended, and the ports are free to be others next time."""
    try:
        write_state(workspace, State(ports=state.ports, host=state.host))
    except OSError as error:
        log.warning("the ports are not kept for the next `sft up`, as %s cannot be written: %s; it may take others",
                    file_of(workspace), error.strerror)
        with suppress(OSError):  # nothing can be removed either where it is read only
            file_of(workspace).with_suffix(".draft").unlink(missing_ok=True)
            file_of(workspace).unlink(missing_ok=True)


def end(daemon: Daemon, grace_s: float) -> bool:
    """SIGTERM to what it has started, and when that is gone to itself; each SIGKILL where it takes too long.

    In this order, because a worker of Prefect that is told to end kills the runs that it has at once, and nobody tells
    the server how they ended.

    Args:
        daemon: the process.
        grace_s: how long what it has started may take; it itself has ten seconds.

    Returns:
        False where it had ended before: nothing was done.
    """
    if not daemon.lives:
        return False
    children = _children(daemon.pid)
    _tell(children, signal.SIGTERM)
    _wait(_below(children), grace_s)
    itself = {daemon.pid: daemon.identity}
    everyone = _below(itself)
    _tell(itself, signal.SIGTERM)
    _wait(everyone, ITSELF_S)
    return True


def end_orphans(daemon: Daemon) -> None:
    """SIGKILL to what a process that died has left in its group, and wait until it is gone: a server's child goes on
    listening on its port.

    Where no process of the number is left, nobody else can have made a group of that number since this boot.
    """
    if daemon.identity and identity_of(daemon.pid) is None and daemon.identity.startswith(_boot()):
        left = _group(daemon.pid)
        _tell(left, signal.SIGKILL)
        _wait(left, ITSELF_S)


def _group(number: int) -> dict[int, str]:
    import psutil  # type: ignore[import-untyped]  # every command reads this file, and few end a process

    found = {}
    for pid in psutil.pids():
        with suppress(OSError):
            if os.getpgid(pid) == number and (identity := identity_of(pid)):
                found[pid] = identity
    return found


def listens(leader: int, port: int) -> bool:
    """Whether a process of this one's group listens on a TCP port."""
    import psutil

    for pid in _group(leader):
        with suppress(psutil.Error):
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port
                   for one in psutil.Process(pid).net_connections("tcp")):
                return True
    return False


def _boot() -> str:
    return f"{_BOOT.read_text().strip()}/"


def _tell(processes: Mapping[int, str], number: int) -> None:
    for pid in _left(processes):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait(processes: Mapping[int, str], seconds: float) -> None:
    """Until all are gone; after so long they are killed."""
    until = time.monotonic() + seconds
    while _left(processes):
        if time.monotonic() > until:
            _tell(processes, signal.SIGKILL)
        time.sleep(POLL_S)


def _left(processes: Mapping[int, str]) -> list[int]:
    return [pid for pid, identity in processes.items() if identity_of(pid) == identity]


def _children(pid: int) -> dict[int, str]:
    import psutil

    try:
        children = [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return {}
    return {child: identity for child in children if (identity := identity_of(child))}


def _below(processes: Mapping[int, str]) -> dict[int, str]:
    """The processes with all that they have started, and so on."""
    return dict(processes) | {pid: identity for one in processes
                              for pid, identity in _below(_children(one)).items()}
