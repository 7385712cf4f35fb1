"""A raw row → `Conversation`, or `Rejected` with the reason. Nothing is guessed: what does not fit is refused.

Kept as JSON text: tool arguments and the `tools` column (Arrow would fill missing keys with None). An empty system
turn says nothing and is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from sft_core.conversation import Conversation, Rejected, Role, Row, ToolCall, Turn, Why
from sft_core.errors import DataError

Format = Literal["alpaca", "prompt_completion", "sharegpt", "messages"]

SHAREGPT_ROLES: Mapping[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system", "tool": "tool",
    "function_response": "tool", "observation": "tool", "function_call": "assistant",
}
ROLES: tuple[Role, ...] = get_args(Role)
CHAT_COLUMNS = ("messages", "conversations")


class _Refused(Exception):
    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why, self.detail = why, detail


class _Columns:
    """A row seen through a column map."""

    def __init__(self, data: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._data, self._names = data, names

    def get(self, name: str) -> Any:
        return self._data.get(self._names.get(name, name))

    def text(self, name: str, optional: bool = False) -> str:
        """A text column; an optional one may be missing or null."""
        value = self.get(name)
        if value is None and optional:
            return ""
        if value is None:
            column = self._names.get(name, name)
            raise _Refused(Why.MISSING_COLUMN, f"no column {column}; there are {', '.join(map(str, self._data))}")
        return _text(value, name)

    def chat(self) -> Sequence[Any]:
        """The list of messages."""
        value = next((found for name in CHAT_COLUMNS if (found := self.get(name)) is not None), None)
        if value is None:
            raise _Refused(Why.MISSING_COLUMN, f"no column {' or '.join(CHAT_COLUMNS)}; there are "
                                               f"{', '.join(map(str, self._data))}")
        if not isinstance(value, list) or not value:
            raise _Refused(Why.WRONG_TYPE, f"the messages are not a list with something in it but {_shown(value)}")
        return value


def detect(data: Mapping[str, Any], columns: Mapping[str, str]) -> Format | None:
    """The format of a row by its columns, or None."""
    row = _Columns(data, columns)
    chat = next((value for name in CHAT_COLUMNS if isinstance(value := row.get(name), list) and value), None)
    if chat is not None and isinstance(chat[0], Mapping):
        return "sharegpt" if "from" in chat[0] else "messages"
    if row.get("instruction") is not None and row.get("output") is not None:
        return "alpaca"
    return "prompt_completion" if row.get("prompt") is not None and row.get("completion") is not None else None


def format_of(rows: Sequence[Row], columns: Mapping[str, str]) -> Format:
    """The format of a file: that of its first row that has one.

    Raises:
        DataError: no row has the columns of a known format.
    """
    for row in rows:
        if found := detect(row.data, columns):
            return found
    first = rows[0]
    raise DataError(f"cannot tell the format of {first.origin.file}: its columns are "
                    f"{', '.join(map(str, first.data)) or 'none'}; allowed are instruction + output (alpaca), prompt + "
                    "completion, conversations (sharegpt), messages; set the source's format, or map its columns, e.g. "
                    "columns: {output: response}; raw text belongs into train.replay.sources")


def to_conversation(row: Row, form: Format, columns: Mapping[str, str]) -> Conversation | Rejected:
    """Check a row and bring it into the one shape that the rest of the core knows."""
    data = _Columns(row.data, columns)
    try:
        turns = tuple(turn for turn in _READERS[form](data) if turn.role != "system" or turn.content.strip())
        _check(turns)
        return Conversation(turns, row.origin, _tools(data.get("tools")))
    except _Refused as refused:
        return Rejected(refused.why, refused.detail, row.origin)


def to_text(row: Row, columns: Mapping[str, str]) -> str | Rejected:
    """The raw text of a replay row."""
    try:
        text = _Columns(row.data, columns).text("text")
    except _Refused as refused:
        return Rejected(refused.why, refused.detail, row.origin)
    return text if text.strip() else Rejected(Why.EMPTY_TEXT, "the text is empty", row.origin)


def _alpaca(row: _Columns) -> Iterator[Turn]:
    parts = [row.text("instruction"), row.text("input", optional=True)]
    yield Turn("system", row.text("system", optional=True))
    yield Turn("user", "\n\n".join(part for part in parts if part.strip()))
    yield Turn("assistant", row.text("output"))


def _prompt_completion(row: _Columns) -> Iterator[Turn]:
    yield Turn("system", row.text("system", optional=True))
    yield Turn("user", row.text("prompt"))
    yield Turn("assistant", row.text("completion"))


def _sharegpt(row: _Columns) -> Iterator[Turn]:
    if system := row.text("system", optional=True):
        yield Turn("system", system)
    for number, message in enumerate(row.chat(), 1):
        said = _message(message, number)
        name = said.get("from")
        role = SHAREGPT_ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            raise _Refused(Why.UNKNOWN_ROLE, f"turn {number} is from {_shown(name)}; known are "
                                             f"{', '.join(SHAREGPT_ROLES)}")
        if name == "function_call":
            calls = _parsed(said.get("value"), f"the function call of turn {number}")
            yield Turn(role, "", tuple(_call(call, number) for call in (calls if isinstance(calls, list) else [calls])))
        else:
            yield Turn(role, _content(said.get("value"), number))


def _messages(row: _Columns) -> Iterator[Turn]:
    for number, message in enumerate(row.chat(), 1):
        said = _message(message, number)
        role = next((known for known in ROLES if known == said.get("role")), None)
        if role is None:
            raise _Refused(Why.UNKNOWN_ROLE, f"turn {number} has role {_shown(said.get('role'))}; known are "
                                             f"{', '.join(ROLES)}")
        listed = said.get("tool_calls") or []
        if not isinstance(listed, list):
            raise _Refused(Why.WRONG_TYPE, f"tool_calls of turn {number} is not a list but {_shown(listed)}")
        calls = tuple(_call(call, number) for call in listed)
        content = said.get("content")
        yield Turn(role, "" if content is None and role == "assistant" else _content(content, number), calls)


_READERS: Mapping[Format, Callable[[_Columns], Iterator[Turn]]] = {
    "alpaca": _alpaca, "prompt_completion": _prompt_completion, "sharegpt": _sharegpt, "messages": _messages
}

_AFTER: Mapping[str, tuple[str, ...]] = {
    "start": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",),
    "assistant with calls": ("tool",), "tool": ("tool", "assistant"),
}


def _check(turns: Sequence[Turn]) -> None:
    """Roles in order, every turn with something in it, an answer at the end."""
    state = "start"
    for number, turn in enumerate(turns, 1):
        if turn.role not in _AFTER[state]:
            raise _Refused(Why.ROLE_ORDER, f"turn {number} is {turn.role} after {state}; allowed is "
                                           f"{' or '.join(_AFTER[state])}")
        if turn.tool_calls and turn.role != "assistant":
            raise _Refused(Why.WRONG_TYPE, f"turn {number} ({turn.role}) has tool calls; only the assistant may")
        if turn.role == "assistant" and not turn.content.strip() and not turn.tool_calls:
            raise _Refused(Why.EMPTY_ASSISTANT, f"turn {number} has neither content nor tool calls")
        if turn.role == "user" and not turn.content.strip():
            raise _Refused(Why.EMPTY_TEXT, f"turn {number} (user) is empty")
        state = "assistant with calls" if turn.tool_calls else turn.role
    if not state.startswith("assistant"):
        raise _Refused(Why.ROLE_ORDER, f"the last turn is {state}; it must be assistant")


def _message(value: object, number: int) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Refused(Why.WRONG_TYPE, f"turn {number} is not an object but {_shown(value)}")
    return value


def _content(value: object, number: int) -> str:
    """Text, or a list of text parts as some interfaces write it."""
    if isinstance(value, list):
        return "".join(_part(part, number) for part in value)
    return _text(value, f"turn {number}")


def _part(part: object, number: int) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or kind != "text":
        raise _Refused(Why.WRONG_TYPE, f"a part of turn {number} has type {_shown(kind)}; only text can be trained")
    return _text(part.get("text", part.get("value")), f"turn {number}")


def _call(value: object, number: int) -> ToolCall:
    call = value.get("function", value) if isinstance(value, Mapping) else value
    name = call.get("name") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(name, str) or not name:
        raise _Refused(Why.WRONG_TYPE, f"a tool call of turn {number} has no name: {_shown(value)}")
    arguments = call.get("arguments")
    if arguments is None:
        arguments = {}
    arguments = _parsed(arguments, f"arguments of {name} in turn {number}")
    if not isinstance(arguments, Mapping):
        raise _Refused(Why.WRONG_TYPE, f"arguments of {name} in turn {number} are not an object: {_shown(arguments)}")
    return ToolCall(_text(name, "name"), _text(json.dumps(arguments, ensure_ascii=False), "arguments"))


def _tools(value: object) -> str | None:
    """The tools of a row as JSON text; a list or JSON text of a list, nothing when empty."""
    if value is None or value in ("", []):
        return None
    tools = _parsed(value, "tools")
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise _Refused(Why.WRONG_TYPE, f"tools is not a list of objects but {_shown(tools)}")
    return _text(json.dumps(tools, ensure_ascii=False), "tools") if tools else None


def _parsed(value: object, what: str) -> Any:
    """A value, or what its JSON text says."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _Refused(Why.WRONG_TYPE, f"{what} is not JSON ({error}): {_shown(value)}") from None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise _Refused(Why.WRONG_TYPE, f"{what} is not text but {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Refused(Why.UNREADABLE, f"{what} holds half a UTF-16 pair, which is no character") from None
    return value


def _shown(value: object) -> str:
    """A value for a message: its type and its beginning."""
    text = repr(value)
    return f"{type(value).__name__} {text[:80]}{'…' if len(text) > 80 else ''}"
