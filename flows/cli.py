"""The command line `sft`: one verb per intention. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 gate."""

from __future__ import annotations

import atexit
import functools
import gc
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from flows.cli_begin import ConfigFile, Overrides, out_folder
from flows.cli_data import add_data
from flows.cli_evaluation import add_evaluation
from flows.cli_judging import add_judging
from flows.cli_model import add_model
from flows.cli_nights import add_nights
from flows.cli_pages import add_pages
from flows.cli_platform import add_platform
from flows.cli_registry import add_registry
from flows.cli_synth import add_synth
from flows.cli_using import add_using
from flows.cli_workspace import add_workspace
from flows.logs import tame, told_of
from flows.panels import ORDER, sort_into_panels
from infra.output import keep_writing
from infra.servers import begin_prefect, ensure_prefect
from infra.settings import Settings, prepare_environment, read_settings
from sft_core.config.file import LoadedConfig, examine
from sft_core.errors import ConfigError
from sft_core.stopping import stop_on_signals
from sft_core.visible import shortened

SELDOM = 50_000, 20, 100
"""How many objects are made before Python looks for cycles among them. At its default of 700 a fifth of the time of a
run beside its work went into that: libraries make millions of objects that stay."""


class Shell(typer.core.TyperGroup):
    """Turns the platform's errors into one clear message and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands in the order of the help."""
        return [name for name in ORDER if name in self.commands]

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            typer.Exit: with the exit code of a platform error, or 1 after Ctrl-C and SIGTERM.
        """
        try:
            with stop_on_signals():
                return super().invoke(ctx)
        except Exception as error:  # a full disk has a different error in each library
            told = told_of(error)
            if told is None:
                raise
            fail(type(told).__name__, str(told), told.exit_code)


def fail(kind: str, message: str, code: int) -> NoReturn:
    """Print a message on the error stream and leave with `code`."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]{kind}[/]: ", end="")
    print(shortened(message), file=sys.stderr)
    raise typer.Exit(code)


app = typer.Typer(
    cls=Shell,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""SFT experiments: prepare → fine-tune → evaluate → verdict, tracked, resumable and statistically honest.

    [bold]First steps[/]

      sft run demo                   one experiment on the tiny world\n
      sft run demo --set train.replay.lambda=0    without replay\n
      sft plan demo                  what a run will do and cost\n
      sft data check demo            what becomes of the rows, and why\n
      sft data show demo             which tokens are trained\n
      sft doctor demo                is model, data or a setting wrong?\n
      sft sweep sweep --trials 8     search rate, epochs, λ and β\n
      sft runs                       which runs there are\n
      sft compare RUN_A RUN_B        two runs, item by item\n
      sft chat RUN --against base    talk to it beside its base

    demo and sweep are shipped; a configuration of your own is given by its path.

    Everything is kept in [bold].sft/[/] (SFT_HOME). The same inputs are never computed
    twice; a killed run continues when the same command is given again.
    Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 gate failed.""",
)
config_app = typer.Typer(no_args_is_help=True, help="Check configurations and get their JSON Schema.")
tiny_app = typer.Typer(no_args_is_help=True, help="The embedded tiny world.")
app.add_typer(config_app, name="config")
app.add_typer(tiny_app, name="tiny")


def begin(*, make: bool = True, flows: bool = True) -> Settings:
    """Read the settings, prepare the environment, set up output and logging. First thing in every command; without
    `make` in those that only look at a workspace, without `flows` in those that run none."""
    atexit.register(gc.freeze)  # nothing is collected on the way out: with torch and lm-eval loaded that takes 2 s
    settings = read_settings()
    prepare_environment(settings, make=make, flows=flows)
    if not make:  # a workspace that is not there is not made to look at it
        warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")
    keep_writing()
    log = logging.getLogger("sft")
    log.handlers[:] = [_lines()]
    log.propagate = False
    tame()
    return settings


def _lines() -> logging.Handler:
    """For people at a terminal; else whole lines with a date, for files, `grep` and the journal."""
    if sys.stderr.isatty():
        shown = RichHandler(console=Console(stderr=True), show_path=False, show_level=False, log_time_format="%H:%M:%S")
        shown.addFilter(lambda record: record.name != "sft.progress")  # a bar shows that
        return shown
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return handler


def check(config: Path, overrides: list[str] | None, settings: Settings) -> LoadedConfig:
    """The configuration, looked at with all that it needs (`flows/checking.py`, which brings what it looks with)."""
    from flows.checking import checked

    return checked(config, overrides or [], settings)


@app.command()
def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run one experiment: prepare, base evaluation, train, evaluate, verdict, record.

    Give the same command again to continue a stopped run; nothing finished is redone.
    """
    settings = begin()
    found = examine(config, overrides or [])
    if found.config and not found.problems:
        from flows.settled import told_again

        if told_again(LoadedConfig(found.config, found.text).here().config):
            return
    store = (found.config and found.config.tracking.uri) or settings.mlflow_uri
    first = bool(found.problems) or not store.startswith(("sqlite:", "http"))  # a driver may be missing: start nothing
    loaded = check(config, overrides, settings) if first else None
    prefect = begin_prefect(settings)  # on its way while this process looks and imports: together that takes as long
    loaded = loaded or check(config, overrides, settings)
    from flows.experiment import ahead, run_experiment

    prefect(ahead(loaded.config))
    run_experiment(config, overrides or [])


@app.command()
def doctor(config: ConfigFile, overrides: Overrides = None) -> None:
    """Try out on the configuration's own model and data what a run relies on: masks, packing, resume, memory, …

    Takes seconds to two minutes. Exit code 1 when a check failed.
    """
    begin()
    from flows.doctor import run_doctor

    if not run_doctor(config, overrides or []):
        raise typer.Exit(1)


@app.command()
def sweep(
    config: ConfigFile,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials; default: search.trials")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials that this machine runs at the same time")] = 1,
    overrides: Overrides = None,
) -> None:
    """Search the space under `search`: alignment up, tax down. A stopped sweep continues.

    More workers join at any time, from this or another machine, by `sft sweep-worker STUDY`.
    """
    settings = begin()
    if check(config, overrides, settings).config.search is None:
        raise ConfigError(f"{config} has no search section; flows/configs/sweep.yaml shows one")
    ensure_prefect(settings)
    from flows.sweep import run_sweep

    run_sweep(config, trials, workers, overrides or [])


