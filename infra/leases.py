"""Who works on which trial of a study: a lease is its worker's until it gives it back, is gone, or falls silent.

On one machine a lease is a file that the worker holds locked: the kernel ends it with the process. In PostgreSQL it is
a row with an expiry by the database's own clock, so that the clocks of the workers do not matter; a worker renews it
while its trial runs.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Protocol
from uuid import uuid4

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Delete,
    Engine,
    Executable,
    Integer,
    MetaData,
    String,
    Table,
    Update,
    delete,
    event,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import InvalidRequestError, OperationalError, SQLAlchemyError

from sft_core.locks import exclusive, is_held, try_exclusive
from sft_core.stopping import check

LEASE_S = 180.0
"""A worker that has said nothing for so long is gone. Longer than a database takes to start again."""
RENEWALS = 6
"""How often a lease is renewed within that time."""
WAIT_MS = 1000
"""So long a worker waits for a lock in the database before it looks whether it was asked to stop."""
LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's code for a wait that was too long."""

_TABLE = Table(
    "sft_leases", MetaData(), Column("study", String, primary_key=True), Column("number", Integer, primary_key=True),
    Column("owner", String, nullable=False), Column("expires", DateTime(timezone=True), nullable=False),
)


class Leases(Protocol):
    """The leases of one study as one worker sees them; all but `renew` and `close` are for inside `alone`."""

    def alone(self) -> AbstractContextManager[None]:
        """Nobody else asks or tells meanwhile."""

    def take(self, number: int) -> None:
        """Lease a trial."""

    def live(self) -> frozenset[int]:
        """All trials with a lease whose worker is there."""

    def is_mine(self, number: int) -> bool:
        """Whether this worker still has a lease that it took."""

    def drop(self, number: int) -> None:
        """End a lease, whoever had it."""

    def renew(self) -> None:
        """Say that this worker is there; for loops that poll. A database that is away is tried again later."""

    def close(self) -> None:
        """Give back all that this worker holds."""


class FileLeases(Leases):
    """One machine, a folder for each study."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine: dict[int, IO[str]] = {}

    def alone(self) -> AbstractContextManager[None]:
        return exclusive(self._folder / "lock")

    def take(self, number: int) -> None:
        handle = try_exclusive(self._file(number))
        assert handle is not None, "inside `alone`, and the number is new"
        self._mine[number] = handle

    def live(self) -> frozenset[int]:
        return frozenset(int(file.stem) for file in self._folder.glob("*.trial") if is_held(file))

    def is_mine(self, number: int) -> bool:
        return number in self._mine

    def drop(self, number: int) -> None:
        self._file(number).unlink(missing_ok=True)
        if handle := self._mine.pop(number, None):
            handle.close()

    def renew(self) -> None:
        """The kernel knows that this process is there."""

    def close(self) -> None:
        for number in list(self._mine):
            self.drop(number)

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.trial"


class SqlLeases(Leases):
    """PostgreSQL, any number of machines. No connection is held while a trial runs.

    Inside `alone` everything goes over the one connection that holds the lock of the study, Optuna's statements too:
    when it breaks, the lock is gone, and so is the way to write anything that was decided under it.
    """

    def __init__(self, engine: Engine, study: str, lease_s: float = LEASE_S) -> None:
        """Join the leases of a study; `engine` is its storage's and keeps one connection."""
        self._engine, self._study, self._lease_s = engine, study, lease_s
        self._owner = f"{platform.node()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._mine: set[int] = set()
        self._renewed = time.monotonic()
        self._inside = False
        event.listen(engine, "connect", self._refuse_another)
        with alone_in(engine, _TABLE.name) as connection:
            _TABLE.metadata.create_all(connection)

    @contextmanager
    def alone(self) -> Iterator[None]:
        self._engine.dispose()
        lock = select(func.pg_advisory_lock(func.hashtextextended(f"study {self._study}", 0)))
        try:
            with self._engine.connect() as connection:
                self._inside = True
                while not _locked(connection, lock):
                    check()
                connection.commit()
            yield
        finally:
            self._inside = False
            self._engine.dispose()  # which frees the lock

    def _refuse_another(self, *_: object) -> None:
        if self._inside:
            raise InvalidRequestError("the lock of the study went with its connection")

    def take(self, number: int) -> None:
        new = insert(_TABLE).values(study=self._study, number=number, owner=self._owner, expires=self._expiry())
        self._write(new.on_conflict_do_update(index_elements=[_TABLE.c.study, _TABLE.c.number], set_={
            "owner": new.excluded.owner, "expires": new.excluded.expires}))
        self._mine.add(number)
        self._renewed = time.monotonic()

    def live(self) -> frozenset[int]:
        unexpired = (_TABLE.c.study == self._study) & (_TABLE.c.expires > func.clock_timestamp())
        with self._engine.connect() as connection:
            return frozenset(connection.scalars(select(_TABLE.c.number).where(unexpired)))

    def is_mine(self, number: int) -> bool:
        with self._engine.connect() as connection:
            return connection.scalar(select(_TABLE.c.owner).where(self._is(number))) == self._owner

    def drop(self, number: int) -> None:
        self._write(delete(_TABLE).where(self._is(number)))
        self._mine.discard(number)

    def renew(self) -> None:
        if self._mine and time.monotonic() - self._renewed > self._lease_s / RENEWALS:
            self._renewed = time.monotonic()
            self._try(update(_TABLE).where(self._is(*self._mine)).values(expires=self._expiry()))

    def close(self) -> None:
        if self._mine:
            self._try(delete(_TABLE).where(self._is(*self._mine)))
            self._mine.clear()

    def _is(self, *numbers: int) -> ColumnElement[bool]:
        return (_TABLE.c.study == self._study) & _TABLE.c.number.in_(numbers)

    def _expiry(self) -> ColumnElement[datetime]:
        return func.clock_timestamp() + timedelta(seconds=self._lease_s)

    def _write(self, statement: Executable) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement)

    def _try(self, statement: Update | Delete) -> None:
        """Of this worker's leases; where the database is away nothing happens."""
        with suppress(SQLAlchemyError):
            self._write(statement.where(_TABLE.c.owner == self._owner))
        self._engine.dispose()


@contextmanager
def alone_in(engine: Engine, name: str) -> Iterator[Connection]:
    """A transaction of PostgreSQL in which no other one of this name is; waits for the others.

    Raises:
        Interrupted: a signal asked to stop the wait.
    """
    lock = select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0)))
    while True:
        with engine.begin() as connection:
            if _locked(connection, lock):
                connection.execute(text("set local lock_timeout = 0"))
                yield connection
                return
        check()


def _locked(connection: Connection, lock: Executable) -> bool:
    """Wait for a lock in the database's own queue, whose order is that of arrival; False where it was too long, so
    that a signal is heard."""
    connection.execute(text(f"set local lock_timeout = {WAIT_MS}"))
    try:
        connection.execute(lock)
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        connection.rollback()
        return False
    return True
