"""What every flow does around its work, whoever started it: the command line, a trial, a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.logs import tame
from infra.alive import bury
from infra.contract import Tracker
from infra.disk import disk_error
from infra.open_runs import close_run
from infra.orchestrator import KIND, close_flow_run, noted
from infra.output import keep_writing
from infra.watching import reported, watched
from sft_core.errors import DiskError
from sft_core.stopping import stop_on_signals


@contextmanager
def around(workspace: Path, connect: Callable[[], Tracker]) -> Iterator[Tracker]:
    """Outlive the readers of the output, heed signals, watch the Prefect server and give it our log, open the tracker,
    and close what killed processes left open.

    Prefect's own handler of SIGTERM raises wherever the interpreter stands, so ours stands in the flow.
    """
    keep_writing()
    tame()
    with stop_on_signals(), noted(workspace), in_our_words(workspace), watched(), reported():
        tracker = connect()
        bury(workspace, lambda note: close_flow_run(note) if note.kind == KIND else close_run(tracker, note))
        yield tracker


@contextmanager
def in_our_words(workspace: Path) -> Iterator[None]:
    """What Prefect shows of a run that met a full or read-only disk is the sentence that the command line prints.

    Raises:
        DiskError: instead of what a library said.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskError) or (told := disk_error(error, workspace)) is None:
            raise
        raise told from error
