"""Searched fields that are only drawn beside certain values of others (`when`), and the points that this makes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

from pydantic import BaseModel

from sft_core.config.experiment import Range, Value
from sft_core.config.reading import Key

ABSENT = object()
Look = Callable[[str], Any]
"""The value of a dotted field, ABSENT where there is none."""


def look_in(config: BaseModel) -> Look:
    """Looks up dotted fields of a configuration."""
    return partial(_value_at, config.model_dump(mode="json", by_alias=True))


def _value_at(data: Any, dotted: str) -> object:
    for part in dotted.split("."):
        if isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        elif isinstance(data, dict) and part in data:
            data = data[part]
        else:
            return ABSENT
    return data


def needed(space: Mapping[str, Range], field: str, below: tuple[str, ...] = ()) -> dict[str, tuple[Value, ...]]:
    """Everything beside which a field is drawn, what those fields need included: field → values that do.

    Raises:
        ValueError: it needs itself.
    """
    found: dict[str, tuple[Value, ...]] = {}
    for parent, values in space[field].when.items():
        if parent in (field, *below):
            raise ValueError(f"{' needs '.join((*below, field, parent))}; take one `when` out")
        above = needed(space, parent, (*below, field)) if parent in space else {}
        for name, allowed in [*above.items(), (parent, values)]:
            found[name] = tuple(value for value in allowed if value in found.get(name, allowed))
    return found


def ordered(space: Mapping[str, Range]) -> list[str]:
    """The fields of a space, each behind those that it needs."""
    return sorted(space, key=lambda field: len(needed(space, field)))


def active(space: Mapping[str, Range], field: str, look: Look) -> bool:
    """Whether a field is drawn beside these values."""
    return all(look(parent) in values and (parent not in space or active(space, parent, look))
               for parent, values in space[field].when.items())


def point_of(space: Mapping[str, Range], config: BaseModel) -> dict[str, Value]:
    """The values of a configuration in the fields of a space that are drawn beside each other, parents first."""
    look = look_in(config)
    return {field: look(field) for field in ordered(space) if active(space, field, look) and look(field) is not ABSENT}


def settings(space: Mapping[str, Range], field: str) -> Iterator[dict[str, Value]]:
    """All ways to set the searched fields that a field needs; one that sets nothing where it needs none."""
    above = {name: values for name, values in needed(space, field).items() if name in space}
    yield from (dict(zip(above, values, strict=True)) for values in product(*above.values()))


def troubles(space: Mapping[str, Range], look: Look, fields: Mapping[str, object]) -> Iterator[tuple[Key, str]]:
    """Conditions that can never be met or cannot be looked up: the place below `search.space`, and what to do.

    Args:
        space: the searched fields.
        look: looks into the configuration.
        fields: all fields of the configuration by name, for the nearest right one.
    """
    for field, span in space.items():
        found = [((field, "when", parent), why) for parent, values in span.when.items()
                 if (why := _trouble(space, parent, values, look, fields))]
        yield from found
        try:
            never = [name for name, values in needed(space, field).items() if not values]
        except ValueError as error:
            yield (field, "when"), str(error)
            continue
        if never and not found:
            yield (field, "when"), (f"no value of {', '.join(never)} meets this and what else it needs, so the field "
                                    "is never drawn; correct one of them")


def _trouble(space: Mapping[str, Range], parent: str, values: tuple[Value, ...], look: Look,
             fields: Mapping[str, object]) -> str:
    if parent in space:
        choices = space[parent].choices
        if choices is None:
            return f"{parent} is searched in an interval; list its values there (choices: […])"
        never = [value for value in values if value not in choices]
        return f"{', '.join(map(repr, never))} never occurs: the choices are {_listed(choices)}" if never else ""
    own = look(parent)
    if own is ABSENT:
        near = difflib.get_close_matches(parent, [*space, *fields], n=1)
        return f"there is no field {parent}{f'; did you mean {near[0]}?' if near else ''}"
    return "" if own in values else (f"{_listed(values)} never occurs: {parent} is {own!r} here and not searched; add "
                                     "it to search.space, or set it")


def _listed(values: tuple[Value, ...]) -> str:
    return ", ".join(map(repr, values))
