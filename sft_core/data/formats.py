"""A raw row → `Conversation`, or `Rejected` with the reason. Nothing is guessed: what does not fit is refused.

The format is that of a whole file and is found by its columns; messages are read in `sft_core/messages.py`. An empty
system turn says nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from sft_core.config.data import SourceSection
from sft_core.conversation import Conversation, Rejected, Row, Turn, Why
from sft_core.data.messages import ROLES, Keys, Refused, in_call_order, parse_tools, parsed, shown, text, to_turn
from sft_core.errors import DataError

Format = Literal["alpaca", "prompt_completion", "sharegpt", "messages"]

CHAT_COLUMNS = ("messages", "conversations")
LOOKED_AT = 1000
"""So many rows of a file may lack a format before it is said to have none."""
_ALIASES = {
    "prompt": ("prompt", "question", "instruction", "query", "input"),
    "completion": ("completion", "response", "answer", "output", "target", "chosen"),
}


class _Columns:
    """A row seen through its source's column map."""

    def __init__(self, data: Mapping[str, Any], source: SourceSection) -> None:
        self._data, self._roles = data, source.roles
        self._names: dict[str, str] = {standard: given for standard, given in source.columns.items()}

    def get(self, name: str) -> Any:
        return self._data.get(self._name(name))

    def text(self, name: str, optional: bool = False) -> str:
        """A text column; an optional one may be missing or null."""
        value = self.get(name)
        if value is None and optional:
            return ""
        if value is None:
            raise self._missing(self._name(name))
        return text(value, name)

    def chat(self) -> Sequence[Any]:
        """The list of messages, in a CSV file as JSON text."""
        value = next((found for name in CHAT_COLUMNS if (found := self.get(name)) is not None), None)
        if value is None:
            raise self._missing(" or ".join(map(self._name, CHAT_COLUMNS)))
        value = parsed(value, "the list of messages")
        if not isinstance(value, list) or not value:
            raise Refused(Why.WRONG_TYPE, f"the messages are not a list with something in it but {shown(value)}")
        return value

    def turns(self, messages: Sequence[Any], form: Format) -> Iterator[Turn]:
        """Messages in the shape of a format."""
        role, content = ("from", "value") if form == "sharegpt" else ("role", "content")
        keys = Keys(self._name("role", role), self._name("content", content), self._roles)
        return (to_turn(message, number, keys) for number, message in enumerate(in_call_order(messages), 1))

    def side(self, name: str, role: Literal["user", "assistant"]) -> Iterator[Turn]:
        """`prompt` or `completion`: text, a message, or a list of messages."""
        value = self.get(name)
        if not isinstance(value, Mapping | list):
            yield Turn(role, self.text(name))
            return
        messages = value if isinstance(value, list) else [value]
        yield from self.turns(messages, _shape_of(messages))

    def nulls(self, row: Row) -> int:
        """How many keys of tool arguments or schemas Arrow gave as null."""
        inside = {"arguments", "parameters", self._name("tools")}
        return sum(bool(inside & set(path.split(".")[:-1])) for path in row.nulls)

    def _name(self, name: str, default: str | None = None) -> str:
        return self._names.get(name, default or name)

    def _missing(self, column: str) -> Refused:
        return Refused(Why.MISSING_COLUMN, f"no column {column}, or nothing in it; there are "
                                           f"{', '.join(map(str, self._data)) or 'none'}")


def detect(data: Mapping[str, Any], source: SourceSection) -> Format | None:
    """The format of a row by its columns, or None. A format whose columns are mapped goes before the others."""
    row = _Columns(data, source)

    def has(*names: str) -> bool:
        return all(row.get(name) is not None for name in names)

    if "completion" in source.columns and has("prompt", "completion"):
        return "prompt_completion"
    try:
        chat = row.chat()
    except Refused:
        chat = []
    if chat and isinstance(chat[0], Mapping):
        return _shape_of(chat)
    if has("instruction", "output"):
        return "alpaca"
    return "prompt_completion" if has("prompt", "completion") else None


def format_of(rows: Sequence[Row], source: SourceSection) -> Format:
    """The format of a file: that of its first row that has one.

    Raises:
        DataError: no row has the columns of a known format, or they are those of a preference data set.
    """
    first = rows[0]
    if {"chosen", "rejected"} <= set(first.data) and not {"chosen", "rejected"} & set(source.columns.values()):
        raise DataError(f"{first.origin.file} is a preference data set (columns {', '.join(first.data)}) and SFT needs "
                        f"one answer; to train the chosen ones set columns: {_chosen(first.data)}")
    for row in rows:
        if found := detect(row.data, source):
            return found
    columns = ", ".join(map(str, first.data)) or "none"
    raise DataError(f"cannot tell the format of {first.origin.file}: its columns are {columns}; allowed are "
                    "instruction + output (alpaca), prompt + completion, conversations (sharegpt), messages; "
                    + _advice(first.data))


def _chosen(data: Mapping[str, Any]) -> str:
    """The column map that trains the chosen answers of a preference data set."""
    chosen = data["chosen"]
    opening = chosen[0] if isinstance(chosen, list) and chosen and isinstance(chosen[0], Mapping) else {}
    whole = ROLES.get(str(opening.get("role", opening.get("from")))) in ("system", "user")  # with the question in it
    prompt = next((name for name in ("prompt", "question", *CHAT_COLUMNS) if name in data), None)
    return f"{{prompt: {prompt}, completion: chosen}}" if prompt and not whole else "{messages: chosen}"


