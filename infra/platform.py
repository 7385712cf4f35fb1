"""`sft up` and `sft down`: Prefect, MLflow and a worker as processes that outlive the command, and the deployments.

Everything is in the workspace: `platform/state.json` says what was started, and a process counts as ours only while the
kernel knows it under the same number and start. So a second `up`, one after a crash and one after a reboot are the same
command: what lives is left alone, what does not is started again on its old port.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from infra import standing
from infra.bucket import check_bucket
from infra.daemons import FOLDER, Daemon, State, end, end_orphans, forget, identity_of, read_state, write_state
from infra.listening import LOOPBACK, Listening, check, guarded
from infra.postgres import databases, make_databases
from infra.servers import (
    Command,
    can_listen,
    free_port,
    mlflow_server,
    prefect_server,
    reconciling,
    start,
    wait_for,
    worker,
)
from infra.settings import Settings, job_environment, nightly_webhook, own_store
from infra.standing import POOL, SERVERS, WORKER, Part
from infra.taken import again_with_servers, schedule_again, take_up_again, taken
from sft_core.errors import OrchestrationError
from sft_core.locks import exclusive
from sft_core.stopping import sleep

log = logging.getLogger("sft")
PORTS = {"prefect": 4200, "mlflow": 5000}
"""Where their documentation has them; taken when free."""
WELL_WITHIN_S = 90.0
FREE_WITHIN_S = 3.0
GRACE_S = 150.0
"""A run that is told to end saves a checkpoint; its trials have two minutes for that."""


class Wanted(NamedTuple):
    """What a call of `up` asks for; None: as last time, else the usual port where it is free, else any."""

    prefect_port: int | None = None
    mlflow_port: int | None = None
    host: str | None = None
    allowed_hosts: str | None = None
    """Separated by commas."""


def up(settings: Settings, wanted: Wanted) -> list[Part]:
    """Start what does not run, and return when all is well.

    Raises:
        ConfigError: other servers are configured.
        OrchestrationError: a port is taken, or a part does not come up; with the end of its log.
    """
    folder = settings.workspace / FOLDER
    folder.mkdir(exist_ok=True)
    with exclusive(folder / "lock"):
        state = read_state(settings.workspace)
        before, lived = state, set(SERVERS) <= state.living().keys()
        _refuse_others(settings, state)
        listening = _listening(wanted, state)
        check(listening, settings.credentials)
        if settings.database:
            make_databases(settings.database)
        reached = _servers(settings, wanted, listening, state)
        from infra.deploy import make_pool

        make_pool(reached.prefect_api_url or "", POOL)
        state = read_state(settings.workspace)._replace(webhook=nightly_webhook())
        write_state(settings.workspace, state)
        if any(name in before.daemons and before.daemons[name].url != state.daemons[name].url for name in SERVERS):
            _end_worker(settings.workspace, state)  # it knows the old addresses, and so do the deployments
            _deploy(reached)
        if "worker" not in state.living():
            take_up_again(settings.workspace, state, GRACE_S)
        if not lived:
            again_with_servers(settings.workspace, before, state)
        # The state says whom nights tell, so that another webhook counts at once, whoever's shell started the worker.
        environment = {**job_environment(reached), **settings.credentials, "SFT_NIGHTLY_WEBHOOK": ""}
        command = worker(POOL, folder, environment, name=WORKER)
        _running(settings.workspace, state, command)
        if not lived and (settings.workspace / "runs").is_dir():  # what ended with them, or while they were away
            start(reconciling(folder, environment), lasting=True)
        _deploy(reached)
        return _well(settings.workspace)


class Ended(NamedTuple):
    """What `down` has ended."""

    parts: list[str]
    runs: list[str]
    """Names of runs that the next `up` goes on with."""


def down(settings: Settings) -> Ended:
    """End what runs, the worker first and with time for a run to save."""
    if not (settings.workspace / FOLDER).is_dir():
        return Ended([], [])
    with exclusive(settings.workspace / FOLDER / "lock"):
        state = read_state(settings.workspace)
        ended, again = _end_worker(settings.workspace, state)
        ended += [name for name in reversed(SERVERS) if name in state.daemons and end(state.daemons[name], GRACE_S)]
        forget(settings.workspace, state)
        return Ended(ended, again)


def _end_worker(workspace: Path, state: State) -> Ended:
    """Where it lives; a run that it has is scheduled again."""
    if "worker" not in state.living():
        return Ended([], [])
    with standing.no_new_runs(state):
        open_runs = taken(state)
        end(state.daemons["worker"], GRACE_S)
        return Ended(["worker"], schedule_again(workspace, state, open_runs))


def status(workspace: Path) -> list[Part]:
    """How the platform of a workspace stands."""
    from infra.deploy import names

    return standing.standing(read_state(workspace), names())


def _refuse_others(settings: Settings, state: State) -> None:
    ours = {_url(name, port, state) for name, port in state.ports.items()}
    for variable, value in (("PREFECT_API_URL (or the active profile of Prefect)", settings.prefect_api_url),
                            ("MLFLOW_TRACKING_URI", settings.mlflow_uri)):
        if value and value.rstrip("/") not in ours | {own_store(settings.workspace, settings.database)}:
            raise OrchestrationError(f"{variable} names {value}, which is not of `sft up`; unset it to have "
                                     "servers in this workspace, or use that one with `sft deploy`")
    if state.living() and settings.database != state.database:
        raise OrchestrationError(f"the servers that run keep everything in {state.database or 'the workspace'}; say "
                                 f"`sft down` first to have it in {settings.database or 'the workspace'}")
    if settings.artifacts and settings.artifacts.startswith("s3:") and "mlflow" not in state.living():
        check_bucket(settings.artifacts)


def _url(name: str, port: int, state: State) -> str:
    return f"http://{Listening(state.host).client}:{port}" + ("/api" if name == "prefect" else "")


def _listening(wanted: Wanted, state: State) -> Listening:
    """As asked for, else as last time.

    Raises:
        OrchestrationError: servers run that listen elsewhere.
    """
    allowed = state.allowed if wanted.allowed_hosts is None else tuple(wanted.allowed_hosts.split(","))
    new = Listening(wanted.host or (state.host if state.daemons else LOOPBACK), allowed)
    if state.living() and new != Listening(state.host, state.allowed):
        raise OrchestrationError(f"the servers listen on {state.host} under {', '.join(state.allowed) or 'no names'}; "
                                 "say `sft down` first to change that")
    return new


def _servers(settings: Settings, wanted: Wanted, listening: Listening, state: State) -> Settings:
    """Both servers, started together; returns the settings of whoever uses them."""
    asked = {"prefect": wanted.prefect_port, "mlflow": wanted.mlflow_port}
    with ExitStack() as locks:
        # Commands that run alone make the tables of the same databases.
        locks.enter_context(exclusive(settings.prefect_home / "start.lock"))
        locks.enter_context(exclusive(settings.workspace / "locks" / "tracker"))
        commands = {}
        for name in SERVERS:
            state, commands[name] = _begun(name, asked[name], settings, listening, state)
        import infra.deploy  # noqa: F401  (Prefect's client takes seconds to load, and the servers longer to start)

        for name in SERVERS:
            try:
                _wait_for(commands[name], state.daemons[name])
            except OrchestrationError:
                if asked[name] or name in state.living() or can_listen(listening.address, state.ports[name]):
                    raise
                # Somebody else, starting at the same time, was the first to take the port that both had found free.
                state, commands[name] = _begun(name, None, settings, listening, state)
                _wait_for(commands[name], state.daemons[name])
    return replace(settings, prefect_api_url=commands["prefect"].url, mlflow_uri=commands["mlflow"].url)


def _begun(name: str, asked: int | None, settings: Settings, listening: Listening, state: State
           ) -> tuple[State, Command]:
    """A server that is there, or begins to start: what is known of all of them now, and how it is started."""
    if name in state.daemons:
        end_orphans(state.daemons[name])
    port = _port(name, asked, state, listening.address)
    command = guarded(_command(name, port, settings), listening, settings.credentials)
    state = state._replace(
        ports={**state.ports, name: port}, host=listening.host, allowed=listening.allowed,
        database=settings.database, artifacts=settings.artifacts,
        environment={} if listening.is_local else settings.credentials)
    return _running(settings.workspace, state, command), command


def _wait_for(command: Command, daemon: Daemon) -> None:
    wait_for(command, Path(daemon.log), lambda: daemon.lives, daemon.pid)


def _command(name: str, port: int, settings: Settings) -> Command:
    folder = settings.workspace / FOLDER
    if name == "prefect":
        database = databases(settings.database).prefect if settings.database else None
        return prefect_server(settings.prefect_home, port, database)._replace(folder=folder)
    store = own_store(settings.workspace, settings.database)
    return mlflow_server(folder, port, store, settings.artifacts or (settings.workspace / "mlartifacts").as_uri())


def _port(name: str, asked: int | None, state: State, host: str) -> int:
    before = state.ports.get(name)
    if name in state.living():
        if asked not in (None, before):
            raise OrchestrationError(f"{name} runs on port {before}; say `sft down` first to have it on {asked}")
        assert before is not None, "it was written together with it"
        return before
    if asked is not None:
        if not can_listen(host, asked):
            raise OrchestrationError(f"port {asked} of {host} is taken; give --{name}-port another one, or leave it "
                                     "out to have one that is free")
        return asked
    if before and name in state.daemons:  # what it left is killed; its last thread may still hold the port for a moment
        until = time.monotonic() + FREE_WITHIN_S
        while not can_listen(host, before) and time.monotonic() < until:
            sleep(0.05)
    usual = (port for port in (before, PORTS[name]) if port and can_listen(host, port))
    found = next(usual, None) or free_port(host)
    if before not in (None, found):
        log.warning("%s is on port %d from now on, as somebody else has %d: addresses that were given out, and shells "
                    "that said `sft up --shell` before, do not find it; --%s-port moves it", name, found, before, name)
    return found


def _running(workspace: Path, state: State, command: Command) -> State:
    """The state with this service in it, which is started where it does not live, and written at once."""
    if command.name in state.living():
        return state
    since = datetime.now(UTC).isoformat()
    service = start(command, lasting=True)
    log.info("%s starts: %s, log %s", command.name, command.url, service.log)
    package = "mlflow" if command.name == "mlflow" else "prefect"
    daemon = Daemon(service.process.pid, identity_of(service.process.pid) or "", since, command.url,
                    str(service.log), version(package))
    new = state._replace(daemons={**state.daemons, command.name: daemon})
    try:
        write_state(workspace, new)
    except OSError:  # what nobody knows of, nobody could end
        service.stop(kill=True)
        raise
    return new


def _deploy(settings: Settings) -> None:
    from infra.deploy import deploy, is_current, names, nights_of

    nights = nights_of(settings)
    there = standing.registered(settings.prefect_api_url or "", read_state(settings.workspace))
    if not (is_current(settings, POOL, nights) and there.issuperset(names())):
        log.info("deployments are registered")
        deploy(settings, pool=POOL, nights=nights)


def _well(workspace: Path) -> list[Part]:
    deadline = time.monotonic() + WELL_WITHIN_S
    while True:
        parts = status(workspace)
        if all(part.well for part in parts):
            return parts
        if time.monotonic() > deadline:
            raise OrchestrationError("the platform did not become well: " + "; ".join(
                f"{part.name} {part.says}" + (f" ({part.log})" if part.log else "") for part in parts if not part.well))
        sleep(0.3)
