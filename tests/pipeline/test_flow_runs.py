"""A flow run is noted from before there is one: no run of a process that is killed stays open, and none is doubled."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.alive import bury, noted
from infra.orchestrator import _cure, close_flow_run

BEGUN = """
import os, signal, sys
import httpx, prefect
from infra import orchestrator

place, name, moment = sys.argv[1:]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
send, lost = httpx.Client.send, []

def sent(client, request, **how):
    is_begin = request.url.path.endswith("/flow_runs/")
    if is_begin and moment == "before":
        die()
    answer = send(client, request, **how)
    if is_begin and moment == "answer lost" and not lost:
        lost.append(answer)
        raise httpx.ReadError("the connection is gone")
    return answer

httpx.Client.send = sent
if moment == "unnoted":
    orchestrator.Held.change = die
if moment == "pending":
    orchestrator.run_flow = die
print(orchestrator.outcome(prefect.flow(lambda number: number + 1, name=name, **orchestrator.HOOKS), 1))
"""


def begin(home: Path, api: str, moment: str) -> tuple[subprocess.CompletedProcess[str], Counter[str]]:
    """A process that begins a flow and is killed at a moment; the states of what is there after the next start."""
    name = f"begun-{uuid4().hex}"
    process = subprocess.run([sys.executable, "-c", BEGUN, str(home), name, moment], text=True, capture_output=True,
                             env=os.environ | {"SFT_HOME": str(home), "PREFECT_API_URL": api})
    with temporary_settings({PREFECT_API_URL: api}):
        bury(home, close_flow_run)
    with SyncPrefectClient(api) as client:
        runs = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[name])))
    return process, Counter(run.state.type.value for run in runs if run.state)


@pytest.mark.parametrize(("moment", "there"), [("before", {}), ("unnoted", {"CRASHED": 1}),
                                               ("pending", {"CRASHED": 1})])
def test_flow_run_of_a_process_that_is_killed_while_it_begins_is_closed_by_the_next(
    home: Path, prefect_api: str, moment: str, there: dict[str, int]
) -> None:
    process, states = begin(home, prefect_api, moment)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert states == there
    assert not noted(home)


def test_flow_run_whose_first_answer_was_lost_is_one(home: Path, prefect_api: str) -> None:
    process, states = begin(home, prefect_api, "answer lost")
    assert process.stdout == "2\n", process.stderr
    assert states == {"COMPLETED": 1}
    assert not noted(home)


def test_a_server_without_its_database_is_told_so() -> None:
    answer = httpx.Response(500, json={"exception_message": "Internal Server Error"},
                            request=httpx.Request("POST", "http://127.0.0.1:4200/api/flows/"))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        said = _cure(httpx.HTTPStatusError("Server error", request=answer.request, response=answer))
    assert "answers with HTTP 500; look whether its database" in said
    assert "start the server again" in _cure(httpx.ConnectError("refused"))
