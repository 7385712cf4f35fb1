"""`sft open`: the pages of a workspace in a browser."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from typing import Annotated

import typer

from flows.cli_begin import after
from infra.settings import read_settings
from sft_core.errors import ConfigError


def open_page(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A run (or how its name begins), a sweep, or a "
                                               "registered model with nights; default: the list of all")] = None,
    show: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it, or only say where it is")] = True,
) -> None:
    """Open the page of a run, of a sweep or of a model's nights in a browser; without a name, the list of all.

    Pages are files that load nothing: they can be copied and sent.
    """
    from tasks.pages.index import page_of, write_index
    from tasks.stages import Workspace

    settings = read_settings()
    if not settings.workspace.is_dir():
        raise ConfigError(f"there is no workspace {settings.workspace} yet, so there is nothing to open; SFT_HOME "
                          "names another one")
    place = Workspace(settings.workspace, settings.mirror)
    page = page_of(name, place) if name is not None else write_index(place)
    print(page.absolute().as_uri() if show and webbrowser.open(page.absolute().as_uri()) else page.absolute())


def add_pages(app: typer.Typer, look: Callable[[], object]) -> None:
    """Give `app` the command; `look` is the first thing that it does."""
    app.command(name="open")(after(look, open_page))
