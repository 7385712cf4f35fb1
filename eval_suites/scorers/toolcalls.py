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
| gemma4 | `<|tool_call>call:f{a:<|"|>x<|"|>,b:1}<tool_call|>` | Gemma 4 |
| kimi | `<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}<|tool_call_end|>` | Kimi K2 |
| invoke | `<invoke name="f"><parameter name="a">1</parameter></invoke>` or `<x:invoke …` | MiniMax M2, DeepSeek V3.2 |
| hunyuan | `<tool_call>f`, a ```` ```json ```` block of its arguments, `</tool_call>` | Hunyuan |
| framed | JSON or Python between `FRAMES` | Command R7B, InternLM, Jamba, LFM 2, MiniMax M1, Nemotron Nano 2, OLMo 3 |
| apertus | `<|tools_prefix|>[{"f": {…}}]<|tools_suffix|>` | Apertus |
| action | `Action:` and a ```` ```json ```` block of objects; `directly_answer` is no call | Command R+ |
| named | the whole answer is `f`, a line break and `{…}` | GLM 4 9B |
| json | the whole answer is such an object, a list of them, or OpenAI's message of them | Llama 3.2, prompts for JSON |
| pythonic | the whole answer is `[f(a=1), g(b="x")]` | Llama 3.2 and 4, BFCL prompts |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from eval_suites.scorers.answer_text import NotJson, strict_json, without_thought
from eval_suites.scorers.callbodies import Call, Malformed, calls_of, many_objects, named_call, python_calls

LONGEST = 50_000
"""Characters that are read for calls at most: the time of the patterns grows with the square of unclosed markers."""


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
                      r"(?:```json\s*)?(.*?)\s*(?:```)?\s*(?:<｜tool▁call▁end｜>|\Z)", re.DOTALL)
"""The last mark is the stop of R1's distilled models, and then no part of the answer."""
DEEPSEEK_FRAME = re.compile(r"<｜tool▁calls▁(?:begin|end)｜>")
HARMONY = re.compile(r"(?:<\|start\|>assistant)?\s*(?:<\|channel\|>\w+\s*)?to=functions\.([\w.\-]+)\s*"
                     r"(?:<\|channel\|>\w+)?\s*(?:<\|constrain\|>\s*\w+|\w+)?\s*<\|message\|>(.*?)(?:<\|call\|>|<\|end\|>|(?=<\|start\|>)|\Z)",
                     re.DOTALL)
PYTHON_TAG = re.compile(r"<\|python_tag\|>(.*?)(?:<\|eom_id\|>|<\|eot_id\|>|\Z)", re.DOTALL)
PHI = re.compile(r"(?:<\|tool_call\|>|\A\s*functools(?=\[))(.*?)(?:<\|/tool_call\|>|\Z)", re.DOTALL)
GEMMA_CALL = re.compile(r"<(?:start_function_call|\|tool_call)>\s*call:([\w.\-]+)\s*(\{.*?\})\s*"
                        r"<(?:end_function_call|tool_call\|)>", re.DOTALL)
GEMMA_QUOTE = re.compile(r"<escape>|<\|\"\|>")
GEMMA_CONSTANT = re.compile(r"(?<=[:,\[])(None|True|False)(?=[,}\]])")
GEMMA_CONSTANTS = {"None": "null", "True": "true", "False": "false"}
"""Gemma 4's first template writes them as Python does."""
GEMMA_KEY = re.compile(r"(?<=[{,])\s*([\w.\-]+)\s*:")
TOOL_CODE = re.compile(r"```tool_code\s*\n(.*?)\n?```", re.DOTALL)
WHOLE_FENCE = re.compile(r"\A```(?:json|python)?\s*\n(.*?)\n?```\Z", re.DOTALL)
KIMI = re.compile(r"<\|tool_call_begin\|>\s*(?:functions\.)?([\w.\-]+?)(?::\d+)?\s*"
                  r"<\|tool_call_argument_begin\|>\s*(.*?)\s*<\|tool_call_end\|>", re.DOTALL)
