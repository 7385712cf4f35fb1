"""What a flow run shows on Prefect's page: tables and pages under keys that stay, so that each has a history there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from infra import orchestrator, sweep_view
from infra.naming import in_markdown, run_page
from sft_core.masking import masked
from sft_core.names import distinct

LONGEST_CELL = 1000
Artifact = Callable[[], object]
"""Made by `orchestrator.show`, or not where Prefect is lost."""


def key(kind: str, of: str) -> str:
    """`verdict` of `My run` is `verdict-my-run-` and six hex digits: Prefect takes lower-case letters, digits and
    dashes."""
    return f"{kind}-{distinct(of, re.sub('[^a-z0-9]+', '-', of.lower()).strip('-'))}"


def whose(name: str) -> str:
    """What the artifacts of the flow run that this process is in are filed under: its experiment's name, or the trials
    of its sweep, of which there may be hundreds."""
    study = sweep_view.study_of_trial()
    return f"{study}-trials" if study else name


def page(kind: str, of: str, text: str, about: str) -> Artifact:
    """Markdown, which is the caller's to escape; `about` is plain."""
    return partial(create_markdown_artifact, masked(text), key(kind, of), masked(in_markdown(about)))


def table(kind: str, of: str, rows: Sequence[Mapping[str, object]], about: str) -> Artifact:
    """Rows of equal keys; they and `about` are plain, and Prefect would read Markdown in each cell."""
    shown = [{head: in_markdown(masked(value)[:LONGEST_CELL]) if isinstance(value, str) else value
              for head, value in row.items()} for row in rows]
    return partial(create_table_artifact, shown, key(kind, of), masked(in_markdown(about)))


def show_links(within: str, run_id: str, of: str, name: str, parent: str | None = None) -> None:
    """Lead from the flow run to its run on an MLflow server, and from a trial to its sweep. A store without pages has
    nothing to link to.

    Args:
        within: pages of the MLflow experiment.
        run_id: MLflow run.
        of: what it is filed under, where it is no trial.
        name: of the run, for people.
        parent: MLflow run of the sweep.
    """
    tracked, study = run_page(within, run_id), sweep_view.study_of_trial()
    if not (tracked or study):
        return

    def make() -> object:
        lines = [f"[MLflow run of {in_markdown(name)}]({tracked})"] if tracked else []
        if study:
            lines.append(f"trial of the sweep {sweep_view.link(in_markdown(study), sweep_view.page_of_sweep(study))}")
            lines += [f"[MLflow run of the sweep]({run_page(within, parent)})"] if tracked and parent else []
        return page("links", whose(of), "\n\n".join(lines), name)()

    orchestrator.show(make)
