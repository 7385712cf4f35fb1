"""The way of the rows as a picture: of every step a bar of the rows that stay, in parts by source, and beside it, on a
scale of its own, one of those that it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from eval_suites.report.drawing import BLUE, GREEN, GREY, OCHRE, ORANGE, PURPLE, SETTINGS, svg
from tasks.data_view import reasons_of

COLOURS = (BLUE, GREEN, OCHRE, PURPLE, ORANGE)
"""Of the largest sources; the others together are grey."""
THICK = 0.5
"""Of a bar, in steps; between two bars runs what goes on."""
WIDE, HIGH = 10.0, 0.42
"""Inches of the picture, and of one step."""
ROOM = 1.3
"""Of an axis, by its longest bar: for the number behind it."""


class _Band(NamedTuple):
    name: str
    colour: str
    amounts: list[int]  # all rows, then those that each step lets on

    def lost(self, at: int) -> int:
        """Rows that a step, counted from 1, leaves out."""
        return self.amounts[at - 1] - self.amounts[at]


def way_picture(sources: Sequence[Mapping[str, Any]]) -> Markup:
    """The picture as a part of a page; a pointer on a bar reads it. Nothing where there are no rows."""
    bands, steps = _bands(sources), ["all rows", *(step["name"] for step in sources[0]["steps"])]
    if not sum(band.amounts[0] for band in bands):
        return Markup("")
    tips: dict[str, str] = {}
    with mpl.rc_context(dict(SETTINGS)):
        figure = Figure(figsize=(WIDE, 0.9 + HIGH * len(steps)), layout="constrained", dpi=72)
        stay, go = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        stay.set_gid("stay")
        go.set_gid("go")
        for at, name in enumerate(steps):
            _bar(stay, at, [(band, band.amounts[at], f"{band.name}: {band.amounts[at]:,} rows "
                             f"{f'after {name}' if at else 'in all'}") for band in bands], tips)
        for at, name in enumerate(steps[1:], 1):
            _bar(go, at, [(band, band.lost(at), f"{band.name}: {band.lost(at):,} left out by {name}; of all sources "
                           f"{_reasons(sources, at - 1)}") for band in bands], tips)
        _streams(stay, bands)
        _dress(stay, "rows that stay", bands, [sum(band.amounts[at] for band in bands) for at in range(len(steps))])
        _dress(go, "rows that are left out", bands, [sum(band.lost(at) for band in bands)
                                                     for at in range(1, len(steps))])
        stay.set_yticks(range(len(steps)), steps)
        figure.legend(handles=[Patch(color=band.colour, label=band.name) for band in bands], frameon=False, fontsize=8,
                      ncols=6, loc="outside upper left")
        return Markup(svg(figure, "The way of the rows through the steps; the table below says the same", tips))


def _bands(sources: Sequence[Mapping[str, Any]]) -> list[_Band]:
    def amounts(some: Sequence[Mapping[str, Any]]) -> list[int]:
        steps = [one["steps"] for one in some]
        return [sum(each[0]["rows_in"] for each in steps),
                *(sum(each[at]["rows_out"] for each in steps) for at in range(len(steps[0])))]

    by_size = sorted(sources, key=lambda one: -one["steps"][0]["rows_in"])
    many = len(COLOURS) if len(sources) > len(COLOURS) + 1 else len(sources)
    found = [_Band(one["name"], (*COLOURS, GREY)[at], amounts([one])) for at, one in enumerate(by_size[:many])]
    rest = by_size[many:]
    return [*found, *([_Band(f"{len(rest)} others", GREY, amounts(rest))] if rest else [])]


def _bar(axes: Axes, at: int, pieces: Sequence[tuple[_Band, int, str]], tips: dict[str, str]) -> None:
    """Pieces of a bar with what is said of each, and their sum behind it."""
    start = 0
    for number, (band, amount, said) in enumerate(pieces):
        if amount:
            bar = axes.barh(at, amount, THICK, start, color=band.colour)[0]
            bar.set_gid(gid := f"{axes.get_gid()}-{at}-{number}")
            tips[gid] = said
        start += amount
    axes.annotate(f"{start:,}", (start, at), (4, 0), textcoords="offset points", va="center", fontsize=8)


def _dress(axes: Axes, title: str, bands: Sequence[_Band], lengths: Sequence[int]) -> None:
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_ylim(len(bands[0].amounts) - 0.5, -0.5)
    axes.set_xlim(0, ROOM * max(1, *lengths))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)


def _streams(axes: Axes, bands: Sequence[_Band]) -> None:
    """What goes on from each bar to the next, pale."""
    for at, _ in enumerate(bands[0].amounts[1:]):
        ends = [list(accumulate((band.amounts[place] for band in bands), initial=0)) for place in (at, at + 1)]
        for band, (left, right), (low, high) in zip(bands, pairwise(ends[0]), pairwise(ends[1]), strict=True):
            axes.fill([left, right, high, low], [at + THICK / 2] * 2 + [at + 1 - THICK / 2] * 2, color=band.colour,
                      alpha=0.22, linewidth=0)


def _reasons(sources: Sequence[Mapping[str, Any]], at: int) -> str:
    counts: dict[str, int] = {}
    for one in sources:
        for why, count in one["steps"][at]["reasons"].items():
            counts[why] = counts.get(why, 0) + count
    return reasons_of({"reasons": counts}) or "none"
