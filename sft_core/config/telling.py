"""What pydantic finds wrong with a configuration, in the words of its file: where, what, what was allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sft_core.config.reading import Key, Parsed
from sft_core.masking import has_secret

PLAIN = {"tuple_type": "Input should be a list, e.g. [a, b]", "too_short": "Input should have at least one entry",
         "dict_type": "Input should be keys with values, e.g. {a: b}",
         "model_type": "Input should be a section: keys with values"}
"""What pydantic calls by Python's names."""


class Cause(NamedTuple):
    """One thing that is wrong: its place in the data, and what is said of it, beginning with its dotted name."""

    key: Key
    said: str


class Lack(NamedTuple):
    """What a configuration asks for and this machine has not: `missing`, `unsure` where it could not be looked up, or
    `fetched` where the hub has it."""

    key: Key
    what: str
    state: Literal["missing", "unsure", "fetched"] = "missing"


def causes(error: ValidationError, data: object, root: type[BaseModel]) -> list[Cause]:
    """What is wrong with the data of a configuration `root`, without what only follows: a list counts as too short when
    one of its entries could not be read, and of a field that may be one thing or another, all that it is not is said as
    one."""
    details = error.errors()
    where = [_place(detail, data) for detail in details]
    found: dict[Key, list[ErrorDetails]] = {}
    for detail, key in zip(details, where, strict=True):
        deeper = any(other[:len(key)] == key and len(other) > len(key) for other in where)
        if not deeper or detail["type"] not in (*PLAIN, "string_type"):
            found.setdefault(key, []).append(detail)
    return [Cause(key, said) for key, some in found.items() for said in _said(key, some, root)]


def places(parsed: Parsed, name: str, overrides: Mapping[Key, str]) -> dict[Key, str]:
    """Where every key comes from: the line of the file, or the override that put it there."""
    lines = {key: f"{name}:{line}" for key, line in parsed.lines.items()
             if not any(key[:length] in overrides for length in range(1, len(key) + 1))}
    return {(): name, **lines, **overrides}


def told(cause: Cause, known: Mapping[Key, str], root: type[BaseModel]) -> str:
    """A line: where it stands, and what is said. Of what a section as a whole says, the place is that of the first
    field that it names and the file has."""
    sections = [cause.key[:length] for length in range(len(cause.key), -1, -1)]
    fields: list[Key] = []
    if _model_at(cause.key, root) is not None:
        named = re.findall(r"[a-z_][\w.]*", cause.said.removeprefix(f"{_dotted(cause.key)}: ").partition(";")[0])
        fields = [(*section, *word.split(".")) for word in named for section in sections]
    place = next((known[key] for key in (*fields, *sections) if key in known), "")
    return f"{place}: {cause.said}" if place else cause.said


def takes_text(dotted: str, root: type[BaseModel]) -> bool:
    """Whether a field, by its dotted name, takes texts and nothing else; so does an entry of a list of them."""
    *above, last = (int(part) if part.isdigit() else part for part in dotted.split("."))
    if isinstance(last, int) and above:
        last = above.pop()
    model = _model_at(tuple(above), root)
    field = next((f for name, f in model.model_fields.items() if last in (name, f.alias)), None) if model else None
    return field is not None and _texts(field.annotation)


def _texts(annotation: Any) -> bool:
    """Every value of the type is a text, or none."""
    inner = [one for one in get_args(annotation) if one not in (type(None), ...)]
    if get_origin(annotation) is Literal:
        return all(isinstance(one, str) for one in inner)
    if get_origin(annotation) is Annotated:
        return _texts(inner[0])
    return annotation is str or get_origin(annotation) in (Union, UnionType, tuple) and all(map(_texts, inner))


def _said(key: Key, details: Sequence[ErrorDetails], root: type[BaseModel]) -> list[str]:
    """The lines on what is wrong at one place."""
    first, dotted = details[0], _dotted(key)
    if first["type"] == "extra_forbidden":
        names = _siblings(key, root)
        near = difflib.get_close_matches(str(key[-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
        return [f"{dotted}: unknown key; {hint}"]
    if first["type"] == "missing":
        return [f"{dotted}: missing, and has no default"]
    if first["type"] == "value_error" and not key:
        return first["msg"].removeprefix("Value error, ").splitlines()
    said = list(dict.fromkeys(PLAIN.get(one["type"], one["msg"].removeprefix("Value error, ")) for one in details))
    wrong = " or ".join([said[0], *(one.removeprefix("Input should be ") for one in said[1:])])
    value = first["input"]
    hidden = isinstance(value, dict | list | tuple | BaseModel) or isinstance(value, str) and has_secret(value)
    given = "" if hidden else f" (given: {_short(value)})"
    return [f"{dotted}: {wrong}{given}"]


def _short(value: object) -> str:
    """A value as one types it, of a long one the beginning."""
    try:
        text = "nothing" if value is None else repr(value)
    except ValueError:  # a number of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}…"


def _dotted(key: Key) -> str:
    return ".".join(map(str, key)) or "configuration"


def _place(detail: ErrorDetails, data: object) -> Key:
    """Where it stands in the data; pydantic also names the branch of a union, and that it is about a key."""
    place, key = data, list[str | int]()
    for at, part in enumerate(detail["loc"]):
        inside = part in place if isinstance(place, dict) else (
            isinstance(place, list) and isinstance(part, int) and part < len(place))
        if inside:
            place = place[part]  # type: ignore[index]
            key.append(part)
        elif detail["type"] == "missing" and at == len(detail["loc"]) - 1:
            key.append(part)
    return tuple(key)


def _siblings(key: Key, root: type[BaseModel]) -> list[str]:
    model = _model_at(key[:-1], root)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model_at(key: Key, root: type[BaseModel]) -> type[BaseModel] | None:
    """The section that stands there, or that is an entry of the list there."""
    model: Any = root
    for part in key:
        if isinstance(part, int):
            continue
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        model = _model_in(field.annotation) if field else None
        if model is None:
            return None
    return model  # type: ignore[no-any-return]


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _model_in(inner):
            return found
    return None
