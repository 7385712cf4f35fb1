"""The flow `sft-sweep`: Optuna is asked and told here, each trial is a flow run in its own process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows import console
from flows.around import around
from flows.experiment import connect, title, workspace
from infra import orchestrator, pareto
from infra.contract import Study, Tracker, Trial
from infra.open_runs import running
from infra.settings import read_settings
from infra.study import open_study
from infra.watching import only_to_prefect
from sft_core.config.experiment import ExperimentConfig, SearchSection
from sft_core.config.file import LoadedConfig, flatten, load, trial_config
from sft_core.errors import (
    ConfigError,
    DataError,
    EvalError,
    ModelError,
    OrchestrationError,
    TemplateError,
    TrainingError,
)
from sft_core.stopping import sleep
from tasks.needs import check_needs, run_lacks
from tasks.plan import tell_plan
from tasks.prepare import prepare
from tasks.stages import Workspace
from tasks.trial import TrialOutcome, plan_of, run_trial, sweep_key

log = logging.getLogger("sft")
FAILED_IN_A_ROW = 3
WAIT_S = 2.0
AXES = {"alignment": "alignment (points)", "tax": "tax (points)"}


def run_sweep(path: Path, trials: int | None, overrides: list[str]) -> None:
    """`sft sweep`: run the flow and show its table."""
    _search(load(path, overrides).config, path)
    summary = orchestrator.outcome(sft_sweep, str(path), trials, overrides)
    console.table(f"Trials (★ on the Pareto front): {summary['study']}",
                  [dict(zip(summary["columns"], row, strict=True)) for row in summary["rows"]])
    console.lines("", *(f"plot     {file}" for file in summary["plots"]), f"compare  {summary['where_to_look']}")


@flow(name="sft-sweep", flow_run_name=title, **orchestrator.HOOKS)
def sft_sweep(config: str = "flows/configs/sweep.yaml", trials: int | None = None,
              overrides: list[str] | None = None) -> dict[str, Any]:
    """Search the space of a configuration: alignment up, tax down. A stopped sweep continues.

    Args:
        config: YAML file with a `search` section.
        trials: number of trials in the study at the end; by default `search.trials`.
        overrides: `section.field=value`, as with `--set`.
    """
    loaded = load(Path(config), overrides or [])
    search, place = _search(loaded.config, Path(config)), workspace(loaded.config)
    storage = search.storage or read_settings().study_storage
    check_needs(run_lacks(loaded.config, place))
    with (around(place.root, lambda: connect(loaded.config.tracking)) as tracker,
          closing(open_study(plan_of(loaded.config, search), place.root, storage)) as study):
        study.join()
        study.aim(trials or search.trials)
        folder = place.root / "sweeps" / search.study
        folder.mkdir(parents=True, exist_ok=True)
        parent = _parent(loaded, tracker, study)
        with running(tracker, parent):
            if left := study.remaining():
                _tell_plan(loaded.config, place, left)
            _drive(study, loaded.config, folder, parent)
            return _report(study, tracker, parent, folder)


def _search(config: ExperimentConfig, path: Path) -> SearchSection:
    if config.search is None:
        raise ConfigError(f"{path} has no search section; flows/configs/sweep.yaml shows one")
    return config.search


def _tell_plan(config: ExperimentConfig, place: Workspace, trials: int) -> None:
    """Log what one trial takes. Its own values may make a run of a configuration that is none by itself."""
    try:
        tell_plan(config, prepare(config, place), place, of=f"plan of a trial, {trials} to go")
    except (DataError, TemplateError, ModelError, EvalError, TrainingError) as error:
        log.warning("no plan of a trial without its own values: %s", error)


def _parent(loaded: LoadedConfig, tracker: Tracker, study: Study) -> str:
    key, params = sweep_key(study.plan), flatten(loaded.config)
    return tracker.start_run(study.plan.name, key, params, loaded.text, {"sft.kind": "sweep"})


def _drive(study: Study, config: ExperimentConfig, folder: Path, parent: str) -> None:
    in_a_row = 0
    while left := study.remaining():
        if (trial := study.ask()) is None:
            sleep(WAIT_S)  # others have them all, and may be lost
            continue
        shown = "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())
        said = f"trial {trial.number}, {left} to go: {shown}"
        console.lines(said)
        only_to_prefect(said)
        outcome = _outcome(config, trial, folder, parent, study.renew)
        if not study.tell(trial.number, outcome.values, {"run": outcome.run, "why": outcome.why}):
            console.lines(f"trial {trial.number} was silent for too long and is another worker's now; what it found is "
                          "kept aside in the study")
        in_a_row = 0 if outcome.values else in_a_row + 1
        if outcome.values is None:
            console.lines(f"trial {trial.number} failed: {outcome.why}")
        if in_a_row == FAILED_IN_A_ROW:
            raise OrchestrationError(f"{FAILED_IN_A_ROW} trials in a row failed, the last with {outcome.why}; mend the "
                                     "cause and give the same command again: the sweep continues")


def _outcome(config: ExperimentConfig, trial: Trial, folder: Path, parent: str, renew: Callable[[], None]
             ) -> TrialOutcome:
    """What a trial found; values that are right one by one and not together fail this trial alone."""
    try:
        chosen = trial_config(config, trial.number, trial.params)
    except ConfigError as error:
        return TrialOutcome(None, " ".join(str(error).split()), "")
    outcome: TrialOutcome = run_trial(trial.number, chosen, folder, parent, renew)
    return outcome


def _report(study: Study, tracker: Tracker, parent: str, folder: Path) -> dict[str, Any]:
    rows, front = study.trials(), study.pareto()
    columns, cells = pareto.table(rows, front, AXES)
    complete = [row for row in rows if row.values]
    plots = pareto.write_plots(complete, front, AXES, folder) if complete else []
    for file in plots:
        tracker.log_artifacts(parent, file, "pareto")
    tracker.log_metrics(parent, {"trials": float(len(rows)), "on_front": float(len(front))})
    tracker.finish(parent)
    table = [dict(zip(columns, row, strict=True)) for row in cells]
    orchestrator.show(lambda: create_table_artifact(table, "pareto-table", f"Trials of {study.plan.name}; ★: on the "
                                                                           "Pareto front"))
    return {"study": study.plan.name, "columns": columns, "rows": cells, "plots": [str(plot) for plot in plots],
            "where_to_look": console.where_to_look(tracker.shown)}
