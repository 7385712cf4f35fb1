"""The flow `sft-nightly`: champion, candidates and base are asked again and held against the stored results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from prefect import flow
from prefect.runtime import flow_run

from flows import console, forms
from flows.around import around
from flows.place import connect, look, workspace
from infra import alerts, artifacts, orchestrator
from infra.contract import Tracker
from infra.daemons import read_state
from infra.naming import in_markdown, origin, run_page
from sft_core.errors import EvalError, RegressionFound, TrackingError
from sft_core.names import check_name
from tasks.night import ANEW, Night, guarded, keep_anew, night
from tasks.nights import (
    Found,
    Past,
    alone,
    concluded,
    forget,
    metrics,
    past,
    place_of,
    renewed,
    rows,
    trend,
    unmeasured,
)
from tasks.stages import Workspace
from tasks.untracked import note_night, record_noted
from tasks.versions import head


def run_nightly(name: str, margin: float, *, rebase: bool) -> None:
    """`sft nightly`: run the flow now and say in a line what it found, with its table where that is something.

    Raises:
        RegressionFound: a suite is proved worse than stored, the environment did not do it, and nobody was told yet.
        EvalError: something was not measured two nights in a row.
    """
    summary = orchestrator.outcome(sft_nightly, name=name, margin=margin, rebase=rebase)
    if summary["outcome"] != "quiet":
        console.table(summary["title"], summary["rows"])
    console.lines(f"{summary['title']}: {summary['sentence']}")


def run_nights(name: str, last: int) -> None:
    """`sft nights`: the table of the last nights of a registered model."""
    found = past(name, look(), last)
    console.table(f"Nights of {name}", [one.row for one in found])
    if not found:
        console.lines(f"no night of {name} was recorded yet; `sft nightly --name {name}` makes one now")


def _title() -> str:
    when = flow_run.scheduled_start_time
    return f"{flow_run.parameters['name']}@{flow_run.parameters['alias']} · night of {when:%Y-%m-%d}"


@flow(name="sft-nightly", flow_run_name=_title, **orchestrator.HOOKS)
def sft_nightly(name: forms.Model = "sft", alias: forms.Alias = "champion", margin: forms.Margin = 0.0,
                rebase: forms.Rebase = False) -> dict[str, Any]:
    """Ask a registered model, its candidates and their base again; fail on a proved regression that nobody was told of.

    Args:
        name: registered model, as `sft models` lists them.
        alias: which of its versions; candidates are asked beside it.
        margin: points that a suite may fall, and false refusals may rise, without being a regression.
        rebase: store tonight's results as those that later nights are held against, e.g. after an upgrade.

    Raises:
        ConfigError: the name or the alias is none.
    """
    check_name("name", name)
    check_name("alias", alias)
    place, occasion = workspace(), str(flow_run.id)
    with alone(place, name) as first:
        if not first:
            return _summary(name, "skipped", "skipped: another night of it is under way in this workspace")
        try:
            with around(place.root, connect) as tracker:
                return _compared(Champion(name, alias, rebase), margin, occasion, (place, tracker))
        except TrackingError as error:
            return _untracked(name, str(error), occasion, place)


class Champion(NamedTuple):
    """A registered model, which of its versions, and whether it is measured anew."""

    name: str
    alias: str
    rebase: bool = False


def _compared(asked: Champion, margin: float, occasion: str, at: tuple[Workspace, Tracker]) -> dict[str, Any]:
    """A night of its own for every occasion; one that was killed goes on where it was."""
    place, tracker = at
    name, alias, rebase = asked
    own = place_of(place, name, occasion)
    record_noted(name, place, tracker)
    nights = night(guarded(name, alias, place, tracker), margin, occasion, own)
    anew = {one.guarded.version: keep_anew(one, own.scratch) for one in nights} if rebase else {}
    key = f"nightly-{name}-{occasion}"
    mine = {run.run_id for run in tracker.runs_of(key)}
    before = [one for one in past(name, tracker) if one.run.run_id not in mine]
    if not nights and not before:
        return _summary(name, "quiet", f"nothing is guarded yet: there is no {name}@{alias}; make one with "
                                       f"`sft promote RUN --name {name}`")
    found = _found(nights, margin, before, asked)
    number = before[0].number + 1 if before else 1
    title = f"{name}, night {number}"
    run_id = tracker.start_run(f"nightly-{name}-{number}", key, {
        "model": name, "margin": margin, **{one.guarded.alias: one.guarded.version for one in nights}}, title,
        {**found.tags(name, number), **dict.fromkeys((ANEW + version for version in anew), "yes"),
         **origin("sft nightly", head())})
    for version, folder in anew.items():
        tracker.log_artifacts(run_id, folder, version)
    tracker.log_metrics(run_id, metrics(nights))
    drawn = trend(name, tracker, place)
    for file in drawn:
        tracker.log_artifacts(run_id, file)
    tracker.describe(run_id, f"**{title}: {found.outcome}.** {in_markdown(found.sentence)}",
                     [file.name for file in drawn])
    tracker.finish(run_id, "FAILED" if found.outcome in alerts.RED else "FINISHED")
    forget(place, name)
    shown = rows(nights)
    artifacts.show_links(tracker.pages, run_id, name, title)
    orchestrator.show(artifacts.table("night", name, shown, f"{title}: {found.outcome}. {found.sentence}"))
    _tell(name, found, title, run_page(tracker.pages, run_id))
    return _summary(title, found.outcome, found.sentence, shown, run_id)


def _found(nights: Sequence[Night], margin: float, before: Sequence[Past], asked: Champion) -> Found:
    if not nights:
        return unmeasured(f"there is no {asked.name}@{asked.alias} any more; `sft models {asked.name}` shows the "
                          f"versions there are, `sft promote RUN --name {asked.name}` makes one the champion",
                          [one.missing for one in before])
    return renewed(nights) if asked.rebase else concluded(nights, margin, before)


def _untracked(name: str, why: str, occasion: str, place: Workspace) -> dict[str, Any]:
    """A night whose tracker is away is told like any other, and recorded by the next one."""
    daemon = read_state(place.root).daemons.get("mlflow")
    if daemon is not None and not daemon.lives:
        why += "; the MLflow server of `sft up` in this workspace has ended: `sft up` starts it again"
    found = note_night(why, name, occasion, place)
    title = f"{name}, a night that is not recorded yet"
    _tell(name, found, title, None)
    return _summary(title, found.outcome, found.sentence)


def _summary(title: str, outcome: str, sentence: str, shown: Sequence[dict[str, str]] = (), run_id: str | None = None
             ) -> dict[str, Any]:
    return {"title": title, "outcome": outcome, "sentence": sentence, "rows": list(shown), "mlflow_run_id": run_id}


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
