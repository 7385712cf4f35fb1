"""The verdict as a forest plot: every suite with its interval, its margin and the colour of its outcome."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eval_suites.report.drawing import GREEN, GREY, OCHRE, ORANGE, SETTINGS, svg
from eval_suites.verdict.known import Names
from eval_suites.verdict.outcome import bounded
from eval_suites.verdict.verdict import SHOWN, Outcome, SuiteVerdict, Verdict
from sft_core.visible import shortened

LOOK: dict[Outcome, tuple[str, str]] = {
    "improved": (GREEN, "o"), "no_worse": (GREEN, "s"), "worse": (ORANGE, "X"), "equal": (GREEN, "d"),
    "not_proved": (GREY, "P"), "undecided": (OCHRE, "D"), "not_measured": (GREY, "x"),
}
"""Colour and marker per outcome; each marker is of one outcome, for those who see no colours."""
ROW_INCHES = 0.34
LONGEST_NAME = 40
"""Characters of a model's name in the title of a panel."""


def forest_svg(verdict: Verdict) -> str:
    """The plot as one `<svg>` element, the same for the same verdict."""
    with mpl.rc_context(dict(SETTINGS)):
        return svg(_figure(verdict), "Difference of every suite with its interval; the tables below say the same")


def forest_png(verdict: Verdict) -> bytes:
    """The plot as PNG."""
    stream = io.BytesIO()
    with mpl.rc_context(dict(SETTINGS)):
        figure = _figure(verdict)
        FigureCanvasAgg(figure)
        figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _figure(verdict: Verdict) -> Figure:
    names = Names(*(shortened(name, LONGEST_NAME) for name in verdict.names))
    groups = [(title, [one for one in verdict.suites if one.kind == kind]) for kind, title in (
        ("alignment", f"win ({names.gain}), points of 100: right is better"),
        ("capability", f"tax ({names.loss}), points of 100: right is worse"))]
    shown = [(title, suites) for title, suites in groups if suites]
    heights = [len(suites) + 1.5 for _, suites in shown] or [1.0]
    figure = Figure(figsize=(8.5, ROW_INCHES * sum(heights) + 0.8), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (title, suites) in zip(axes, shown, strict=False):
        _panel(axis, suites, title)
    outcomes = list(dict.fromkeys(one.outcome for one in verdict.suites))
    handles = [Line2D([], [], color=LOOK[name][0], marker=LOOK[name][1], label=SHOWN[name]) for name in outcomes]
    if any(one.kind == "capability" for one in verdict.suites):
        handles.append(Line2D([], [], color="#555555", linestyle="--", label="margin"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) or 1, frameon=False)
    return figure


def _panel(axis: Axes, suites: Sequence[SuiteVerdict], title: str) -> None:
    axis.axvline(0.0, color="#999999", linewidth=0.8)
    for row, one in enumerate(suites):
        colour, marker = LOOK[one.outcome]
        if one.points is None:
            axis.text(0.0, row, f" {one.said.split(',')[0]}", va="center", color=colour)
            continue
        if bounded(one.low, one.high, one.scale):
            axis.hlines(row, one.low, one.high, color=colour, linewidth=1.6)
        else:
            axis.annotate("interval unknown", (one.points, row), (8, 0), textcoords="offset points", va="center",
                          color=colour)
        axis.plot([one.points], [row], marker=marker, color=colour, markersize=6)
        if one.kind == "capability":
            axis.vlines(one.margin, row - 0.45, row + 0.45, color="#555555", linestyle="--", linewidth=1.0)
    axis.set_yticks(range(len(suites)), [one.suite for one in suites])
    axis.set_ylim(len(suites) - 0.5, -0.5)
    axis.set_title(title, loc="left", fontsize=9)
    axis.grid(axis="x", linewidth=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
