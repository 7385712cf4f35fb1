"""What a person sees on the terminal: verdict, ledger and comparison tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.naming import run_page, runs_page
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import GateFailed
from sft_core.visible import are_numbers, numbered, shortened, visible
from tasks.ledger import ledger_remarks, ledger_table

if TYPE_CHECKING:  # it brings Prefect and SciPy, which take seconds
    from tasks.verdict import Flip, Names, Report

console = Console(width=None if sys.stdout.isatty() else 150)  # a file or a pipe has no width of its own
LONGEST_PROMPT = 1000
"""Characters of a prompt on the terminal: its end, where the question is."""
STYLE = {"pass": "bold green", "fail": "bold red", "undecided": "bold yellow"}


def fits(rows: Sequence[Mapping[str, object]]) -> bool:
    """Whether rows of equal keys have room side by side as a table, with their words whole."""
    return not rows or _narrowest([list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
                                  ) <= console.width


def table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of equal keys as a table; the keys are the column heads. Where no words would stay whole it is turned:
    a column for each row, as many side by side as there is room for."""
    if not rows:
        return
    heads = list(map(visible, rows[0]))
    cells = [["" if value is None else shortened(str(value)) for value in row.values()] for row in rows]
    if _narrowest([heads, *cells]) <= console.width:
        _print(title, [heads, *cells])
        return
    while cells:
        fitting = next((n for n in range(len(cells), 1, -1)
                        if _narrowest(_turned([heads, *cells[:n]])) <= console.width), 1)
        _print(title, _turned([heads, *cells[:fitting]]))
        cells, title = cells[fitting:], ""


def _turned(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    return [list(column) for column in zip(*lines, strict=True)]


def _narrowest(lines: Sequence[Sequence[str]]) -> int:
    """Columns of the terminal that a table of these cells takes with all words whole, its frame included."""
    return 1 + sum(3 + max(cell_len(word) for cell in column for word in (cell.split() or [""]))
                   for column in _turned(lines))


def _print(title: str, lines: Sequence[Sequence[str]]) -> None:
    shown = Table(title=Text(visible(title)) if title else None, title_justify="left", title_style="bold")
    for index, head in enumerate(lines[0]):
        numbers = index > 0 and are_numbers(line[index] for line in lines[1:])
        shown.add_column(Text(head), justify="right" if numbers else "left", overflow="fold", no_wrap=index == 0)
    for line in lines[1:]:
        shown.add_row(*map(Text, line))
    console.print(shown)


def ledger(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a ledger: what became of every row, and how much of it is trained."""
    table(title, ledger_table(rows))
    lines(*(f"  {said}" for said in ledger_remarks(rows)))


def saved(stored: Mapping[str, Any]) -> str:
    """In which form the model was saved and what it says, read back."""
    if stored["remark"] or stored["loss"] is None:
        return str(stored["remark"] or stored["form"])
    return (f"{stored['form']}; validation loss {stored['loss']:.4f}, as trained {stored['trained']:.4f}, base "
            f"{stored['base']:.4f}")


def gate(outcome: str, reason: str) -> None:
    """Print the gate's outcome with its reason in one sentence."""
    console.print(Text.assemble("Gate: ", (outcome, STYLE[outcome]), f". {shortened(reason)}"))


def lines(*texts: str) -> None:
    """Print plain lines, without markup, and so that the terminal obeys nothing in them."""
    for text in texts:
        console.print(shortened(text), markup=False, highlight=False, soft_wrap=True)


def as_json(value: object) -> None:
    """Print JSON, letters of every script as they are, and what a terminal would obey as its number."""
    print(numbered(json.dumps(value, indent=2, ensure_ascii=False)))


def report(found: Report) -> None:
    """Print the tables of a report that are not folded away, and the gate."""
    for part in found.tables:
        if not part.folded:
            table(part.title, part.rows)
    gate(found.gate, found.reason)


def side_by_side(flip: Flip, names: Names) -> None:
    """Print an item that changed: what was asked, and both answers beside each other with their differences."""
    from tasks.verdict import reason, word_diff

    left, right = (Text.assemble(*((shortened(piece.text), "" if piece.same else "bold reverse") for piece in side))
                   for side in word_diff(flip.base_answer, flip.tuned_answer))
    title = f"{'lost' if flip.lost else 'gained'}: {flip.suite} {flip.item_id} ({flip.task})"
    shown = Table(title=Text(visible(title)), title_justify="left", title_style="bold", expand=True)
    for name, score in ((names.base, flip.base), (names.tuned, flip.tuned)):
        shown.add_column(Text(visible(f"{name}: {score:.3g}")), ratio=1, overflow="fold")
    shown.add_row(left, right)
    lines(f"prompt: {flip.prompt[-LONGEST_PROMPT:]}", f"target: {flip.target[:LONGEST_PROMPT]}")
    console.print(shown)
    if flip.why:
        lines(f"why points are missing: {reason(flip.why)}")
    lines("")


def where_to_look(uri: str) -> str:
    """The command, or the address, that shows the tracked runs."""
    return f"mlflow ui --backend-store-uri {uri}" if "://" not in uri or uri.startswith("sqlite") else uri


def experiment(summary: dict[str, Any], config: ExperimentConfig) -> None:
    """Print the ledger, the verdict and where to look next.

    Raises:
        GateFailed: `gate.enforce` is on and the gate did not pass.
    """
    ledger("Data", summary["ledger"])
    table("Verdict: tuned against base", summary["verdict_rows"])
    for part in summary["beside"]:
        table(part["title"], part["rows"])
    gate(summary["gate"]["outcome"], summary["gate"]["reason"])
    page, runs = run_page(summary["mlflow_pages"], summary["mlflow_run_id"]), runs_page(summary["mlflow_pages"])
    lines("", f"model    {summary['model']} ({saved(summary['saved'])})",
          f"run      {summary['run']}  ({summary['folder']})",
          f"report   {summary['folder']}/report.html", f"data     {summary['folder']}/data.html",
          *([f"MLflow   {page}"] if page else []), f"compare  {runs or where_to_look(summary['mlflow_uri'])}")
    if config.gate.enforce and summary["gate"]["outcome"] != "pass":
        raise GateFailed(f"{summary['gate']['outcome']}: {summary['gate']['reason']}")
