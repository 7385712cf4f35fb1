"""The texts of a conversation and the values in them.

A text that is JSON, as the arguments of a tool call, is read as the values that it holds: what changes is written as a
value again, and everything else stays as it was, signs and spaces included. A number that becomes a text gets quotes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sft_core.conversation import Conversation

_VALUE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*')
_KEY = re.compile(r'"[^"\\]*"\s*:\s*\[?\s*\Z')
_NEAR = 80


class Part(NamedTuple):
    """One text of a conversation."""

    turn: int  # index of the turn; -1 for the conversation's own
    name: str  # content, call 0, call 1, …, tools, variables
    text: str


class Leaf(NamedTuple):
    """A value of a JSON text, or a plain text as a whole. `text[start:end]` is how it is written."""

    start: int
    end: int
    value: str
    before: str  # the key of a JSON value, as it is written
    written: bool  # the value is written as it is: its places are places of the text

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Where `value[start:end]` stands in the text; the whole value where escapes are in it."""
        return (self.start + start, self.start + end) if self.written else (self.start, self.end)


def parts(conversation: Conversation) -> Iterator[Part]:
    """Every text but names of tools that are called, which are identifiers."""
    for at, turn in enumerate(conversation.turns):
        yield Part(at, "content", turn.content)
        for number, call in enumerate(turn.tool_calls):
            yield Part(at, f"call {number}", call.arguments)
    yield Part(-1, "tools", conversation.tools or "")
    yield Part(-1, "variables", conversation.variables or "")


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or array."""
    inner = text.strip()
    if not inner or inner[0] + inner[-1] not in ("{}", "[]"):
        return False
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def leaves(text: str, key: str = "") -> Iterator[Leaf]:
    """The values and keys of a JSON text, those of JSON within its texts included; of any other text the whole."""
    if not is_json(text):
        yield Leaf(0, len(text), text, key, written=True)
        return
    for found in _VALUE.finditer(text):
        value, inner = _value(found[0]), _inner(found[0])
        start, exact = found.start() + inner.start, value == found[0][inner]
        for leaf in leaves(value, _key(text, found) or key):
            yield leaf._replace(start=start + leaf.start, end=start + leaf.end) if exact else leaf._replace(
                start=start, end=found.start() + inner.stop, written=False)


def changed(text: str, change: Callable[[str, str], str], key: str = "") -> str:
    """The text with every leaf changed; `change` is given its value and its key."""
    if not is_json(text):
        return change(text, key)

    def write(found: re.Match[str]) -> str:
        value = _value(found[0])
        new = changed(value, change, _key(text, found) or key)
        return found[0] if new == value else json.dumps(new, ensure_ascii="\\u" in found[0])

    return _VALUE.sub(write, text)


def _value(written: str) -> str:
    return str(json.loads(written)) if written.startswith('"') else written


def _inner(written: str) -> slice:
    return slice(1, len(written) - 1) if written.startswith('"') else slice(0, len(written))


def _key(text: str, found: re.Match[str]) -> str:
    key = _KEY.search(text, max(0, found.start() - _NEAR), found.start())
    return f"{key[0]} " if key else ""
