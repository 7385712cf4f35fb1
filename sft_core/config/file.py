"""Reads a configuration file: YAML with line numbers, `--set` overrides, and all problems told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sft_core.config.experiment import ExperimentConfig
from sft_core.config.reading import Key, Parsed, TextKeys, parse
from sft_core.config.search import LONGEST_TRIAL, idle, trial_name, tried
from sft_core.errors import ConfigError

Made = TypeVar("Made", bound=BaseModel)


class LoadedConfig(NamedTuple):
    """A valid configuration and the text it came from, overrides included."""

    config: ExperimentConfig
    text: str


def load(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read and check a configuration.

    Args:
        path: a YAML file.
        overrides: `a.b=value`, typed like YAML and checked by the same model; `a.0.b` reaches into lists.

    Raises:
        ConfigError: with every problem found: the field, its line, what was wrong and the nearest right name; also
            for a search space with an end or a choice that the rest of the configuration does not take.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; see {_shipped()} for examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; it must be a UTF-8 YAML file") from error
    parsed = _parse(text, str(path))
    sources: dict[Key, str] = {}
    for override in overrides:
        key = _override(parsed.data, override)
        sources[key] = f"--set {override}"
    try:
        config = ExperimentConfig.model_validate(parsed.data)
    except ValidationError as error:
        problems = [_problem(detail, parsed, sources) for detail in _causes(error.errors())]
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{path} has {count}:\n" + "\n".join(f"  {p}" for p in problems)) from None
    if wrong := [f"{_where(key, parsed.lines, sources)}{said}" for key, said in _unfit(config)]:
        raise ConfigError(f"{path}: trials of this search would fail:\n" + "\n".join(f"  {one}" for one in wrong))
    shown = yaml.safe_dump(parsed.data, sort_keys=False, allow_unicode=True) if overrides else text
    return LoadedConfig(config, shown)


def checked(kind: type[Made], **values: object) -> Made:
    """A section made of options of a command.

    Raises:
        ConfigError: with every problem found.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
                                    for one in error.errors())) from None


def override(config: ExperimentConfig, values: Mapping[str, object]) -> ExperimentConfig:
    """The same experiment with some dotted fields changed, checked anew.

    Raises:
        ConfigError: a field does not exist or a value does not fit.
    """
    data = config.model_dump(mode="json", by_alias=True)
    for dotted, value in values.items():
        _assign(data, dotted, value)
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        problems = [_problem(detail, Parsed(data, {}), {}) for detail in _causes(error.errors())]
        raise ConfigError("these values do not fit the configuration:\n  " + "\n  ".join(problems)) from None


def trial_config(config: ExperimentConfig, number: int, values: Mapping[str, object]) -> ExperimentConfig:
    """The configuration of one trial of a sweep.

    Raises:
        ConfigError: the values do not fit together.
    """
    return override(config, {**values, "name": trial_name(config.name, number)})


def _unfit(config: ExperimentConfig) -> Iterator[tuple[Key, str]]:
    """What is wrong with a search space: every end and every choice is tried in the whole configuration, and no field
    may change nothing."""
    for field, why in idle(config):
        yield ("search", "space", field), (f"search.space.{field}: all trials would be the same, because {why}; take "
                                           "it out of the space")
    for one in tried(config.search.space) if config.search else ():
        try:
            trial_config(config, LONGEST_TRIAL, {one.field: one.value})
        except ConfigError as error:
            reason = " ".join(str(error).partition("\n")[2].split()) or str(error).removeprefix("--set ")
            yield ("search", "space", *one.key), f"search.space.{'.'.join(map(str, one.key))} = {one.value!r}: {reason}"


def flatten(config: BaseModel) -> dict[str, object]:
    """Dotted name → value of every field that is set, for a tracker's flat parameters."""

    def walk(prefix: str, value: object) -> Iterator[tuple[str, object]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, inner in enumerate(value):
                yield from walk(f"{prefix}.{index}", inner)
        elif value is not None and value not in ([], {}):
            yield prefix, value

    return dict(walk("", config.model_dump(mode="json", by_alias=True)))


def _shipped() -> str:
    return "flows/configs/*.yaml"


def _parse(text: str, name: str) -> Parsed:
    parsed = parse(text, name)
    if not isinstance(parsed.data, dict):
        raise ConfigError(f"{name} must hold a mapping with the sections {', '.join(ExperimentConfig.model_fields)}; "
                          f"it holds {type(parsed.data).__name__ if parsed.data is not None else 'nothing'}")
    return parsed


def _override(data: dict[str, Any], text: str) -> Key:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {text!r} is not of the form section.field=value, e.g. --set train.optim.lr=1e-3")
    try:
        parsed = yaml.load(value, Loader=TextKeys)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML: {error}") from None
    return _assign(data, dotted.strip(), _number(parsed))


def _number(value: object) -> object:
    """YAML 1.1 reads `1e-3` as text; people who type a learning rate mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _assign(data: dict[str, Any], dotted: str, value: object) -> Key:
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


def _causes(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without what only follows: a list counts as too short when one of its entries could not be read."""
    places = [tuple(d["loc"]) for d in details]

    def follows(detail: ErrorDetails) -> bool:
        at = tuple(detail["loc"])
        return detail["type"] == "too_short" and any(p[: len(at)] == at and len(p) > len(at) for p in places)

    return [d for d in details if not follows(d)]


def _problem(detail: ErrorDetails, parsed: Parsed, overrides: Mapping[Key, str]) -> str:
    key: Key = tuple(detail["loc"])
    where = _where(key, parsed.lines, overrides)
    dotted = ".".join(map(str, key)) or "configuration"
    if detail["type"] == "extra_forbidden":
        names = _siblings(key)
        near = difflib.get_close_matches(str(key[-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
        return f"{where}{dotted}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{where}{dotted}: missing, and has no default"
    given = "" if isinstance(detail["input"], dict | list | tuple | BaseModel) else f" (given: {detail['input']!r})"
    return f"{where}{dotted}: {detail['msg'].removeprefix('Value error, ')}{given}"


def _where(key: Key, lines: Mapping[Key, int], overrides: Mapping[Key, str]) -> str:
    for length in range(len(key), 0, -1):
        if key[:length] in overrides:
            return f"{overrides[key[:length]]}: "
        if key[:length] in lines:
            return f"line {lines[key[:length]]}: "
    return ""


def _siblings(key: Key) -> list[str]:
    model: Any = ExperimentConfig
    for part in key[:-1]:
        if isinstance(part, int):
            continue
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        model = _model_in(field.annotation) if field else None
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _model_in(inner):
            return found
    return None
