"""Tool calls in an answer's text, in the dialects of common chat templates. Nothing in the text is ever evaluated.

| dialect | looks like | of |
|---|---|---|
| hermes | `<tool_call>{"name": …, "arguments": {…}}</tool_call>` | Hermes, Qwen 2.5 and 3, this project's templates |
| xml | `<function=f><parameter=a>1</parameter></function>`, with or without `<tool_call>` | Qwen3-Coder |
| glm | `<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>` | GLM 4.5 |
| mistral | `[TOOL_CALLS][{…}]` and `[TOOL_CALLS]f[ARGS]{…}` | Mistral |
| deepseek | `<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜>` | DeepSeek V2 to V3.1 |
| harmony | `to=functions.f … <|message|>{…}<|call|>` | gpt-oss |
| llama | `<|python_tag|>{"name": …, "parameters": {…}}` | Llama 3.1 |
| phi | `<|tool_call|>[{…}]<|/tool_call|>` and `functools[{…}]` | Phi 4 mini, Granite 3 |
| gemma | a ```` ```tool_code ```` block of Python calls | Gemma |
| function_gemma | `<start_function_call>call:f{a:<escape>x<escape>,b:1}<end_function_call>` | FunctionGemma |
| json | the whole answer is such an object, a list of them, or OpenAI's message of them | Llama 3.2, prompts for JSON |
| pythonic | the whole answer is `[f(a=1), g(b="x")]` | Llama 3.2 and 4, BFCL prompts |
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from eval_suites.scorers.answer_text import NotJson, json_values, strict_json, without_thought

LONGEST = 50_000
"""Characters that are read for calls at most: the time of the patterns grows with the square of unclosed markers."""
LONGEST_PYTHON = 20_000
"""Characters of Python that are parsed at most: the parser's memory grows with nesting."""


class Call(NamedTuple):
    """A function's name and its arguments, as JSON values."""

    name: str
    arguments: dict[str, Any]


class Calls(NamedTuple):
    """What was called, how it was written, the text around it, and what is malformed ('' when nothing).

    `typed` is false where the dialect writes every argument as bare text, so that 5 may be a number or a string.
    """

    calls: tuple[Call, ...]
    dialect: str
    rest: str
    problem: str = ""
    typed: bool = True


TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)</function>", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
GLM_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
MISTRAL = re.compile(r"\[TOOL_CALLS\]")
MISTRAL_NAMED = re.compile(r"\s*([\w.\-]+)(?:\[CALL_ID\][\w-]+)?(?:\[ARGS\])?\s*(?=\{)")
DEEPSEEK = re.compile(r"<｜tool▁call▁begin｜>\s*(?:function\s*<｜tool▁sep｜>)?\s*([^\s<]+?)\s*(?:<｜tool▁sep｜>|\n)\s*"
                      r"(?:```json\s*)?(.*?)\s*(?:```)?\s*<｜tool▁call▁end｜>", re.DOTALL)
DEEPSEEK_FRAME = re.compile(r"<｜tool▁calls▁(?:begin|end)｜>")
HARMONY = re.compile(r"(?:<\|start\|>assistant)?\s*(?:<\|channel\|>\w+\s*)?to=functions\.([\w.\-]+)\s*"
                     r"(?:<\|channel\|>\w+)?\s*(?:<\|constrain\|>\s*\w+|\w+)?\s*<\|message\|>(.*?)(?:<\|call\|>|<\|end\|>|(?=<\|start\|>)|\Z)",
                     re.DOTALL)
PYTHON_TAG = re.compile(r"<\|python_tag\|>(.*?)(?:<\|eom_id\|>|<\|eot_id\|>|\Z)", re.DOTALL)
PHI = re.compile(r"(?:<\|tool_call\|>|\A\s*functools(?=\[))(.*?)(?:<\|/tool_call\|>|\Z)", re.DOTALL)
FUNCTION_GEMMA = re.compile(r"<start_function_call>\s*call:([\w.\-]+)\s*(\{.*?\})\s*<end_function_call>", re.DOTALL)
GEMMA_KEY = re.compile(r"(?<=[{,])\s*([\w.\-]+)\s*:")
TOOL_CODE = re.compile(r"```tool_code\s*\n(.*?)\n?```", re.DOTALL)
WHOLE_FENCE = re.compile(r"\A```(?:json|python)?\s*\n(.*?)\n?```\Z", re.DOTALL)
PYTHON_FRAME = re.compile(r"<\|python_(?:start|end)\|>")
LISTED = re.compile(r"\[\s*[A-Za-z_][\w.]*\(.*\)\s*\]", re.DOTALL)
"""A list of calls, whatever is wrong with their arguments."""
CONSTANTS = {"true": True, "false": False, "null": None}


