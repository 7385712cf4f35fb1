"""The flow `sft-trial`: one more worker of a sweep, as a run of a work pool.

Prefect imports this file in a process of its own for every run, and the worker has yet to begin: so it brings nothing
that the worker alone needs.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field, WithJsonSchema

from infra.orchestrator import HOOKS, noted, show
from infra.settings import read_settings
from infra.sweep_view import tag
from infra.watching import reported
from sft_core.errors import OrchestrationError
from sft_core.stopping import sleep, stop_on_signals
from tasks.crew import Crew

LOOK_S = 0.2
Study = Annotated[str, Field(json_schema_extra={"title": "Sweep"})]
Trials = Annotated[int, Field(ge=1, json_schema_extra={"title": "Trials at most"})]
Storage = Annotated[str | None, Field(json_schema_extra={"title": "Storage of the study"}), WithJsonSchema(
    {"anyOf": [{"type": "string", "title": "set"}, {"type": "null", "title": "as the worker's settings have it"}]})]


@flow(name="sft-trial", flow_run_name="{study} worker", **HOOKS)
def sft_trial(study: Study = "sft-sweep", trials: Trials = 1, storage: Storage = None) -> None:
    """Run trials of a sweep that was begun, as one more worker: for work pools, whose workers are machines.

    Args:
        study: name of the sweep (`search.study`), which `sft sweep` has begun.
        trials: how many at most; none where all are over or under way.
        storage: Optuna storage URL; by default SFT_STUDY_STORAGE, or the workspace.
    """
    workspace = read_settings().workspace
    folder = workspace / "sweeps" / study
    folder.mkdir(parents=True, exist_ok=True)
    with stop_on_signals(), noted(workspace), reported(), \
            Crew(study, storage, 1, folder, trials) as crew:
        show(lambda: tag(study, "worker"))
        while crew.at_work():
            sleep(LOOK_S)
        if said := crew.last_words():
            raise OrchestrationError(f"the trial did not end well: {said}")
