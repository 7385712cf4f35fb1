"""Reads a configuration file: YAML with line numbers, `--set` overrides, and all problems told at once."""

from __future__ import annotations

import copy
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


class Examined(NamedTuple):
    """A configuration file and all that is wrong with it; `config` is without that, and None where too much is."""

    path: Path
    config: ExperimentConfig | None
    text: str
    problems: Sequence[str]

    def check(self, more: Sequence[str] = ()) -> None:
        """Raises ConfigError where anything is wrong; `more` is told beside it."""
        if self.problems:
            count = "one problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
            raise ConfigError("\n  ".join([f"{self.path} has {count}:", *self.problems, *more]))


def load(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read and check a configuration; arguments as for `examine`.

    Raises:
        ConfigError: with every problem found.
    """
    found = examine(path, overrides)
    found.check()
    assert found.config is not None, "nothing was wrong with it"
    return LoadedConfig(found.config, found.text)


def examine(path: Path, overrides: Sequence[str] = ()) -> Examined:
    """Read a configuration and look for all that is wrong with it: every field with its line, what was wrong and the
    nearest right name; also a search space with an end or a choice that the rest of the configuration does not take.

    Args:
        path: a YAML file.
        overrides: `a.b=value`, typed like YAML and checked by the same model; `a.0.b` reaches into lists.

    Raises:
        ConfigError: it cannot be read, or an override fits nowhere.
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
    problems, config = _looked_at(parsed, sources)
    shown = yaml.safe_dump(parsed.data, sort_keys=False, allow_unicode=True) if overrides else text
    return Examined(path, config, shown, problems)


def _looked_at(parsed: Parsed, sources: Mapping[Key, str]) -> tuple[list[str], ExperimentConfig | None]:
    """All problems, and the configuration without what is wrong in it, as far as there is one.

    Sections are only held against each other once their fields are right: so what is wrong is taken out, and the rest
    looked at again.
    """
    data, said, taken = copy.deepcopy(parsed.data), list[str](), set[Key]()
    while True:
        try:
            config = ExperimentConfig.model_validate(data)
            break
        except ValidationError as error:
            # What our own taking out makes wrong, above it or there, is none of the file's problems.
            found = [one for one in _causes(error.errors()) if not one["loc"] or not any(
                key[:len(one["loc"])] == tuple(one["loc"]) for key in taken)]
            said += [_problem(one, parsed, sources) for one in found]
            if not found or not all([_taken_out(data, tuple(one["loc"])) for one in found]):
                return said, None
            taken |= {tuple(one["loc"]) for one in found}
    return [*said, *(f"{_where(key, parsed.lines, sources)}{wrong}" for key, wrong in _unfit(config))], config


_STAND_INS: dict[Key, object] = {
    ("name",): "x", ("model",): {"path": "tiny"}, ("model", "path"): "tiny", ("data", "max_tokens"): 64,
    ("train",): {"optim": {"lr": 1e-3}}, ("train", "optim"): {"lr": 1e-3}, ("train", "optim", "lr"): 1e-3}
"""What stands for a field without a default while the others are looked at."""


def _taken_out(data: dict[str, Any], key: Key) -> bool:
    """Take a wrong value out of the file's data; whether that could be done."""
    if not key:  # the gate, or the search, names what the others have not
        return [data.pop(section, None) for section in ("gate", "search")] != [None, None]
    place: Any = data
    for part in key[:-1]:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        return False
    if key in _STAND_INS:
        place[key[-1]] = _STAND_INS[key]
        return True
    return place.pop(key[-1], None) is not None


def checked(kind: type[Made], **values: object) -> Made:
    """A section made of options of a command.

    Raises:
        ConfigError: with every problem found.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(": ".join(filter(None, (".".join(map(str, one["loc"])),
                                                            one["msg"].removeprefix("Value error, "))))
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
