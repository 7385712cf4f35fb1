"""Where studies are kept: how a storage is opened, waited for, and shared by the workers of a machine."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from alembic.util import CommandError
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from infra.databases import CONNECTIONS, why_not
from infra.leases import LEASE_S, FileLeases, Leases, SqlLeases, alone_in
from sft_core.errors import ConfigError, OrchestrationError
from sft_core.locks import locked
from sft_core.stopping import sleep

log = logging.getLogger("sft")
PATIENCE_S = 600.0
"""So long a storage that has answered before may be away."""
TRY_AGAIN_S = 2.0
_AWAY = (SQLAlchemyError, StorageInternalError)
R = TypeVar("R")


def storage_at(url: str | None, place: str) -> BaseStorage:
    """An Optuna storage: of a URL, or the journal file at `place`.

    Raises:
        ConfigError: its tables were made by another Optuna, whose tables are others.
    """
    if url is None:
        return JournalStorage(JournalFileBackend(place))
    if not is_for_many(url):
        return _tables(url, CONNECTIONS)
    engine = create_engine(url, **CONNECTIONS)
    try:
        with alone_in(engine, "optuna"):  # several workers that meet an empty database would all make its tables
            return _tables(url, {**CONNECTIONS, "pool_size": 1, "max_overflow": 1})
    finally:
        engine.dispose()


def _tables(url: str, connections: Mapping[str, object]) -> RDBStorage:
    try:
        return RDBStorage(url, engine_kwargs=dict(connections))
    except RuntimeError as error:  # the one that Optuna has for tables of another version
        raise ConfigError(f"the study storage is not of this machine's Optuna: {error} Install the Optuna of the "
                          "other workers here, or end them all, bring the storage up to date with a command of the "
                          "newest Optuna (`optuna storage upgrade --storage URL`), and install that one everywhere"
                          ) from error


def is_for_many(url: str | None) -> bool:
    """Whether several workers can share it: a journal file those of one machine, PostgreSQL those of all."""
    return url is None or make_url(url).get_backend_name() == "postgresql"


def leases_at(kept: BaseStorage, study: str, folder: Path, lease_s: float = LEASE_S) -> Leases:
    """Who works on which trial of a study: in the storage where that is PostgreSQL, else in `folder`."""
    if isinstance(kept, RDBStorage) and kept.engine.dialect.name == "postgresql":
        return SqlLeases(kept.engine, study, lease_s)
    return FileLeases(folder / f"{study}.leases")


class AtWork(NamedTuple):
    """The mark that this machine's workers hold together, or, where the storage is for one alone, that one."""

    file: Path
    study: str
    shared: bool

    def join(self) -> IO[str]:
        """Hold it.

        Raises:
            OrchestrationError: the one place is taken.
        """
        return self._held(fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX)

    def alone(self) -> IO[str]:
        """Hold it against all others.

        Raises:
            OrchestrationError: there are workers.
        """
        return self._held(fcntl.LOCK_EX)

    def _held(self, how: int) -> IO[str]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle = self.file.open("a", encoding="utf-8")
        if not locked(handle, how):
            handle.close()
            more = "" if self.shared else "; for several workers keep the study in the workspace (unset " \
                "search.storage) or in PostgreSQL: SQLite takes one"
            raise OrchestrationError(f"another process works on the sweep {self.study}; wait for it, end it, or choose "
                                     f"another search.study{more}")
        return handle


def patiently(doing: str, work: Callable[[], R]) -> R:
    """Work on a storage that has answered before and may be away for a while.

    Raises:
        OrchestrationError: it is away for good. Interrupted: a signal asked to stop the wait.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            with door(doing):
                return work()
        except OrchestrationError as error:
            if not isinstance(error.__cause__, _AWAY) or time.monotonic() - began > PATIENCE_S:
                raise
            if not told:
                log.warning("the study storage is away and is tried again for %d minutes: %s", PATIENCE_S // 60,
                            why_not(error.__cause__))
            told = True
        sleep(TRY_AGAIN_S)


@contextmanager
def door(doing: str) -> Iterator[None]:
    """What goes wrong with a storage inside is an OrchestrationError that says what was being done."""
    try:
        yield
    except (*_AWAY, CommandError, OSError) as error:
        raise OrchestrationError(f"Optuna could not {doing}: {why_not(error)}; see that the database runs and lets "
                                 "you in, and repeat the command (the sweep continues), or unset search.storage to "
                                 "keep studies in the workspace"
                                 ) from error
