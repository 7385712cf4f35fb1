"""How the servers of `sft up` stand, asked over their own interfaces: one that answers need not be one that works.

A scheduler that works has put the next night on its list; a worker that works tells the server so every half minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests

from infra.daemons import Daemon, State
from infra.listening import Listening
from infra.reach import TIMEOUT_S, why_unreachable

POOL = "sft"
WORKER = "sft-up"
NIGHTLY = "sft-nightly"
SERVERS = ("prefect", "mlflow")
ASKED = ("worker", "deployments", "alerts")
"""What Prefect's server says of itself and of others."""
AUTOMATION = "sft: a red night"
"""The automation that `infra/alerts.py` makes."""
NOT_RUNNING = "does not run; `sft up` starts it"
_VERSION = {"prefect": "/admin/version", "mlflow": "/version"}


class Part(NamedTuple):
    """One part of the platform. All but name, `well` and `says` are empty where it does not run."""

    name: str
    well: bool
    says: str
    """How it stands, and what to do where it is not well."""
    url: str = ""
    since: str = ""
    log: str = ""


def standing(state: State, deployments: list[str]) -> list[Part]:
    """Ask every part how it is; takes at most some seconds, also where one hangs.

    Args:
        state: what was started.
        deployments: names that must be registered.
    """
    alive = state.living()
    parts = [_server(name, alive.get(name), state) for name in SERVERS]
    if not parts[0].well:
        return [*parts, *(Part(name, False, "unknown without Prefect's server") for name in ASKED)]
    prefect, worker = alive["prefect"], alive.get("worker")
    try:
        return [*parts, _worker(prefect.url, worker, state), _deployments(prefect.url, deployments, state),
                _alerts(prefect.url, state)]
    except (requests.RequestException, ValueError, KeyError) as error:
        database = f", and whether PostgreSQL at {urlsplit(state.database).hostname} answers" if state.database else ""
        why = f"Prefect's server does not say ({type(error).__name__}); look at {prefect.log}{database}"
        return [*parts, *(Part(name, False, why) for name in ASKED)]


def registered(api: str, state: State) -> set[str]:
    """The names of the deployments that a Prefect server has."""
    return {one["name"] for one in found(f"{api}/deployments/filter", {"limit": 200}, state)}


@contextmanager
def no_new_runs(state: State) -> Iterator[None]:
    """The worker gets no run in the block: the one that it has is being ended, and the next would be killed."""
    prefect = state.living().get("prefect")
    if prefect is None or not _paused(prefect.url, True, state):
        yield
        return
    try:
        yield
    finally:
        _paused(prefect.url, False, state)


def _paused(api: str, paused: bool, state: State) -> bool:
    """Pause the pool or let it go on; False where that changes nothing, or the server does not do it."""
    url = f"{api}/work_pools/{POOL}"
    try:
        pool = asked("GET", url, state)
        return pool.ok and pool.json()["is_paused"] != paused and asked("PATCH", url, state, {"is_paused": paused}).ok
    except requests.RequestException:
        return False


def _server(name: str, daemon: Daemon | None, state: State) -> Part:
    if daemon is None:
        return Part(name, False, NOT_RUNNING)
    if why := why_unreachable(daemon.url + "/health"):
        says = f"runs (pid {daemon.pid}) and does not answer ({why}); if that lasts: `sft down`, `sft up`"
        return Part(name, False, says, daemon.url, daemon.since, daemon.log)
    here = version(name)
    answer = asked("GET", daemon.url + _VERSION[name], state)
    runs = answer.text.strip().strip('"') if answer.ok else daemon.version
    kept = f", on PostgreSQL at {urlsplit(state.database).hostname}" if state.database else ""
    others = "" if Listening(state.host).is_local else f", for other machines, too ({state.host}), by user and password"
    says = f"{runs}{kept}{others}" if runs == here else f"is {runs}, and {here} is installed; `sft down`, `sft up`"
    return Part(name, runs == here, says, daemon.url, daemon.since, daemon.log)


def _worker(api: str, daemon: Daemon | None, state: State) -> Part:
    if daemon is None:
        return Part("worker", False, NOT_RUNNING)
    known = found(f"{api}/work_pools/{POOL}/workers/filter", {}, state)
    seen = next((one for one in known if one["name"] == WORKER), None)
    began = _time(daemon.since)
    if began > datetime.now(UTC):  # the clock was put back since then: what is heard now looks older than its start
        began = datetime.min.replace(tzinfo=UTC)
    if seen is None or _time(seen["last_heartbeat_time"]) < began:
        says, well = "has not asked for work yet; if that lasts, look at its log", False
    elif seen["status"] != "ONLINE":
        says, well = f"was heard of at {seen['last_heartbeat_time']} last; `sft down`, `sft up`", False
    else:
        says, well = f"takes one run at a time from the pool {POOL}", True
    return Part("worker", well, says, api, daemon.since, daemon.log)


def _deployments(api: str, names: list[str], state: State) -> Part:
    there = {one["name"]: one for one in found(f"{api}/deployments/filter", {"limit": 200}, state)}
    if missing := [name for name in names if name not in there]:
        return Part("deployments", False, f"{', '.join(missing)} not registered; `sft up` does it")
    nightly = there[NIGHTLY]
    if nightly["paused"] or not any(one["active"] for one in nightly["schedules"]):
        return Part("deployments", True, f"{', '.join(names)}; the schedule of {NIGHTLY} is paused", api)
    coming = found(f"{api}/flow_runs/filter", {
        "deployments": {"id": {"any_": [nightly["id"]]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "sort": "EXPECTED_START_TIME_ASC", "limit": 1}, state)
    if not coming:
        says = f"no run of {NIGHTLY} is scheduled yet; if that lasts: `sft down`, `sft up`"
        return Part("deployments", False, says, api)
    return Part("deployments", True, f"{', '.join(names)}; next night {coming[0]['expected_start_time'][:16]} UTC", api)


def _alerts(api: str, state: State) -> Part:
    """A night that nobody hears of guards nothing; that is no fault of a part that runs."""
    told = [f"the webhook at {urlsplit(state.webhook).hostname}"] if state.webhook else []
    told += ["a notification block"] * bool(found(f"{api}/automations/filter", {"automations": {
        "name": {"any_": [AUTOMATION]}}}, state))
    if told:
        return Part("alerts", True, f"a red night is told to {' and '.join(told)}")
    return Part("alerts", True, "NOBODY is told of a red night; `SFT_NIGHTLY_WEBHOOK=URL sft up`, or `sft deploy "
                                "--notify TYPE/NAME`")


def found(url: str, body: dict[str, Any], state: State) -> list[dict[str, Any]]:
    """What a filter of Prefect's API finds.

    Raises:
        requests.RequestException: it does not answer, or not well.
    """
    answer = asked("POST", url, state, body)
    if answer.status_code == requests.codes.not_found:  # no such pool
        return []
    answer.raise_for_status()
    listed: list[dict[str, Any]] = answer.json()
    return listed


def asked(method: str, url: str, state: State, body: dict[str, Any] | None = None) -> requests.Response:
    """The answer of one of our servers, with the password that it wants.

    Raises:
        requests.RequestException: there is none.
    """
    who = None
    if (said := state.environment) and "/api/" in url:
        user, _, password = said["PREFECT_API_AUTH_STRING"].partition(":")
        who = (user, password)
    elif said:
        who = (said["MLFLOW_TRACKING_USERNAME"], said["MLFLOW_TRACKING_PASSWORD"])
    return requests.request(method, url, json=body, timeout=(TIMEOUT_S, 3 * TIMEOUT_S), auth=who)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
