"""Shows a sweep: the Pareto front as a picture (PNG) and as an interactive page (HTML), and all trials as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from matplotlib.figure import Figure

from infra.contract import OTHER_VERSIONS, TrialRow

NOTHING_TOLD: Mapping[str, Mapping[str, str]] = {}


def table(rows: Sequence[TrialRow], front: Sequence[TrialRow],
          labels: Mapping[str, str], told: Mapping[str, Mapping[str, str]] = NOTHING_TOLD
          ) -> tuple[list[str], list[list[str]]]:
    """Columns, objectives under these labels, and cells of all trials, those of the front marked with ★; a missing
    value is —. `told`: number of a trial → further column → text; what is no trial there, the base, comes last."""
    fields = list(dict.fromkeys(field for row in rows for field in row.params))
    objectives = list(dict.fromkeys(name for row in rows for name in row.values or {}))
    further = list(dict.fromkeys(column for texts in told.values() for column in texts))
    best = {row.number for row in front}
    again = {row.notes["retry_of"]: row.number for row in rows if "retry_of" in row.notes}
    cells = [
        [f"{row.number}{' ★' if row.number in best else ''}",
         f"lost its worker: {again[str(row.number)]}" if str(row.number) in again else _state(row),
         *(_cell((row.values or {}).get(name)) for name in objectives),
         *(told.get(str(row.number), {}).get(column, "—") for column in further),
         *(_cell(row.params.get(field)) for field in fields)]
        for row in rows
    ]
    trials = {str(row.number) for row in rows}
    cells += [[name, *"—" * (1 + len(objectives)), *(texts.get(column, "—") for column in further), *"—" * len(fields)]
              for name, texts in told.items() if name not in trials]
    return ["trial", "state", *(labels[name] for name in objectives), *further, *fields], cells


def _state(row: TrialRow) -> str:
    said = f"breaks {', '.join(row.broken)}" if row.broken else row.state.lower()
    return f"{said}, other versions" if OTHER_VERSIONS in row.notes else said


def write_plots(
    rows: Sequence[TrialRow], front: Sequence[TrialRow], labels: Mapping[str, str], folder: Path
) -> list[Path]:
    """Draw the first objective (x) against the second (y), every complete trial a dot, the front joined by a line.

    Args:
        rows: all trials.
        front: those on the front, in order of the first objective.
        labels: the two objectives → axis titles.
        folder: gets `pareto.png`, `pareto.html` and `plotly.min.js`, which the page needs beside it.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    complete = [row for row in rows if row.values is not None]
    picture, page = folder / "pareto.png", folder / "pareto.html"
    _picture(complete, front, labels).savefig(picture, dpi=150)
    _page(complete, front, labels).write_html(page, include_plotlyjs="directory")
    return [picture, page, folder / "plotly.min.js"]


def _points(rows: Sequence[TrialRow], objectives: Mapping[str, str]) -> tuple[list[float], list[float]]:
    x, y = list(objectives)[:2]
    values = [row.values or {} for row in rows]
    return [each[x] for each in values], [each[y] for each in values]


def _picture(rows: Sequence[TrialRow], front: Sequence[TrialRow], labels: Mapping[str, str]) -> Figure:
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*_points(rows, labels), color="0.6", label="trials")
    axes.plot(*_points(front, labels), color="tab:blue", marker="o", label="Pareto front")
    for row, x, y in zip(rows, *_points(rows, labels), strict=True):
        axes.annotate(str(row.number), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(list(labels.values())[0])
    axes.set_ylabel(list(labels.values())[1])
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def _page(rows: Sequence[TrialRow], front: Sequence[TrialRow], labels: Mapping[str, str]) -> go.Figure:
    def trace(some: Sequence[TrialRow], name: str, mode: str) -> go.Scatter:
        x, y = _points(some, labels)
        hover = ["<br>".join([f"trial {row.number}", *(f"{k}: {_cell(v)}" for k, v in row.params.items())])
                 for row in some]
        return go.Scatter(x=x, y=y, mode=mode, name=name, text=hover, hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}")

    x_title, y_title = list(labels.values())[:2]
    return go.Figure(
        [trace(rows, "trials", "markers"), trace(front, "Pareto front", "lines+markers")],
        {"xaxis": {"title": {"text": x_title}}, "yaxis": {"title": {"text": y_title}}, "template": "plotly_white"},
    )


def _cell(value: object) -> str:
    return "—" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
