"""What MLflow and its stores raise, as our errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from alembic.util import CommandError
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from infra.databases import is_absent, why_not
from sft_core.errors import TrackingError

FAILING = re.compile(r"too many (5\d\d) error responses")
FAILURES = (MlflowException, requests.RequestException, SQLAlchemyError, CommandError, OSError)


@contextmanager
def door(uri: str, doing: str, *, make: bool = False) -> Iterator[None]:
    """Turns what MLflow and its store raise into a TrackingError that says what was being done and where."""
    if not make and is_absent(uri):
        raise TrackingError(f"could not {doing}: nothing was recorded in {uri} yet; `sft run CONFIG` records a run")
    try:
        yield
    except ImportError as error:
        raise TrackingError(f"MLflow at {uri} could not {doing}: its artifacts need the package {error.name}, which is "
                            "not here; `pip install 'sft-platform[s3]'` brings what buckets need") from error
    except (*FAILURES, *_of_buckets()) as error:
        raise TrackingError(f"MLflow at {uri} could not {doing}: {_why(error)}; finished stages are kept on "
                            "disk: when it is well again, repeat the command") from error


def _why(error: Exception) -> str:
    """Of a server that answers with errors MLflow's client tells how often it has tried, and not what to look at."""
    said = why_not(error)
    if failing := FAILING.search(said):
        return (f"its server answers with HTTP {failing[1]}; look whether its database and its disk are there and have "
                "room, and at its log")
    return said[:600]


def _of_buckets() -> tuple[type[Exception], ...]:
    """What buckets raise, where MLflow has loaded their package."""
    client, core = sys.modules.get("boto3.exceptions"), sys.modules.get("botocore.exceptions")
    return (*((client.Boto3Error,) if client else ()), *((core.BotoCoreError, core.ClientError) if core else ()))
