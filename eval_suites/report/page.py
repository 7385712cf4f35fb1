"""The report and the items that changed as one page that needs nothing else: no network, no further file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from eval_suites.report.tables import Report
from eval_suites.results import reason
from eval_suites.verdict.flips import Flip, word_diff
from eval_suites.verdict.outcome import NONE

MOST_PER_SUITE = 200
"""Changed items on a page per suite, half of them lost where there are as many; the Parquet files hold all."""


def page(title: str, report: Report, plot: str, flips: Mapping[str, Sequence[Flip]]) -> str:
    """The whole page as HTML.

    Args:
        title: head of the page.
        report: tables and gate.
        plot: an `<svg>` element (`plot.forest_svg`), the only text that is not escaped.
        flips: suite → its changed items, losses first.
    """
    chosen = {suite: _some(found) for suite, found in flips.items() if found}
    text = _template().render(
        title=title, report=report, words=_words, plot=Markup(plot), suites=list(chosen), base=report.names.base,
        tuned=report.names.tuned, shown=_shown(flips, chosen),
        flips=[_shown_flip(flip) for found in chosen.values() for flip in found])
    return text.encode(errors="replace").decode()  # a lone surrogate of a model's answer is no UTF-8


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    made = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return made.get_template("report.html.jinja")


def _words(rows: Sequence[Mapping[str, str]]) -> set[str]:
    """Heads of the columns that hold words: they stand on the left, numbers on the right."""
    cells = {head: [row[head] for row in rows if row[head] != NONE] for head in rows[0]}
    return {head for head, found in cells.items() if 2 * sum(
        cell[:1].isalpha() and not cell.startswith("ppl ") for cell in found) > len(found)}


def _some(found: Sequence[Flip]) -> list[Flip]:
    """At most `MOST_PER_SUITE`, of losses and gains alike where both are many."""
    lost, gained = [flip for flip in found if flip.lost], [flip for flip in found if not flip.lost]
    half = MOST_PER_SUITE // 2
    kept = lost[: max(half, MOST_PER_SUITE - len(gained))]
    return kept + gained[: MOST_PER_SUITE - len(kept)]


def _shown(flips: Mapping[str, Sequence[Flip]], chosen: Mapping[str, Sequence[Flip]]) -> str:
    parts = [f"{suite}: {len(kept)} of {len(flips[suite])}" for suite, kept in chosen.items()]
    return "On this page: " + ", ".join(parts) + "." if parts else ""


def _shown_flip(flip: Flip) -> dict[str, Any]:
    left, right = word_diff(flip.base_answer, flip.tuned_answer)
    return {"suite": flip.suite, "task": flip.task, "item_id": flip.item_id, "prompt": flip.prompt,
            "target": flip.target, "why": reason(flip.why) if flip.why else "", "left": left, "right": right,
            "change": "lost" if flip.lost else "gained", "scores": f"{flip.base:.3g} → {flip.tuned:.3g}"}
