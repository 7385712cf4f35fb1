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

from infra.contract import ENDED, TrialRow
from infra.naming import run_page
from sft_core.masking import masked

AT_ONCE = 200
"""Flow runs in one answer of Prefect's server."""


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


def trials_page(study: str, rows: Sequence[TrialRow], tracking: str) -> str:
    """Markdown: the trials with links to their flow runs and MLflow runs.

    Args:
        study: its name.
        rows: the trials.
        tracking: MLflow tracking URI.
    """
    runs = _flow_runs(study)
    lines = ["| trial | state | found | searched | MLflow |", "|---|---|---|---|---|"]
    for row in rows:
        run, tracked = runs.get(f"trial:{row.number}"), row.notes.get("run_id", "")
        found = shown(row.values) if row.values else row.notes.get(ENDED) or row.notes.get("why", "")
        cells = (_link(f"t{row.number:03d}", url_for("flow-run", run.id) if run else None), row.state.lower(), found,
                 shown(row.params), _link(tracked[:8], run_page(tracking, tracked)))
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    page = "\n".join((f"All flow runs of this sweep have the tag `{_of_study(study)}`.", "", *lines))
    return masked(page)  # Prefect makes links of the address of its API, with a password that is in it


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


def _flow_runs(study: str) -> dict[str, FlowRun]:
    """The last flow run of each trial by the trial's tag."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[_of_study(study), "kind:trial"]))
    found: list[FlowRun] = []
    with get_client(sync_client=True) as client:
        while True:
            some = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_ASC, limit=AT_ONCE,
                                         offset=len(found))
            found += some
            if len(some) < AT_ONCE:
                return {tag: run for run in found for tag in run.tags if tag.startswith("trial:")}


def _link(text: str, url: str | None) -> str:
    return f"[{text}]({url})" if url else text