KIMI_FRAME = re.compile(r"<\|tool_calls_section_(?:begin|end)\|>")
INVOKE = re.compile(r"<((?:\w+:|｜DSML｜)?)invoke name=\"([^\"]+)\">(.*?)</\1invoke>", re.DOTALL)
INVOKED_WITH = re.compile(r"<((?:\w+:|｜DSML｜)?)parameter name=\"([^\"]+)\"(?: string=\"(true|false)\")?>"
                          r"(.*?)</\1parameter>", re.DOTALL)
XML_FRAME = re.compile(r"</?(?:\w+:|｜DSML｜)?(?:tool_calls?|function_calls)>")
ADDRESSED = re.compile(r"(?:<\|start\|>assistant )?\bto=[\w.\-]+<\|message\|>|<\|eom\|>")
"""To whom Muse speaks."""
HUNYUAN = re.compile(r"<tool_call>\s*([\w.\-]+)\s*```json\s*(.*?)\s*```\s*</tool_call>", re.DOTALL)
APERTUS = re.compile(r"<\|tools_prefix\|>(.*?)<\|tools_suffix\|>", re.DOTALL)
ACTION = re.compile(r"Action:\s*```json\s*(.*?)\s*```", re.DOTALL)
NAMED = re.compile(r"([A-Za-z_][\w.\-]*)[ \t]*\n\s*(\{.*\})", re.DOTALL)
OBJECTS = re.compile(r"[\[\s]*\{")
FRAMES = (
    ("<tool_calls>", "</tool_calls>"),
    ("<function_calls>", "</function_calls>"),
    ("<TOOLCALL>", "</TOOLCALL>"),
    ("<|tool_call_start|>", "<|tool_call_end|>"),
    ("<|START_ACTION|>", "<|END_ACTION|>"),
    ("<|action_start|><|plugin|>", "<|action_end|>"),
)
"""Marks around objects of JSON or calls of Python."""
LISTED = re.compile(r"\[\s*[A-Za-z_][\w.]*\(.*\)\s*\]", re.DOTALL)
"""A list of calls, whatever is wrong with their arguments."""
DIRECT = ("directly_answer", "directly-answer")
"""The tool by which Command R+ says that it calls none."""


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
        except (Malformed, NotJson) as error:
            problem = problem or str(error)
    rest = pattern.sub("", answer).strip()
    if marker in rest:
        problem = problem or f"{marker} is not closed or not in its form"
    return Calls(tuple(calls), dialect, rest, problem, typed)


def _hermes(dialect: str, answer: str) -> Calls:
    """What is between the tags tells Hermes from Qwen3-Coder, Hunyuan and GLM."""
    if FUNCTION.search(answer):
        return _xml("xml", answer)
    if HUNYUAN.search(answer):
        return _named("hunyuan", re.sub(r"</?tool_calls>", "", answer), HUNYUAN, marker="<tool_call>")
    if "<arg_key>" in answer or re.search(r"<tool_call>\s*[\w.\-]+\s*</tool_call>", answer):
        return _blocks("glm", answer, TOOL_CALL, lambda m: iter([_glm(m.group(1))]), marker="<tool_call>", typed=False)
    return _blocks(dialect, answer, TOOL_CALL, lambda m: iter(calls_of(strict_json(m.group(1)))), marker="<tool_call>")


def _glm(body: str) -> Call:
    name, _, arguments = body.partition("<arg_key>")
    if not re.fullmatch(r"[\w.\-]+", name.strip()):
        raise Malformed("a call without a name")
    pairs = GLM_ARGUMENT.findall(f"<arg_key>{arguments}")
    return Call(name.strip(), {key.strip(): value.strip() for key, value in pairs})


