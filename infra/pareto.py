"""Shows a sweep: its front as a picture (PNG), all points as a table, and both as a page to look around in (HTML)."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jinja2
from markupsafe import Markup

from infra.contract import ENDED, FROM, OTHER_VERSIONS, POINT, TrialRow

if TYPE_CHECKING:  # a worker that draws nothing has no use for half a second of imports
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

GREY, BLUE, RED = "#999999", "#0072b2", "#d55e00"
FADED = "dominated, or beyond a limit"
DASHES = ("-", "--", ":")
Reached = Mapping[str, Sequence[tuple[float, float]]]
"""Sureness in percent → what the front reaches with it: first objective, rising, and the second."""
MARKERS = {"base": "s", "default": "D"}
SYMBOLS = {"base": "square", "default": "diamond"}


class Spread(NamedTuple):
    """An estimate with its interval."""

    value: float
    low: float
    high: float


class Dot(NamedTuple):
    """One point of the picture; `faded`: it is proved dominated, or beyond a limit; `hover`: lines about it."""

    name: str
    x: Spread
    y: Spread
    role: Literal["", "base", "default"]
    on_front: bool
    faded: bool
    hover: list[str]


class Said(NamedTuple):
    """The words of the page."""

    title: str
    says: str
    note: str


def table(rows: Sequence[TrialRow], labels: Mapping[str, str],
          told: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """A row for every trial, column → text, with its objectives under these labels; a missing value is —.

    `told`: number of a trial → column → what stands there instead, or besides. What is no trial there comes last.
    """
    fields = dict.fromkeys(field for row in rows for field in row.params)
    objectives = dict.fromkeys(labels[name] for row in rows for name in row.values or {})
    further = dict.fromkeys(column for texts in told.values() for column in texts)
    empty = dict.fromkeys({"trial": "", "state": "", **objectives, **further, **fields}, "—")
    again = {row.notes["retry_of"]: row.number for row in rows if "retry_of" in row.notes}
    trials = {
        str(row.number): {
            "trial": str(row.number),
            "state": f"lost its worker: {again[str(row.number)]}" if str(row.number) in again else _state(row),
            **{labels[name]: _cell(value) for name, value in (row.values or {}).items()},
            **{field: _cell(value) for field, value in row.params.items()}}
        for row in rows}
    others = {name: {"trial": name} for name in told if name not in trials}
    return [{**empty, **cells, **told.get(name, {})} for name, cells in (trials | others).items()]


def _state(row: TrialRow) -> str:
    said = f"breaks {', '.join(row.broken)}" if row.broken else row.state.lower()
    if ENDED in row.notes:
        said = f"ended {row.notes[ENDED]}"
    more = ["other versions"] if OTHER_VERSIONS in row.notes else []
    more += [f"from {row.notes[FROM]}"] if FROM in row.notes else []
    return ", ".join([said, *more, *([row.notes[POINT]] if POINT in row.notes else [])])


def write_picture(dots: Sequence[Dot], labels: Mapping[str, str], folder: Path) -> Path:
    """Draw the first objective (x) against the second (y) as `pareto.png`: every point with its intervals, the front
    joined by a line.

    Args:
        dots: all points.
        labels: the two objectives → axis titles.
        folder: is there.
    """
    file = folder / "pareto.png"
    _picture(dots, _joined(dots), list(labels.values())).savefig(file, dpi=150)
    return file


def write_attainment(dots: Sequence[Dot], reached: Reached, labels: Mapping[str, str], folder: Path) -> Path:
    """Draw what the front reaches, and how surely, as `attainment.png`.

    Args:
        dots, labels, folder: as for `write_picture`.
        reached: surfaces from the surest to the least sure one.
    """
    from matplotlib.figure import Figure

    file = folder / "attainment.png"
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for (level, surface), dash in zip(reached.items(), DASHES, strict=True):
        axes.step(*zip(*surface, strict=True), where="pre", color=BLUE, linestyle=dash, linewidth=1.2,
                  label=_surely(level))
    axes.scatter([dot.x.value for dot in dots], [dot.y.value for dot in dots], color=GREY, s=14, label="points")
    for dot in dots:
        axes.annotate(dot.name, (dot.x.value, dot.y.value), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(f"at least this {labels['alignment']}")
    axes.set_ylabel(f"at most this {labels['tax']}")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=150)
    return file


def write_page(dots: Sequence[Dot], labels: Mapping[str, str], rows: Sequence[Mapping[str, str]], said: Said,
               folder: Path) -> Path:
    """The same to look around in, with the table, as `front.html`, which needs no other file and no network.

    Args:
        dots, labels, folder: as for `write_picture`.
        rows: of the table.
        said: title, headline and what the columns mean.
    """
    figure = _page(dots, _joined(dots), list(labels.values())).to_html(full_html=False, include_plotlyjs=True)
    text = _template().render(title=said.title, says=said.says, note=said.note, figure=Markup(figure), rows=rows)
    file = folder / "front.html"
    file.write_text(text, encoding="utf-8")
    return file


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    made = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return made.get_template("front.html.jinja")


def _surely(level: str) -> str:
    return f"reached, {level} % sure"


def _joined(dots: Sequence[Dot]) -> list[Dot]:
    """The front in the order of its line."""
    return sorted((dot for dot in dots if dot.on_front), key=lambda dot: dot.x.value)


def _picture(dots: Sequence[Dot], front: Sequence[Dot], titles: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for label, colour, alpha, some in _groups(dots):
        axes.errorbar([dot.x.value for dot in some], [dot.y.value for dot in some], xerr=_errors([d.x for d in some]),
                      yerr=_errors([d.y for d in some]), fmt=MARKERS.get(label, "o"), color=colour, alpha=alpha,
                      elinewidth=0.8, label=label)
    axes.plot([dot.x.value for dot in front], [dot.y.value for dot in front], color=BLUE, linewidth=1)
    for dot in dots:
        axes.annotate(dot.name, (dot.x.value, dot.y.value), xytext=(4, 4), textcoords="offset points", fontsize=8,
                      alpha=0.5 if dot.faded else 1.0)
    axes.set_xlabel(titles[0])
    axes.set_ylabel(titles[1])
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def _errors(spreads: Sequence[Spread]) -> list[list[float]]:
    """How far the interval reaches below and above; an exact limit may lie on the other side of a mean by rounding."""
    return [[max(s.value - s.low, 0.0) for s in spreads], [max(s.high - s.value, 0.0) for s in spreads]]


def _groups(dots: Sequence[Dot]) -> Iterator[tuple[str, str, float, list[Dot]]]:
    """Label, colour, opacity and points of what is drawn alike."""
    for label, colour, alpha in ((FADED, GREY, 0.35), ("trials", GREY, 0.9), ("front", BLUE, 0.9),
                                 ("default", RED, 0.9), ("base", "black", 0.9)):
        if some := [dot for dot in dots if _group(dot) == label]:
            yield label, colour, alpha, some


def _group(dot: Dot) -> str:
    return dot.role or (FADED if dot.faded else "front" if dot.on_front else "trials")


def _page(dots: Sequence[Dot], front: Sequence[Dot], titles: Sequence[str]) -> go.Figure:
    import plotly.graph_objects as go

    def bars(spreads: Sequence[Spread]) -> dict[str, Any]:
        below, above = _errors(spreads)
        return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 0.8, "width": 0}

    traces = [
        go.Scatter(x=[dot.x.value for dot in some], y=[dot.y.value for dot in some], mode="markers+text", name=label,
                   error_x=bars([dot.x for dot in some]), error_y=bars([dot.y for dot in some]), opacity=alpha,
                   text=[dot.name for dot in some], textposition="top right", textfont={"size": 10},
                   marker={"color": colour, "size": 9, "symbol": SYMBOLS.get(label, "circle")},
                   hovertext=["<br>".join(map(html.escape, dot.hover)) for dot in some],
                   hovertemplate="%{hovertext}<br>%{x:.4g}, %{y:.4g}<extra></extra>")
        for label, colour, alpha, some in _groups(dots)]
    line = go.Scatter(x=[dot.x.value for dot in front], y=[dot.y.value for dot in front], mode="lines",
                      line={"color": BLUE, "width": 1}, hoverinfo="skip", showlegend=False)
    return go.Figure([line, *traces], {"xaxis": {"title": {"text": titles[0]}}, "yaxis": {"title": {"text": titles[1]}},
                                       "template": "plotly_white", "height": 600})


def _cell(value: object) -> str:
    return "—" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
