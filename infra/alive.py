"""Notes of what a process has open in Prefect and MLflow, so that a later one can close what a killed one left.

A note is a file that its process holds locked: the kernel frees the lock with the process, and only a note that can be
locked is of a dead one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple
from uuid import uuid4

from sft_core.locks import locked

FOLDER = "alive"


class Note(NamedTuple):
    """One run that a process has open: `prefect` or `mlflow`, the run's id there, and where that is.

    `ended` and `said` are how the run ended, where its process came to know it: a killed one leaves them empty.
    `key` is what its process called the run while it had none of the server's ids for it.
    """

    kind: str
    run_id: str
    where: str
    ended: str = ""
    said: str = ""
    key: str = ""

    @property
    def run(self) -> tuple[str, str, str]:
        """Which run it is, however that ended."""
        return self.kind, self.run_id or self.key, self.where


class Held:
    """A note on the disk that this process holds locked, until it is removed or the process ends."""

    def __init__(self, workspace: Path, note: Note) -> None:
        folder = workspace / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{uuid4().hex}.json"
        self._handle = self._put(note)

    def change(self, note: Note) -> None:
        """Let it say something else; at every moment others see a note that is whole and locked."""
        before, self._handle = self._handle, self._put(note)
        before.close()

    def remove(self) -> None:
        """Nothing is open any more."""
        self._path.unlink(missing_ok=True)
        self._handle.close()

    def _put(self, note: Note) -> IO[str]:
        draft = self._path.with_suffix(".draft")
        handle: IO[str] = draft.open("w", encoding="utf-8")
        locked(handle)
        handle.write(json.dumps(note._asdict()))
        handle.flush()
        draft.replace(self._path)  # others see it only when it is locked
        return handle


@contextmanager
def alive(workspace: Path, note: Note) -> Iterator[None]:
    """The note stands as long as the block runs, and outlives a process that is killed in it."""
    held = Held(workspace, note)
    try:
        yield
    finally:
        held.remove()


def _read(handle: IO[str]) -> Note | None:
    try:
        return Note(**json.load(handle))
    except (ValueError, TypeError):
        return None


def noted(workspace: Path) -> list[Note]:
    """All notes that stand, of the living and the dead."""
    found = []
    for path in (workspace / FOLDER).glob("*.json"):
        with suppress(FileNotFoundError), path.open(encoding="utf-8") as handle:
            found.append(_read(handle))
    return [note for note in found if note is not None]


def living(workspace: Path) -> set[str]:
    """The ids of the runs that living processes have open."""
    ids = set()
    for path in (workspace / FOLDER).glob("*.json"):
        with suppress(FileNotFoundError), path.open(encoding="utf-8") as handle:
            if not locked(handle) and (note := _read(handle)):
                ids.add(note.run_id)
    return ids


def bury(workspace: Path, close: Callable[[Note], bool]) -> None:
    """Call `close` for every note of a dead process and remove those for which it returns True.

    What a live process has open too (the same run, continued) is not closed.
    """
    dead: list[tuple[IO[str], Path, Note]] = []
    living: set[tuple[str, str, str]] = set()
    for path in sorted((workspace / FOLDER).glob("*.json")):
        with suppress(FileNotFoundError):  # its process has just ended
            handle: IO[str] = path.open(encoding="utf-8")
            is_dead = locked(handle)
            if os.fstat(handle.fileno()).st_nlink:
                note = _read(handle)
                if note is None:  # a power cut left a part: nobody can tell what it was about
                    path.unlink(missing_ok=True)
                elif is_dead:
                    dead.append((handle, path, note))
                else:
                    living.add(note.run)
    for held, path, note in dead:
        if note.run in living or close(note):
            path.unlink(missing_ok=True)
        held.close()
