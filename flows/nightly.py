"""The flow `sft-nightly`: the champion is evaluated again and compared with its stored results, item by item."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows import console
from flows.around import around
from flows.experiment import connect, look, workspace
from infra import orchestrator
from infra.contract import Tracker
from infra.naming import check_alias
from sft_core.config.evaluate import GateSection
from sft_core.errors import EvalError, RegressionFound
from sft_core.names import check_name
from tasks.evaluate import evaluate, folder_subject
from tasks.mirror import mirrored
from tasks.needs import check_needs, evaluation_lacks
from tasks.runs import find
from tasks.stages import Workspace
from tasks.verdict import not_measured, reach_verdict, regressions


def run_nightly(name: str, margin: float) -> None:
    """`sft nightly`: run the flow now and show its table.

    Raises:
        RegressionFound: a suite is proved worse than stored.
        EvalError: none is, and one could not be measured, so that nothing is known of it.
    """
    summary = orchestrator.outcome(sft_nightly, name=name, margin=margin)
    console.table(summary["title"], summary["rows"])
    console.lines("no proved regression")


def run_promotion(reference: str, name: str | None, alias: str) -> None:
    """`sft promote`: register a run's model and point the alias at it."""
    if name is not None:
        check_name("--name", name)
    check_alias(alias)
    tracker = look()
    run = find(reference, workspace(), tracker)
    tracking = run.config().config.tracking
    name = name or tracking.registered_model or "sft"
    version = tracker.register(run.run_id, run.model(), name, tracking.store_models)
    tracker.set_alias(name, alias, version)
    console.lines(f"{run.name}: registered as version {version} of {name}, alias {alias}")


@flow(name="sft-nightly", flow_run_name="{name}@{alias}", **orchestrator.HOOKS)
def sft_nightly(name: str = "sft", alias: str = "champion", margin: float = 0.0) -> dict[str, Any]:
    """Re-evaluate a registered model under its stored protocol; fail on a proved regression.

    Args:
        name: registered model.
        alias: which version.
        margin: points that a suite may fall, and false refusals may rise, without being a regression.
    """
    place = workspace()
    with around(place.root, connect) as tracker:
        return _compared(Champion(name, alias), margin, place, tracker)


class Champion(NamedTuple):
    """A registered model and which of its versions."""

    name: str
    alias: str


def _compared(asked: Champion, margin: float, place: Workspace, tracker: Tracker) -> dict[str, Any]:
    name, alias = asked
    champion = tracker.resolve_alias(name, alias)
    stored = find(champion.run_id, place, tracker)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    config = stored.config().config
    place = mirrored(place, config.data.mirror)
    check_needs(evaluation_lacks(config.eval, place))
    before = stored.results("tuned")
    after = evaluate(folder_subject("champion", champion.folder, config.model), config.eval, place, occasion=now)
    verdict = reach_verdict(before, after, GateSection(max_tax=margin, max_false_refusals=margin))
    title = f"{name}@{alias} (version {champion.version}, run {stored.name}): stored against {now}"
    found, missing = regressions(verdict), not_measured(verdict, before)
    run_id = tracker.start_run(f"nightly-{name}", f"nightly-{name}-{now}", {"model": name, "version": champion.version},
                               title, {"sft.kind": "nightly", "sft.regressions": "; ".join(found) or "none",
                                       "sft.not_measured": "; ".join(missing) or "none"})
    tracker.log_metrics(run_id, {key: value for suite, one in after.items() for key, value in (
        (f"{suite}/score", one.score), (f"{suite}/scored", one.tally.scored), (f"{suite}/asked", one.n))})
    tracker.finish(run_id, "FAILED" if found or missing else "FINISHED")
    rows = verdict.rows()
    orchestrator.show(lambda: create_table_artifact(rows, "nightly", title))
    if found:
        raise RegressionFound(f"{title}: " + "; ".join([*found, *missing]))
    if missing:
        raise EvalError(f"{title}: no proved regression, but " + "; ".join(missing))
    return {"title": title, "rows": rows, "mlflow_run_id": run_id}
