"""What libraries log of a flow, in our words: no passwords, no tracebacks of our own errors, no lost server twice."""

from __future__ import annotations

import logging

from infra.disk import disk_error
from infra.settings import prefect_is_temporary, read_settings
from sft_core.errors import ConfigError, SftError
from sft_core.masking import masked
from sft_core.stopping import stop_asked_by
from sft_core.visible import shortened

TAMED = ("prefect.engine", "prefect.flow_runs", "prefect.task_runs", "prefect._internal.concurrency",
         "prefect.events.clients", "EventsWorker", "APILogWorker", "mlflow.store.db.utils")
VIEW, CRASH = "View at ", "Crash detected!"
NOISE = (
    *(f"Finished in state {state}" for state in ("Completed", "Failed", "Running")),  # it stands beside the name there
    "ook 'told'",
    "failed to process item",  # an event for a server that is gone is printed whole, a page each
    "pending items", "Still processing items", "Unable to connect to",  # `infra.watching` says that once
)


def told_of(error: BaseException) -> SftError | None:
    """The platform's own error behind this one, or what is to be said of a full or read-only disk; else None."""
    if isinstance(error, ConfigError):  # of the settings themselves, perhaps
        return error
    return disk_error(error, read_settings().workspace) or (error if isinstance(error, SftError) else None)


class _Record(logging.LogRecord):
    """A line of any library's log, Prefect's "View at …" for one, without the passwords of its URLs, and without what
    a terminal would obey in what it tells of data."""

    def getMessage(self) -> str:
        return shortened(masked(super().getMessage()))


def _tell_once(record: logging.LogRecord) -> bool:
    """Prefect logs an exception with its traceback in the task, in the flow and in a worker's engine; ours say all in
    one message, which the command prints at its end, or `watching.reported`. A lost server is told by `infra.watching`
    and `orchestrator.outcome`. Tracebacks of other errors stay."""
    from httpx import TransportError

    if record.getMessage().startswith(VIEW) and prefect_is_temporary():
        return False  # nobody could look there: the server is gone when the command has ended
    if record.getMessage().startswith(CRASH) and stop_asked_by():
        return False  # Ctrl-C or SIGTERM: the command says at its end what was kept
    error = record.exc_info[1] if record.exc_info else None
    told = told_of(error) if error is not None else None
    said = record.getMessage()
    return not (told is not None or isinstance(error, TransportError) or any(part in said for part in NOISE))


def tame() -> None:
    """Set this process's logging so; also where a worker has started it. Again is as good as once."""
    logging.setLogRecordFactory(_Record)
    logging.raiseExceptions = False  # else Prefect's log worker writes "--- Error logging to API ---" over our lines
    logging.getLogger("sft").setLevel(logging.INFO)
    # peft imports it wherever it is installed, and it asks for a package that is faster in 4 bits on a CPU.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    for name in TAMED:
        logging.getLogger(name).addFilter(_tell_once)
