"""The course of a training as pictures, from its events."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from eval_suites.report.drawing import BLUE, GREEN, GREY, OCHRE, ORANGE, PURPLE, SETTINGS, svg

MOST_POINTS = 300
"""Of a line: more steps are drawn as means of neighbours."""
WIDE = 20.0
"""Losses and gradients that span more than this factor are drawn on a logarithmic axis."""
FAR = 1e4
"""One that spans more than this has powers of ten for labels alone."""
INCHES = (5.2, 2.6)
LOSSES = {"loss": ("all, as minimised", GREY), "sft": ("SFT", BLUE), "replay": ("LM on replay", GREEN)}
FURTHER = ((KL := "KL to the base (nats per token)", {"kl": ("KL to the base", PURPLE)}),
           ("Gradient norm", {"grad_norm": ("before clipping", BLUE)}),
           ("Learning rate", {"lr": ("learning rate", BLUE)}),
           ("Tokens per second", {"tokens_per_s": ("tokens per second", BLUE)}))
LOGARITHMIC = ("Loss per token (nats)", KL, "Gradient norm")
SERIES_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, OCHRE, GREY)
Line = list[tuple[float, float]]


class Curve(NamedTuple):
    """One picture; `read`: what is said at which place of it, from 0 at its left to 1."""

    title: str
    picture: Markup
    read: list[tuple[float, str]]
    note: str


class _Panel(NamedTuple):
    title: str
    lines: Mapping[str, tuple[Line, str]]  # what it is called → points, colour
    dots: Mapping[str, tuple[Line, str]]
    note: str = ""


def curves(events: Path) -> list[Curve]:
    """Losses per token with what was measured on held-out examples, probes, learning rate, gradients, speed. A step
    that was trained again after a kill counts as it was the last time. Nothing of a training that has no events."""
    steps, held_out, probes = _read(events)
    if not steps:
        return []
    told = f"means of {_bin(len(steps))} steps each" if _bin(len(steps)) > 1 else ""
    measured = {"held-out": ([(float(at), one["loss"]) for at, one in held_out.items()], ORANGE)} if held_out else {}
    panels = [_Panel(LOGARITHMIC[0], _lines(steps, LOSSES), measured, told)]
    if probes:
        names = dict.fromkeys(name for one in probes.values() for name in one)
        panels.append(_Panel("Probes on the way (score)", {
            name: ([(float(at), one[name]) for at, one in probes.items() if name in one], SERIES_COLOURS[number % 6])
            for number, name in enumerate(names)}, {}))
    panels += [_Panel(title, _lines(steps, fields), {}, told) for title, fields in FURTHER]
    return [_drawn(panel) for panel in panels if panel.lines]


def _read(events: Path) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    found: dict[str, dict[int, Any]] = {"step": {}, "validation": {}, "probe": {}}
    if events.exists():
        for line in events.read_text("utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a kill in the middle of a line
            if isinstance(event, dict) and event.get("event") in found and "step" in event:
                numbers = {key: float(value) for key, value in event.items()
                           if isinstance(value, int | float) and key not in ("step", "time") and math.isfinite(value)}
                found[event["event"]][int(event["step"])] = numbers
    ordered = {kind: dict(sorted(some.items())) for kind, some in found.items()}
    return ordered["step"], ordered["validation"], ordered["probe"]


def _bin(steps: int) -> int:
    return math.ceil(steps / MOST_POINTS)


def _lines(steps: Mapping[int, Mapping[str, float]], fields: Mapping[str, tuple[str, str]]
           ) -> dict[str, tuple[Line, str]]:
    together = _bin(len(steps))
    found = {}
    for field, (label, colour) in fields.items():
        points = [(float(at), one[field]) for at, one in steps.items() if field in one]
        some = [points[at : at + together] for at in range(0, len(points), together)]
        if points:
            found[label] = ([(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in some], colour)
    if found.keys() == {"all, as minimised", "SFT"} and not any("kl" in one for one in steps.values()):
        del found["all, as minimised"]  # it is the same line
    return found


def _drawn(panel: _Panel) -> Curve:
    values = [y for points, _ in (*panel.lines.values(), *panel.dots.values()) for _, y in points]
    with mpl.rc_context(dict(SETTINGS)):
        figure = Figure(figsize=INCHES, layout="constrained", dpi=72)
        axes = figure.subplots()
        for label, (points, colour) in panel.lines.items():
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, label=label)
        for label, (points, colour) in panel.dots.items():
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, linewidth=0.8, label=label)
        if panel.title in LOGARITHMIC and min(values) > 0 and max(values) > WIDE * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < FAR * min(values) else (1,)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(panel.lines) + len(panel.dots) > 1:
            axes.legend(frameon=False, fontsize=8)
        picture = Markup(svg(figure, f"{panel.title} by step"))
        left, right = axes.get_position().x0, axes.get_position().x1
        low, high = axes.get_xlim()
    at = dict(_readings(panel))
    return Curve(panel.title, picture, [(round(left + (right - left) * (step - low) / (high - low), 4), said)
                                        for step, said in at.items()], panel.note)


def _readings(panel: _Panel) -> Sequence[tuple[float, str]]:
    """What is said at each step that has a value."""
    values = {label: dict(points) for label, (points, _) in (*panel.lines.items(), *panel.dots.items())}

    def said(at: float) -> str:
        return ", ".join(f"{label} {some[at]:.4g}" for label, some in values.items() if at in some)

    return [(at, f"step {at:,.0f}: {said(at)}") for at in sorted({at for some in values.values() for at in some})]
