"""The commands `sft promote`, `sft rollback`, `sft models`, `sft lineage` and `sft bisect`: the registry, what its
models came out of, and which part of that made one worse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from flows.cli_begin import after
from infra.servers import ensure_prefect
from infra.settings import read_settings

By = Annotated[str | None, typer.Option(help="Who does this; default: user and machine")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def promote(
    run_ref: Annotated[str, typer.Argument(metavar="RUN", help="Run name or MLflow run id")],
    name: Annotated[str | None, typer.Option(help="Registered model; default: the run's tracking.registered_model, "
                                                  "else sft")] = None,
    alias: Annotated[str, typer.Option(help="Alias to move to this run's model")] = "champion",
    override: Annotated[bool, typer.Option("--override", help="Although the gate did not pass; with --reason and --by")]
    = False,
    reason: Annotated[str, typer.Option(help="Why; kept with the model")] = "",
    by: By = None,
) -> None:
    """Register a run's model in MLflow and make it the champion that `sft nightly` guards.

    Only where the run's gate has passed and the files are those that were evaluated. The champion so far is `previous`
    then. Exit code 3 where the gate did not pass.
    """
    from flows.promotion import run_promotion
    from tasks.promotion import Asked

    run_promotion(run_ref, name, alias, by, Asked("", reason, override))


def rollback(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Registered model")] = "sft",
    reason: Annotated[str, typer.Option(help="Why; kept with the model")] = "",
    by: By = None,
) -> None:
    """Make the previous champion the champion again, where its files are those that were registered."""
    from flows.promotion import run_rollback

    run_rollback(name, by, reason)


def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Registered model; default: all")] = None,
    as_json: AsJson = False,
) -> None:
    """List registered models: versions, aliases, run, gate, alignment and tax, who promoted them, when and why."""
    from flows.registry import show_models

    show_models(name, as_json=as_json)


def lineage(
    reference: Annotated[str, typer.Argument(metavar="MODEL_OR_RUN", help="NAME, NAME@ALIAS, NAME/VERSION of a "
                                             "registered model, a run, or a folder with a run's model, exported ones "
                                             "too")],
    verify: Annotated[bool, typer.Option("--verify", help="Look at every hash again; exit code 1 where one differs")]
    = False,
    as_json: AsJson = False,
) -> None:
    """Print what a model came out of: sources, prepared data, configuration, base, weights, evaluation, code, gate, and
    what was promoted."""
    from flows.registry import show_lineage

    if show_lineage(reference, verify=verify, as_json=as_json):
        raise typer.Exit(1)


def bisect(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="The run that was better")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The run that has lost")],
    suite: Annotated[str | None, typer.Option(help="What it has lost on; default: where it has lost most")] = None,
) -> None:
    """Find which difference between two runs accounts for a proved loss of B: A is run again with parts of B, sources
    and fields, until the fewest are found that do it. Code and libraries are what is left where none do.

    Every such run is tracked, with the tag `sft.bisect`; what is equal is not computed again.
    """
    ensure_prefect(read_settings())
    from flows.bisect import run_bisect

    run_bisect(run_a, run_b, suite)


def add_registry(app: typer.Typer, begin: Callable[[], object], look: Callable[[], object]) -> None:
    """Give `app` the commands; `begin` is the first thing that each of them does, `look` of those that only look."""
    for command, first in ((promote, begin), (rollback, begin), (models, look), (lineage, look), (bisect, begin)):
        app.command()(after(first, command))
