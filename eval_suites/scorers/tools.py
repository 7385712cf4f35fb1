"""Tool calls: the right functions with the right arguments, in whatever dialect they are written.

What is right is written as in BFCL (Patil et al. 2025): a list of {function: {argument: [admissible values]}}, where ""
among the values means that the argument may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval_suites.scorers.answer_text import same_json
from eval_suites.scorers.base import Expect, Score
from eval_suites.scorers.callbodies import Call
from eval_suites.scorers.toolcalls import Calls, parse_calls, typed_value

Schema = Mapping[str, Any]
IGNORED = re.compile(r"[ ,./\-_*^]")
"""Characters that do not tell two strings apart, as in BFCL's AST checker: April 1, 2024 = April 1 2024."""
FRACTIONAL = ("number", "float")


def score_tool(expect: Expect, answer: str) -> Score:
    """Exactly one well-formed `<tool_call>`, of the right function with exactly the right arguments.

    `alone`: and no words around it, where those were asked not to be. `partial`: the share of the arguments, given or
    missing, that are right; 0 for another function.
    """
    found = parse_calls(answer)
    wrong = "no <tool_call>" if found.dialect != "hermes" else found.problem
    if wrong or len(found.calls) != 1:
        return Score(0.0, {"form": 0.0, "value": 0.0, "partial": 0.0}, wrong or f"{len(found.calls)} tool calls")
    call, wanted = found.calls[0], expect["arguments"]
    keys = call.arguments.keys() | wanted.keys()
    same = sum(key in call.arguments and key in wanted and same_json(call.arguments[key], wanted[key]) for key in keys)
    named = call.name == expect["name"]
    right, alone = named and same == len(keys), not (expect.get("alone") and found.rest)
    why = "another function" if not named else "other arguments" if not right else "" if alone else "words around it"
    partial = (same / len(keys) if keys else 1.0) if named else 0.0
    return Score(float(right and alone), {"form": float(alone), "value": float(right), "partial": partial}, why)


def score_tool_calls(expect: Expect, answer: str) -> Score:
    """All calls that are wanted (`calls`), in any order, and no other; `parameters` holds the functions' schemas.

    `form`: well-formed calls; `functions`: the right functions as often as wanted; `partial`: over all calls wanted and
    made, the share of each one's arguments that are right.
    """
    from scipy.optimize import linear_sum_assignment  # to know the scorers must not take as long as to use them

    found = parse_calls(answer)
    wanted: Sequence[Mapping[str, Any]] = expect["calls"]
    if not found.calls:
        return Score(0.0, {"form": 0.0, "functions": 0.0, "partial": 0.0}, found.problem or "no tool call")
    calls = [_with_types(call, expect["parameters"], found) for call in found.calls]
    shares = np.array([[_share(call, one, expect["parameters"]) for call in calls] for one in wanted])
    pairs = list(zip(*linear_sum_assignment(-shares), strict=True))
    partial = float(sum(shares[pair] for pair in pairs)) / max(shares.shape)
    right = not found.problem and shares.shape[0] == shares.shape[1] and all(shares[pair] == 1.0 for pair in pairs)
    names = sorted(_plain(call.name) for call in calls) == sorted(_plain(next(iter(one))) for one in wanted)
    why = "" if right else found.problem or _why(calls, wanted, expect["parameters"], pairs)
    return Score(float(right), {"form": float(not found.problem), "functions": float(names), "partial": partial}, why)


def score_no_call(expect: Expect, answer: str) -> Score:
    """An answer without a call where no function fits. As in BFCL, what cannot be read as a call is none; `malformed`
    tells of such attempts."""
    found = parse_calls(answer)
    why = f"called {found.calls[0].name}" if found.calls else "" if answer.strip() else "empty answer"
    return Score(float(not why), {"called": float(bool(found.calls)), "malformed": float(bool(found.problem))}, why)


def admits(value: Any, admissible: Sequence[Any], schema: Schema) -> bool:
    """True where the value is among the admissible ones under the rules of BFCL's AST checker.

    Strings are compared without case and the punctuation in `IGNORED`. A number has the type that the schema says or
    that the admissible one has, and an integer may stand for a float, though not in a list. Inside an object types are
    not looked at, and values are again lists of admissible ones. An empty list may stand for an array that may be left
    out, an empty text only for a string. No admissible value at all is upstream's way to write an empty list.
    """
    kind = schema.get("type")
    if value == "" and kind not in (None, "string"):
        return False
    if value == [] and kind == "array" and ("" in admissible or not admissible):
        return True
    if type(value) is int and kind in FRACTIONAL:
        value = float(value)
    return any(_same(value, one, schema) for one in admissible)