class _Bad(ValueError):
    """A call that is not well formed; the message says how."""


def parse_calls(text: str) -> Calls:
    """The tool calls of an answer; a reasoning block in front of it is not part of the answer. Never raises.

    Well-formed calls are given also where others are malformed (`problem`).
    """
    answer = without_thought(text)
    if len(answer) > LONGEST:
        return Calls((), "", text, "too long to be read for calls")
    for dialect, marker, read in MARKED:
        if marker in answer:
            return read(dialect, answer)
    return _bare(answer.strip())


def typed_value(text: str, kind: object) -> Any:
    """An argument of a dialect without types, read as its schema's type says; the text where it cannot be."""
    if kind == "string":
        return text
    try:
        return strict_json(text)
    except NotJson:
        return {"True": True, "False": False, "None": None}.get(text.strip(), text)


def _blocks(dialect: str, answer: str, pattern: re.Pattern[str], read: Callable[[re.Match[str]], Iterator[Call]],
            *, marker: str, typed: bool = True) -> Calls:
    """One or more calls per match of the pattern; a marker outside all matches is a block that was never closed."""
    calls: list[Call] = []
    problem = ""
    for found in pattern.finditer(answer):
        try:
            calls += read(found)
        except (_Bad, NotJson) as error:
            problem = problem or str(error)
    rest = pattern.sub("", answer).strip()
    if marker in rest:
        problem = problem or f"{marker} is not closed or not in its form"
    return Calls(tuple(calls), dialect, rest, problem, typed)


