"""The commands `sft plan` and `sft clean`: what a run will do and cost, and what takes room in the workspace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_begin import after


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, e.g. flows/configs/demo.yaml")],
    rows: Annotated[int | None, typer.Option(min=1, help="Prepare at most so many rows of a source and take the "
                                                         "others to be like them: quick")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a field")] = None,
) -> None:
    """Say what a run will do and cost, before it starts: steps, tokens, memory, disk, time, what its suites can find.

    Prepares the data (cached), and neither trains nor asks a model. Warns of plans that hardly anybody wants.
    """
    from flows.plan import show_plan

    show_plan(config, overrides or [], rows, as_json=as_json)


def add_workspace(app: typer.Typer, begin: Callable[[], object]) -> None:
    """Give `app` the commands; `begin` is the first thing that each of them does."""
    app.command(name="plan")(after(begin, plan))