def _xml(dialect: str, answer: str) -> Calls:
    plain = XML_FRAME.sub("", answer)
    bodies = [found.group(2).strip() for found in FUNCTION.finditer(plain)]
    typed = any(body.startswith("{") for body in bodies)  # Llama 3.1's other form: <function=f>{"a": 1}</function>
    return _blocks(dialect, plain, FUNCTION, lambda m: iter([_function(m.group(1), m.group(2).strip())]),
                   marker="<function=", typed=typed)


def _function(name: str, body: str) -> Call:
    if body.startswith("{"):
        return named_call(name, body)
    if PARAMETER.sub("", body).strip():
        raise Malformed("text between the parameters")
    pairs = PARAMETER.findall(body)
    if len(dict(pairs)) < len(pairs):
        raise Malformed("a parameter is there twice")
    return Call(name, dict(pairs))


def _mistral(dialect: str, answer: str) -> Calls:
    rest, *parts = MISTRAL.split(answer)
    calls: list[Call] = []
    problem = ""
    for part in parts:
        named = MISTRAL_NAMED.match(part)
        try:
            calls += [named_call(named.group(1), part[named.end():])] if named else calls_of(strict_json(part.strip()))
        except (Malformed, NotJson) as error:
            problem = problem or str(error)
    return Calls(tuple(calls), dialect, rest.strip(), problem)


def _named(dialect: str, answer: str, pattern: re.Pattern[str], *, marker: str) -> Calls:
    """Of each match the name, and the arguments as JSON."""
    return _blocks(dialect, answer, pattern, lambda m: iter([named_call(m.group(1), m.group(2).strip())]),
                   marker=marker)


def _deepseek(dialect: str, answer: str) -> Calls:
    return _named(dialect, DEEPSEEK_FRAME.sub("", answer), DEEPSEEK, marker="<｜tool▁call▁begin｜>")


def _harmony(dialect: str, answer: str) -> Calls:
    return _named(dialect, answer, HARMONY, marker="to=functions.")


def _kimi(dialect: str, answer: str) -> Calls:
    return _named(dialect, KIMI_FRAME.sub("", answer), KIMI, marker="<|tool_call_begin|>")


def _invoke(dialect: str, answer: str) -> Calls:
    """DeepSeek V3.2 says of each argument whether it is a string, the others do not."""
    plain = ADDRESSED.sub("", XML_FRAME.sub("", answer))
    typed = any(kind for _, _, kind, _ in INVOKED_WITH.findall(plain))
    return _blocks(dialect, plain, INVOKE, lambda m: iter([_invoked(m.group(2), m.group(3))]), marker='invoke name="',
                   typed=typed)


def _invoked(name: str, body: str) -> Call:
    if INVOKED_WITH.sub("", body).strip():
        raise Malformed("text between the parameters")
    found = [(key, strict_json(text) if kind == "false" else text) for _, key, kind, text in INVOKED_WITH.findall(body)]
    if len(dict(found)) < len(found):
        raise Malformed("a parameter is there twice")
    return Call(name, dict(found))


def _framed(dialect: str, answer: str) -> Calls:
    opened, closed = next((opened, closed) for opened, closed in FRAMES if opened in answer)
    pattern = re.compile(f"{re.escape(opened)}(.*?){re.escape(closed)}", re.DOTALL)
    return _blocks(dialect, answer, pattern, lambda m: iter(_objects_or_python(m.group(1))), marker=opened)


def _objects_or_python(text: str) -> list[Call]:
    body = text.strip()
    return many_objects(body) if OBJECTS.match(body) else python_calls(body)


def _apertus(dialect: str, answer: str) -> Calls:
    def read(found: re.Match[str]) -> Iterator[Call]:
        value = strict_json(found.group(1))
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, dict) or len(one) != 1:
                raise Malformed("a call that is not one name with its arguments")
            yield from calls_of([{"name": name, "arguments": arguments} for name, arguments in one.items()])

    return _blocks(dialect, answer, APERTUS, read, marker="<|tools_prefix|>")


