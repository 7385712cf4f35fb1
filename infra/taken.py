"""Runs that the worker of `sft up` had taken when it ended: they are scheduled again, and the next worker goes on with
them. Prefect itself would leave them Pending or Running for ever, or Failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import requests

from infra.alive import bury, living, noted
from infra.daemons import State
from infra.standing import POOL, WORKER, asked, found
from sft_core.stopping import sleep

log = logging.getLogger("sft")
OPEN = ["PENDING", "RUNNING"]
"""One that is being cancelled is not to go on: a later process tells its end."""
ENDED = ["FAILED", "CRASHED"]
STOPPED = ("Interrupted:", "by Python system exit call", "by a termination signal", "due to a SIGTERM signal")
"""Within the message of a run that was told to end: ours, and those of Prefect for a process that had not come to our
code; it ends itself when nobody is left to read what it prints, as the worker did."""
OF_RUN = "PREFECT__FLOW_RUN_ID"
"""What a worker says in the environment of the process that it starts for a run."""


class Run(NamedTuple):
    """A flow run, by id and name."""

    run_id: str
    name: str


def taken(state: State) -> list[Run]:
    """The runs that are open in the pool now; none where the server does not say."""
    return _runs(state, {"state": {"type": {"any_": OPEN}}})


def _runs(state: State, wanted: dict[str, Any]) -> list[Run]:
    prefect = state.living().get("prefect")
    if prefect is None:
        return []
    body = {"work_pools": {"name": {"any_": [POOL]}}, "flow_runs": wanted}
    try:
        return [Run(one["id"], one["name"]) for one in found(f"{prefect.url}/flow_runs/filter", body, state)]
    except requests.RequestException:
        return []


def schedule_again(workspace: Path, state: State, runs: list[Run], said: Sequence[str] = STOPPED) -> list[str]:
    """Of these runs, whose processes are gone, those that were not at their end; returns their names.

    One that failed and said something else, or was cancelled, stays so; where others serve the pool, one that is open
    may be theirs.
    """
    if not runs:
        return []
    api = state.daemons["prefect"].url
    wanted = [] if _others(api, state) else OPEN
    again = [run for run in runs if _again(api, run, state, wanted, said)]
    ids = {run.run_id for run in again}
    bury(workspace, lambda note: note.run_id in ids)  # else a later process would tell their ends
    return [run.name for run in again]


def _others(api: str, state: State) -> bool:
    """Whether a worker that is not ours serves the pool, or the server does not say."""
    try:
        known = found(f"{api}/work_pools/{POOL}/workers/filter", {}, state)
    except requests.RequestException:
        return True
    return any(one["status"] == "ONLINE" and one["name"] != WORKER for one in known)


def _again(api: str, run: Run, state: State, wanted: list[str], said: Sequence[str]) -> bool:
    try:
        now = asked("GET", f"{api}/flow_runs/{run.run_id}", state).json()["state"]
        stopped = now["type"] in ENDED and any(each in (now["message"] or "") for each in said)
        if not (stopped or now["type"] in wanted):
            return False
        again = {"type": "SCHEDULED", "message": "what it needs is there again"}
        return asked("POST", f"{api}/flow_runs/{run.run_id}/set_state", state, {"state": again, "force": True}).ok
    except (requests.RequestException, KeyError, TypeError, ValueError):
        return False


def processes_of(run_ids: set[str]) -> list[psutil.Process]:
    """What a worker on this machine has started for these runs."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(OF_RUN) in run_ids:
                found.append(process)
    return found


def take_up_again(workspace: Path, state: State, within_s: float) -> None:
    """Schedule what a worker that died had taken. To be called while no worker of ours lives; where others serve the
    pool it may be theirs, and is left to them.

    Args:
        workspace: where notes of living processes are.
        state: the servers.
        within_s: how long runs that outlived their worker may take to save.
    """
    if _others(state.daemons["prefect"].url, state):
        return
    left = taken(state)
    if (worker := state.daemons.get("worker")) is not None:  # its runs were told to end when it died
        left += _runs(state, {"state": {"type": {"any_": ENDED}}, "end_time": {"after_": worker.since}})
    begun = {note.run_id for note in noted(workspace)}  # what these have started may be saving
    for process in processes_of({run.run_id for run in left} - begun):
        with suppress(psutil.Error):  # it still loads: nothing to save, and it would begin beside the next worker's
            process.kill()
    until = time.monotonic() + within_s
    while any(run.run_id in living(workspace) for run in left) and time.monotonic() < until:
        sleep(0.2)
    there = living(workspace)
    for name in schedule_again(workspace, state, [run for run in left if run.run_id not in there]):
        log.info("the run %s, whose worker is gone, is scheduled again", name)


def again_with_servers(workspace: Path, before: State, state: State) -> None:
    """Schedule what failed as the MLflow server of ours was away.

    Args:
        workspace: where notes of living processes are.
        before: as all was before the servers that had died were started again.
        state: as it is now.
    """
    was = before.daemons.get("mlflow")
    if was is None or was.lives:
        return
    failed = _runs(state, {"state": {"type": {"any_": ENDED}}, "end_time": {"after_": was.since}})
    away = (f"no MLflow server answers at {was.url}", f"MLflow at {was.url} could not ")
    for name in schedule_again(workspace, state, failed, away):
        log.info("the run %s, which MLflow failed while it was away, is scheduled again", name)
