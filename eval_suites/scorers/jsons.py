"""JSON and its schemas."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, time
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from eval_suites.scorers.answer_text import NotJson, json_inside, same_json, strict_json
from eval_suites.scorers.base import Expect, Score

LONGEST_WHY = 300

FORMATS = FormatChecker(("date", "ipv4", "ipv6", "uuid", "regex"))
"""Formats that are checked, whatever else is installed; a schema that names others is not checked for them."""
CLOCK = r"\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)"
LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
SHAPES = {  # RFC 3339 and its appendix A, RFC 1123, RFC 3986
    "date-time": rf"\d{{4}}-\d\d-\d\d[Tt]{CLOCK}",
    "time": CLOCK,
    "duration": r"P(?:\d+W|(?=[\dT])(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?)",
    "hostname": rf"(?=.{{1,253}}\Z){LABEL}(?:\.{LABEL})*",
    "email": rf"[^\s@]+@{LABEL}(?:\.{LABEL})*",
    "uri": r"(?!https?:(?!//[^/?#]))[A-Za-z][A-Za-z0-9+.-]*:"
           r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+",
}
READ: Mapping[str, Callable[[str], object]] = {"date-time": datetime.fromisoformat, "time": time.fromisoformat}
"""What refuses the 30th of February."""


def _check(name: str) -> Callable[[object], bool]:
    shape, read = re.compile(SHAPES[name], re.ASCII), READ.get(name, str)

    def holds(value: object) -> bool:
        return not isinstance(value, str) or bool(shape.fullmatch(value) and read(value.upper()) is not None)

    return holds


for _name in SHAPES:
    FORMATS.checks(_name, raises=ValueError)(_check(_name))


def score_json(expect: Expect, answer: str) -> Score:
    """The whole answer is JSON that the schema admits, and the value expected (where one is).

    `form`: the schema admits it. `value`: JSON with the value expected is somewhere in the answer. `flexible`: and the
    schema admits it. `partial`: share of the required keys that are valid, and have the value expected.
    """
    schema = expect["schema"]
    try:
        whole, wrong = [strict_json(answer.strip())], ""
    except NotJson as error:
        whole, wrong = [], str(error)
    errors = _errors(whole[0], schema) if whole else []
    problem = wrong or (errors[0].message[:LONGEST_WHY] if errors else "")
    found = whole or json_inside(answer)
    same = [one for one in found if "value" not in expect or _same(one, expect["value"])]
    right = not problem and bool(same)
    metrics = {"form": float(not problem), "flexible": float(right or any(not _errors(one, schema) for one in same)),
               "partial": 1.0 if right else _partial(whole[0], expect, errors) if whole else 0.0}
    if "value" in expect:
        metrics["value"] = float(bool(same))
    return Score(float(right), metrics, "" if right else problem or "valid, but another value")


def _same(value: Any, wanted: Any) -> bool:
    """Equal as JSON, but for the case of letters, which a schema can demand where it matters."""
    return same_json(_folded(value), _folded(wanted))


def _folded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _folded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_folded(one) for one in value]
    return value.strip().casefold() if isinstance(value, str) else value


def _errors(value: Any, schema: Mapping[str, Any]) -> list[ValidationError]:
    return list(Draft202012Validator(schema, format_checker=FORMATS).iter_errors(value))


def _partial(value: Any, expect: Expect, errors: Sequence[ValidationError]) -> float:
    """Share of the required keys that are there, valid and right, each nested one counted; 0 without keys."""
    bad = [tuple(error.absolute_path) for error in errors]
    marks = []
    for path in _leaves(expect["schema"]):
        there, said = _at(value, path)
        given, wanted = _at(expect["value"], path) if "value" in expect else (there, said)
        valid = there and not any(wrong[:len(path)] == path for wrong in bad)
        marks.append(valid and given and _same(said, wanted))
    return sum(marks) / len(marks) if marks else 0.0


def _leaves(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where the required keys are; an object counts by the keys in it."""
    inner = schema.get("properties", {}) if schema.get("type") == "object" else {}
    found = [leaf for key in schema.get("required", ()) if key in inner for leaf in _leaves(inner[key], (*path, key))]
    return found or ([path] if path else [])


def _at(value: Any, path: tuple[str, ...]) -> tuple[bool, Any]:
    """Whether there is something at the path, and what."""
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False, None
        value = value[key]
    return True, value
