"""What every command of the other command files does first, and what is looked at of the places that it writes to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from sft_core.errors import ConfigError


def _configuration(given: Path) -> Path:
    if given.exists():
        return given
    from flows.forms import path_of

    return path_of(str(given))


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", callback=_configuration, help=(
    "YAML file, or the name of a shipped one: demo, sweep, …"))]
"""As on Prefect's page."""
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field; typed and checked like the file. Repeatable."),
]


def after(begin: Callable[[], object], command: Callable[..., None]) -> Callable[..., None]:
    """The command with `begin` called before it; its options stay as they are."""

    @functools.wraps(command)
    def begun(*args: Any, **kwargs: Any) -> None:
        begin()
        command(*args, **kwargs)

    return begun


def out_folder(folder: Path | None) -> Path | None:
    """A folder that a command is to write at its end, as an option gives it.

    Raises:
        ConfigError: it cannot be written; after an hour of work that would be too late.
    """
    if folder is not None:
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            raise ConfigError(f"{folder} cannot be written: {there} is no folder; name another place")
        try:  # rights alone do not tell: the superuser has all of them, and there are folders that take no file
            with TemporaryDirectory(dir=there):
                pass
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {there}: {error.strerror}; name another place") from error
    return folder


def out_file(file: Path | None) -> Path | None:
    """A file that a command is to write at its end, as an option gives it.

    Raises:
        ConfigError: it cannot be written.
    """
    if file is not None:
        if file.is_dir():
            raise ConfigError(f"{file} cannot be written: it is a folder; name a file")
        out_folder(file.absolute().parent)
    return file
