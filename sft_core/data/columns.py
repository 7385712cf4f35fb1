"""The columns of a row under their standard names: the source's map first, then the names that public data sets use.

A synonym counts only where one column alone can be meant. What was asked for is remembered, so that a column or a key
of a message with words in it that nobody asked for can be told.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from itertools import chain
from typing import Any

from sft_core.config.data import SourceSection
from sft_core.conversation import Row, Why
from sft_core.data.messages import Refused, shown, text
from sft_core.data.shapes import as_messages, parts_of
from sft_core.data.transcripts import is_transcript

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "instruction": ("question", "problem", "query", "inputs", "prompt"),
    "input": ("context",),
    "output": ("response", "answer", "solution", "targets", "target", "completion"),
    "completion": ("response", "answer", "output", "solution", "targets", "target"),
    "calls": ("answers",),
    "system": ("system_prompt", "system_message", "system_instruction", "systemInstruction"),
    "tools": ("functions",),
    "messages": ("conversations", "conversation", "dialogue", "dialog", "chat", "contents"),
}
"""Standard name → other names of the same thing, without regard to case."""
CONTEXT = ("input", "system", "history", "tools")
"""What an answer stands on: rows are not trained without it."""
IN_MESSAGE = "message."
"""Stands in front of a key of messages, where it is told beside columns."""
_FOLDED = {standard: tuple(name.casefold() for name in (standard, *others)) for standard, others in SYNONYMS.items()}
_KNOWN = frozenset(name for names in _FOLDED.values() for name in names) | {"id", "history"}
_NO_TOOLS: tuple[object, ...] = (None, "", "[]", [], {})
_TWO_WORDS = re.compile(r"\S\s+\S")
_STANDARD = {name.casefold(): standard for standard in CONTEXT for name in (standard, *SYNONYMS.get(standard, ()))}


def is_known(name: str) -> bool:
    """The column has a meaning of its own by its name, or numbers the rows."""
    return name.casefold() in _KNOWN


class Columns:
    """A row seen through its source's column map."""

    def __init__(self, data: Mapping[str, Any], source: SourceSection) -> None:
        self._data, self.roles, self._ignored = data, source.roles, source.ignore_columns
        self._names: Mapping[str, str] = {str(standard): name for standard, name in source.columns.items()}
        self._folded = {str(name).casefold(): name for name in data}
        self._asked: set[str] = set()
        self._in_messages: dict[str, None] = {}  # in the order of their places

    def name(self, standard: str) -> str:
        """What the row calls a standard column.

        Raises:
            Refused: several columns may be meant.
        """
        if mapped := self._names.get(standard):
            return mapped
        if standard not in self._names.values() and self._data.get(standard) not in (None, "", []):
            return standard
        there = self.candidates(standard)
        if len(there) > 1 and there[0] != standard:
            raise Refused(Why.MISSING_COLUMN, f"{' and '.join(there)} may all be the {standard}; say which, e.g. "
                                              f"columns: {{{standard}: {there[0]}}}")
        return there[0] if there else standard

    def candidates(self, standard: str) -> list[str]:
        """Columns that may be meant by a standard name: those with something in them, if there are such."""
        mapped = self._names.values()
        known = _FOLDED.get(standard, (standard,))
        if self._folded.keys().isdisjoint(known):  # of most columns; in a fifth of the time
            return []
        names = (self._folded.get(name) for name in known)
        there = [name for name in names if name is not None and name not in mapped and self._data[name] is not None]
        return [name for name in there if self._data[name] not in ("", [])] or there

    def get(self, standard: str) -> Any:
        """The value of a column, None where there is none."""
        name = self.name(standard)
        self._asked.add(name)
        return self._data.get(name)

    def has(self, *standard: str) -> bool:
        """All these columns are there, and no doubt which."""
        try:
            return all(self.get(name) is not None for name in standard)
        except Refused:
            return False

    def asks(self) -> bool:
        """There is a question: an instruction, or an input that stands alone."""
        return self.has("instruction") or (self.has("input") and self.name("input").casefold() not in SYNONYMS["input"])

    def question(self) -> str:
        """What the row calls the column that asks, where it `asks`."""
        return self.name("instruction" if self.has("instruction") else "input")

    def text(self, standard: str, optional: bool = False) -> str:
        """A text column; an optional one may be missing or null."""
        value = self.get(standard)
        if value is None and optional:
            return ""
        if value is None:
            raise self._missing(self.name(standard))
        if not isinstance(value, str):
            raise Refused(Why.WRONG_TYPE, f"{self.name(standard)} is not text but {shown(value)}; write it as text, or "
                                          f"map another column, e.g. columns: {{{standard}: …}}")
        return text(value, standard)

    def system(self) -> str:
        """The system prompt: text, or parts of text as Anthropic and Gemini have them."""
        value = self.get("system")
        if isinstance(value, list | Mapping):
            return "".join(parts_of(value, "system"))
        said = self.text("system", optional=True)
        return said.removeprefix("SYSTEM:").lstrip() if said.startswith("SYSTEM:") else said  # Glaive's label

    def chat(self) -> list[Any]:
        """The list of messages."""
        for standard in sorted(("messages", "conversations"), key=lambda name: name not in self._names):
            if (value := self.get(standard)) is not None:
                return as_messages(value)
        if self.is_transcript():
            return as_messages(self.get("text"))
        raise self._missing(f"{self.name('messages')} or {self._names.get('conversations', 'conversations')}")

    def is_transcript(self) -> bool:
        """The row's text is a whole chat."""
        raw = self._data.get("text")
        return isinstance(raw, str) and is_transcript(raw)

    def key(self, standard: str, default: str) -> str:
        """What the source calls a key of its messages."""
        return self._names.get(standard, default)

    def look_into(self, message: object, read: Container[str]) -> None:
        """Remember the keys of a message that hold words, or tools, and are none of those that are `read`."""
        for key, value in message.items() if isinstance(message, Mapping) else ():
            if key not in read and (_has_words(value) or (context_of(key) == "tools" and value not in _NO_TOOLS)):
                self._in_messages[IN_MESSAGE + key] = None

    def unused(self) -> Iterator[str]:
        """Columns with words in them that nobody asked for, and keys of messages (`message.KEY`), those left aside by
        the configuration apart."""
        columns = (name for name, value in self._data.items() if name not in self._asked and _has_words(value))
        return (name for name in chain(columns, self._in_messages) if name not in self._ignored)

    def nulls(self, row: Row) -> int:
        """How many keys of tool arguments or schemas Arrow gave as null."""
        inside = {"arguments", "parameters", self.name("tools")}
        return sum(bool(inside & set(path.split(".")[:-1])) for path in row.nulls)

    def _missing(self, column: str) -> Refused:
        return Refused(Why.MISSING_COLUMN, f"no column {column}, or nothing in it; there are "
                                           f"{', '.join(map(str, self._data)) or 'none'}")


def context_of(name: str) -> str | None:
    """The standard name of a column, or of a key of messages, that answers stand on; None for all others."""
    return _STANDARD.get(name.removeprefix(IN_MESSAGE).casefold())


def _has_words(value: object) -> bool:
    """Text of more than one word, or in a script that may have no spaces: no ids, addresses or labels."""
    if isinstance(value, str):
        return _TWO_WORDS.search(value) is not None or (bool(value.strip()) and not value.isascii())
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(map(_has_words, inside))