def _action(dialect: str, answer: str) -> Calls:
    found = _blocks(dialect, answer, ACTION, lambda m: iter(many_objects(m.group(1))), marker="Action: ```json")
    return found._replace(calls=tuple(call for call in found.calls if call.name not in DIRECT))


def _llama(dialect: str, answer: str) -> Calls:
    return _blocks(dialect, answer, PYTHON_TAG, lambda m: iter(_objects_or_python(m.group(1))), marker="<|python_tag|>")


def _gemma(dialect: str, answer: str) -> Calls:
    return _blocks(dialect, answer, TOOL_CODE, lambda m: iter(python_calls(m.group(1))), marker="```tool_code")


def _phi(dialect: str, answer: str) -> Calls:
    return _blocks(dialect, answer, PHI, lambda m: iter(calls_of(strict_json(m.group(1)))), marker="<|tool_call|>")


def _braces(dialect: str, answer: str) -> Calls:
    def read(found: re.Match[str]) -> Iterator[Call]:
        parts = GEMMA_QUOTE.split(found.group(2))  # every other one is text
        parts[1::2] = [json.dumps(text) for text in parts[1::2]]
        parts[::2] = [GEMMA_CONSTANT.sub(lambda m: GEMMA_CONSTANTS[m[1]], GEMMA_KEY.sub(r'"\1":', part))
                      for part in parts[::2]]
        yield named_call(found.group(1), "".join(parts))

    return _blocks(dialect, answer, GEMMA_CALL, read, marker=BRACES[dialect])


def _bare(answer: str) -> Calls:
    """An answer without markers is a call when the whole of it is one, as JSON or as Python; else it is text."""
    fence = WHOLE_FENCE.match(answer)
    body = (fence.group(1) if fence else answer).strip()
    for dialect, read in (("json", many_objects), ("named", _name_and_object), ("pythonic", python_calls)):
        try:
            calls = read(body)
        except (Malformed, NotJson):
            continue
        if calls:
            return Calls(tuple(calls), dialect, "")
    if LISTED.fullmatch(body):
        return Calls((), "pythonic", "", "arguments that are no literals with names")
    return Calls((), "", answer)


def _name_and_object(body: str) -> list[Call]:
    calls = []
    for part in body.split("<|assistant|>"):
        if not (found := NAMED.fullmatch(part.strip())):
            raise Malformed("not a name with an object below it")
        calls.append(named_call(found.group(1), found.group(2)))
    return calls


def _llama4(dialect: str, answer: str) -> Calls:
    """Its template writes text between the marks and calls behind them; prompts for Python have calls between them."""
    before, _, opened = answer.partition("<|python_start|>")
    between, _, behind = opened.partition("<|python_end|>")
    found = _bare((behind or between).strip())
    return found._replace(rest=" ".join([before, between if behind else "", found.rest]).strip())


BRACES = {"function_gemma": "<start_function_call>", "gemma4": "<|tool_call>"}
MARKED: tuple[tuple[str, str, Callable[[str, str], Calls]], ...] = (
    ("hermes", "<tool_call>", _hermes),
    ("xml", "<function=", _xml),
    ("mistral", "[TOOL_CALLS]", _mistral),
    ("deepseek", "<｜tool▁call▁begin｜>", _deepseek),
    ("harmony", "to=functions.", _harmony),
    ("llama", "<|python_tag|>", _llama),
    ("llama", "<|python_start|>", _llama4),
    ("phi", "<|tool_call|>", _phi),
    ("phi", "functools[", _phi),
    ("gemma", "```tool_code", _gemma),
    *((dialect, opened, _braces) for dialect, opened in BRACES.items()),
    ("kimi", "<|tool_call_begin|>", _kimi),
    ("invoke", 'invoke name="', _invoke),
    ("apertus", "<|tools_prefix|>", _apertus),
    ("action", "Action: ```json", _action),
    *(("framed", opened, _framed) for opened, _ in FRAMES),
)
"""Dialect, text that gives it away, reader."""
