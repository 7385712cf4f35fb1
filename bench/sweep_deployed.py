"""What a trial costs as a run of a work pool, beside the trial: part of `bench/sweep.py`.

A real Prefect server, a real worker of a process pool and the deployment `sft-trial`. A run counts from the moment in
which the worker has taken it to its end; the time until the worker asks again is left out.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.deploy import deploy
from infra.servers import free_port, start_prefect, start_worker
from infra.settings import Settings, job_environment, read_settings
from infra.study import open_study
from sft_core.config.file import load
from tasks.trial import plan_of

POOL, WAIT_S = "bench", 300


@contextmanager
def platform(home: Path) -> Iterator[Settings]:
    """Server, deployments and worker of a workspace, as long as the block runs."""
    server = start_prefect(home / "server", free_port())
    try:
        settings = replace(read_settings({"SFT_HOME": str(home)}), prefect_api_url=server.url)
        deploy(settings, pool=POOL, cron="30 2 * * *")
        worker = start_worker(POOL, home / "worker", {**job_environment(settings), "OMP_NUM_THREADS": "1",
                                                      "HF_HUB_OFFLINE": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"})
        try:
            yield settings
        finally:
            worker.stop()
    finally:
        server.stop()


def deployed(home: Path, config: str, trials: int, *settings: str) -> dict[str, Any]:
    """Trials whose stages are found in the workspace, each as a run of `sft-trial`."""
    loaded = load(Path(config), ["search.study=deployed", *settings])
    assert loaded.config.search is not None, "a sweep"
    study = open_study(plan_of(loaded.config, loaded.config.search), home)
    study.begin(trials, loaded.text)
    took = []
    with platform(home) as there, temporary_settings({PREFECT_API_URL: there.prefect_api_url}):
        for _ in range(trials):
            run = run_deployment("sft-trial/sft-trial", parameters={"study": "deployed"}, timeout=WAIT_S,
                                 poll_interval=0.5)
            took.append(_seconds(run.id))
    left = [row.state for row in study.trials() if row.state != "COMPLETE"]
    study.close()
    if left:
        raise SystemExit(f"trials of the deployment ended as {left}; see {home}/worker and {home}/sweeps/deployed")
    return {"deployment_overhead_s": statistics.median(took), "each_s": took, "load": os.getloadavg()[0]}


def _seconds(run_id: Any) -> float:
    """From Pending, when the worker has taken the run, to the end."""
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(run_id)
    times = {state.type.value: state.timestamp for state in states}
    return float((times["COMPLETED"] - times["PENDING"]).total_seconds())
