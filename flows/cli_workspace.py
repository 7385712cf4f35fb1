"""The commands `sft plan`, `sft runs`, `sft show`, `sft rm`, `sft join`, `sft clean`, `sft reconcile` and
`sft dashboard`: what a run will do and cost, which runs there are, one of them, some of them gone, another machine for
them, what takes room, whether all agrees, how a sweep goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from flows.cli_begin import ConfigFile, after
from infra.alive import noted
from infra.servers import ensure_prefect
from infra.settings import read_settings
from sft_core.errors import ConfigError


def plan(
    config: ConfigFile,
    rows: Annotated[int | None, typer.Option(min=1, help="Prepare at most so many rows of a source and take the "
                                                         "others to be like them: quick")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Of a sweep; default: search.trials")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials of a sweep that run at the same time")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a field")] = None,
) -> None:
    """Say what a run will do and cost, before it starts: steps, tokens, memory, disk, time, what its suites can find.

    Prepares the data (cached), and neither trains nor asks a model. Warns of plans that hardly anybody wants.
    """
    from flows.plan import show_plan

    show_plan(config, overrides or [], rows, (trials, workers), as_json=as_json)


def clean(
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Checkpoints of finished training")] = False,
    caches: Annotated[bool, typer.Option("--caches", help="Kept answers, downloads and other things that are made "
                                                          "again when needed")] = False,
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="Stages and models that were not used for so "
                                                                       "long: 12h, 30d, 4w")] = None,
    keep_best: Annotated[int | None, typer.Option(min=0, metavar="N", help="Models of all but the N best runs of each "
                                                  "experiment, by gate and scores")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it only shown")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Show what takes room in the workspace and who needs it; remove by rule, with --yes.

    Never goes what an alias of the registry names, what a process at work or a stopped sweep needs, or what runs found.
    """
    workspace = read_settings().workspace
    if not workspace.is_dir():
        raise ConfigError(f"there is no workspace {workspace} yet, so nothing takes room; SFT_HOME names another one")
    from flows.clean import run_clean, seconds_of
    from tasks.clean import Rules

    age = None if older_than is None else seconds_of(older_than)
    run_clean(Rules(checkpoints, caches, age, keep_best), yes=yes, as_json=as_json)


def reconcile(
    dry: Annotated[bool, typer.Option("--dry-run", help="Say what disagrees, and change nothing")] = False,
    record: Annotated[bool, typer.Option("--record", help="Record anew finished runs that MLflow does not have whole; "
                                                          "nothing is computed again")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Make Prefect and MLflow agree with the workspace after kills, lost servers and restored databases.

    Closes what dead processes left running and sends metrics that MLflow lacks. May be repeated, also beside runs.
    """
    settings = read_settings()
    if not settings.workspace.is_dir():
        raise ConfigError(f"there is no workspace {settings.workspace} yet; SFT_HOME names another one")
    if record or any(note.kind == "prefect" for note in noted(settings.workspace)):
        ensure_prefect(settings)
    from flows.reconcile import run_reconcile

    run_reconcile(dry=dry, record=record, as_json=as_json)


def runs(  # noqa: PLR0913  (the options of a command)
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many, the latest first")] = 20,
    sweep: Annotated[str | None, typer.Option(metavar="STUDY", help="Trials of this sweep alone")] = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN", help="The best first: gate, tax (the largest), win (the "
                                             "mean), tax/SUITE, win/SUITE, loss, or a setting such as "
                                             "train.optim.lr")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round")] = False,
    where: Annotated[list[str] | None, typer.Option(metavar="CONDITION", help="Only runs like that: gate=pass, "
                                                    "'tax<=1', train.method=lora. Repeatable")] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B", help="Show these beside the names; as for "
                                                       "--sort")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """List the runs of this workspace, trials of sweeps among them: done, under way or stopped, with gate and model."""
    from flows.runs import Order, show_runs

    shown = tuple(filter(None, (columns or "").split(",")))
    show_runs(read_settings(), last, sweep, Order(sort, reverse, tuple(where or ()), shown), as_json=as_json)


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name or id of a run, NAME@ALIAS or NAME/VERSION of the "
                                                           "registry; `sft runs` lists them")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Show a run: its verdict, what changed, training, data, lineage, where all of it is, and what to do next."""
    from flows.show import show_run

    show_run(run, as_json=as_json)


def rm(
    run: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names of runs of this workspace, as `sft runs` "
                                                                   "lists them")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it only shown")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Remove runs: their folders, MLflow runs and registered versions, and their models where no other run has them.

    Never what an alias names, a sweep continues from, or a process at work may read. Exit code 1 where one stays.
    """
    from flows.remove import run_rm

    if not run_rm(run, yes=yes, as_json=as_json):
        raise typer.Exit(1)


def join() -> None:
    """Let this machine take part in the runs of this workspace that ask for it (train.machines), until Ctrl-C.

    SFT_HOME is a folder that all machines see under the same path. Runs and results stay with the machine that began.
    """
    from tasks.join import join as take_part
    from tasks.stages import Workspace

    settings = read_settings()
    print(f"ready for runs in {settings.workspace}, until Ctrl-C", flush=True)
    take_part(Workspace(settings.workspace, settings.mirror))


def dashboard(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Name of a sweep; default: all of a database, "
                                                                     "or the only one of the workspace")] = None,
    storage: Annotated[str | None, typer.Option(help="Optuna storage URL; default: SFT_STUDY_STORAGE, or the "
                                                     "workspace")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0: any that is free")] = 8080,
) -> None:
    """Look at sweeps with optuna-dashboard, also while they run, until Ctrl-C. Needs the extra `dashboard`."""
    from infra.dashboard import serve

    settings = read_settings()
    serve(study, settings.workspace, storage or settings.study_storage, port,
          lambda page: print(f"{page} until Ctrl-C", flush=True))


def add_workspace(app: typer.Typer, begin: Callable[[], object], look: Callable[[], object]) -> None:
    """Give `app` the commands; `begin` is the first thing that each of them does, `look` of those that only look."""
    for name, command, first in (("plan", plan, begin), ("runs", runs, look), ("show", show, look),
                                 ("rm", rm, look), ("clean", clean, look), ("join", join, begin),
                                 ("reconcile", reconcile, look), ("dashboard", dashboard, look)):
        app.command(name=name)(after(first, command))
