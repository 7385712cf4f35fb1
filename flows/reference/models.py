"""The fields of a configuration's sections, in the order of the file, with what the models say of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sft_core.config.experiment import ExperimentConfig
from sft_core.config.synth import SynthConfig

Schema = Mapping[str, Any]
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false",
         "object": "mapping", "array": "list"}


class Field(NamedTuple):
    """One field of a section."""

    name: str
    """Dotted; `[]` stands for an entry of a list, capitals for a key of one's own."""
    says: str
    """Its docstring."""
    kind: str
    """What it takes, in words."""
    default: str
    """As YAML has it; `required` where there is none."""
    numeric: bool
    section: type[BaseModel] | None
    """The section that it holds, or holds several of."""
    choices: tuple[str, ...]
    """The words that it takes, where these are all it takes."""


def fields() -> Iterator[Field]:
    """All fields of an experiment; a section that stands in two places, the second time perhaps
    without some of its fields, is walked in the first."""
    yield from _walk(ExperimentConfig, "", set())


def fields_of_synthesis() -> Iterator[Field]:
    """All fields of synthesis but those of sections that an experiment has too."""
    yield from _walk(SynthConfig, "", {one.section for one in fields() if one.section})


def _walk(section: type[BaseModel], before: str, seen: set[type[BaseModel]]) -> Iterator[Field]:
    seen.add(section)
    schema = section.model_json_schema(by_alias=True)
    for attribute, info in section.model_fields.items():
        name = info.alias or attribute
        inner, between = _inner(info.annotation)
        shape = schema["properties"][name]
        yield Field(before + name, info.description or "", _kind(shape, schema), _default(info),
                    _numeric(shape), inner, _choices(shape))
        if inner and not any(issubclass(one, inner) for one in seen):
            yield from _walk(inner, f"{before}{name}{between}", seen)


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section within a type, and what stands between its name and those of its fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, "."
    found = next((one for part in get_args(annotation) if (one := _inner(part)[0])), None)
    origin = getattr(annotation, "__origin__", None)
    return found, "[]." if origin is tuple else ".FIELD." if origin is dict else "."


def _default(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, BaseModel):
        return "as its fields say"
    return _yaml(default)


def _yaml(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(shape: Schema, whole: Schema) -> str:
    """What a JSON Schema takes, in words."""
    if "$ref" in shape:
        named = shape["$ref"].rpartition("/")[2]
        return "section" if named.endswith("Section") else _kind(whole["$defs"][named], whole)
    if "anyOf" in shape:
        kinds = [_kind(one, whole) for one in shape["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in shape:
        *others, last = (f"`{one}`" for one in shape["enum"])
        return f"{', '.join(others)} or {last}"
    kind = KINDS.get(shape.get("type", ""), "any value")
    if kind == "list":
        return _list(shape, whole)
    if kind == "mapping" and shape.get("additionalProperties"):
        return f"mapping to {_kind(shape['additionalProperties'], whole)}"
    bounds = [f"{word} {shape[key]:g}" for key, word in BOUNDS.items() if key in shape and shape[key] < 2**53]
    return " ".join([kind, " and ".join(bounds)]).strip()


def _list(shape: Schema, whole: Schema) -> str:
    if "prefixItems" in shape:
        return f"{len(shape['prefixItems'])} of: {_kind(shape['prefixItems'][0], whole)}"
    least = " (one at least)" if shape.get("minItems") else ""
    return f"list of: {_kind(shape.get('items', {}), whole)}{least}"


def _numeric(shape: Schema) -> bool:
    return any(one.get("type") in ("integer", "number") for one in (shape, *shape.get("anyOf", ())))


def _choices(shape: Schema) -> tuple[str, ...]:
    return tuple(shape.get("enum", ()))
