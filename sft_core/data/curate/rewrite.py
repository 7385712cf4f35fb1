"""Rewrites the texts of a conversation, wherever they stand; JSON stays JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from sft_core.conversation import Conversation, Role, ToolCall, Turn

_STRING = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?', re.DOTALL)
"""A string of JSON, and what makes it a key. Only values change, so that no two keys can become one."""


class Where(NamedTuple):
    """Where a text stands."""

    turn: int | None  # 0-based; None for the tools
    role: Role | None  # None for the tools
    part: str  # "content", "call" (name or arguments of a tool call), "tools"

    def __str__(self) -> str:
        """As a person counts: `turn 2 (assistant), call`."""
        if self.turn is None:
            return self.part
        return f"turn {self.turn + 1} ({self.role})" + (f", {self.part}" if self.part != "content" else "")


Change = Callable[[str, Where], str]


def rewritten(conversation: Conversation, change: Change, change_json: Change | None = None) -> Conversation:
    """The conversation with every text put through `change`: contents, names of called tools, and the strings inside
    their arguments and the tools. The same object where nothing changed. `change_json` is given arguments and tools
    whole, where more than strings may change, and leaves JSON behind."""
    whole = change_json or (lambda text, where: in_json(text, where, change))
    turns = tuple(_turn(turn, at, change, whole) for at, turn in enumerate(conversation.turns))
    tools = conversation.tools and whole(conversation.tools, Where(None, None, "tools"))
    if tools == conversation.tools and all(new is old for new, old in zip(turns, conversation.turns, strict=True)):
        return conversation
    return conversation._replace(turns=turns, tools=tools)


def in_json(text: str, where: Where, change: Change) -> str:
    """JSON text whose string values were put through `change`; keys, numbers, order and spacing stay. A changed string
    is written with escapes where it was before, in plain letters otherwise."""

    def value(found: re.Match[str]) -> str:
        if found[2]:
            return found[0]
        old = json.loads(found[1])
        new = change(old, where)
        return found[1] if new == old else json.dumps(new, ensure_ascii=found[1].isascii() and "\\u" in found[1])

    return _STRING.sub(value, text)


def _turn(turn: Turn, at: int, change: Change, change_json: Change) -> Turn:
    content = change(turn.content, Where(at, turn.role, "content")) if turn.content else turn.content
    where = Where(at, turn.role, "call")
    calls = tuple(ToolCall(change(call.name, where), change_json(call.arguments, where)) for call in turn.tool_calls)
    if content == turn.content and calls == turn.tool_calls:
        return turn
    return turn._replace(content=content, tool_calls=calls)
