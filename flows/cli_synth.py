"""The command `sft synth`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_begin import after
from infra.servers import ensure_prefect
from infra.settings import Settings


def _configuration(given: Path) -> Path:
    if given.exists():
        return given
    from flows.forms import synth_path_of

    return synth_path_of(str(given))


SynthFile = Annotated[Path, typer.Argument(metavar="CONFIG", callback=_configuration, help=(
    "YAML file, or the name of a shipped one: reject, self-instruct"))]
Overrides = Annotated[list[str] | None, typer.Option(
    "--set", metavar="A.B=C", help="Override a field; typed and checked like the file. Repeatable.")]


def synth(config: SynthFile, overrides: Overrides = None) -> None:
    """Let a model write training rows: new tasks by Self-Instruct, or answers that pass verification.

    Give the same command again to continue a stopped one; nothing is generated twice.
    """
    from sft_core.config.synth_file import load_synth

    load_synth(config, overrides or [])  # no server for what cannot run
    from flows.synth import run_synth

    run_synth(config, overrides or [])


def add_synth(app: typer.Typer, begin: Callable[[], Settings]) -> None:
    """Give `app` the command; `begin` is the first thing that it does."""
    app.command()(after(lambda: ensure_prefect(begin()), synth))
