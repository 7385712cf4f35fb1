"""Shows a sweep: its front as a picture, and all points as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from infra.study_contract import ENDED, FROM, OTHER_VERSIONS, POINT, TrialRow

if TYPE_CHECKING:  # a worker that draws nothing has no use for half a second of imports
    from matplotlib.figure import Figure

GREY, BLUE, RED = "#999999", "#0072b2", "#d55e00"
FADED = "dominated, or beyond a limit"
DASHES = ("-", "--", ":")
Reached = Mapping[str, Sequence[tuple[float, float]]]
"""Sureness in percent → what the front reaches with it: first objective, rising, and the second."""
ABOVE, NAMED = 5, 8
"""Labels lie above points, and one names at most so many."""
MARKERS = {"base": "s", "default": "D"}


class Spread(NamedTuple):
    """An estimate with its interval."""

    value: float
    low: float
    high: float


class Dot(NamedTuple):
    """One point of the picture; `faded`: it is proved dominated, or beyond a limit; `hover`: lines about it; `link`:
    the page of its run."""

    name: str
    x: Spread
    y: Spread
    role: Literal["", "base", "default"]
    on_front: bool
    faded: bool
    hover: list[str]
    link: str = ""


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
    """Write `picture` as `pareto.png` into a folder that is there."""
    file = folder / "pareto.png"
    picture(dots, labels).savefig(file, dpi=150)
    return file


def write_attainment(dots: Sequence[Dot], reached: Reached, labels: Mapping[str, str], folder: Path) -> Path:
    """Draw what the front reaches, and how surely, as `attainment.png`.

    Args:
        dots, labels: as for `picture`.
        folder: is there.
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
    for at, some in _places(dots).items():
        axes.annotate(_names(some), at, xytext=(4, 4), textcoords="offset points", fontsize=8, zorder=ABOVE)
    axes.set_xlabel(f"at least this {labels['alignment']}")
    axes.set_ylabel(f"at most this {labels['tax']}")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=150)
    return file


def _surely(level: str) -> str:
    return f"reached, {level} % sure"


def picture(dots: Sequence[Dot], labels: Mapping[str, str]) -> Figure:
    """The first objective (x) against the second (y): every point with its intervals, the front joined by a line. The
    marker of a point has its name as `gid`, and its link.

    Args:
        dots: all points.
        labels: the two objectives → axis titles.
    """
    from matplotlib.figure import Figure

    figure, titles = Figure(figsize=(8, 5.4), layout="constrained"), list(labels.values())
    axes = figure.subplots()
    front = sorted((dot for dot in dots if dot.on_front), key=lambda dot: dot.x.value)
    axes.plot([dot.x.value for dot in front], [dot.y.value for dot in front], color=BLUE, linewidth=1)
    for label, colour, alpha, some in _groups(dots):
        axes.errorbar([dot.x.value for dot in some], [dot.y.value for dot in some], xerr=_errors([d.x for d in some]),
                      yerr=_errors([d.y for d in some]), fmt="none", color=colour, alpha=alpha, elinewidth=0.8)
        for number, dot in enumerate(some):
            axes.scatter([dot.x.value], [dot.y.value], s=36, color=colour, marker=MARKERS.get(label, "o"), alpha=alpha,
                         gid=dot.name, urls=[dot.link or None], label="" if number else label, zorder=3)
    for at, some in _places(dots).items():
        axes.annotate(_names(some), at, xytext=(4, 4), textcoords="offset points", fontsize=8, zorder=ABOVE,
                      alpha=0.5 if all(dot.faded for dot in some) else 1.0)
    axes.set_xlabel(titles[0])
    axes.set_ylabel(titles[1])
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def _places(dots: Sequence[Dot]) -> dict[tuple[float, float], list[Dot]]:
    """Points by where they are: those at one place have one label, else the last would lie on all others."""
    found: dict[tuple[float, float], list[Dot]] = {}
    for dot in dots:
        found.setdefault((dot.x.value, dot.y.value), []).append(dot)
    return found


def _names(some: Sequence[Dot]) -> str:
    names = [dot.name for dot in some]
    left = len(names) - NAMED
    return ", ".join([*names[:NAMED - 1], f"{left + 1} more"] if left > 0 else names)


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


def _cell(value: object) -> str:
    return "—" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
