"""A configuration as it was given: a YAML file and what `--set` puts into it, and where every key comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from sft_core.config.reading import Key, Parsed, parse, value_of
from sft_core.config.telling import places, takes_text
from sft_core.errors import ConfigError

SHIPPED = "flows/configs"


class Given(NamedTuple):
    """What a file holds with its overrides, the same as text, and what is wrong with the overrides."""

    data: dict[str, Any]
    text: str
    places: Mapping[Key, str]
    wrong: Sequence[str]


def read_given(path: Path, overrides: Sequence[str], root: type[BaseModel]) -> Given:
    """Read a file of the configuration `root`, which is not looked at yet.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; see {SHIPPED}/*.yaml for examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; it must be a UTF-8 YAML file") from error
    parsed = _parsed(text, str(path), root)
    sources: dict[Key, str] = {}
    wrong: list[str] = []
    for override in overrides:
        try:
            key = _override(parsed.data, override, root)
            sources[key] = f"--set {override}"
        except ConfigError as error:
            wrong.append(str(error))
    shown = yaml.safe_dump(parsed.data, sort_keys=False, allow_unicode=True) if overrides else text
    return Given(parsed.data, shown, places(parsed, str(path), sources), wrong)


def refuse(path: Path, found: Sequence[str]) -> None:
    """Raises ConfigError where anything was found to be wrong with a file."""
    if found:
        count = "one problem" if len(found) == 1 else f"{len(found)} problems"
        raise ConfigError("\n  ".join([f"{path} has {count}:", *found]))


def _parsed(text: str, name: str, root: type[BaseModel]) -> Parsed:
    parsed = parse(text, name)
    if not isinstance(parsed.data, dict):
        raise ConfigError(f"{name} must hold a mapping with the sections {', '.join(root.model_fields)}; "
                          f"it holds {type(parsed.data).__name__ if parsed.data is not None else 'nothing'}")
    return parsed


def _override(data: dict[str, Any], text: str, root: type[BaseModel]) -> Key:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {text!r} is not of the form section.field=value, e.g. --set train.optim.lr=1e-3")
    dotted = dotted.strip()
    return assign(data, dotted, value_of(value, f"--set {text}", takes_text(dotted, root)))


def assign(data: dict[str, Any], dotted: str, value: object) -> Key:
    """Put a value at a dotted place; its key.

    Raises:
        ConfigError: there is no such place.
    """
    *path, last = dotted.split(".")
    place: Any = data
    walked: list[str | int] = []
    for part in path:
        key: str | int = int(part) if isinstance(place, list) and part.isdigit() else part
        try:
            inner = place.get(key) if isinstance(place, dict) else place[key]
        except (IndexError, TypeError):
            raise ConfigError(f"--set {dotted}: there is no {'.'.join(map(str, [*walked, part]))}") from None
        if inner is None and isinstance(place, dict):
            inner = place[key] = {}
        if not isinstance(inner, dict | list):
            raise ConfigError(f"--set {dotted}: {'.'.join(map(str, [*walked, part]))} is a value, not a section")
        place = inner
        walked.append(key)
    key = int(last) if isinstance(place, list) and last.isdigit() else last
    try:
        place[key] = value
    except (IndexError, TypeError):
        raise ConfigError(f"--set {dotted}: the list has {len(place)} entries; index {last} does not exist") from None
    return (*walked, key)
