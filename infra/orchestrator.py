"""Prefect as a witness: what a run found does not hang on whether it can be told to the server.

How Prefect 3.9 behaves without its server: tasks go on (their states are events, sent by a thread), while artifacts
and the flow's final state are requests that are tried again with growing pauses (`client/base.py`: 2, 4, 8, … s, as
often as PREFECT_CLIENT_MAX_RETRIES says) and then raise, in place of what the flow returned. Events and
log lines that wait are tried for 7 and 14 s each before the process may end (`events/clients.py`).
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypedDict, TypeVar, cast
from uuid import UUID, uuid4

import httpx
from prefect import Flow, Task, get_client
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext, TagsContext
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.flow_engine import run_flow
from prefect.flows import FlowStateHook
from prefect.logging.handlers import APILogWorker
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Pending, to_state_create
from prefect.utilities.annotations import quote
from prefect.utilities.callables import get_call_parameters

from infra.alive import Held, Note
from infra.children import heed_worker
from infra.reach import why_unreachable
from infra.settings import read_settings
from sft_core.errors import OrchestrationError
from sft_core.masking import masked

log = logging.getLogger("sft")
KIND = "prefect"
OPEN = {StateType.PENDING, StateType.RUNNING, StateType.CANCELLING}
"""States that only a living process may be in."""
LOST = (httpx.HTTPError, PrefectException, RuntimeError)
"""What Prefect's client raises where its server does not answer, or not as it should."""
P = ParamSpec("P")
R = TypeVar("R")


class _Quoted(Task[P, R]):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if FlowRunContext.get() is None:  # a notebook, or a command without a flow: nobody looks for it in Prefect
            return self.fn(*args, **kwargs)
        call: Callable[..., Any] = super().__call__
        return call(*map(quote, args), **{name: quote(value) for name, value in kwargs.items()})


def stage_task(name: str, run_name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Decorates a stage as a Prefect task that keeps no results of its own.

    Its arguments are quoted: Prefect would look for futures in them twice, item by item, which takes seconds of a trial
    whose stages are all found, and there are none.

    Args:
        name: of the task.
        run_name: of its runs, with the arguments in braces; by default the name.
    """
    return lambda stage: _Quoted(stage, name=name, cache_policy=NO_CACHE, task_run_name=run_name or name)


def outcome(flow: Flow[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a flow; what it returned or raised counts, also where Prefect could not be told of it.

    Raises:
        OrchestrationError: Prefect was lost before the flow began.
    """
    returned: list[R] = []
    raised: list[Exception] = []
    at_end = ExitStack()

    @functools.wraps(flow.fn)
    def body(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            returned.append(flow.fn(*args, **kwargs))
        except Exception as error:
            raised.append(error)
            raise
        finally:
            if why_lost(api_url()):  # a later process tells the end: nothing is gained by trying again
                at_end.enter_context(temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}))
        return returned[0]

    # Prefect would look the names of its annotations up here and not where the flow stands.
    body.__signature__ = inspect.signature(flow.fn, eval_str=True)  # type: ignore[attr-defined]
    followed = copy.copy(flow)
    followed.fn = body
    try:
        parameters = get_call_parameters(body, args, kwargs)
        return cast(R, run_flow(followed, _created(followed, parameters), parameters))
    except LOST as lost:
        _forget_messages()
        if raised:
            raise raised[0] from None
        if not returned:
            raise OrchestrationError(f"Prefect was lost before the flow {flow.name} began: {_cure(lost)}") from lost
        log.warning("Prefect could not be told that the flow %s is finished (%s); its server shows it as running until "
                    "the next start in this workspace tells it", flow.name, _brief(lost))
        return returned[0]
    finally:
        at_end.close()


def _created(flow: Flow[..., Any], parameters: dict[str, Any]) -> FlowRun:
    """A flow run that this process is about to begin, noted from before there is one.

    It has a key of ours, so that a request whose answer was lost does not make a second one when it is tried again, and
    a later process finds it.
    """
    note = Note(KIND, "", "", key=str(uuid4()))
    held = Held(read_settings().workspace, note)
    with get_client(sync_client=True) as client:
        wanted = FlowRunCreate(
            flow_id=client.create_flow(flow), flow_version=flow.version, state=to_state_create(Pending()),
            parameters=flow.serialize_parameters(parameters), tags=list(TagsContext.get().current_tags),
            idempotency_key=note.key)
        answer = client.request("POST", "/flow_runs/", json=wanted.model_dump(mode="json", exclude_unset=True))
    made = FlowRun.model_validate(answer.json())
    held.change(note._replace(run_id=str(made.id)))
    _untold[made.id] = held
    return made


