"""The stage `record`: everything a run found, into its folder, MLflow and Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval_suites.results import SuiteResult, write_results
from eval_suites.verdict.verdict import Verdict
from infra.contract import CANDIDATE
from infra.events import Mark, batches, load_mark, save_mark
from infra.orchestrator import stage_task
from sft_core.data.sources import name_of
from sft_core.names import file_name
from sft_core.stage import write_json
from tasks.experiment import FOLLOWED, Experiment
from tasks.lineage import enrol, write_lineage
from tasks.metrics import compared_by, verdict_metrics
from tasks.pages.data import record_data
from tasks.pages.run import Made, write_run_page
from tasks.prefect_page import show_run
from tasks.run_page import FILES, derived, inputs, note
from tasks.runs import Beside, link_to, write_beside
from tasks.settled import SAMPLED
from tasks.stages import Done, Workspace
from tasks.verdict import Compared, compared, write_verdict
from tasks.versions import environment

SHARED = ("item_id", "task", "prompt", "target", "ids")
SIDED = ("score", "answer", "why")


@stage_task("record")
def record(
    run: Experiment, prepared: Done, trained: Done, results: Mapping[str, Mapping[str, SuiteResult]], verdict: Verdict,
    place: Workspace,
) -> dict[str, Any]:
    """Write the run folder, then show it in MLflow and Prefect; returns the run's summary.

    Raises:
        TrackingError: the tracker refuses; the run folder is complete, the same command records again.
    """
    for label, suites in results.items():
        for result in suites.values():
            write_results(run.folder / "evaluation" / label, result)
    write_beside(run.folder, Beside(
        {one.suite: one.floor for one in verdict.suites if one.floor},
        prepared.result["contaminated"] if run.config.data.decontaminate.looks else None,
        environment(run.config.model)))
    found = compared(verdict, results["base"], results["tuned"])
    write_verdict(run.folder, verdict)
    summary = _summary(run, prepared, trained, found)
    write_json(run.folder / "ledger.json", prepared.result["ledger"])
    write_json(run.folder / "training.json", trained.result)
    link_to(run.folder / "model", trained.folder / "model")
    lineage = write_lineage(run, prepared, trained, place)
    told = record_data(run, prepared, trained, place)
    write_run_page(run, Made(prepared, trained, lineage, told), found, place)
    summary |= {"data": told._asdict()}
    write_json(run.folder / "summary.json", summary)
    _track(run, trained, results, verdict)
    _offer(run, trained, lineage)
    said = note(run, trained, verdict, told)
    held = {name_of(source) for source in run.config.data.sources if run.config.data.holds_out(source)}
    run.tracker.describe(run.run_id, said, FILES, list(inputs(prepared, results["tuned"], told, held)),
                         derived(prepared.result["ledger"], trained.result))
    run.tracker.set_tags(run.run_id, {"sft.gate": verdict.gate, "sft.reason": verdict.reason})
    run.tracker.finish(run.run_id)
    show_run(run, summary, said)
    return summary


def _summary(run: Experiment, prepared: Done, trained: Done, found: Compared) -> dict[str, Any]:
    verdict = found.verdict
    suites = {
        one.suite: {"base": one.base, "tuned": one.tuned, "tax" if one.kind == "capability" else "win": one.points,
                    "low": one.low, "high": one.high, "outcome": one.outcome, "scored": one.pairs, "asked": one.asked}
        for one in verdict.suites
    }
    return {
        "run": run.name, "folder": str(run.folder), "mlflow_run_id": run.run_id, "mlflow_uri": run.tracker.shown,
        "mlflow_pages": run.tracker.pages,
        "model": str(trained.folder / "model"), "ledger": prepared.result["rows"], "suites": suites,
        "verdict_rows": verdict.rows(),
        "beside": [table._asdict() for table in found.report.tables if table.short],
        "gate": {"outcome": verdict.gate, "reason": verdict.reason},
        "seconds": {"training": trained.result["seconds"], "saving": trained.result["saving_s"]},
        "saved": trained.result["stored"],
        "reused": {"prepare": prepared.reused, "train": trained.reused},
    }


def _track(run: Experiment, trained: Done, results: Mapping[str, Mapping[str, SuiteResult]], verdict: Verdict) -> None:
    tracker, run_id = run.tracker, run.run_id
    _send(run, trained.folder / "events.jsonl")
    found = verdict_metrics(results["base"], results["tuned"], verdict)
    tracker.log_metrics(run_id, found)
    tracker.arrange(compared_by(found))
    for name in ("report.html", "data.html", "tax.png", "verdict.json", "ledger.json", "training.json", "lineage.json",
                 "summary.json"):
        tracker.log_artifacts(run_id, run.folder / name)
    for name in ("evaluation", "data"):
        tracker.log_artifacts(run_id, run.folder / name, name)
    tracker.log_artifacts(run_id, trained.folder / "events.jsonl")
    for suite, result in results["tuned"].items():
        tracker.log_table(run_id, f"items/{file_name(suite)}.json",
                          side_by_side(results["base"][suite], result))
    tracker.log_model(run_id, trained.folder / "model", run.config.tracking.store_models)


def _send(run: Experiment, events: Path) -> None:
    """What the store has not yet of the training's metrics; all of them again where it has lost some."""
    mark_file = run.folder / FOLLOWED
    run.tracker.follow(run.run_id, events, mark_file, last=True)
    mark = load_mark(mark_file, run.run_id)
    told = [point.step for some, _ in batches(events, Mark(run.run_id)) for point in some if point.key == SAMPLED]
    sent = sum(step <= mark.steps.get(SAMPLED, -1) for step in told)
    if run.tracker.points(run.run_id, SAMPLED) < sent:
        save_mark(mark_file, Mark(run.run_id))
        run.tracker.follow(run.run_id, events, mark_file, last=True)


def _offer(run: Experiment, trained: Done, lineage: Mapping[str, Any]) -> None:
    """The model as candidate of the registered model that the configuration names."""
    if name := run.config.tracking.registered_model:
        version = enrol(run.tracker, run.run_id, trained.folder / "model", name, run.config.tracking.store_models,
                        lineage)
        run.tracker.set_alias(name, CANDIDATE, version)


def side_by_side(base: SuiteResult, tuned: SuiteResult) -> dict[str, list[object]]:
    """Columns of one table with every item once: what was asked, and of both models answer, score and why.

    An item that only one of them was asked has None on the other side.
    """
    before, after = ({item.item_id: item for item in side.items} for side in (base, tuned))
    keys = list(before | after)
    columns: dict[str, list[object]] = {
        name: [getattr(before.get(key) or after[key], name) for key in keys] for name in SHARED}
    for label, side in (("base", before), ("tuned", after)):
        columns |= {f"{label}_{name}": [getattr(side.get(key), name, None) for key in keys] for name in SIDED}
    return columns
