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
    """One run that a process has open: `prefect` or `mlflow`, the run's id there, and where that is."""

    kind: str
    run_id: str
    where: str


@contextmanager
def alive(workspace: Path, note: Note) -> Iterator[None]:
    """The note stands as long as the block runs, and outlives a process that is killed in it."""
    folder = workspace / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{uuid4().hex}.draft"
    path = draft.with_suffix(".json")
    with draft.open("w", encoding="utf-8") as handle:
        locked(handle)
        handle.write(json.dumps(note._asdict()))
        handle.flush()
        draft.rename(path)  # others see it only when it is locked
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def bury(workspace: Path, close: Callable[[Note], bool]) -> None:
    """Call `close` for every note of a dead process and remove those for which it returns True.

    What a live process has open too (the same run, continued) is not closed.
    """
    dead: list[tuple[IO[str], Path, Note]] = []
    living: set[Note] = set()
    for path in sorted((workspace / FOLDER).glob("*.json")):
        with suppress(FileNotFoundError):  # its process has just ended
            handle: IO[str] = path.open(encoding="utf-8")
            is_dead = locked(handle)
            if os.fstat(handle.fileno()).st_nlink:
                note = Note(**json.load(handle))
                if is_dead:
                    dead.append((handle, path, note))
                else:
                    living.add(note)
    for held, path, note in dead:
        if note in living or close(note):
            path.unlink(missing_ok=True)
        held.close()
