"""Berkeley Function-Calling Leaderboard (Patil et al. 2025): single-turn categories with their possible answers.

The prompts go through the model's own chat template with the functions as its tools, so that every model is asked and
answers in its own dialect. Two rows of live_simple list no admissible value for arguments that must be empty lists
(`scorers.tools.admits`); upstream's checker lets nobody pass them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval_suites.suites.chat_item import ChatItem, parse_lines
from sft_core.errors import EvalError

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "irrelevance")
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
"""BFCL's names of types that are not JSON Schema's; `any` is no constraint."""


def read_bfcl(folder: Path) -> list[ChatItem]:
    """All items of the single-turn categories in a folder of BFCL v4 files; task is the category.

    Raises:
        OSError: a file is missing.
        EvalError: a row is not BFCL's.
    """
    return [item for category in CATEGORIES for item in _category(folder, category)]


def json_schema(bfcl: Any) -> Any:
    """A BFCL parameter description as JSON Schema."""
    if isinstance(bfcl, list):
        return [json_schema(one) for one in bfcl]
    if not isinstance(bfcl, dict):
        return bfcl
    found = {}
    for key, value in bfcl.items():
        if key == "type" and isinstance(value, str):
            if (name := TYPES.get(value, value)) is not None:
                found["type"] = name
        else:
            found[key] = json_schema(value) if key != "default" else value
    return found


def _category(folder: Path, category: str) -> list[ChatItem]:
    name = f"BFCL_v4_{category}.json"
    questions, wanted = folder / name, {}
    if category != "irrelevance":
        file = folder / "possible_answer" / name
        wanted = {row["id"]: row["ground_truth"] for _, row in parse_lines(file.read_text(encoding="utf-8"), file)}
    found = []
    for where, row in parse_lines(questions.read_text(encoding="utf-8"), questions):
        try:
            found.append(_item(row, category, wanted[row["id"]] if wanted else []))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise EvalError(f"{where} is not a row of BFCL v4: {error!r}") from error
    return found


def _item(row: dict[str, Any], category: str, calls: list[dict[str, Any]]) -> ChatItem:
    functions = [{**one, "parameters": json_schema(one["parameters"])} for one in row["function"]]
    parameters = {one["name"]: one["parameters"] for one in functions}
    called = [next(iter(call)) for call in calls] or [functions[0]["name"]]
    tools = json.dumps([{"type": "function", "function": one} for one in functions], ensure_ascii=False)
    expect = {"calls": calls, "parameters": {name: parameters[name] for name in sorted(set(called))}} if calls else {}
    return ChatItem(row["id"], "tool_calls" if calls else "no_call", called[0], list(row["question"][0]), tools, expect,
                    task=category)
