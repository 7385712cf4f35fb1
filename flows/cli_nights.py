"""The commands `sft nightly` and `sft nights`: what was promoted, asked again, and how its nights went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from flows.cli_begin import after
from infra.servers import ensure_prefect
from infra.settings import Settings
from sft_core.names import check_name


def _checked(param: typer.CallbackParam, name: str) -> str:
    check_name("--name" if param.param_type_name == "option" else "NAME", name)
    return name


Name = Annotated[str, typer.Option(help="Registered model", callback=_checked)]


def nightly(
    name: Name = "sft",
    margin: Annotated[float, typer.Option(min=0.0, help="Points a suite may fall without being a regression")] = 0.0,
    rebase: Annotated[bool, typer.Option("--rebase", help="Store the results as those that later nights are held "
                                                          "against: after an upgrade")] = False,
) -> None:
    """Ask champion, candidates and base again now, as the nightly deployment does; a quiet night is one line.

    Fails on a regression that is proved and new, and on what was not measured two nights in a row.
    """
    from flows.nightly import run_nightly

    run_nightly(name, margin, rebase=rebase)


def nights(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Registered model", callback=_checked)] = "sft",
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many, the latest first")] = 14,
) -> None:
    """List the last nights of a registered model: when, what came of them, and the sentence."""
    from flows.nightly import run_nights

    run_nights(name, last)


def add_nights(app: typer.Typer, begin: Callable[[], Settings], look: Callable[[], object]) -> None:
    """Give `app` the commands; `begin` is the first thing that `nightly` does, `look` that `nights` does."""
    app.command()(after(lambda: ensure_prefect(begin()), nightly))
    app.command()(after(look, nights))
