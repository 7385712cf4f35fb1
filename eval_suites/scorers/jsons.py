"""JSON and its schemas."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, time
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from eval_suites.scorers.answer_text import NotJson, same_json, strict_json
from eval_suites.scorers.base import Expect, Score

LONGEST_WHY = 300
FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)

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


def _against_schema(text: str, schema: Mapping[str, Any]) -> tuple[Any, str]:
    """The parsed value and what is wrong with it ('' when nothing)."""
    try:
        value = strict_json(text)
    except NotJson as error:
        return None, str(error)
    problem = next(iter(_errors(value, schema)), None)
    return value, problem.message[:LONGEST_WHY] if problem else ""


def _errors(value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    return iter(Draft202012Validator(schema, format_checker=FORMATS).iter_errors(value))


def _partial(value: Any, expect: Expect) -> float:
    """Share of the required keys that are there, valid and right, each nested one counted; 1 or 0 without keys."""
    wanted = _leaves(expect["schema"])
    if not wanted:
        return 0.0
    marks = [_leaf(value, expect.get("value"), path, schema, "value" in expect) for path, schema in wanted]
    return sum(marks) / len(marks)


def _leaves(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Required keys with their schemas; an object counts by the keys in it."""
    inner = schema.get("properties", {}) if schema.get("type") == "object" else {}
    found = [leaf for key in schema.get("required", ()) if key in inner for leaf in _leaves(inner[key], (*path, key))]
    return found or ([(path, schema)] if path else [])


def _leaf(value: Any, wanted: Any, path: tuple[str, ...], schema: Mapping[str, Any], compared: bool) -> bool:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False
        value, wanted = value[key], wanted[key] if compared else None
    return next(_errors(value, schema), None) is None and (not compared or same_json(value, wanted))


def score_json(expect: Expect, answer: str) -> Score:
    """The whole answer is JSON that the schema admits. `value`: and it is the value expected (where one is).

    `partial`: share of the required keys that are valid, and have the value expected.
    `flexible` also takes a fenced block with text around it; it is reported, never counted.
    """
    value, problem = _against_schema(answer.strip(), expect["schema"])
    fenced = FENCED.search(answer)
    flexible = not problem or (fenced is not None and not _against_schema(fenced.group(1), expect["schema"])[1])
    metrics = {"form": float(not problem), "flexible": float(flexible)}
    metrics["partial"] = metrics["form"] if not problem and "value" not in expect else _partial(value, expect)
    if "value" in expect:
        right = not problem and same_json(value, expect["value"])
        metrics["value"] = float(right)
        problem = problem or ("" if right else "valid, but another value")
    return Score(metrics["form"], metrics, problem)
