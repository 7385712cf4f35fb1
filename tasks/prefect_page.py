"""What Prefect shows of a run that is recorded: the verdict with its links, every suite, the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra import artifacts, orchestrator
from infra.naming import run_page
from tasks.experiment import Experiment
from tasks.ledger import ledger_remarks, ledger_table


def show_run(run: Experiment, summary: Mapping[str, Any], note: str) -> None:
    """Make the artifacts of the flow run; `note` is what MLflow's page says of the run."""
    page, of = run_page(run.tracker.pages, run.run_id), artifacts.whose(run.config.name)
    tracked = f"[MLflow run]({page})" if page else f"MLflow run `{run.run_id}` in `{run.tracker.shown}`"
    said = (f"{note}\n\n{tracked}, report `{run.folder}/report.html`, data `{run.folder}/data.html`, model "
            f"`{summary['model']}`")
    about = "; ".join((f"{run.name}: rows read, dropped and trained", *ledger_remarks(summary["ledger"])))
    orchestrator.show(
        artifacts.page("verdict", of, said, f"{run.name}: {summary['gate']['outcome']}"),
        artifacts.table("suites", of, summary["verdict_rows"], f"{run.name}: tuned against base"),
        artifacts.table("data", of, summary["data"]["way"], f"{run.name}: the way of the rows through the curation"),
        artifacts.table("ledger", of, ledger_table(summary["ledger"]), about))
