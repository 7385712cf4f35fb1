"""One message of a chat, as people write them → `Turn`, or `Refused` with the reason.

OpenAI's shape (`role`, `content`, `tool_calls`, legacy `function_call`), ShareGPT's (`from`, `value`), lists of typed
parts, and reasoning in a field of its own. Reasoning is written in front of the content as `<think>…</think>`, the form
that thinking templates read. Tool arguments and schemas become JSON text at once.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from reprlib import Repr
from typing import Any, NamedTuple

from sft_core.conversation import Role, ToolCall, Turn, Why

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "function_call": "assistant", "tool": "tool",
    "function": "tool", "function_response": "tool", "observation": "tool", "ipython": "tool",
}
"""Names of speakers that need no map. ShareGPT's `function_call` turn holds nothing but calls."""
REASONING = ("reasoning_content", "reasoning", "thinking")
WEIGHTS = ("weight", "loss_weight", "train", "training", "mask")
"""What says whether a message is trained: 1 or true that it is, `mask` that it is not."""
IN_PART = frozenset({"type", "text", "value", "reasoning", "thinking", "tool_call"})
"""All keys of a part of a message that go into its turn."""
_READ = frozenset({*REASONING, *WEIGHTS, "tool_calls", "tool_call_id", "function_call"})
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>|<functioncall>(.*)", re.DOTALL)
_GLAIVE = re.compile(r"""\{"name": "([^"]+)", "arguments": '(.*)'\}""", re.DOTALL)
_RESPONSE = re.compile(r"\s*<tool_response>\s*((?:(?!</?tool_response>).)*?)\s*</tool_response>\s*", re.DOTALL)
_LIST_OF_CALLS = re.compile(r"\s*\[\s*[^\s\[(][^\[(]*\(.*\)\s*\]\s*\Z", re.DOTALL)
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlevel = 2


class Refused(Exception):
    """A row does not fit; becomes a `Rejected`."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why, self.detail = why, detail


class Keys(NamedTuple):
    """How a source names things inside a message."""

    role: str
    content: str
    roles: Mapping[str, Role]  # the source's own names of speakers

    @property
    def read(self) -> frozenset[str]:
        """All keys of a message that go into its turn."""
        return _READ | {self.role, self.content}


OPENAI = Keys("role", "content", {})


class _Said(NamedTuple):
    """The contents of a message, taken apart."""

    texts: list[str]
    reasoning: list[str]
    calls: list[ToolCall]


def to_turn(message: object, number: int, keys: Keys) -> Turn:
    """A message as a turn; `number` is its place for the error, counted from 1.

    Raises:
        Refused: it has no known role, its content is no text, a call cannot be read, or its weight asks for something
            else than its role.
    """
    if not isinstance(message, Mapping):
        raise Refused(Why.WRONG_TYPE, f"turn {number} is not an object but {shown(message)}")
    name = message.get(keys.role)
    role = keys.roles.get(name) or ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        known = ", ".join({**ROLES, **keys.roles})
        if not isinstance(name, str):
            raise Refused(Why.UNKNOWN_ROLE, f"turn {number} has no name of a speaker under {keys.role!r} but "
                                            f"{shown(name)}; known are {known}")
        raise Refused(Why.UNKNOWN_ROLE, f"turn {number} is from {_REPR.repr(name)[:120]}, and known are {known}; say "
                                        "in the source what that is, for example "
                                        f"`roles: {{{json.dumps(name[:40], ensure_ascii=False)}: assistant}}`")
    said = _take_apart(message, name == "function_call", role, number, keys.content)
    content = "".join(said.texts)
    if said.reasoning and (content.strip() or said.calls):
        if role != "assistant" or "</think>" in content:
            raise Refused(Why.WRONG_TYPE, f"turn {number} ({role}) has reasoning " + (
                "in a field and in its content" if role == "assistant" else "; only the assistant may"))
        content = f"<think>\n{''.join(said.reasoning).strip()}\n</think>\n\n{content}"
    if said.calls and role != "assistant":
        raise Refused(Why.WRONG_TYPE, f"turn {number} ({role}) has tool calls; only the assistant may")
    if role == "assistant" and not said.calls:
        content, calls = written_calls(content, number)
        said.calls.extend(calls)
    return Turn(role, content, tuple(said.calls), _is_masked(message, role, number))


def results_of(turn: Turn) -> list[Turn]:
    """A turn, or, where it is nothing but results in Hermes' `<tool_response>` blocks, a turn for each of them."""
    found = _RESPONSE.findall(turn.content) if turn.role == "tool" and not _RESPONSE.sub("", turn.content) else []
    return [turn._replace(content=result) for result in found] or [turn]


