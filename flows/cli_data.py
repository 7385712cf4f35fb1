"""The commands `sft data …`: what becomes of the rows, and what is trained of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_begin import ConfigFile, Overrides, after, out_file
from sft_core.errors import ConfigError

MANY = 20
"""Rows of a view that are shown, where nobody says how many; of training examples three."""


def data_check(
    config: ConfigFile,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON")] = False,
    overrides: Overrides = None,
) -> None:
    """Curate the data alone and tell what became of every row, and why.

    Needs neither the base nor a GPU, unless data.scores asks a model; data.select needs the base's tokenizer. What it
    makes, a run finds. Exit code 1 where a run would stop for the rows.
    """
    from flows.data import check_data

    check_data(config, overrides or [], as_json=as_json)


def data_report(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(callback=out_file, help="The page")] = Path("data.html"),
    overrides: Overrides = None,
) -> None:
    """Curate the data and write one page about it: the way of the rows, with examples of all that was taken out or put
    right.

    Needs neither the base nor a GPU, unless data.scores asks a model; with the base's tokenizer here, which data.select
    needs, it also shows what the mixture reaches.
    """
    from flows.data import report_data

    report_data(config, overrides or [], out)


def data_show(  # noqa: PLR0913  (the options of a command)
    config: ConfigFile,
    row: Annotated[int, typer.Option(min=0, help="First row to show, counted from 0")] = 0,
    count: Annotated[int | None, typer.Option("--count", "--limit", "-n", min=1, help="How many; default: 3, of "
                                              "what the curation found 20")] = None,
    packed: Annotated[bool, typer.Option("--packed", help="Rows as they are packed in the first epoch")] = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="Rows that are not used, and why")] = False,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Rows that went as the like of another, beside "
                                             "it")] = False,
    flaws: Annotated[bool, typer.Option("--flaws", help="Rows with flaws, left out or not")] = False,
    personal: Annotated[bool, typer.Option("--personal", help="Personal data and secrets, masked")] = False,
    changes: Annotated[bool, typer.Option("--changes", help="Texts that were put right, before and after")] = False,
    source: Annotated[str | None, typer.Option(help="Of these only those of one source")] = None,
    why: Annotated[str | None, typer.Option(help="Of these only those of one reason or kind, e.g. near_duplicate, "
                                            "truncated, email")] = None,
    html: Annotated[Path | None, typer.Option(callback=out_file, help="Write a page instead of printing")] = None,
    overrides: Overrides = None,
) -> None:
    """Prepare the data (cached) and show tokens as trained, context or special, with the ledger; or show what the
    curation found, row by row.

    Rejected rows can be read also where they are so many that the preparation fails.
    """
    views = {"rejected": rejected, "duplicates": duplicates, "flaws": flaws, "personal": personal, "changes": changes}
    view = _one_view(views)
    if view is None and (source or why):
        raise ConfigError("--source and --why choose among rejected rows, duplicates and so on; say which, e.g. "
                          "--rejected")
    if view is not None and (packed or html):
        raise ConfigError(f"--{view} shows rows of the curation, which are no tokens; leave out --packed and --html, "
                          "or take `sft data report`, which writes a page")
    from flows.data import show_data, show_found

    if view is not None:
        show_found(config, overrides or [], view, (row, count or MANY), (source, why))
    else:
        from tasks.show import Wanted

        show_data(config, overrides or [], Wanted(row, count or 3, packed), html=html)


def _one_view(asked: Mapping[str, bool]) -> str | None:
    wanted = [view for view, there in asked.items() if there]
    if len(wanted) > 1:
        raise ConfigError(f"--{' and --'.join(wanted)} are several views; give one at a time")
    return wanted[0] if wanted else None


def add_data(app: typer.Typer, begin: Callable[[], object]) -> None:
    """Give `app` the commands; `begin` is the first thing that they do."""
    data_app = typer.Typer(no_args_is_help=True, help="Look at training data, before and as the model will see it.")
    app.add_typer(data_app, name="data")
    data_app.command(name="check")(after(begin, data_check))
    data_app.command(name="show")(after(begin, data_show))
    data_app.command(name="report")(after(begin, data_report))
