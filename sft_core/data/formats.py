"""A raw row → `Conversation`, or `Rejected` with the reason. Nothing is guessed: what does not fit is refused.

The format is that of a whole file and is found by its columns; messages are read in `sft_core/messages.py`. An empty
system turn says nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from sft_core.config.data import Repair, SourceSection
from sft_core.conversation import Conversation, Origin, Rejected, Row, Turn, Why
from sft_core.data.columns import IN_MESSAGE, Columns, context_of, is_known
from sft_core.data.messages import (
    IN_PART,
    OPENAI,
    ROLES,
    Keys,
    Refused,
    calls_in_text,
    in_call_order,
    parse_tools,
    parse_variables,
    parsed,
    results_of,
    shown,
    text,
    to_turn,
)
from sft_core.data.repair import EVERY, repaired
from sft_core.data.shapes import as_messages, is_pair, spread
from sft_core.data.transcripts import is_transcript
from sft_core.errors import DataError

Format = Literal["alpaca", "prompt_completion", "sharegpt", "messages"]

_PREFERENCE = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))  # the second pair is OpenAI's

LOOKED_AT = 1000
"""So many rows of a file may lack a format before it is said to have none."""


def detect(data: Mapping[str, Any], source: SourceSection) -> Format | None:
    """The format of a row by its columns, or None. A format whose columns are mapped goes before the others."""
    row = Columns(data, source)
    if "completion" in source.columns and row.has("prompt", "completion"):
        return "prompt_completion"
    alpaca = (row.has("output") or row.has("calls", "tools")) and row.asks() \
        and not _are_messages(data[row.question()])
    if "output" in source.columns and alpaca:
        return "alpaca"
    try:
        chat = row.chat()
    except Refused:
        chat = [{}] if row.is_transcript() else []  # one that cannot be read is one all the same
    if chat and isinstance(chat[0], Mapping):
        return _shape_of(chat)
    if row.has("prompt", "completion") and not (alpaca and (row.has("input") or row.has("history"))):
        return "prompt_completion"
    return "alpaca" if alpaca else None


def _are_messages(value: object) -> bool:
    """Messages with roles, where text may be expected."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) \
        and not {"role", "from"}.isdisjoint(value[0])


def format_of(rows: Sequence[Row], source: SourceSection) -> Format:
    """The format of a file: that of its first row that has one.

    Raises:
        DataError: no row has the columns of a known format, or they are those of a preference data set.
    """
    first = rows[0]
    for pair in _PREFERENCE:
        if set(pair) <= set(first.data) and not set(pair) & set(source.columns.values()):
            raise DataError(f"{first.origin.file} is a preference data set (columns {', '.join(first.data)}) and SFT "
                            "needs one answer; to train the chosen ones set columns: "
                            + _chosen(first.data, source, pair[0]))
    for row in rows:
        if found := detect(row.data, source):
            return found
    columns = ", ".join(map(str, first.data)) or "none"
    raise DataError(f"cannot tell the format of {first.origin.file}: its columns are {columns}; allowed are "
                    "instruction + output (alpaca), prompt + completion, conversations (sharegpt), messages; "
                    + _advice(first.data, source))


def _chosen(data: Mapping[str, Any], source: SourceSection, name: str) -> str:
    """The column map that trains the chosen answers of a preference data set, which are in the column `name`."""
    row, chosen = Columns(data, source), data[name]
    opening = chosen[0] if isinstance(chosen, list) and chosen and isinstance(chosen[0], Mapping) else {}
    whole = ROLES.get(str(opening.get("role", opening.get("from")))) in ("system", "user")  # with the question in it
    whole |= isinstance(chosen, str) and is_transcript(chosen)
    if whole:
        return f"{{messages: {name}}}"
    if row.has("instruction") and (row.has("input") or row.has("history")):
        return f"{{output: {name}}}"
    prompt = next((one for one in ("prompt", "instruction", "messages") if row.has(one)), None)
    if prompt := prompt or ("input" if row.asks() else None):
        return f"{{prompt: {row.name(prompt)}, completion: {name}}}"
    return f"{{prompt: …, completion: {name}}} with the column of the question"


def _advice(data: Mapping[str, Any], source: SourceSection) -> str:
    """What to write into the configuration for these columns."""
    row = Columns(data, source)
    doubtful = {name: several for name in ("instruction", "output") if len(several := row.candidates(name)) > 1
                and several[0] != name}
    if doubtful:
        return "; ".join(f"{' and '.join(several)} may all be the {name}" for name, several in doubtful.items()) \
            + f"; set columns: {{{', '.join(f'{name}: {several[0]}' for name, several in doubtful.items())}}}"
    if row.asks() and row.has("output") and _are_messages(data[question := row.question()]):
        return f"{question} holds messages; set columns: {{prompt: {question}, completion: {row.name('output')}}}"
    lists = {str(name): value[0] for name, value in data.items() if isinstance(value, list) and value}
    if not row.asks():
        for name, first in lists.items():
            if isinstance(first, Mapping):
                return _of_list(name, first)
            if isinstance(first, str) and len(data[name]) % 2 == 0:
                return (f"if {name} is what user and assistant say in turn, set columns: {{messages: {name}}}; else "
                        "map the columns that hold questions and answers")
        if "text" in data:
            return "raw text belongs into train.replay.sources"
    return _of_texts(row, [str(name) for name, value in data.items() if isinstance(value, str)
                           and not is_known(str(name))])