def _forget_messages() -> None:
    """Let nothing wait for the lost server: the threads that send events and log lines end with what they hold."""
    for worker in (EventsWorker.instance(), APILogWorker.instance()):
        with suppress(queue.Empty):
            while True:
                worker._queue.get_nowait()
        if worker._loop is not None and worker._task is not None:
            worker._loop.call_soon_threadsafe(worker._task.cancel)


def _cure(lost: Exception) -> str:
    if isinstance(lost, httpx.HTTPStatusError) and lost.response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return (f"its server at {api_url()} answers with HTTP {lost.response.status_code}; look whether its database "
                "(SFT_DATABASE_URL, or its disk) is there, and at its log, and give the command again")
    return (f"{_brief(lost)}; start the server again, correct PREFECT_API_URL, or unset it to run with a temporary "
            "server")


def _brief(error: Exception) -> str:
    return masked(" ".join(str(error).split()))[:200]


def show(*artifacts: Callable[[], object]) -> None:
    """Make Prefect artifacts of the flow run; where the server is lost, that is a warning."""
    try:
        url = api_url()
        if reason := why_lost(url):
            log.warning("Prefect at %s is lost (%s); its artifacts are left out, the run folder has all", url, reason)
            return
        for make in artifacts:
            make()
    except LOST as lost:
        log.warning("Prefect did not take the artifacts (%s); the run folder has all", _brief(lost))


def api_url() -> str:
    """The address of the server that this process uses. It need not answer."""
    return str(get_client(sync_client=True).api_url)


_untold: dict[UUID, Held] = {}
"""The notes of this process's flow runs whose ends Prefect has not been told."""


def why_lost(url: str) -> str | None:
    """None while the server whose API is at `url` answers; else the reason."""
    return why_unreachable(f"{url.rstrip('/')}/health")


@contextmanager
def noted(workspace: Path) -> Iterator[None]:
    """Note that this process runs the flow run that it is in, and how that ended, see `alive`.

    Prefect is told the end only after the block: the note stands until then (`HOOKS`), and where that never comes, a
    later process tells it (`close_flow_run`).
    """
    run_id = UUID(flow_run.id)
    note = Note(KIND, str(run_id), "")
    if (held := _untold.get(run_id)) is None:  # begun by a worker of Prefect
        held = _untold[run_id] = Held(workspace, note)
        heed_worker()  # another one may begin what a worker that is gone has left
    ended, said = StateType.COMPLETED, ""
    try:
        yield
    except BaseException as error:
        ended = StateType.FAILED if isinstance(error, Exception) else StateType.CRASHED  # as Prefect does
        said = masked(f"{type(error).__name__}: {error}")
        raise
    finally:
        with suppress(OSError):  # the disk is full: a later process takes this one for killed
            held.change(note._replace(ended=ended.value, said=said))


def told(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Hook of every flow: Prefect knows how the run ended, so no later process has to tell it."""
    if held := _untold.pop(flow_run.id, None):
        held.remove()


class Hooks(TypedDict):
    """What each flow is decorated with, so that Prefect calls `told` at the end of a run."""

    on_completion: list[FlowStateHook[..., Any]]
    on_failure: list[FlowStateHook[..., Any]]
    on_crashed: list[FlowStateHook[..., Any]]


HOOKS = Hooks(on_completion=[told], on_failure=[told], on_crashed=[told])


def _begun(client: SyncPrefectClient, key: str) -> FlowRun | None:
    """The flow run of this key; None: its process was killed before the server heard of it."""
    of_key = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    return next(iter(client.read_flow_runs(flow_run_filter=of_key)), None)


def close_flow_run(note: Note) -> bool:
    """Tell how a dead process's flow run ended; False where the server does not know the run or does not answer.

    A run that was being cancelled is Cancelled; one whose process was killed before its end is Crashed.
    """
    try:
        with get_client(sync_client=True) as client:
            found = client.read_flow_run(UUID(note.run_id)) if note.run_id else _begun(client, note.key)
            if found and found.state is not None and found.state.type in OPEN:
                ended = StateType.CANCELLED if found.state.is_cancelling() else StateType(note.ended or "CRASHED")
                state: State = State(type=ended, message=note.said or (None if note.ended else "its process is gone"))
                client.set_flow_run_state(found.id, state, force=True)
                log.info("the flow run %s of an earlier process is marked as %s", found.name, ended.value.lower())
    except ObjectNotFound:
        return False
    except LOST as lost:
        log.warning("the flow run %s of an earlier process stays open: %s", note.run_id or note.key, lost)
        return False
    return True
