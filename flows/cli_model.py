"""The command `sft model import`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_begin import after


def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="GGUF file, as llama.cpp and its kin keep models")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; must not be there yet")],
    of: Annotated[str | None, typer.Option("--from", metavar="HUB_ID", help=(
        "The model that the file holds; kept for cards of what is trained on it"))] = None,
    licence: Annotated[str | None, typer.Option("--license", metavar="ID", help="Its licence; kept likewise")] = None,
) -> None:
    """Write the model of a GGUF file as a Hugging Face folder in bfloat16, to be trained and evaluated like any other.

    Needs the extra `gguf`. What quantisation has cost cannot be undone.
    """
    from infra.hub import check_hub_id
    from tasks.imported import import_told

    if of is not None:
        check_hub_id(of)
    for line in import_told(file, folder, of, licence):
        print(line)


def add_model(app: typer.Typer, begin: Callable[[], object]) -> None:
    """Give `app` the command; `begin` is the first thing that it does."""
    model_app = typer.Typer(no_args_is_help=True, help="Models from elsewhere.")
    app.add_typer(model_app, name="model")
    model_app.command(name="import")(after(begin, import_model))
