"""Asks quickly whether a configured server answers, before the slow retries of its client library begin."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import requests

from infra.daemons import Daemon, read_state
from infra.databases import check_driver, is_sql
from infra.settings import Settings
from sft_core.errors import OrchestrationError, TrackingError
from sft_core.stopping import sleep

log = logging.getLogger("sft")
TIMEOUT_S = 3.0
"""For the connection and again for the answer: a hung server is noticed as quickly as an absent one."""
STARTING_S = 120.0
"""A server of `sft up` that is younger and does not answer yet is starting, and waited for."""


def why_unreachable(url: str) -> str | None:
    """None when somebody answers at the URL, whatever the answer is; else the reason in a few words."""
    try:
        requests.get(url, timeout=(TIMEOUT_S, TIMEOUT_S))
    except requests.exceptions.SSLError:
        return None  # somebody answers; the client has its own settings for certificates
    except requests.exceptions.Timeout:
        return f"no answer within {TIMEOUT_S:.0f} s"
    except requests.exceptions.ConnectionError:
        return "connection refused or host unknown"
    except (requests.RequestException, ValueError):  # whose words repeat parts of the URL
        return "this is no address that can be asked"
    return None


def require_mlflow(uri: str, workspace: Path | None = None) -> None:
    """Check the MLflow server, or the driver of the database, that a tracking URI names.

    Args:
        workspace: while its `sft up` starts this server, wait for it; None: never wait.

    Raises:
        ConfigError: the driver is not installed.
        TrackingError: no server answers, within 6 s, or one of another major version.
    """
    if is_sql(uri):
        check_driver("tracking.uri or MLFLOW_TRACKING_URI", uri)
    elif uri.startswith(("http://", "https://")):
        ours = _started_here(uri, workspace)
        if reason := _why_unreachable_yet(f"{uri.rstrip('/')}/health", ours):
            if ours:
                raise TrackingError(_not_answering("MLflow", ours, reason))
            raise TrackingError(f"no MLflow server answers at {uri} ({reason}); start it, correct MLFLOW_TRACKING_URI "
                                "or tracking.uri, or unset both to record into the workspace")
        if other := _other_version("mlflow", f"{uri.rstrip('/')}/version"):
            raise TrackingError(f"the MLflow server at {uri} {other}; correct MLFLOW_TRACKING_URI or tracking.uri, or "
                                "bring one of them to the version of the other")


def require_prefect(settings: Settings) -> None:
    """Check the Prefect server where one is configured; without one each process starts its own. One that the
    workspace's `sft up` is starting is waited for.

    Raises:
        OrchestrationError: nobody answers, within 6 s, or a server of another major version.
    """
    url = settings.prefect_api_url
    ours = _started_here(url, settings.workspace) if url else None
    if url and (reason := _why_unreachable_yet(f"{url.rstrip('/')}/health", ours)):
        if ours:
            raise OrchestrationError(_not_answering("Prefect", ours, reason))
        raise OrchestrationError(f"no Prefect server answers at {url} ({reason}); start it (prefect server start), "
                                 "correct PREFECT_API_URL, or unset it (and `prefect config unset PREFECT_API_URL`) to "
                                 "run with a temporary server")
    if url and (other := _other_version("prefect", f"{url.rstrip('/')}/admin/version")):
        raise OrchestrationError(f"the Prefect server at {url} {other}; correct PREFECT_API_URL, or bring one of them "
                                 "to the version of the other")


def _started_here(url: str, workspace: Path | None) -> Daemon | None:
    """The server at this address, where `sft up` has started it in this workspace and it lives."""
    alive = read_state(workspace).living().values() if workspace else ()
    return next((one for one in alive if one.url == url), None)


def _why_unreachable_yet(url: str, ours: Daemon | None) -> str | None:
    """As `why_unreachable`; of a server of `sft up` that is starting once that is over."""
    told = False
    while (reason := why_unreachable(url)) and ours and ours.lives and _age_s(ours) < STARTING_S:
        if not told:
            told = True
            log.info("waiting for the server at %s, which `sft up` is starting", ours.url)
        sleep(0.2)
    return reason


def _age_s(daemon: Daemon) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(daemon.since)).total_seconds()


def _not_answering(what: str, ours: Daemon, reason: str) -> str:
    return (f"the {what} server that `sft up` started at {ours.url} does not answer ({reason}); look at {ours.log}, or "
            "say `sft down` and `sft up`")


def _other_version(package: str, url: str) -> str | None:
    """What is wrong where a server tells of another major version than that of the package here; else None."""
    found, ours = _version_at(url) or "", version(package)
    if not found[:1].isdigit() or found.partition(".")[0] == ours.partition(".")[0]:
        return None
    return f"is of version {found}, and {ours} is installed here, which it does not understand"


def _version_at(url: str) -> str | None:
    """The version that a server tells; None where it tells none, or asks first who we are."""
    try:
        answer = requests.get(url, timeout=(TIMEOUT_S, TIMEOUT_S))
        return answer.text.strip().strip('"')[:40] if answer.ok else None
    except requests.RequestException:
        return None
