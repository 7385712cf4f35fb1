"""Verifiers that need no model, made of the scorers of suites (`eval_suites/scorers`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eval_suites.results import SCORER_ERRORS, scorer_failed
from eval_suites.scorers.answer_text import without_thought
from eval_suites.scorers.base import Score, Scorer
from eval_suites.scorers.jsons import score_json
from eval_suites.scorers.registry import SCORERS
from eval_suites.scorers.registry import score as score_of_kind
from eval_suites.scorers.shape import score_pattern, score_words
from eval_suites.scorers.short import NUMBER, score_short_answer
from eval_suites.scorers.tools import score_no_call, score_tool_calls
from eval_suites.verifiers.contract import Prompted, Verifier
from sft_core.errors import EvalError

BEHIND = re.compile(r".*####\s*([^\n]*)", re.DOTALL)
"""GSM8K's mark of the answer, the last one."""


def _rule(name: str, score: Callable[[Prompted, str], Score], lacks: Callable[[Prompted], str] = lambda _: "",
          at_least: float = 1.0) -> Verifier:
    def one(prompted: Prompted, answer: str) -> Score:
        try:
            return score(prompted, without_thought(answer))
        except SCORER_ERRORS as error:
            return Score(None, {}, scorer_failed(error))

    return Verifier(name, at_least, lambda answered: [one(*each) for each in answered], lacks)


def number(strict: bool) -> Verifier:
    """The number of the reference: what stands behind its last ####, else its last one."""

    def score(prompted: Prompted, answer: str) -> Score:
        said = BEHIND.match(answer)
        if strict and said is None:
            return Score(0.0, {}, "no ####")
        return score_short_answer({"answers": [_number(prompted.reference)]}, said[1] if strict and said else answer)

    return _rule("number", score, lambda one: "" if _number(one.reference) else "its reference holds no number")


def _number(reference: str) -> str:
    marked = BEHIND.match(reference)
    found = [one.group() for one in NUMBER.finditer(marked[1] if marked else reference)]
    return found[-1] if found else ""


def json_schema(file: str) -> Verifier:
    """JSON that the schema in a file admits.

    Raises:
        EvalError: the file cannot be read, or holds no schema.
    """
    from jsonschema import Draft202012Validator, SchemaError

    try:
        schema = json.loads(Path(file).read_text(encoding="utf-8"))
        Draft202012Validator.check_schema(schema)
    except (OSError, ValueError, SchemaError) as error:
        raise EvalError(f"reject.verify.json_schema.file: {file} is no JSON Schema ({str(error).splitlines()[0]}); "
                        "give the path of one") from error
    return _rule("json_schema", lambda _, answer: score_json({"schema": schema}, answer))


def tool_calls(arguments: bool) -> Verifier:
    """The calls of the reference, in any order; none where it has none."""

    def score(prompted: Prompted, answer: str) -> Score:
        if not prompted.calls:
            return score_no_call({}, answer)
        found = score_tool_calls({"calls": [{one.name: _admissible(json.loads(one.arguments))}
                                            for one in prompted.calls], "parameters": _parameters(prompted)}, answer)
        if arguments:
            return found
        right = found.metrics["form"] and found.metrics["functions"]
        return Score(right, found.metrics, "" if right else found.why)

    return _rule("tool_calls", score, lambda one: "" if one.tools else "it has no tools")


def _admissible(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """As BFCL writes what is right: lists of admissible values, inside objects too."""
    return {key: [_admissible(value) if isinstance(value, dict) else value] for key, value in arguments.items()}


def _parameters(prompted: Prompted) -> dict[str, Any]:
    tools = [one.get("function", one) for one in json.loads(prompted.tools or "[]")]
    return {one["name"]: one.get("parameters", {}) for one in tools}


def pattern(regex: str) -> Verifier:
    """A form.

    Raises:
        EvalError: it is no regular expression.
    """
    try:
        re.compile(regex)
    except re.error as error:
        raise EvalError(f"reject.verify.pattern.regex: {regex!r} is no regular expression of Python ({error})"
                        ) from error
    return _rule("pattern", lambda _, answer: score_pattern({"pattern": regex}, answer))


def words(least: int, most: int) -> Verifier:
    """A length in words."""
    return _rule("words", lambda _, answer: score_words({"min": least, "max": most}, answer))


def scorer(function: Scorer | None, at_least: float) -> Verifier:
    """A function of (expect, answer), else the scorer of the item's kind. Of a prompt without an item `expect` holds
    the reference."""
    if function is None:
        return _rule("scorer", lambda one, answer: score_of_kind(one.kind, one.expect, answer),
                     lambda one: "" if one.kind in SCORERS else f"its kind {one.kind!r} has no scorer", at_least)
    return _rule("scorer", lambda one, answer: function(one.expect or {"reference": one.reference}, answer),
                 at_least=at_least)
