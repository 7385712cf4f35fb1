"""Tracked runs that a process has open: ended in the tracker however the process ends."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from infra.alive import Note, alive
from infra.contract import ERROR, Tracker
from infra.stores import store_of
from sft_core.errors import TrackingError
from sft_core.masking import masked
from sft_core.stopping import is_stop

KIND = "mlflow"
LONGEST = 500  # characters of a reason; the log has all
log = logging.getLogger("sft")


@contextmanager
def running(tracker: Tracker, run_id: str) -> Iterator[None]:
    """A started run while this process works on it: it ends as FAILED, or KILLED on a signal, where the block raises,
    with the reason as a tag; where the process is killed, a later one closes it (`close_run`).

    The error that ended it matters more than a tracker's.
    """
    with alive(tracker.workspace, Note(KIND, run_id, store_of(tracker.shown, tracker.workspace))):
        try:
            yield
        except BaseException as error:
            try:
                tracker.set_tags(run_id, {ERROR: _brief(error)})
                tracker.finish(run_id, "KILLED" if is_stop(error) else "FAILED")
            except TrackingError as refused:
                log.warning("the run stays open in the tracker: %s", refused)
            raise


def _brief(error: BaseException) -> str:
    said = " ".join(masked(str(error)).split())
    return textwrap.shorten(f"{type(error).__name__}: {said}" if said else type(error).__name__, LONGEST)


def close_run(tracker: Tracker, note: Note) -> bool:
    """End a dead process's run as KILLED; False where it is in another store, or the store refuses."""
    try:
        there = tracker.standings([note.run_id])
        if note.run_id not in there:  # deleted since then, or in another store
            return store_of(note.where, tracker.workspace) == store_of(tracker.shown, tracker.workspace)
        if there[note.run_id].status == "RUNNING":
            tracker.set_tags(note.run_id, {ERROR: "its process was killed"})
            tracker.finish(note.run_id, "KILLED")
    except TrackingError as refused:
        log.warning("the run %s of a killed process stays open in the tracker: %s", note.run_id, refused)
        return False
    return True