def in_call_order(messages: Sequence[Any]) -> list[Any]:
    """The messages with the results of several calls in the order of the calls, as their ids tell.

    Turns carry no ids: the first result belongs to the first call.
    """
    ordered: list[Any] = []
    ids: list[object] = []
    for result, group in groupby(messages, key=lambda m: isinstance(m, Mapping) and m.get("tool_call_id") is not None):
        run = list(group)
        if result and all(message["tool_call_id"] in ids for message in run):
            run.sort(key=lambda message: ids.index(message["tool_call_id"]))
        last = run[-1].get("tool_calls") if isinstance(run[-1], Mapping) else None
        ids = [call.get("id") for call in last if isinstance(call, Mapping)] if isinstance(last, list) else []
        ordered += run
    return ordered


def written_calls(content: str, number: int) -> tuple[str, list[ToolCall]]:
    """An answer without the calls that it ends in as text, and those calls.

    Hermes writes `<tool_call>{…}</tool_call>`, Glaive `<functioncall> {…}`. Text that holds anything else behind or
    inside the marks stays as it is.
    """
    found = _CALL.search(content) if _is_marked(content) else None
    if not found or _CALL.sub("", content[found.start():]).strip():
        return content, []
    calls = [_literal(one.group(1) or one.group(2) or "") for one in _CALL.finditer(content, found.start())]
    if not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        return content, []
    return content[:found.start()].rstrip(), [_call(call, number) for call in calls]


def calls_in_text(content: str) -> bool:
    """The answer holds a call that stays text, such as ToolACE's `[name(key="value")]`."""
    return _is_marked(content) or _LIST_OF_CALLS.match(content) is not None


def _is_marked(content: str) -> bool:
    return "<tool_call>" in content or "<functioncall>" in content


def _literal(written: str) -> object:
    """An object as JSON, as Python, or with its arguments quoted as Glaive has them; None for all else."""
    written = written.strip()
    if glaive := _GLAIVE.fullmatch(written):
        return {"name": glaive[1], "arguments": glaive[2].replace("\\'", "'")}
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return read(written)
    return None


def _take_apart(message: Mapping[str, Any], only_calls: bool, role: Role, number: int, content: str) -> _Said:
    said = _Said([], [], [])
    given = message.get(content)
    if only_calls:
        calls = parsed(given, f"the function call of turn {number}")
        said.calls.extend(_call(call, number) for call in (calls if isinstance(calls, list) else [calls]))
    elif isinstance(given, list):
        for part in given:
            _take_part(part, number, said)
    elif given is not None or role != "assistant":
        said.texts.append(text(given, f"turn {number} ({role})"))
    said.reasoning.extend(text(message[key], f"{key} of turn {number}") for key in REASONING if message.get(key))
    said.calls.extend(_call(call, number) for call in _listed(message, number))
    return said


def _take_part(part: object, number: int, said: _Said) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or kind not in ("text", "reasoning", "thinking", "tool_call"):
        raise Refused(Why.WRONG_TYPE, f"a part of turn {number} has type {shown(kind)}; only text, reasoning, thinking "
                                      "and tool_call can be trained")
    value = next((part[key] for key in (kind, "text", "value") if part.get(key) is not None), None)
    if kind == "tool_call":
        said.calls.append(_call(parsed(value, f"a call of turn {number}"), number))
    else:
        (said.texts if kind == "text" else said.reasoning).append(text(value, f"a part of turn {number}"))


