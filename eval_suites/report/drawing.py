"""A figure of matplotlib as a part of a page: its text is text, its colours are the page's, light or dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

SETTINGS: Mapping[str, Any] = {"svg.hashsalt": "sft", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
"""The same bytes for the same figure, and dollar signs of names as they are."""
BLUE, GREEN, ORANGE, OCHRE, PURPLE, GREY = "#0072b2", "#009e73", "#d55e00", "#8a6d00", "#9b4f96", "#777777"
"""Safe for colour-blind readers (after Okabe and Ito)."""
_OF_THE_PAGE = {"#000000": "currentColor", "#ffffff": "var(--paper)", BLUE: "var(--blue)", GREEN: "var(--green)",
                ORANGE: "var(--orange)", OCHRE: "var(--ochre)", PURPLE: "var(--purple)", GREY: "var(--grey)",
                "#999999": "var(--grey)", "#555555": "var(--grey)", "#b0b0b0": "var(--line)", "#cccccc": "var(--line)"}
_COLOUR = re.compile(r"(?<=: )#[0-9a-f]{6}(?=[;\"])")
_GROUP = re.compile(r'<g id="([^"]*)">')
_POINTS_PER_INCH = 72


def svg(figure: Figure, label: str, tips: Mapping[str, str] | None = None) -> str:
    """The figure as one `<svg>` element, the same for the same figure.

    Args:
        figure: to be drawn.
        label: what it shows, for those who do not see it.
        tips: gid of an artist → what is said of it where a pointer or the keyboard is on it.
    """
    stream = io.StringIO()
    with mpl.rc_context(dict(SETTINGS)):
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    text = stream.getvalue()
    text = _COLOUR.sub(lambda found: _OF_THE_PAGE.get(found[0], found[0]), text[text.index("<svg"):])
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _GROUP.sub(lambda found: _group(found[1], tips or {}), text)
    wide = f"{figure.get_figwidth() * _POINTS_PER_INCH / 12:.0f}em"
    head = f'<svg role="img" aria-label="{html.escape(label)}" style="width:{wide};max-width:100%;height:auto" '
    return head + re.sub(r' (?:width|height)="[^"]*pt"', "", text[len("<svg "):], count=2)


def _group(name: str, tips: Mapping[str, str]) -> str:
    """Names of groups are matplotlib's own, the same in every figure, and a page holds several."""
    if name not in tips:
        return "<g>"
    says = html.escape(tips[name])
    return f'<g class="tip" tabindex="0" data-tip="{says}"><title>{says}</title>'
