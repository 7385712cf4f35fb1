"""Tool calls: the right functions with the right arguments."""

from __future__ import annotations

import re

from eval_suites.scorers.base import Expect, Score
from eval_suites.scorers.jsons import NotJson, same_json, strict_json

TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def score_tool(expect: Expect, answer: str) -> Score:
    """Exactly one well-formed `<tool_call>`, of the right function with exactly the right arguments."""
    calls = TOOL_CALL.findall(answer)
    if len(calls) != 1:
        return Score(0.0, {"form": 0.0, "value": 0.0}, f"{len(calls)} tool calls")
    try:
        call = strict_json(calls[0])
        arguments = call.get("arguments") if isinstance(call, dict) else None
        if isinstance(arguments, str):
            arguments = strict_json(arguments)
    except NotJson as error:
        return Score(0.0, {"form": 0.0, "value": 0.0}, str(error))
    if not isinstance(arguments, dict) or not isinstance(call.get("name"), str):
        return Score(0.0, {"form": 0.0, "value": 0.0}, "no name or no arguments")
    if call["name"] != expect["name"]:
        return Score(0.0, {"form": 1.0, "value": 0.0}, "another function")
    right = same_json(arguments, expect["arguments"])
    return Score(float(right), {"form": 1.0, "value": float(right)}, "" if right else "other arguments")
