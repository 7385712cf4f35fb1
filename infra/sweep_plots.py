"""Shows how a sweep went: its history, what its values hang on, and all trials as lines through their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from infra.importances import Importance
from infra.pareto import BLUE, GREY
from infra.plans import Dimension, Value
from infra.study_contract import TrialRow

LEAST_RANGE = 1.0
"""Points that an axis spans at least."""
FEW = 16
"""Below so many trials importances are hardly more than a guess, see `importances`."""


class Shown(NamedTuple):
    """What the pictures are of."""

    study: str
    space: Mapping[str, Dimension]
    labels: Mapping[str, str]
    """Objective → title of its axis; the first one is to be large, the second one small."""
    importances: Mapping[str, Mapping[str, Importance]]
    """Objective → field → its share."""
    base: float | None
    """The base model's value of the first objective; None where it is not known."""


class Volume(NamedTuple):
    """How much of the rectangle between the reference point and the best values seen is dominated, trial by trial."""

    reference: tuple[float, float]
    shares: list[float]


def sweep_pictures(rows: Sequence[TrialRow], shown: Shown) -> dict[str, Figure]:
    """What there is to draw of the complete trials of a sweep, by name; nothing where there are fewer than two."""
    complete = [row for row in rows if row.values is not None]
    if len(complete) < 2:
        return {}
    pictures = {"history": _history(complete, shown), "parallel": _parallel(complete, shown)}
    return pictures | ({"importances": _importances(shown, len(complete))} if shown.importances else {})


