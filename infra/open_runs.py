"""Tracked runs that a process has open: ended in the tracker however the process ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from infra.alive import Note, alive
from infra.contract import Tracker
from sft_core.errors import TrackingError
from sft_core.stopping import is_stop

KIND = "mlflow"
log = logging.getLogger("sft")


@contextmanager
def running(tracker: Tracker, run_id: str) -> Iterator[None]:
    """A started run while this process works on it: it ends as FAILED, or KILLED on a signal, where the block raises;
    where the process is killed, a later one closes it (`close_run`).

    The error that ended it matters more than a tracker's.
    """
    with alive(tracker.workspace, Note(KIND, run_id, tracker.shown)):
        try:
            yield
        except BaseException as error:
            try:
                tracker.finish(run_id, "KILLED" if is_stop(error) else "FAILED")
            except TrackingError as refused:
                log.warning("the run stays open in the tracker: %s", refused)
            raise


def close_run(tracker: Tracker, note: Note) -> bool:
    """End a dead process's run as KILLED; False where it is in another store, or the store refuses."""
    if note.where != tracker.shown:
        return False
    try:
        found = tracker.find_run(note.run_id)
    except TrackingError:
        return True  # deleted since then
    try:
        if found.status == "RUNNING":
            tracker.finish(note.run_id, "KILLED")
    except TrackingError as refused:
        log.warning("the run %s of a killed process stays open in the tracker: %s", found.name, refused)
        return False
    return True
