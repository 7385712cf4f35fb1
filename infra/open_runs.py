"""Tracked runs that a process has open: ended in the tracker however the process ends."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from infra.alive import Note, alive
from infra.contract import ERROR, Tracker
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
    with alive(tracker.workspace, Note(KIND, run_id, tracker.shown)):
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
    if note.where != tracker.shown:
        return False
    try:
        found = tracker.find_run(note.run_id)
    except TrackingError:
        return True  # deleted since then
    try:
        if found.status == "RUNNING":
            tracker.set_tags(note.run_id, {ERROR: "its process was killed"})
            tracker.finish(note.run_id, "KILLED")
    except TrackingError as refused:
        log.warning("the run %s of a killed process stays open in the tracker: %s", found.name, refused)
        return False
    return True