def _advice(data: Mapping[str, Any]) -> str:
    """What to write into the configuration for these columns."""
    folded = {str(name).casefold(): str(name) for name in data}
    found = {side: next((folded[alias] for alias in aliases if alias in folded), None)
             for side, aliases in _ALIASES.items()}
    lists = [str(name) for name, value in data.items() if isinstance(value, list) and value]
    chats = [name for name in lists if isinstance(data[name][0], Mapping)]
    if found["prompt"] and found["completion"]:
        return f"set columns: {{prompt: {found['prompt']}, completion: {found['completion']}}}"
    if chats:
        keys = ", ".join(map(str, data[chats[0]][0]))
        if _shape_of(data[chats[0]]) == "sharegpt" or "role" in data[chats[0]][0]:
            return f"set columns: {{messages: {chats[0]}}}"
        return (f"if {chats[0]} is the list of messages, set columns: {{messages: {chats[0]}, role: …, content: …}} "
                f"with two of its keys ({keys}), and roles: {{NAME: user, …}} for its speakers")
    if "text" in folded:
        return "raw text belongs into train.replay.sources"
    missing = "the answers" if found["prompt"] else "the questions" if found["completion"] else None
    return (f"there is no column with {missing}" if missing else "it does not look like conversations") \
        + "; map the columns, e.g. columns: {output: response}, or set the source's format"


def to_conversation(row: Row, form: Format, source: SourceSection) -> Conversation | Rejected:
    """Check a row and bring it into the one shape that the rest of the core knows."""
    data = _Columns(row.data, source)
    try:
        if data.get("label") is False and form != "alpaca":
            raise Refused(Why.BAD_ANSWER, "its label is false: a preference data set marks this answer as not wanted")
        turns = tuple(turn for turn in _READERS[form](data) if turn.role != "system" or turn.content.strip())
        _check(turns)
        return Conversation(turns, row.origin, parse_tools(data.get("tools")), data.nulls(row))
    except Refused as refused:
        return Rejected(refused.why, refused.detail, row.origin)
    except RecursionError:
        return Rejected(Why.UNREADABLE, "it is nested too deeply", row.origin)


def to_text(row: Row, source: SourceSection) -> str | Rejected:
    """The raw text of a replay row."""
    try:
        found = _Columns(row.data, source).text("text")
    except Refused as refused:
        return Rejected(refused.why, refused.detail, row.origin)
    return found if found.strip() else Rejected(Why.EMPTY_TEXT, "the text is empty", row.origin)


def _alpaca(row: _Columns) -> Iterator[Turn]:
    yield Turn("system", row.text("system", optional=True))
    for number, pair in enumerate(parsed(row.get("history") or [], "history"), 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Refused(Why.WRONG_TYPE, f"entry {number} of history is not a question with its answer but "
                                          f"{shown(pair)}")
        yield Turn("user", text(pair[0], f"question {number} of history"))
        yield Turn("assistant", text(pair[1], f"answer {number} of history"))
    parts = [row.text("instruction"), row.text("input", optional=True)]
    yield Turn("user", "\n\n".join(part for part in parts if part.strip()))
    yield Turn("assistant", row.text("output"))


def _prompt_completion(row: _Columns) -> Iterator[Turn]:
    yield Turn("system", row.text("system", optional=True))
    yield from row.side("prompt", "user")
    yield from row.side("completion", "assistant")


def _sharegpt(row: _Columns) -> Iterator[Turn]:
    yield Turn("system", row.text("system", optional=True))
    yield from row.turns(row.chat(), "sharegpt")


def _messages(row: _Columns) -> Iterator[Turn]:
    yield Turn("system", row.text("system", optional=True))
    yield from row.turns(row.chat(), "messages")


_READERS: Mapping[Format, Callable[[_Columns], Iterator[Turn]]] = {
    "alpaca": _alpaca, "prompt_completion": _prompt_completion, "sharegpt": _sharegpt, "messages": _messages
}


def _shape_of(messages: Sequence[Any]) -> Literal["sharegpt", "messages"]:
    return "sharegpt" if messages and isinstance(messages[0], Mapping) and "from" in messages[0] else "messages"


_AFTER: Mapping[str, tuple[str, ...]] = {
    "start": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",),
    "assistant with calls": ("tool",), "tool": ("tool", "assistant"),
}


def _check(turns: Sequence[Turn]) -> None:
    """Roles in order, every turn with something in it, an answer at the end."""
    state = "start"
    for number, turn in enumerate(turns, 1):
        if turn.role not in _AFTER[state]:
            raise Refused(Why.ROLE_ORDER, f"turn {number} is {turn.role} after {state}; allowed is "
                                          f"{' or '.join(_AFTER[state])}")
        if turn.role == "assistant" and not turn.content.strip() and not turn.tool_calls:
            raise Refused(Why.EMPTY_ASSISTANT, f"turn {number} has neither content nor tool calls")
        if turn.role == "user" and not turn.content.strip():
            raise Refused(Why.EMPTY_TEXT, f"turn {number} (user) is empty")
        state = "assistant with calls" if turn.tool_calls else turn.role
    if not state.startswith("assistant"):
        raise Refused(Why.ROLE_ORDER, f"the last turn is {state}; it must be assistant")
