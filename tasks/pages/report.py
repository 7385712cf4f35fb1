"""Two models compared: the sentence, the plot, the tables, and both answers to every item."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from eval_suites.report.plot import forest_svg
from sft_core.stage import write_text
from sft_core.visible import visible
from tasks.pages.items import Items, items
from tasks.pages.shell import rendered
from tasks.verdict import Compared

OPEN = ("Wins: alignment suites", "Tax: capability suites", "Checks beside the scores", "Notes")
"""Tables that are shown unfolded."""


def write_report_page(file: Path, title: str, found: Compared) -> None:
    """The page of a comparison, with its further items beside it."""
    shown = items(found.base, found.tuned, f"{file.stem}-items")
    shown.write(file.parent)
    write_text(file, rendered("report.html.jinja", **comparison(title, found, shown)))


def comparison(title: str, found: Compared, shown: Items) -> Mapping[str, object]:
    """What `report.html.jinja` needs."""
    parts = [("verdict", "Wins and tax"), ("answers", "Answers"), ("more", "More about the verdict")]
    return {
        "title": title, "report": found.report, "plot": Markup(forest_svg(found.verdict)), "open": OPEN, "parts": parts,
        "names": found.report.names, "labels": [visible(name) for name in found.report.names], "items": shown.inside,
        "files": list(shown.files), "outside": shown.outside,
        "suites": [name for name, result in found.tuned.items() if result.scale != "log"]}
