"""Asks quickly whether a configured server answers, before the slow retries of its client library begin."""

from __future__ import annotations

import requests

from infra.databases import check_driver, is_sql
from infra.settings import Settings
from sft_core.errors import OrchestrationError, TrackingError

TIMEOUT_S = 3.0
"""For the connection and again for the answer: a hung server is noticed as quickly as an absent one."""


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
    except requests.RequestException as error:
        return str(error)
    return None


def require_mlflow(uri: str) -> None:
    """Check the MLflow server, or the driver of the database, that a tracking URI names.

    Raises:
        ConfigError: the driver is not installed.
        TrackingError: no server answers, within 6 s.
    """
    if is_sql(uri):
        check_driver("tracking.uri or MLFLOW_TRACKING_URI", uri)
    elif uri.startswith(("http://", "https://")) and (reason := why_unreachable(f"{uri.rstrip('/')}/health")):
        raise TrackingError(f"no MLflow server answers at {uri} ({reason}); start it, correct MLFLOW_TRACKING_URI or "
                            "tracking.uri, or unset both to record into the workspace")


def require_prefect(settings: Settings) -> None:
    """Check the Prefect server where one is configured; without one each process starts its own.

    Raises:
        OrchestrationError: nobody answers, within 6 s.
    """
    url = settings.prefect_api_url
    if url and (reason := why_unreachable(f"{url.rstrip('/')}/health")):
        raise OrchestrationError(f"no Prefect server answers at {url} ({reason}); start it (prefect server start), "
                                 "correct PREFECT_API_URL, or unset it (and `prefect config unset PREFECT_API_URL`) to "
                                 "run with a temporary server")
