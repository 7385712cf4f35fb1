"""Reads a configuration file: YAML with line numbers, `--set` overrides, and all problems told at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from sft_core.config.conditions import active, look_in, needed, settings, troubles
from sft_core.config.experiment import ExperimentConfig, Range, Value
from sft_core.config.given import assign, read_given, refuse
from sft_core.config.located import relative_paths, replaced
from sft_core.config.reading import Key, parse
from sft_core.config.search import LONGEST_TRIAL, idle, no_number, trial_name, tried
from sft_core.config.telling import Cause, Lack, causes, told
from sft_core.errors import ConfigError

Made = TypeVar("Made", bound=BaseModel)


class LoadedConfig(NamedTuple):
    """A valid configuration and the text it came from, overrides included."""

    config: ExperimentConfig
    text: str

    def here(self) -> LoadedConfig:
        """With relative paths that lead somewhere from the current directory made whole: what a run is made of, so
        that it can be looked at, and continued, from every other directory."""
        found = relative_paths(parse(self.text, "the configuration").data)
        if not found:
            return self
        text = replaced(self.text, found)
        return LoadedConfig(ExperimentConfig.model_validate(parse(text, "the configuration").data), text)


class Examined(NamedTuple):
    """A configuration file and all that is wrong with it; `config` is without that, and None where too much is."""

    path: Path
    config: ExperimentConfig | None
    text: str
    problems: Sequence[str]
    places: Mapping[Key, str]
    """Where every key comes from."""

    def check(self, lacks: Sequence[Lack] = ()) -> None:
        """Raises ConfigError where anything is wrong; what is lacking is told beside it."""
        refuse(self.path, [*self.problems, *self.where(lacks)])

    def where(self, lacks: Sequence[Lack]) -> list[str]:
        """What is lacking, a line each, with the place that asks for it."""
        return list(dict.fromkeys(told(Cause(one.key, one.what), self.places, ExperimentConfig) for one in lacks))


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
        ConfigError: it cannot be read.
    """
    given = read_given(path, overrides, ExperimentConfig)
    problems, config = _looked_at(given.data, given.places)
    return Examined(path, config, given.text, [*given.wrong, *problems], given.places)


def _looked_at(given: dict[str, Any], known: Mapping[Key, str]) -> tuple[list[str], ExperimentConfig | None]:
    """All problems, and the configuration without what is wrong in it, as far as there is one.

    Sections are only held against each other once their fields are right: so what is wrong is taken out, and the rest
    looked at again.
    """
    data, said, taken = copy.deepcopy(given), list[str](), set[Key]()
    while True:
        try:
            config = ExperimentConfig.model_validate(data)
            break
        except ValidationError as error:
            found = causes(error, data, ExperimentConfig)
            said += [told(one, known, ExperimentConfig) for one in found if not _follows(one.key, taken)]
            if not all([_taken_out(data, key, taken) for key in dict.fromkeys(_field(one.key) for one in found)]):
                return said, None
    unfit = [told(one, known, ExperimentConfig) for one in _unfit(config)]
    return [*said, *unfit], _not_varied(config) if unfit else config


def _follows(key: Key, taken: Set[Key]) -> bool:
    """Whether what is wrong there only follows from what was taken out, there or below."""
    if not key:
        return any(one[:1] == ("eval",) and one[1:2] in ((), ("suites",), ("judge",)) for one in taken)
    return any(one[:len(key)] == key for one in taken)


_SOURCE, _SUITES, _OPTIM = {"path": "tiny:sft"}, {"suites": ["tiny_mmlu"]}, {"lr": 1e-3}
_STAND_INS: dict[Key, object] = {
    ("name",): "x", ("model",): {"path": "tiny"}, ("model", "path"): "tiny",
    ("data",): {"sources": [_SOURCE], "max_tokens": 64}, ("data", "max_tokens"): 64, ("data", "sources"): [_SOURCE],
    ("data", "sources", "path"): "tiny:sft", ("train", "replay", "sources", "path"): "tiny:replay",
    ("train",): {"optim": _OPTIM}, ("train", "optim"): _OPTIM, ("train", "optim", "lr"): 1e-3,
    ("eval",): _SUITES, ("eval", "suites"): ["tiny_mmlu"]}
"""What stands for a field without a default while the others are looked at; places in lists left out."""


def _field(key: Key) -> Key:
    """What is taken out for it: of a list all of it."""
    return key[:-1] if key and isinstance(key[-1], int) else key


