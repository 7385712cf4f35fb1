"""A sweep in Prefect: how its flow runs are called and found, and a page that leads from the sweep to its trials.

They are no subflows: trials run where the sweep's flow run is not known, and outlive it. What they share is a tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from infra.naming import in_markdown, run_page
from infra.study_contract import ENDED, TrialRow

AT_ONCE = 200
"""Flow runs in one answer of Prefect's server."""
LONGEST = 500
"""Characters of why a trial failed; the log of its flow run has all."""


def trial_title(study: str, number: int) -> str:
    """Name of the flow run of a trial; of what follows one, before its suffix."""
    return f"{study} t{number:03d}"


def trial_tags(study: str, number: int, kind: str = "trial") -> tuple[str, ...]:
    """Tags of the flow run of a trial, of a look at one on its way (`rung`), or of what follows it (`follow-up`)."""
    return _of_study(study), f"trial:{number}", f"kind:{kind}"


def tag(study: str, kind: str) -> None:
    """Tag the flow run that this process is in, as a `sweep` or a `worker` of a study."""
    wanted = {*flow_run.tags, _of_study(study), f"kind:{kind}"}
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), tags=sorted(wanted))


def study_of_trial() -> str | None:
    """The sweep that the flow run of this process is a trial of, or something that follows one; None where it is none,
    or the sweep's own."""
    tags = flow_run.tags if flow_run.id else []
    of = [tag.removeprefix(_of_study("")) for tag in tags if tag.startswith(_of_study(""))]
    return of[0] if of and any(tag.startswith("trial:") for tag in tags) else None


def page_of_sweep(study: str) -> str | None:
    """Address of the page of the sweep's latest flow run; None where Prefect has none, or no pages."""
    found = _flow_runs(study, "sweep")
    return url_for("flow-run", found[-1].id) if found else None


def trials_page(study: str, rows: Sequence[TrialRow], within: str, says: str, labels: Mapping[str, str]) -> str:
    """Markdown: the trials with links to their flow runs and MLflow runs.

    Args:
        study: its name.
        rows: the trials.
        within: pages of the MLflow experiment.
        says: what the sweep came to, as Markdown.
        labels: objective → what its value is.
    """
    runs = {tag: run for run in _flow_runs(study, "trial") for tag in run.tags if tag.startswith("trial:")}
    later = [link(in_markdown(run.name), url_for("flow-run", run.id)) for run in _flow_runs(study, "follow-up")]
    lines = ["| trial | state | found | searched | MLflow |", "|---|---|---|---|---|"]
    for row in rows:
        run, tracked = runs.get(f"trial:{row.number}"), row.notes.get("run_id", "")
        values = {labels[name]: value for name, value in (row.values or {}).items()}
        found = shown(values) or row.notes.get(ENDED) or row.notes.get("why", "")
        cells = (link(f"t{row.number:03d}", url_for("flow-run", run.id) if run else None), row.state.lower(),
                 in_markdown(found[:LONGEST]), in_markdown(shown(row.params)),
                 link(tracked[:8], run_page(within, tracked)))
        lines.append(f"| {' | '.join(cells)} |")
    more = ["", f"What follows them: {', '.join(later)}."] if later else []
    return "\n".join((says, "", f"All flow runs of this sweep have the tag `{_of_study(study)}`.", "", *lines, *more))


def shown(values: Mapping[str, object]) -> str:
    """Values by name on one line."""
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in values.items())


def shown_shortly(searched: Mapping[str, object]) -> str:
    """Searched values by the last part of their fields, for a title."""
    short = {field.rpartition(".")[2]: value for field, value in searched.items()}
    return shown(short if len(short) == len(searched) else searched)


def _of_study(study: str) -> str:
    return f"study:{study}"


def _flow_runs(study: str, kind: str) -> list[FlowRun]:
    """Those of a study, the latest last."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[_of_study(study), f"kind:{kind}"]))
    found: list[FlowRun] = []
    with get_client(sync_client=True) as client:
        while True:
            some = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_ASC, limit=AT_ONCE,
                                         offset=len(found))
            found += some
            if len(some) < AT_ONCE:
                return found


def link(text: str, url: str | None) -> str:
    """Markdown; the text alone where there is no address."""
    return f"[{text}]({url})" if url else text
