"""The page of the nights of a registered model: their course with control limits, and what came of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from eval_suites.report.drawing import svg
from infra.alerts import RED
from sft_core.stage import write_text
from tasks.pages.shell import rendered

FILE = "trend.html"


def write_nights_page(title: str, picture: Figure, rows: Sequence[Mapping[str, str]], folder: Path) -> Path:
    """Write `trend.html` into a folder that is there.

    Args:
        title: of the page.
        picture: the course.
        rows: the nights in words, the latest first, at least one.
        folder: gets the file.
    """
    last = rows[0]
    text = rendered(
        "nights.html.jinja", title=title, picture=Markup(svg(picture, f"{title}: scores with their control limits")),
        rows=rows, colour="fail" if last["outcome"] in RED else "pass" if last["outcome"] == "quiet" else "",
        last={"date": last["date (UTC)"], "outcome": last["outcome"].replace("_", " "), "said": last["said"]})
    write_text(folder / FILE, text)
    return folder / FILE
