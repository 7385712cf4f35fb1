"""The scores of the nights with their control limits as a picture.

After Shewhart 1931, with the limits of each night's own comparison: a score below the band is proved to have fallen by
more than the margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from infra.pareto import BLUE, GREY, RED

if TYPE_CHECKING:  # half a second of imports, for those who draw
    from matplotlib.figure import Figure

OCHRE, GREEN = "#8a6d00", "#009e73"
MOVED = {"regression": (RED, "o"), "drift": (OCHRE, "D"), "risen": (GREEN, "^")}
"""How a night's score moved, by what is judged of it, and how that is drawn: the model lost, or the model and its base,
by which it is the environment; or it scores provably more than what is stored."""
HALF = 0.5
"""Of a night, by which the limits of the first and the last one reach beyond it."""
NAMES = ("score", "score_low", "score_high", "limit_low", "limit_high", "stored")


class Point(NamedTuple):
    """One suite on one night: the score with its 95 % interval, the limits, the stored score, and what was judged of
    it: a key of `MOVED`, or nothing."""

    night: float
    score: float
    low: float
    high: float
    limit_low: float
    limit_high: float
    stored: float
    judged: str

    @property
    def moved(self) -> str:
        """A key of `MOVED`, or nothing."""
        return self.judged or "risen" * (self.score > self.limit_high)

    @property
    def in_points(self) -> Point:
        """Of a share: in points of 100."""
        return Point(self.night, 100 * self.score, 100 * self.low, 100 * self.high, 100 * self.limit_low,
                     100 * self.limit_high, 100 * self.stored, self.judged)


def trend_picture(title: str, panels: Mapping[str, Sequence[Point]]) -> Figure:
    """A panel for each of what was measured, scores that are shares in points of 100.

    Args:
        title: of the whole.
        panels: title → its nights, the earliest first, at least one each.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.0 + 2.0 * len(panels)), layout="constrained")
    for axes, (suite, given) in zip(figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0], panels.items(),
                                     strict=True):
        share = min(one.score for one in given) >= 0.0  # minus nats are below
        points = [one.in_points for one in given] if share else given
        wide = [points[0]._replace(night=points[0].night - HALF), *points,
                points[-1]._replace(night=points[-1].night + HALF)]  # else a single night had no band
        nights, scores = [one.night for one in points], [one.score for one in points]
        at = [one.night for one in wide]
        axes.fill_between(at, [one.limit_low for one in wide], [one.limit_high for one in wide], color=GREY,
                          alpha=0.25, label="limits", step="mid", linewidth=3)
        axes.step(at, [one.stored for one in wide], where="mid", color=GREY, linestyle="--", label="stored")
        errors = [[one.score - one.low for one in points], [one.high - one.score for one in points]]
        axes.errorbar(nights, scores, yerr=errors, color=BLUE, marker="o", markersize=3, linewidth=1, elinewidth=0.5,
                      label="score, 95 %", clip_on=False)
        for kind, (colour, mark) in MOVED.items():
            some = [one for one in points if one.moved == kind]
            axes.scatter([one.night for one in some], [one.score for one in some], color=colour, marker=mark, s=36,
                         zorder=3, label=kind, clip_on=False)
        axes.set_ylabel("points" if share else "−nats per byte", fontsize=8)
        if share:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, 0.0), min(high, 100.0))
        axes.set_title(suite, loc="left", fontsize=9)
        axes.grid(alpha=0.3)
    axes.set_xlabel("night")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=6, fontsize=8)
    figure.suptitle(title, x=0.02, ha="left", fontsize=10)
    return figure
