"""`sft reconcile`: what Prefect, MLflow and Optuna show agrees with the workspace again."""

from __future__ import annotations

from flows import console
from flows.experiment import sft_experiment
from flows.place import connect, look, workspace
from infra.open_runs import close_run
from infra.orchestrator import KIND, close_flow_run, outcome
from infra.settings import read_settings
from sft_core.errors import SftError
from tasks.reconcile import Again, Finding, Reconciling, notes, runs, to_record, trials


def run_reconcile(*, dry: bool, record: bool, as_json: bool) -> None:
    """Find and mend, and say so."""
    tracker = look() if dry else connect()
    asked = Reconciling(workspace(), tracker, dry)
    found = notes(asked, lambda note: close_flow_run(note) if note.kind == KIND else close_run(tracker, note))
    found += [*runs(asked), *trials(asked, read_settings().study_storage)]
    if record and not dry:
        again, cannot = to_record(asked, found)
        found = [one for one in found if one.kind != "run"] + cannot + [_recorded(one) for one in again]
    if as_json:
        console.as_json({"workspace": str(asked.place.root), "dry_run": dry,
                         "found": [one._asdict() for one in found]})
        return
    console.lines(*(one.line for one in found))
    if not found:
        console.lines(f"{asked.place.root}, Prefect, MLflow and Optuna agree")


def _recorded(run: Again) -> Finding:
    try:
        outcome(sft_experiment, str(run.config), [], run.parent)
    except SftError as error:
        return Finding("run", f"run {run.name}", f"could not be recorded anew: {error}", todo=True)
    return Finding("run", f"run {run.name}", "recorded anew")
