"""`sft doctor`: what a run relies on, tried out before the run."""

from __future__ import annotations

from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows import console
from flows.place import workspace
from sft_core.config.file import load
from sft_core.visible import shortened
from tasks.doctor import examine

STYLE = {"ok": "bold green", "failed": "bold red", "skipped": "yellow"}


def run_doctor(path: Path, overrides: list[str]) -> bool:
    """Check a configuration on its own model and data and print a table, row by row; says whether all is well."""
    config = load(path, overrides).config
    table = Table(title=Text(f"Doctor: {config.name}"), title_justify="left", title_style="bold")
    for head, options in (("check", {"no_wrap": True}), ("result", {}), ("what was seen", {"overflow": "fold"}),
                          ("s", {"justify": "right"})):
        table.add_column(head, **options)
    failed, number, seconds = 0, 0, 0.0
    with Live(table, console=console.console, auto_refresh=False, transient=True) as live:
        for found in examine(config, workspace(config)):
            table.add_row(found.check, Text(found.result, style=STYLE[found.result]), Text(shortened(found.seen)),
                          f"{found.seconds:.1f}")
            live.refresh()
            failed, number, seconds = failed + (found.result == "failed"), number + 1, seconds + found.seconds
    console.console.print(table)
    console.lines(f"{failed} of {number} checks failed, {seconds:.0f} s" if failed else
                  f"nothing wrong found in {number} checks, {seconds:.0f} s")
    return failed == 0
