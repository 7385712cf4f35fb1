"""The commands `sft up`, `sft down` and `sft status`: the servers of a workspace."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from infra.settings import Settings

if TYPE_CHECKING:
    from infra.standing import Part

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def add_platform(app: typer.Typer, begin: Callable[[], Settings], look: Callable[[], Settings]) -> None:
    """Give `app` the commands.

    Args:
        app: the command line.
        begin: reads the settings and makes the workspace, for a process that starts lasting servers.
        look: reads the settings, for one that only looks.
    """

    @app.command()
    def up(
        prefect_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of Prefect; default: as last "
                                                                               "time, 4200, or a free one")] = None,
        mlflow_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of MLflow; default: as last time, "
                                                                              "5000, or a free one")] = None,
        host: Annotated[str | None, typer.Option(help="Where the servers listen, default 127.0.0.1; others than this "
                                                      "machine need authentication: see docs/PLATFORM.md")] = None,
        allowed_hosts: Annotated[str | None, typer.Option(metavar="A,B", help="With --host: further names under which "
                                                          "the servers may be asked")] = None,
        shell: Annotated[bool, typer.Option("--shell", help="Print what a shell needs for `prefect` and `mlflow`: "
                                                            "eval \"$(sft up --shell)\"")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Start Prefect, MLflow and a worker for this workspace, register the deployments, return when all is well.

        They outlive this command; `sft run`, `sweep` and `nightly` in this workspace use them by themselves. Said
        again, after a crash or a reboot, too, it starts what does not run. `sft down` ends them.
        """
        settings = begin()
        from infra.platform import Wanted
        from infra.platform import up as bring_up

        parts = bring_up(settings, Wanted(prefect_port, mlflow_port, host, allowed_hosts))
        if shell:
            _exports(parts)
        else:
            _show(parts, as_json)

    @app.command()
    def down(as_json: AsJson = False) -> None:
        """End what `sft up` has started, the worker first. The run that it has saves; the next `sft up` goes on."""
        settings = look()
        from infra.platform import down as take_down

        ended = take_down(settings)
        again = f"\nthe next `sft up` goes on with: {', '.join(ended.runs)}" if ended.runs else ""
        print(json.dumps({"ended": ended.parts, "runs": ended.runs}) if as_json else
              f"ended: {', '.join(ended.parts) or 'nothing ran'}{again}")

    @app.command()
    def status(as_json: AsJson = False) -> None:
        """Say what of the platform runs, since when and where, and what does not. Exit code 1 unless all is well."""
        settings = look()
        from infra.platform import status as standing

        parts = standing(settings.workspace)
        _show(parts, as_json)
        if not all(part.well for part in parts):
            raise typer.Exit(1)


def _show(parts: Sequence[Part], as_json: bool) -> None:
    well = all(part.well for part in parts)
    if as_json:
        text = json.dumps({"well": well, "parts": [part._asdict() for part in parts]}, indent=2)
    else:
        lines = []
        for part in parts:
            lines.append(f"{part.name:<12}{'ok  ' if part.well else 'DOWN'}  {part.says}")
            since = f"{part.since[:19]} UTC" if part.since else ""
            lines += [f"{'':<12}      {key} {value}" for key, value in
                      (("at", part.url.removesuffix("/api")), ("since", since), ("log", part.log)) if value]
        if well:
            lines.append('shell       eval "$(sft up --shell)"; then `prefect deployment run sft-sweep` in any folder')
        text = "\n".join(lines)
    print(text)


def _exports(parts: Sequence[Part]) -> None:
    """For `eval`: beside the exports only what is not well, which goes to where the shell does not read."""
    from infra.settings import read_settings, shell_environment

    for part in parts:
        if not part.well:
            print(f"{part.name} is down: {part.says}", file=sys.stderr)
    settings = read_settings()
    for name, value in shell_environment(settings).items():
        print(f"export {name}={shlex.quote(value)}")
    if settings.credentials:
        print("these servers ask for user and password, which are not printed; set in this shell, too: "
              f"{', '.join(sorted(settings.credentials))}", file=sys.stderr)