def _taken_out(data: dict[str, Any], key: Key, taken: set[Key]) -> bool:
    """Take a wrong value out of the file's data, or what it is missing in; whether that could be done."""
    if not key:  # the gate, or the search, names what the others have not
        return [data.pop(section, None) for section in ("gate", "search")] != [None, None]
    place: Any = data
    for part in key[:-1]:
        if isinstance(place, dict) and part not in place:
            return True  # with what it was in
        place = place[part]
    taken.add(key)
    stand_in = _STAND_INS.get(tuple(part for part in key if isinstance(part, str)))
    if stand_in is not None:
        place[key[-1]] = copy.deepcopy(stand_in)
        return True
    if key[-1] in place:
        del place[key[-1]]
        return True
    return len(key) > 1 and _taken_out(data, _field(key[:-1]), taken)


def checked(kind: type[Made], **values: object) -> Made:
    """A section made of options of a command.

    Raises:
        ConfigError: with every problem found.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(one.said for one in causes(error, values, kind))) from None


def override(config: ExperimentConfig, values: Mapping[str, object]) -> ExperimentConfig:
    """The same experiment with some dotted fields changed, checked anew.

    Raises:
        ConfigError: a field does not exist or a value does not fit.
    """
    data = config.model_dump(mode="json", by_alias=True)
    for dotted, value in values.items():
        assign(data, dotted, value)
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n  ".join(["these values do not fit the configuration:",
                                       *(one.said for one in causes(error, data, ExperimentConfig))])) from None


def trial_config(config: ExperimentConfig, number: int, values: Mapping[str, object]) -> ExperimentConfig:
    """The configuration of one trial of a sweep.

    Raises:
        ConfigError: the values do not fit together.
    """
    if wrong := [why for field, value in values.items() if (why := no_number(field, value))]:
        raise ConfigError("; ".join(wrong))
    return override(config, {**values, "name": trial_name(config.name, number)})


def variants(config: ExperimentConfig) -> Iterator[ExperimentConfig]:
    """A valid configuration itself, and with every end and every choice of its search, beside all that it needs."""
    yield config
    space = config.search.space if config.search else {}
    for field, span in space.items():
        for beside, one in product(settings(space, field), tried(field, span)):
            yield override(config, {**beside, field: one.value})


def _not_varied(config: ExperimentConfig) -> ExperimentConfig:
    """Without the space of its search, of which nothing can be made while a part of it is wrong."""
    assert config.search is not None, "its space is wrong"
    return config.model_copy(update={"search": config.search.model_copy(update={"space": {}, "points": ()})})


def _unfit(config: ExperimentConfig) -> Iterator[Cause]:
    """What is wrong with a search space: every end, every choice and every point is tried in the whole configuration,
    beside all that it needs, and no field may change nothing."""
    if config.search is None:
        return
    space = config.search.space
    impossible = [Cause(("search", "space", *key), f"search.space.{'.'.join(map(str, key))}: {why}")
                  for key, why in troubles(space, look_in(config), flatten(config))]
    yield from impossible
    if impossible:
        return  # without conditions that hold there is nothing to try
    for field in space:
        yield from _unfit_field(config, field, space)
    for index, point in enumerate(config.search.points):
        yield from _unfit_point(config, index, point, space)


def _unfit_field(config: ExperimentConfig, field: str, space: Mapping[str, Range]) -> Iterator[Cause]:
    above, ways = needed(space, field).keys(), []
    for beside, one in product(settings(space, field), tried(field, space[field])):
        try:
            ways.append(trial_config(config, LONGEST_TRIAL, {**beside, field: one.value}))
        except ConfigError as error:
            with_ = "".join(f" with {name} = {value!r}" for name, value in beside.items())
            yield Cause(("search", "space", *one.key), f"search.space.{'.'.join(map(str, one.key))} = {one.value!r}"
                                                       f"{with_}: {_reason(error)}")
    if why := idle(field, ways, space.keys() - above - {field}):
        yield Cause(("search", "space", field), f"search.space.{field}: all trials would be the same, because {why}; "
                                                "take it out of the space")


def _unfit_point(config: ExperimentConfig, index: int, point: Mapping[str, Value],
                 space: Mapping[str, Range]) -> Iterator[Cause]:
    def cause(field: str, why: str) -> Cause:
        return Cause(("search", "points", index, field), f"search.points.{index}.{field}: {why}")

    other = [field for field in point if field not in space]
    yield from (cause(field, "this is not searched; add it to search.space, or take it out") for field in other)
    if other:
        return
    try:
        look = look_in(trial_config(config, LONGEST_TRIAL, point))
    except ConfigError as error:
        yield Cause(("search", "points", index), f"search.points.{index}: {_reason(error)}")
        return
    for field in point:
        if not active(space, field, look):
            yield cause(field, "this is not drawn beside the other values of the point, see its `when`; take it out")


def _reason(error: ConfigError) -> str:
    return " ".join(str(error).partition("\n")[2].split()) or str(error).removeprefix("--set ")


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
