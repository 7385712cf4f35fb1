"""JSON and its schemas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from eval_suites.answer_text import NotJson, same_json, strict_json
from eval_suites.scorers.base import Expect, Score

FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)


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
