"""The page of a sweep: its front, all trials as a table that sorts, how it went, and what its values hang on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from eval_suites.report.drawing import svg
from infra.pareto import Dot, picture
from sft_core.stage import write_text
from sft_core.visible import visible
from tasks.pages.shell import rendered

FILE = "sweep.html"
TITLES = {"history": "What the trials found", "parallel": "Trials as lines", "importances": "What the values hang on"}


class Sweep(NamedTuple):
    """What there is to show.

    `says`: its headline. `dots`: its points, `labels`: objective → axis title. `rows`: its trials as a table, `links`:
    name of a trial → page of its run. `pictures`: by the names of `TITLES`, and `lines`: gid in them → what is said.
    """

    study: str
    says: str
    note: str
    dots: Sequence[Dot]
    labels: Mapping[str, str]
    rows: Sequence[Mapping[str, str]]
    links: Mapping[str, str]
    pictures: Mapping[str, Figure]


def write_sweep_page(sweep: Sweep, folder: Path) -> Path:
    """Write `sweep.html` into a folder that is there."""
    tips = {dot.name: "; ".join([*map(visible, dot.hover), _place(dot, sweep.labels)]) for dot in sweep.dots}
    lines = {f"trial {dot.name}": tips[dot.name] for dot in sweep.dots}
    front = Markup(svg(picture(sweep.dots, sweep.labels), "The front of the sweep; the table below says the same", tips)
                   ) if sweep.dots else None
    pictures = {name: (TITLES[name], Markup(svg(figure, TITLES[name], lines)))
                for name, figure in sweep.pictures.items()}
    heads = _short(list(sweep.rows[0])) if sweep.rows else {}
    write_text(folder / FILE, rendered(
        "sweep.html.jinja", title=f"Sweep {sweep.study}", study=sweep.study, says=sweep.says, note=sweep.note,
        front=front, rows=[_linked(row, sweep.links, heads) for row in sweep.rows], pictures=pictures,
        short={text: head for head, text in heads.items() if text != head}))
    return folder / FILE


def _place(dot: Dot, labels: Mapping[str, str]) -> str:
    return ", ".join(f"{label} {one.value:.4g} ({one.low:.4g} to {one.high:.4g})"
                     for label, one in zip(labels.values(), (dot.x, dot.y), strict=True))


def _short(heads: Sequence[str]) -> dict[str, str]:
    """Heads by what stands there: a field by the last part of its name, where no other ends so."""
    last = {head: head if " " in head else head.rpartition(".")[2] for head in heads}
    return {head: text if list(last.values()).count(text) == 1 else head for head, text in last.items()}


def _linked(row: Mapping[str, str], links: Mapping[str, str], heads: Mapping[str, str]) -> dict[str, str]:
    """The row under short heads, with its trial as a link to its run."""
    name, row = row["trial"].split()[0], {heads[head]: cell for head, cell in row.items()}
    if name not in links:
        return row
    return {**row, "trial": Markup('<a href="{}">{}</a>').format(links[name], visible(row["trial"]))}