def _of_texts(row: Columns, texts: Sequence[str]) -> str:
    """What to do where questions or answers have no column; they may be in those of `texts`."""
    if not row.asks() and not row.has("output"):
        return ("it does not look like conversations; map the columns that hold questions and answers as text"
                + (f" (two of {', '.join(texts)}): columns: {{instruction: …, output: …}}" if len(texts) > 1 else
                   ", or write them into columns instruction and output"))
    standard, missing = ("output", "the answers") if row.asks() else ("instruction", "the questions")
    told = f"there is no column of text with {missing}; "
    if len(texts) == 1:
        told += f"if {texts[0]} holds them set columns: {{{standard}: {texts[0]}}}, else "
    elif texts:
        told += f"if one of {', '.join(texts)} holds them set columns: {{{standard}: …}} with it, else "
    return told + f"write them as text into a column {standard}"


def _of_list(name: str, first: Mapping[str, Any]) -> str:
    if _shape_of([first]) == "sharegpt" or {"role", "parts"} & set(first) or is_pair(first):
        return f"set columns: {{messages: {name}}}"
    return (f"if {name} is the list of messages, set columns: {{messages: {name}, role: …, content: …}} with two of "
            f"its keys ({', '.join(map(str, first))}), and roles: {{NAME: user, …}} for its speakers")


def to_conversation(row: Row, form: Format, source: SourceSection, repair: Sequence[Repair] = ()
                    ) -> Conversation | Rejected:
    """Check a row and bring it into the one shape that the rest of the core knows; `repair` as in `data.repair`.

    Raises:
        DataError: it holds context that rows of this format have no place for.
    """
    data = Columns(row.data, source)
    try:
        if _is_false(data.get("label")) and "label" not in source.ignore_columns:
            raise Refused(Why.BAD_ANSWER, "its label is false: a preference data set marks this answer as not wanted; "
                                          "if it means something else set ignore_columns: [label]")
        given = tuple(turn for turn in _READERS[form](data) if turn.role != "system" or turn.content.strip())
        turns = repaired(given, repair)
        _check(turns)
        tools = parse_tools(data.get("tools"))
        aside = data.name("chat_template_kwargs") in source.ignore_columns
        variables = None if aside else parse_variables(data.get("chat_template_kwargs"))
        unused = tuple(data.unused())
    except Refused as refused:
        return Rejected(refused.why, refused.detail, row.origin)
    except RecursionError:
        return Rejected(Why.UNREADABLE, "it is nested too deeply", row.origin)
    _refuse_without_context(unused, form, data, row.origin)
    return Conversation(turns, row.origin, tools, data.nulls(row), unused, turns != given, variables)


def _is_false(label: object) -> bool:
    """A label that says no, also as a number or as the text that a CSV has."""
    return label.strip().casefold() in ("false", "0") if isinstance(label, str) else label in (False, 0)


def _refuse_without_context(unused: Sequence[str], form: Format, data: Columns, origin: Origin) -> None:
    for name in unused:
        if standard := context_of(name):
            inside = name.startswith(IN_MESSAGE)
            if inside:
                other = "move it into a column of the row" if standard in ("tools", "system") else \
                    "write it into what the message says"
            elif form == "prompt_completion" and standard != "system":
                other = f"set columns: {{instruction: {data.name('prompt')}, output: {data.name('completion')}}}"
            else:
                other = ""
            raise DataError(f"{origin}: the {'key of a message' if inside else 'column'} {name} ({standard}) holds "
                            f"text that rows read as {form} have no place for, and answers would be trained without "
                            f"it; {other}{other and ', or '}leave it aside on purpose by ignore_columns: [{name}]")


def to_text(row: Row, source: SourceSection) -> str | Rejected:
    """The raw text of a replay row."""
    try:
        found = Columns(row.data, source).text("text")
    except Refused as refused:
        return Rejected(refused.why, refused.detail, row.origin)
    return found if found.strip() else Rejected(Why.EMPTY_TEXT, "the text is empty", row.origin)


def _alpaca(row: Columns) -> Iterator[Turn]:
    yield Turn("system", row.system())
    yield from _history(row)
    asked_by_input = not row.has("instruction") and row.asks()
    parts = [row.text("instruction", optional=asked_by_input), row.text("input", optional=True)]
    yield Turn("user", "\n\n".join(part for part in parts if part.strip()))
    if row.has("calls", "tools") and not row.has("output"):  # xLAM: the answers are calls
        yield to_turn({"role": "function_call", "content": row.get("calls")}, 2, OPENAI)
    else:
        yield Turn("assistant", row.text("output"))


