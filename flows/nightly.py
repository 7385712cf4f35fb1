"""The flow `sft-nightly`: champion, candidates and base are asked again and held against the stored results."""

from __future__ import annotations

from typing import Any, NamedTuple

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from flows import console, forms
from flows.around import around
from flows.place import connect, look, workspace
from infra import alerts, orchestrator
from infra.contract import Tracker
from infra.naming import run_page
from sft_core.errors import EvalError, RegressionFound
from tasks.night import guarded, night
from tasks.nights import Found, concluded, metrics, past, rows, trend
from tasks.stages import Workspace


def run_nightly(name: str, margin: float) -> None:
    """`sft nightly`: run the flow now and say in a line what it found, with its table where that is something.

    Raises:
        RegressionFound: a suite is proved worse than stored, the environment did not do it, and nobody was told yet.
        EvalError: something was not measured two nights in a row.
    """
    summary = orchestrator.outcome(sft_nightly, name=name, margin=margin)
    if summary["outcome"] != "quiet":
        console.table(summary["title"], summary["rows"])
    console.lines(f"{summary['title']}: {summary['sentence']}")


def run_nights(name: str, last: int) -> None:
    """`sft nights`: the table of the last nights of a registered model."""
    found = past(name, look(), last)
    console.table(f"Nights of {name}", [one.row for one in found])
    if not found:
        console.lines(f"no night of {name} was recorded yet; `sft nightly --name {name}` makes one now")


@flow(name="sft-nightly", flow_run_name="{name}@{alias}", **orchestrator.HOOKS)
def sft_nightly(name: str = "sft", alias: str = "champion", margin: forms.Points = 0.0) -> dict[str, Any]:
    """Ask a registered model, its candidates and their base again; fail on a proved regression that nobody was told of.

    Args:
        name: registered model.
        alias: which version; candidates are asked beside it.
        margin: points that a suite may fall, and false refusals may rise, without being a regression.
    """
    place = workspace()
    with around(place.root, connect) as tracker:
        return _compared(Champion(name, alias), margin, str(flow_run.id), (place, tracker))


class Champion(NamedTuple):
    """A registered model and which of its versions."""

    name: str
    alias: str


def _compared(asked: Champion, margin: float, occasion: str, at: tuple[Workspace, Tracker]) -> dict[str, Any]:
    """A night of its own for every occasion; one that was killed goes on where it was."""
    place, tracker = at
    name, alias = asked
    nights = night(guarded(name, alias, place, tracker), margin, occasion, place)
    key = f"nightly-{name}-{occasion}"
    mine = {run.run_id for run in tracker.runs_of(key)}
    before = next((one for one in past(name, tracker) if one.run.run_id not in mine), None)
    found = concluded(nights, margin, before)
    number = before.number + 1 if before else 1
    title = f"{name}, night {number}"
    run_id = tracker.start_run(f"nightly-{name}-{number}", key, {
        "model": name, "margin": margin, **{one.guarded.alias: one.guarded.model.version for one in nights}}, title,
        found.tags(name, number))
    tracker.log_metrics(run_id, metrics(nights))
    for file in trend(name, alias, tracker, place.scratch / "nights" / name):
        tracker.log_artifacts(run_id, file)
    tracker.finish(run_id, "FAILED" if found.outcome in alerts.RED else "FINISHED")
    shown = rows(nights)
    orchestrator.show(lambda: create_table_artifact(shown, "nightly", f"{title}: {found.sentence}"))
    _tell(name, found, title, run_page(tracker.shown, run_id))
    return {"title": title, "outcome": found.outcome, "sentence": found.sentence, "rows": shown,
            "mlflow_run_id": run_id}


def _tell(name: str, found: Found, title: str, page: str | None) -> None:
    """Prefect hears of every night that is not quiet, people of a red one.

    Raises:
        RegressionFound, EvalError: the night is red.
    """
    sentence = f"{title}: {found.sentence}"
    told = {"model": name, "outcome": found.outcome, "sentence": sentence, "mlflow": page,
            "prefect": flow_run.ui_url}
    if found.outcome != "quiet":
        alerts.emit(name, found.outcome, told)
    if found.outcome in alerts.RED:
        alerts.post(told)
        raise (RegressionFound if found.outcome == "regression" else EvalError)(sentence)