def _call(value: object) -> Call:
    """An object with `name` and `arguments` (or `parameters`), also OpenAI's with `function` around them."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise _Bad("a call without a name")
    key = next((key for key in ("arguments", "parameters") if key in value), None)
    if key is None:
        raise _Bad("a call without arguments")
    arguments = value[key]
    if isinstance(arguments, str):
        arguments = strict_json(arguments)
    if not isinstance(arguments, dict):
        raise _Bad("arguments that are no object")
    return Call(value["name"], arguments)


def _calls(value: object) -> list[Call]:
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    return [_call(one) for one in value] if isinstance(value, list) else [_call(value)]


def _named(name: str, arguments: str) -> Call:
    return _call({"name": name, "arguments": strict_json(arguments)})


def _hermes(dialect: str, answer: str) -> Calls:
    """What is between the tags tells Hermes from Qwen3-Coder and GLM."""
    if FUNCTION.search(answer):
        return _xml("xml", re.sub(r"</?tool_call>", "", answer))
    if "<arg_key>" in answer or re.search(r"<tool_call>\s*[\w.\-]+\s*</tool_call>", answer):
        return _blocks("glm", answer, TOOL_CALL, lambda m: iter([_glm(m.group(1))]), marker="<tool_call>", typed=False)
    return _blocks(dialect, answer, TOOL_CALL, lambda m: iter(_calls(strict_json(m.group(1)))), marker="<tool_call>")


def _glm(body: str) -> Call:
    name, _, arguments = body.partition("<arg_key>")
    if not re.fullmatch(r"[\w.\-]+", name.strip()):
        raise _Bad("a call without a name")
    pairs = GLM_ARGUMENT.findall(f"<arg_key>{arguments}")
    return Call(name.strip(), {key.strip(): value.strip() for key, value in pairs})


def _xml(dialect: str, answer: str) -> Calls:
    bodies = [found.group(2).strip() for found in FUNCTION.finditer(answer)]
    typed = any(body.startswith("{") for body in bodies)  # Llama 3.1's other form: <function=f>{"a": 1}</function>
    return _blocks(dialect, answer, FUNCTION, lambda m: iter([_function(m.group(1), m.group(2).strip())]),
                   marker="<function=", typed=typed)


def _function(name: str, body: str) -> Call:
    if body.startswith("{"):
        return _named(name, body)
    if PARAMETER.sub("", body).strip():
        raise _Bad("text between the parameters")
    pairs = PARAMETER.findall(body)
    if len(dict(pairs)) < len(pairs):
        raise _Bad("a parameter is there twice")
    return Call(name, dict(pairs))


def _mistral(dialect: str, answer: str) -> Calls:
    rest, *parts = MISTRAL.split(answer)
    calls: list[Call] = []
    problem = ""
    for part in parts:
        named = MISTRAL_NAMED.match(part)
        try:
            calls += [_named(named.group(1), part[named.end():])] if named else _calls(strict_json(part.strip()))
        except (_Bad, NotJson) as error:
            problem = problem or str(error)
    return Calls(tuple(calls), dialect, rest.strip(), problem)


def _deepseek(dialect: str, answer: str) -> Calls:
    return _blocks(dialect, DEEPSEEK_FRAME.sub("", answer), DEEPSEEK, lambda m: iter([_named(m.group(1), m.group(2))]),
                   marker="<｜tool▁call▁begin｜>")


def _harmony(dialect: str, answer: str) -> Calls:
    return _blocks(dialect, answer, HARMONY, lambda m: iter([_named(m.group(1), m.group(2).strip())]),
                   marker="to=functions.")


def _llama(dialect: str, answer: str) -> Calls:
    def read(found: re.Match[str]) -> Iterator[Call]:
        body = found.group(1).strip()
        yield from _many_objects(body) if body.startswith(("{", "[")) else _python(body)

    return _blocks(dialect, answer, PYTHON_TAG, read, marker="<|python_tag|>")


def _gemma(dialect: str, answer: str) -> Calls:
    return _blocks(dialect, answer, TOOL_CODE, lambda m: iter(_python(m.group(1))), marker="```tool_code")


def _phi(dialect: str, answer: str) -> Calls:
    return _blocks(dialect, answer, PHI, lambda m: iter(_calls(strict_json(m.group(1)))), marker="<|tool_call|>")


def _function_gemma(dialect: str, answer: str) -> Calls:
    def read(found: re.Match[str]) -> Iterator[Call]:
        parts = found.group(2).split("<escape>")  # every other one is text
        parts[1::2] = [json.dumps(text) for text in parts[1::2]]
        parts[::2] = [GEMMA_KEY.sub(r'"\1":', part) for part in parts[::2]]
        yield _named(found.group(1), "".join(parts))

    return _blocks(dialect, answer, FUNCTION_GEMMA, read, marker="<start_function_call>")


def _many_objects(text: str) -> list[Call]:
    return [call for value in json_values(text) for call in _calls(value)]


def _bare(answer: str) -> Calls:
    """An answer without markers is a call when the whole of it is one, as JSON or as Python; else it is text."""
    fence = WHOLE_FENCE.match(answer)
    body = PYTHON_FRAME.sub("", fence.group(1) if fence else answer).strip()
    for dialect, read in (("json", _many_objects), ("pythonic", _python)):
        try:
            calls = read(body)
        except (_Bad, NotJson):
            continue
        if calls:
            return Calls(tuple(calls), dialect, "")
    if LISTED.fullmatch(body):
        return Calls((), "pythonic", "", "arguments that are no literals with names")
    return Calls((), "", answer)


def _python(text: str) -> list[Call]:
    """Calls with keyword arguments that are literals: `f(a=1)`, one a line, or a list of them."""
    if len(text) > LONGEST_PYTHON:
        raise _Bad("too long to be a call")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubtful escapes in the text of an answer are not this program's
            body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise _Bad("not Python") from error
    nodes: list[ast.expr] = []
    for statement in body:
        if not isinstance(statement, ast.Expr):
            raise _Bad("not a call")
        value = statement.value
        nodes += value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
    return [_python_call(node) for node in nodes]


def _python_call(node: ast.expr) -> Call:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print" and \
            len(node.args) == 1 and not node.keywords:
        node = node.args[0]  # Gemma prints what it wants to see
    if not isinstance(node, ast.Call) or node.args:
        raise _Bad("not a call with keyword arguments")
    names = [keyword.arg for keyword in node.keywords]
    if None in names or len(set(names)) < len(names):
        raise _Bad("an argument without a name or there twice")
    return Call(_dotted(node.func), {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords})


def _dotted(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise _Bad("not the name of a function")
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
        raise _Bad("an argument that is no literal") from error


MARKED: tuple[tuple[str, str, Callable[[str, str], Calls]], ...] = (
    ("hermes", "<tool_call>", _hermes),
    ("xml", "<function=", _xml),
    ("mistral", "[TOOL_CALLS]", _mistral),
    ("deepseek", "<｜tool▁call▁begin｜>", _deepseek),
    ("harmony", "to=functions.", _harmony),
    ("llama", "<|python_tag|>", _llama),
    ("phi", "<|tool_call|>", _phi),
    ("phi", "functools[", _phi),
    ("function_gemma", "<start_function_call>", _function_gemma),
    ("gemma", "```tool_code", _gemma),
)
"""Dialect, text that gives it away, reader."""