def _listed(message: Mapping[str, Any], number: int) -> Iterator[object]:
    calls = parsed(message.get("tool_calls") or [], f"tool_calls of turn {number}")
    if not isinstance(calls, list):
        raise Refused(Why.WRONG_TYPE, f"tool_calls of turn {number} is not a list but {shown(calls)}")
    yield from calls
    if message.get("function_call"):  # the old name, one call
        yield message["function_call"]


def _is_masked(message: Mapping[str, Any], role: Role, number: int) -> bool:
    """Whether an answer is context by its own weight. Other turns are never trained, and no turn in part."""
    masked = False
    for key in WEIGHTS:
        value = message.get(key)
        if not isinstance(value, bool | int | float):
            continue
        trained = not value if key == "mask" else value
        if trained not in (0, 1) or (trained and role != "assistant"):
            raise Refused(Why.TURN_WEIGHT, f"turn {number} ({role}) has {key} {value}; answers are trained with weight "
                                           "1 or, as context, 0, and other turns are not; correct it or leave it out")
        masked |= not trained and role == "assistant"
    return masked


def _call(value: object, number: int) -> ToolCall:
    call = value.get("function", value) if isinstance(value, Mapping) else value
    name = call.get("name") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(name, str) or not name:
        raise Refused(Why.WRONG_TYPE, f"a tool call of turn {number} has no name: {shown(value)}")
    what = f"arguments of {name} in turn {number}"
    given = call.get("arguments")
    arguments = parsed({} if given is None else given, what)
    if not isinstance(arguments, Mapping):
        raise Refused(Why.WRONG_TYPE, f"{what} are not an object: {shown(arguments)}")
    return ToolCall(text(name, "name"), as_json(arguments, what))


def parse_tools(value: object) -> str | None:
    """The tools of a row as JSON text; given are a list, JSON text of a list, or a list of JSON texts.

    Raises:
        Refused: it is something else.
    """
    if value is None or value in ("", []):
        return None
    tools = parsed(value, "tools")
    if isinstance(tools, list):
        tools = [parsed(tool, "a tool") for tool in tools]
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise Refused(Why.WRONG_TYPE, f"tools is not a list of objects but {shown(tools)}")
    return as_json(tools, "tools") if tools else None


def parse_variables(value: object) -> str | None:
    """Values for the chat template of this row (`chat_template_kwargs`, as TRL has it), an object, as JSON text.

    Raises:
        Refused: it is no object.
    """
    variables = parsed(value, "chat_template_kwargs") if value else None
    if variables is not None and not isinstance(variables, Mapping):
        raise Refused(Why.WRONG_TYPE, f"chat_template_kwargs is not an object but {shown(variables)}; write "
                                      '{"enable_thinking": false}, for example')
    return as_json(variables, "chat_template_kwargs") if variables else None


def parsed(value: object, what: str) -> Any:
    """A value, or what its JSON text says."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(Why.WRONG_TYPE, f"{what} is not JSON ({error}): {shown(value)}") from None


def as_json(value: object, what: str) -> str:
    """JSON text of a value; nothing is converted."""
    try:
        return text(json.dumps(value, ensure_ascii=False, allow_nan=False), what)
    except (TypeError, ValueError) as error:  # dates, bytes, NaN
        raise Refused(Why.WRONG_TYPE, f"{what} cannot be written as JSON ({error}): {shown(value)}") from None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def text(value: object, what: str) -> str:
    """A value that must be text of whole characters."""
    if not isinstance(value, str):
        raise Refused(Why.WRONG_TYPE, f"{what} is not text but {shown(value)}")
    if value.count("\0") * 2 >= max(len(value), 4):
        raise Refused(Why.UNREADABLE, f"{what} holds a NUL beside every character; is the file UTF-16?")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(Why.UNREADABLE, f"{what} holds half a UTF-16 pair, which is no character") from None
    return value


def shown(value: object) -> str:
    """A value for a message: its type and its beginning."""
    return f"{type(value).__name__} {_REPR.repr(value)[:120]}"