def _history(row: Columns) -> Iterator[Turn]:
    """What was said before: pairs of question and answer, or messages."""
    history = parsed(row.get("history") or [], "history")
    if not isinstance(history, list):
        raise Refused(Why.WRONG_TYPE, f"history is not a list but {shown(history)}")
    if history and isinstance(history[0], Mapping):
        messages = as_messages(history)
        yield from _turns(row, messages, _shape_of(messages))
        return
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Refused(Why.WRONG_TYPE, f"entry {number} of history is not a question with its answer but "
                                          f"{shown(pair)}")
        yield Turn("user", text(pair[0], f"question {number} of history"))
        yield Turn("assistant", text(pair[1], f"answer {number} of history"))


def _prompt_completion(row: Columns) -> Iterator[Turn]:
    yield Turn("system", row.system())
    yield from _side(row, "prompt", "user")
    yield from _side(row, "completion", "assistant")


def _side(row: Columns, name: str, role: Literal["user", "assistant"]) -> Iterator[Turn]:
    """`prompt` or `completion`: text, a message, or a list of messages, alone or as OpenAI's `{"messages": […]}`."""
    value = row.get(name)
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        row.look_into(value, ("messages",))
        value = value["messages"]
    if not isinstance(value, Mapping | list):
        yield Turn(role, row.text(name))
        return
    messages = value if isinstance(value, list) else [value]
    yield from _turns(row, messages, _shape_of(messages))


def _sharegpt(row: Columns) -> Iterator[Turn]:
    yield Turn("system", row.system())
    yield from _turns(row, row.chat(), "sharegpt")


def _messages(row: Columns) -> Iterator[Turn]:
    yield Turn("system", row.system())
    yield from _turns(row, row.chat(), "messages")


def _turns(row: Columns, messages: Sequence[Any], form: Format) -> Iterator[Turn]:
    """Messages in the shape of a format."""
    role, content = ("from", "value") if form == "sharegpt" else ("role", "content")
    keys = Keys(row.key("role", role), row.key("content", content), row.roles)
    ordered = in_call_order(list(spread(messages, keys.content)))
    read = keys.read
    for message in ordered:
        row.look_into(message, read)
        parts = message.get(keys.content) if isinstance(message, Mapping) else None
        for part in parts if isinstance(parts, list) else ():
            row.look_into(part, IN_PART)
    return (turn for number, message in enumerate(ordered, 1) for turn in results_of(to_turn(message, number, keys)))


_READERS: Mapping[Format, Callable[[Columns], Iterator[Turn]]] = {
    "alpaca": _alpaca, "prompt_completion": _prompt_completion, "sharegpt": _sharegpt, "messages": _messages
}


def _shape_of(messages: Sequence[Any]) -> Literal["sharegpt", "messages"]:
    return "sharegpt" if messages and isinstance(messages[0], Mapping) and "from" in messages[0] else "messages"


_AFTER: Mapping[str, tuple[str, ...]] = {
    "start": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",),
    "assistant with calls": ("tool",), "assistant with a call in its text": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


_BEHIND_RESULT = "; put what the user says behind a result into the result, or an answer in between"


def _check(turns: Sequence[Turn]) -> None:
    """Roles in order, every turn with something in it, an answer at the end."""
    if fault := _out_of_order(turns):
        remedy = next((ways for ways in EVERY if not _out_of_order(repaired(turns, ways))), None)
        raise Refused(Why.ROLE_ORDER, fault + (f"; data.repair: [{', '.join(remedy)}] puts it right" if remedy else ""))
    for number, turn in enumerate(turns, 1):
        if turn.role == "assistant" and not turn.content.strip() and not turn.tool_calls:
            raise Refused(Why.EMPTY_ASSISTANT, f"turn {number} has neither content nor tool calls")
        if turn.role == "user" and not turn.content.strip():
            raise Refused(Why.EMPTY_TEXT, f"turn {number} (user) is empty")
    if all(turn.masked for turn in turns if turn.role == "assistant"):
        raise Refused(Why.TURN_WEIGHT, "every answer is marked as context by its weight, so that nothing is trained")


def _out_of_order(turns: Sequence[Turn]) -> str | None:
    """The first turn that may not stand where it does, None where all may."""
    state = "start"
    for number, turn in enumerate(turns, 1):
        if turn.role not in _AFTER[state]:
            return f"turn {number} is {turn.role} after {state}; allowed is {' or '.join(_AFTER[state])}" \
                + _BEHIND_RESULT * ((state, turn.role) == ("tool", "user"))
        state = _state(turn)
    return None if state.startswith("assistant") else f"the last turn is {state}; it must be assistant"


def _state(turn: Turn) -> str:
    if turn.tool_calls:
        return "assistant with calls"
    if turn.role == "assistant" and calls_in_text(turn.content):
        return "assistant with a call in its text"
    return turn.role