def _same(value: Any, wanted: Any, schema: Schema) -> bool:
    kind = schema.get("type")
    if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
        return value is wanted
    if isinstance(value, str) and isinstance(wanted, str):
        return _standard(value) == _standard(wanted) if kind in (None, "string") else value == wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return value == wanted and type(value) in (type(wanted), float if kind in FRACTIONAL else int)
    if isinstance(value, list) and isinstance(wanted, list):
        items = schema.get("items") or {}
        return len(value) == len(wanted) and all(_same_item(v, w, items) for v, w in zip(value, wanted, strict=True))
    return isinstance(value, dict) and isinstance(wanted, dict) and _same_object(value, wanted)


def _same_item(value: Any, wanted: Any, schema: Schema) -> bool:
    """In a list texts are always compared as texts, and lists in it to the letter."""
    if isinstance(value, str) and isinstance(wanted, str):
        return _standard(value) == _standard(wanted)
    return same_json(value, wanted) if isinstance(value, list) else _same(value, wanted, schema)


def _same_object(value: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if not value.keys() <= wanted.keys() or any("" not in wanted[key] for key in wanted.keys() - value.keys()):
        return False
    return all(any(_same_inside(value[key], one) for one in wanted[key]) for key in value)


def _same_inside(value: Any, wanted: Any) -> bool:
    """In an object: numbers by their size alone, lists to the letter."""
    if isinstance(value, str) and isinstance(wanted, str):
        return _standard(value) == _standard(wanted)
    return _same_object(value, wanted) if isinstance(value, dict) and isinstance(wanted, dict) else \
        same_json(value, wanted)


def _standard(text: str) -> str:
    return IGNORED.sub("", text).lower().replace("'", '"')


def _plain(name: str) -> str:
    """Names with dots are sent to most models with underscores, since OpenAI's names have none."""
    return name.replace(".", "_")


def _schema_of(name: str, parameters: Mapping[str, Schema]) -> Schema:
    return next((schema for known, schema in parameters.items() if _plain(known) == _plain(name)), {})


def _with_types(call: Call, parameters: Mapping[str, Schema], found: Calls) -> Call:
    if found.typed:
        return call
    known = _schema_of(call.name, parameters).get("properties", {})
    return Call(call.name, {key: typed_value(text, known.get(key, {}).get("type")) for key, text in
                            call.arguments.items()})


def _wrong(call: Call, wanted: Mapping[str, Any], parameters: Mapping[str, Schema]) -> dict[str, str]:
    """Argument → what is wrong with it."""
    (name, arguments), = wanted.items()
    schema = _schema_of(name, parameters)
    required, properties = schema.get("required", ()), schema.get("properties", {})
    found = {key: "missing" for key, admissible in arguments.items()
             if key not in call.arguments and (key in required or "" not in admissible)}
    for key, value in call.arguments.items():
        if key not in properties:
            found[key] = "invented"
        elif key not in arguments:
            found[key] = "not asked for"
        elif not admits(value, arguments[key], properties[key]):
            found[key] = f"is {str(value)[:80]!r}"
    return found


def _share(call: Call, wanted: Mapping[str, Any], parameters: Mapping[str, Schema]) -> float:
    """Share of the arguments, given or missing, that are right; 0 for another function."""
    (name, _), = wanted.items()
    if _plain(call.name) != _plain(name):
        return 0.0
    wrong = _wrong(call, wanted, parameters)
    return 1.0 - len(wrong) / max(len(call.arguments.keys() | wrong.keys()), 1)


def _why(calls: Sequence[Call], wanted: Sequence[Mapping[str, Any]], parameters: Mapping[str, Schema],
         pairs: Sequence[tuple[int, int]]) -> str:
    if len(calls) != len(wanted):
        return f"{len(calls)} tool calls instead of {len(wanted)}"
    for at, other in pairs:
        name = next(iter(wanted[at]))
        if _plain(calls[other].name) != _plain(name):
            return f"{calls[other].name} instead of {name}"
        if wrong := _wrong(calls[other], wanted[at], parameters):
            return f"{name}: " + ", ".join(f"{key} {problem}" for key, problem in wrong.items())
    return "other calls"
