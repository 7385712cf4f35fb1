"""What MLflow and its stores raise, as our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from alembic.util import CommandError
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from infra.databases import is_absent, why_not
from sft_core.errors import TrackingError

FAILURES = (MlflowException, requests.RequestException, SQLAlchemyError, CommandError, OSError)


@contextmanager
def door(uri: str, doing: str, *, make: bool = False) -> Iterator[None]:
    """Turns what MLflow and its store raise into a TrackingError that says what was being done and where."""
    if not make and is_absent(uri):
        raise TrackingError(f"could not {doing}: nothing was recorded in {uri} yet; `sft run CONFIG` records a run")
    try:
        yield
    except FAILURES as error:
        raise TrackingError(f"MLflow at {uri} could not {doing}: {why_not(error)[:600]}; finished stages are kept on "
                            "disk: when it is well again, repeat the command") from error
