"""Whether the Prefect server of a flow run is there, said once, and our log as part of the flow run's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

from infra.orchestrator import api_url, why_lost
from sft_core.errors import SftError

log = logging.getLogger("sft")
LOOK_EVERY_S = 5.0


@contextmanager
def watched() -> Iterator[None]:
    """Say it when the Prefect server goes and when it comes back, while the block runs.

    Prefect itself says nothing for minutes, then the same several times.
    """
    over, url = Event(), api_url()
    thread = Thread(target=_watch, args=(url, over), name="watch-prefect", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _watch(url: str, over: Event) -> None:
    lost = False
    while not over.wait(LOOK_EVERY_S):
        reason = why_lost(url)
        if reason and not lost:
            log.warning("Prefect at %s is lost (%s); the run goes on without it, and its folder and MLflow have all",
                        url, reason)
        if lost and not reason:
            log.info("Prefect at %s answers again", url)
        lost = reason is not None


class _ToFlowRun(APILogHandler):
    """Sends records of any thread to the log of one flow run."""

    def __init__(self, flow_run_id: str) -> None:
        super().__init__()
        self._flow_run_id = flow_run_id

    def emit(self, record: logging.LogRecord) -> None:
        record.flow_run_id = self._flow_run_id
        super().emit(record)


@contextmanager
def reported() -> Iterator[None]:
    """What the logger `sft` says in the block, and which of our errors ends it, is in the flow run's log too.

    Records are queued and sent by Prefect's own thread; a run does not wait for it.
    """
    handler = _ToFlowRun(str(flow_run.id))
    log.addHandler(handler)
    try:
        yield
    except SftError as error:
        said = f"{type(error).__name__}: {error}"
        if log.propagate:  # under a worker nobody else says it
            log.error(said)
        else:
            only_to_prefect(said, level=logging.ERROR)
        raise
    finally:
        log.removeHandler(handler)


def only_to_prefect(*lines: str, level: int = logging.INFO) -> None:
    """Lines for the flow run's log that the terminal shows in its own way; outside `reported` nothing."""
    for handler in log.handlers:
        if isinstance(handler, _ToFlowRun):
            for line in lines:
                handler.handle(log.makeRecord(log.name, level, __file__, 0, line, (), None))
