"""JSON and its schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from eval_suites.scorers.base import Expect, Score

FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)


class NotJson(ValueError):
    """The text is not the JSON asked for; the message says why."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotJson("a key is there twice")
    return found


def _constant(name: str) -> None:
    raise NotJson(f"{name} is not JSON")


def strict_json(text: str) -> Any:
    """Strict JSON: no doubled keys, no NaN, nothing around it."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise NotJson("JSON nested too deeply") from error


def same_json(a: Any, b: Any) -> bool:
    """Equal as JSON values: 1 equals 1.0, and neither equals true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_json(x, y) for x, y in zip(a, b, strict=True))
    return bool(type(a) is type(b) or (isinstance(a, int | float) and isinstance(b, int | float))) and a == b


def _against_schema(text: str, schema: Mapping[str, Any]) -> tuple[Any, str]:
    """The parsed value and what is wrong with it ('' when nothing)."""
    try:
        value = strict_json(text)
    except NotJson as error:
        return None, str(error)
    problem = next(iter(Draft202012Validator(schema).iter_errors(value)), None)
    return value, problem.message if problem else ""


def score_json(expect: Expect, answer: str) -> Score:
    """The whole answer is JSON that the schema admits. `value`: and it is the value expected (where one is).

    `flexible` also takes a fenced block with text around it; it is reported, never counted.
    """
    value, problem = _against_schema(answer.strip(), expect["schema"])
    fenced = FENCED.search(answer)
    flexible = not problem or (fenced is not None and not _against_schema(fenced.group(1), expect["schema"])[1])
    metrics = {"form": float(not problem), "flexible": float(flexible)}
    if "value" in expect:
        right = not problem and same_json(value, expect["value"])
        metrics["value"] = float(right)
        problem = problem or ("" if right else "valid, but another value")
    return Score(metrics["form"], metrics, problem)