@app.command("sweep-worker")
def sweep_worker(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a sweep that was begun (search.study)")],
    storage: Annotated[str | None, typer.Option(help="Optuna storage URL; default: SFT_STUDY_STORAGE, or the "
                                                     "workspace")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Leave after so many; default: when all are over")] = None,
) -> None:
    """Work on a sweep that was begun by `sft sweep`, from this or another machine, until its trials are over."""
    settings = begin()
    from infra.stored import read_aim

    read_aim(study, settings.workspace, storage or settings.study_storage)  # no server for a sweep that is not there
    ensure_prefect(settings)
    from flows.worker import work

    print(f"{study}: trials that were run here: {work(study, settings, storage, trials)}")


@app.command()
def deploy(
    pool: Annotated[str, typer.Option(help="Prefect work pool; made when missing (type process)")] = "sft",
    cron: Annotated[str | None, typer.Option(help="Schedule of sft-nightly: five fields; default: as deployed last "
                                                  "from this workspace, else 30 2 * * *")] = None,
    timezone: Annotated[str | None, typer.Option(help="Time zone of the schedule, e.g. Europe/Berlin; default: as "
                                                      "deployed last from this workspace, else UTC")] = None,
    notify: Annotated[str | None, typer.Option(metavar="TYPE/NAME", help="Notification block of Prefect that hears of "
                                                                       "red nights, e.g. slack-webhook/team")] = None,
) -> None:
    """Register the flows with the Prefect server at PREFECT_API_URL: experiment, sweep, trial, nightly, synth."""
    settings = begin()
    from infra.deploy import deploy as register
    from infra.deploy import nights_of

    for line in register(settings, pool=pool, nights=nights_of(settings, cron, timezone, notify)):
        print(line)


@app.command()
def story(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per variant")] = 3,
    lab: Annotated[bool, typer.Option("--lab", help="Also KL on assistant, replay and both positions")] = False,
) -> None:
    """What SFT buys and costs on the tiny world, with and without mitigation; writes .sft/story.json."""
    ensure_prefect(begin())
    from flows.story import run_story

    run_story(seeds, lab)


@config_app.command(name="schema")
def config_schema() -> None:
    """Print the JSON Schema of a configuration, for editors (`# yaml-language-server: $schema=…`)."""
    import json

    from sft_core.config.experiment import ExperimentConfig

    print(json.dumps(ExperimentConfig.model_json_schema(by_alias=True), indent=2))


@config_app.command(name="check")
def config_check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration without running it."""
    from flows.checking import looked_at

    for said in looked_at(config, overrides or [], read_settings()):
        print(shortened(said))
    print(f"{config}: valid")


@tiny_app.command(name="build")
def tiny_build(
    folder: Annotated[Path, typer.Argument(callback=out_folder, help="Where to write the checkpoint")]
    = Path(".sft/tiny-base"),
) -> None:
    """Train the embedded base checkpoint again from its recipe and compare the hash with the committed one."""
    begin()
    from flows.story import build_tiny

    build_tiny(folder)


add_data(app, begin)
add_evaluation(app, begin)
add_judging(app, begin)
add_model(app, begin)
add_nights(app, begin, functools.partial(begin, make=False))
add_registry(app, begin, functools.partial(begin, make=False))
add_synth(app, begin)
add_using(app, begin)
add_workspace(app, begin, functools.partial(begin, make=False))
add_pages(app, functools.partial(begin, make=False, flows=False))
add_platform(app, functools.partial(begin, flows=False), functools.partial(begin, make=False, flows=False))


sort_into_panels(app)


def main() -> None:
    """Entry point of the console script."""
    gc.set_threshold(*SELDOM)
    app()


if __name__ == "__main__":
    main()
