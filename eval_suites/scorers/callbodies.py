"""One call out of what stands for it: an object of JSON, or Python with keyword arguments that are literals."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any, NamedTuple

from eval_suites.scorers.answer_text import json_values, strict_json

LONGEST_PYTHON = 20_000
"""Characters of Python that are parsed at most: the parser's memory grows with nesting."""
CONSTANTS = {"true": True, "false": False, "null": None}


class Call(NamedTuple):
    """A function's name and its arguments, as JSON values."""

    name: str
    arguments: dict[str, Any]


class Malformed(ValueError):
    """A call that is not well formed; the message says how."""


def call_of(value: object) -> Call:
    """An object of `name` or `tool_name`, and `arguments` or `parameters`; also OpenAI's with `function` around it."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(name := value.get("name", value.get("tool_name")), str):
        raise Malformed("a call without a name")
    key = next((key for key in ("arguments", "parameters") if key in value), None)
    if key is None:
        raise Malformed("a call without arguments")
    arguments = value[key]
    if isinstance(arguments, str):
        arguments = strict_json(arguments)
    if not isinstance(arguments, dict):
        raise Malformed("arguments that are no object")
    return Call(name, arguments)


def calls_of(value: object) -> list[Call]:
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    return [call_of(one) for one in value] if isinstance(value, list) else [call_of(value)]


def named_call(name: str, arguments: str) -> Call:
    return call_of({"name": name, "arguments": strict_json(arguments)})


def many_objects(text: str) -> list[Call]:
    return [call for value in json_values(text) for call in calls_of(value)]


def python_calls(text: str) -> list[Call]:
    """Calls with keyword arguments that are literals: `f(a=1)`, one a line, or a list of them."""
    if len(text) > LONGEST_PYTHON:
        raise Malformed("too long to be a call")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubtful escapes in the text of an answer are not this program's
            body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Malformed("not Python") from error
    nodes: list[ast.expr] = []
    for statement in body:
        if not isinstance(statement, ast.Expr):
            raise Malformed("not a call")
        value = statement.value
        nodes += value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
    return [_python_call(node) for node in nodes]


def _python_call(node: ast.expr) -> Call:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print" and \
            len(node.args) == 1 and not node.keywords:
        node = node.args[0]  # Gemma prints what it wants to see
    if not isinstance(node, ast.Call) or node.args:
        raise Malformed("not a call with keyword arguments")
    names = [keyword.arg for keyword in node.keywords]
    if None in names or len(set(names)) < len(names):
        raise Malformed("an argument without a name or there twice")
    return Call(_dotted(node.func), {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords})


def _dotted(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise Malformed("not the name of a function")
    return ".".join([node.id, *reversed(parts)])


class _JsonNames(ast.NodeTransformer):
    """true, false and null as Python writes them."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(CONSTANTS[node.id]) if node.id in CONSTANTS else node


def _literal(node: ast.expr) -> Any:
    """The JSON value of a literal; tuples are lists."""
    try:
        return json.loads(json.dumps(ast.literal_eval(_JsonNames().visit(node)), allow_nan=False))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise Malformed("an argument that is no literal") from error