def write_sweep_plots(pictures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write the pictures as PNG into a folder that is there; returns the files."""
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=150)
    return [folder / f"{name}.png" for name in pictures]


def volume(rows: Sequence[TrialRow], objectives: Sequence[str], base: float | None) -> Volume:
    """Dominated area after each trial, as a share of the rectangle that a trial with the best of both would dominate.

    The reference point is what the base scores in the first objective (the lowest value seen, where that is not known),
    and the worst value seen in the second. Trials beyond a limit of the sweep dominate nothing.
    """
    first, second = objectives
    found = [((row.values or {})[first], (row.values or {})[second]) for row in rows]
    reference = (min(x for x, _ in found) if base is None else base, max(y for _, y in found))
    whole = (max(x for x, _ in found) - reference[0]) * (reference[1] - min(y for _, y in found))
    shares, kept = [], list[tuple[float, float]]()
    for row, point in zip(rows, found, strict=True):
        if not row.broken:
            kept.append(point)
        shares.append(_area(kept, reference) / whole if whole > 0 else 0.0)
    return Volume(reference, shares)


def _area(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Of two objectives: stripes from the largest x down, each as high as the best y so far is better."""
    area, left_of = 0.0, sorted((x, y) for x, y in points if x > reference[0] and y < reference[1])
    best = reference[1]
    for at in range(len(left_of) - 1, -1, -1):
        x, y = left_of[at]
        best = min(best, y)
        below = left_of[at - 1][0] if at else reference[0]
        area += (x - below) * (reference[1] - best)
    return area


class _Panel(NamedTuple):
    title: str
    dots: list[float]
    line: list[float]
    line_says: str


def _panels(rows: Sequence[TrialRow], shown: Shown) -> list[_Panel]:
    first, second = list(shown.labels)[:2]
    xs, ys = ([(row.values or {})[name] for row in rows] for name in (first, second))
    reached = volume(rows, (first, second), shown.base)
    at = ", ".join(f"{shown.labels[name].removesuffix(' (points)')} {value:.3g}"
                   for name, value in zip((first, second), reached.reference, strict=True))
    shares = [100 * share for share in reached.shares]
    return [_Panel(shown.labels[first], xs, list(accumulate(xs, max)), "largest so far"),
            _Panel(shown.labels[second], ys, list(accumulate(ys, min)), "smallest so far"),
            _Panel(f"hypervolume (%, from {at})", [], shares, "dominated so far")]


def _range(values: Sequence[float], *, whole: bool) -> tuple[float, float]:
    """Of an axis in points or percent: of a share the whole, and else never so little that rounding looks like a
    course."""
    low, high = (0.0, 100.0) if whole else (min(values), max(values))
    room = max(0.05 * (high - low), (LEAST_RANGE - (high - low)) / 2)
    return low - room, high + room


def _history(rows: Sequence[TrialRow], shown: Shown) -> Figure:
    figure = Figure(figsize=(7, 8), layout="constrained")
    numbers = [row.number for row in rows]
    for axes, panel in zip(figure.subplots(3, 1, sharex=True), _panels(rows, shown), strict=True):
        if panel.dots:
            axes.scatter(numbers, panel.dots, color=GREY, label="trials")
        axes.step(numbers, panel.line, where="post", color=BLUE, label=panel.line_says)
        axes.set_ylim(*_range([*panel.dots, *panel.line], whole=not panel.dots))
        axes.set_title(panel.title, loc="left", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    axes.set_xlabel("trial")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{shown.study}: what the trials found")
    return figure


def _importances_title(shown: Shown, trials: int) -> str:
    few = f"; {trials} trials are few, this is hardly more than a guess" if trials < FEW else ""
    return f"{shown.study}: what the values hang on (fANOVA){few}"


def _bars(shown: Shown, trials: int) -> dict[str, list[tuple[str, float]]]:
    """Axis title of an objective → field in words and share in percent, the largest last."""
    def bar(field: str, one: Importance) -> tuple[str, float]:
        return f"{field} (in {one.trials} trials)" if one.trials < trials else field, 100 * one.share

    return {shown.labels[objective]: sorted((bar(*each) for each in found.items()), key=lambda bar: bar[1])
            for objective, found in shown.importances.items()}


def _importances(shown: Shown, trials: int) -> Figure:
    bars = _bars(shown, trials)
    tallest = max(len(found) for found in bars.values())
    figure = Figure(figsize=(7, 1.2 + len(bars) * (0.6 + 0.4 * tallest)), layout="constrained")
    for axes, (title, found) in zip(figure.subplots(len(bars), 1, squeeze=False)[:, 0], bars.items(), strict=True):
        drawn = axes.barh([name for name, _ in found], [share for _, share in found], color=BLUE)
        axes.bar_label(drawn, fmt="%.0f %%", padding=3)
        axes.set_xlim(0, 110)
        axes.set_title(title, fontsize=10)
    axes.set_xlabel("share of the variance (%)")
    figure.suptitle(_importances_title(shown, trials), fontsize=10)
    return figure


def _parallel(rows: Sequence[TrialRow], shown: Shown) -> Figure:
    """Every trial a line from its values to what it found, as strong as it has of the first objective; its number is
    the `gid` of the line."""
    axes = [_axis(field, dimension, [row.params.get(field) for row in rows], [field in row.params for row in rows])
            for field, dimension in shown.space.items()]
    axes += [_plain_axis(title, [(row.values or {})[name] for row in rows]) for name, title in shown.labels.items()]
    heights = list(zip(*(axis.heights() for axis in axes), strict=True))
    figure = Figure(figsize=(max(7.0, 1.6 * len(axes)), 4.6), layout="constrained")
    canvas = figure.subplots()
    strengths = _strengths([(row.values or {})[next(iter(shown.labels))] for row in rows])
    for row, line, strength in zip(rows, heights, strengths, strict=True):
        canvas.plot(range(len(axes)), line, color=BLUE, linewidth=1.4, alpha=strength, gid=f"trial {row.number}")
    for at, axis in enumerate(axes):
        canvas.axvline(at, color=GREY, linewidth=0.8)
        for height, text in zip(axis.scaled(axis.ticks), axis.ticks.values(), strict=True):
            canvas.annotate(text, (at, height), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center")
    canvas.set_xticks(range(len(axes)), [axis.label for axis in axes], rotation=12, fontsize=8)
    canvas.set_yticks([])
    canvas.spines[["top", "right", "left", "bottom"]].set_visible(False)
    canvas.set_title(f"{shown.study}: every trial a line, the stronger the more {next(iter(shown.labels.values()))}",
                     loc="left", fontsize=9)
    return figure


def _strengths(values: Sequence[float]) -> list[float]:
    """How opaque a line is for each value, that of the highest wholly: as good on a dark page as on a light one."""
    low, high = min(values), max(values)
    return [0.2 + 0.8 * (value - low) / (high - low) if high > low else 1.0 for value in values]


class _Axis(NamedTuple):
    """One axis of parallel ones: where each trial is on it, and its ticks (place → text)."""

    label: str
    places: list[float]
    ticks: dict[float, str]

    def scaled(self, places: Iterable[float]) -> list[float]:
        """Places as heights from 0 to 1."""
        ends = [*self.ticks, *self.places]
        low, high = min(ends), max(ends)
        return [(place - low) / (high - low) if high > low else 0.5 for place in places]

    def heights(self) -> list[float]:
        """Of the trials."""
        return self.scaled(self.places)


def _plain_axis(label: str, values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    places = [low + (high - low) * at / 4 for at in range(5)]
    return _Axis(label, list(values), {at: f"{at:.3g}" for at in places})


def _axis(field: str, dimension: Dimension, values: Sequence[Value], there: Sequence[bool]) -> _Axis:
    """Values that a trial does not have, as they hang on another's, lie below all others, at —; so does 0 on a
    logarithmic axis. A trial of the configuration itself may lie outside the range."""
    if dimension.choices is not None:
        own = [value for value, has in zip(values, there, strict=True) if has]
        names = list(dict.fromkeys(map(str, [*dimension.choices, *own])))
        places: list[float] = [float(names.index(str(value))) if has else -1.0
                               for value, has in zip(values, there, strict=True)]
        ticks: dict[float, str] = {float(at): name for at, name in enumerate(names)}
        outside = -1.0
    else:
        low, high = (_place(float(end or 0.0), dimension) for end in (dimension.low, dimension.high))
        outside = low - 0.1 * (high - low)
        places = [_place(float(value), dimension) if has and isinstance(value, int | float)
                  and (value > 0 or not dimension.log) else outside for value, has in zip(values, there, strict=True)]
        steps = [low + (high - low) * at / 5 for at in range(6)]
        ticks = {at: f"{10 ** at if dimension.log else at:.3g}" for at in steps}
    if outside in places:
        ticks = {outside: "—", **ticks}
    return _Axis(field, places, ticks)


def _place(value: float, dimension: Dimension) -> float:
    return math.log10(value) if dimension.log else value
