"""The flow `sft-experiment`: prepare → base evaluation → train → evaluate → verdict → record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows import console, forms, steps
from flows.around import around
from flows.place import connect, workspace
from infra.contract import Tracker
from infra.orchestrator import HOOKS, outcome
from infra.sweep_view import shown
from infra.watching import only_to_prefect
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import LoadedConfig, load
from sft_core.errors import SftError
from sft_core.visible import shortened
from tasks.experiment import open_experiment
from tasks.needs import check_needs, run_lacks
from tasks.plan import tell_plan
from tasks.prepare import prepare
from tasks.record import record
from tasks.settled import asked, settle
from tasks.stages import Workspace
from tasks.verdict import told_of

LONGEST_TITLE = 150
"""Characters of the name of a flow run: what a list of them has room for."""
AHEAD = ("sft_core.data.prepare", "sft_core.train.outlook", "eval_suites.asking.run", "sft_core.train.engine",
         "eval_suites.report.plot")
"""Modules that bring the libraries of a run's stages, in the order of their use."""


def ahead(config: ExperimentConfig) -> Iterator[None]:
    """What a run does and imports anyway, a step at a time, for the while that its Prefect server takes to start."""
    connect(config.tracking)
    for module in AHEAD:
        yield
        import_module(module)


def run_experiment(path: Path, overrides: list[str]) -> None:
    """`sft run`: run the flow and show its verdict.

    Raises:
        GateFailed: `gate.enforce` is on and the gate did not pass.
    """
    loaded = load(path, overrides)
    console.experiment(outcome(sft_experiment, str(path), overrides), loaded.config)


def named_after(what: Callable[[ExperimentConfig], str]) -> str:
    """Name of the flow run that is beginning: what it is, and what was set otherwise than in its file; of a
    configuration that cannot be read the file's, and the run fails."""
    given = flow_run.parameters
    try:
        name = what(forms.loaded(given["config"], given["overrides"]).config)
    except SftError:
        name = str(given["config"])
    return shortened(" · ".join([name, *forms.changes(given["overrides"])]), LONGEST_TITLE)


def _title() -> str:
    return named_after(lambda config: f"{config.name} · {config.train.method}")


@flow(name="sft-experiment", flow_run_name=_title, **HOOKS)
def sft_experiment(
    config: forms.Configuration = "demo", overrides: forms.Overrides = None, parent_run_id: forms.SweepRun = None,
    searched: forms.Searched = None,
) -> dict[str, Any]:
    """One experiment, from configuration to recorded verdict.

    Args:
        config: name of a shipped configuration, or path of a YAML file on the worker's machine.
        overrides: fields that are set otherwise than there, e.g. {"train.epochs": 2, "name": "mine"}, or lines
            `train.epochs=2` as with `--set`.
        parent_run_id: MLflow run of the sweep that this is a trial of; leave it as it is.
        searched: what the sweep has set for this trial, which stands in its configuration; leave it as it is.
    """
    loaded = forms.loaded(config, overrides)
    place = workspace(loaded.config)
    with around(place.root, lambda: connect(loaded.config.tracking)) as tracker:
        if searched:
            only_to_prefect(f"searched values: {shown(searched)}")
        summary = experiment(loaded, place, tracker, parent_run_id)
        only_to_prefect(*map(told_of, summary["verdict_rows"]),
                        f"gate: {summary['gate']['outcome']}. {summary['gate']['reason']}",
                        f"run {summary['run']}: {summary['folder']}")
        return summary


def experiment(loaded: LoadedConfig, place: Workspace, tracker: Tracker, parent_run_id: str | None) -> dict[str, Any]:
    """The stages of one experiment; returns the summary that is also in the run folder."""
    loaded = loaded.here()
    config = loaded.config
    check_needs(run_lacks(config, place))
    began = None if parent_run_id else asked(config, place)
    data = steps.Data(config, place, prepare(config, place))
    with open_experiment(loaded, data.done, place, tracker, parent_run_id) as run:
        tell_plan(config, data.done, place)
        base = steps.measure_base(data)
        model = steps.train(data, run.follow)
        found = steps.evaluate(model, base, run.folder / "evaluation")
        summary = record(run, data.done, model.done, {"base": found.base, "tuned": found.tuned}, found.verdict, place)
        if began:
            settle(run.folder, began, place, tracker)
        return summary
