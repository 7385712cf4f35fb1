"""One item of a suite: what is asked of a model and what is expected, as rows of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sft_core.errors import EvalError

Messages = list[dict[str, str]]
ROLES = ("system", "user", "assistant", "tool")


class ChatItem(NamedTuple):
    """One item to be answered.

    Rows: {"id", "kind", "cluster", "messages", "tools"? (list or JSON text), "expect", "task"?, "reference"?,
    "chance"?}.
    """

    item_id: str
    kind: str  # names the scorer
    cluster: str  # items that share it are not independent
    messages: Messages
    tools: str | None  # JSON text, so that no schema loses or gains a key on the way
    expect: Mapping[str, Any]
    task: str = ""  # groups items in reports: variant, language; '' stands for the kind
    reference: str | None = None  # an answer that scores 1
    weight: float = 1.0  # items it stands for in a sample
    guess: float | None = None  # score that guessing gives, as its row says

    def parsed_tools(self) -> list[dict[str, Any]] | None:
        """The tools as the chat template wants them."""
        return json.loads(self.tools) if self.tools else None

    @property
    def group(self) -> str:
        """What it is reported under."""
        return self.task or self.kind

    @property
    def chance(self) -> float:
        """Score that guessing gives, if its kind's own scorer scores it: as its row says, else 1 / choices, and 0 where
        there are none to choose from."""
        if self.guess is not None:
            return self.guess
        options = self.expect.get("options") if self.kind == "letter" else None
        return 1 / len(options) if options else 0.0


class LikelihoodItem(NamedTuple):
    """One item whose probability is measured: a text, or an answer behind its messages.

    Rows: {"id", "kind": "text", "cluster", "text"} or {"id", "kind": "answer", "cluster", "messages", "tools"?,
    "answer"}.
    """

    item_id: str
    kind: str  # text or answer
    cluster: str
    text: str  # the text, or the answer
    messages: Messages  # empty for a text
    tools: str | None = None
    weight: float = 1.0

    def parsed_tools(self) -> list[dict[str, Any]] | None:
        """The tools as the chat template wants them."""
        return json.loads(self.tools) if self.tools else None


class BadRow(ValueError):
    """A row is no item; the message says why."""


def chat_item(row: Any) -> ChatItem:
    """A row as an item.

    Raises:
        BadRow: a key is missing or holds something else than it should.
    """
    _needs(row, {"id": str, "kind": str, "cluster": str, "messages": list, "expect": dict})
    task, reference = row.get("task", ""), row.get("reference")
    if not isinstance(task, str) or not isinstance(reference, str | None):
        raise BadRow("task and reference are text")
    guess = row.get("chance")
    if guess is not None and not (isinstance(guess, int | float) and 0 <= guess < 1):
        raise BadRow(f"chance is {guess!r}; it is the score that guessing gives, 0 or more and below 1")
    return ChatItem(row["id"], row["kind"], row["cluster"], _messages(row["messages"]), _tools(row.get("tools")),
                    row["expect"], task, reference, guess=guess)


def likelihood_item(row: Any) -> LikelihoodItem:
    """A row as an item.

    Raises:
        BadRow: a key is missing or holds something else than it should, or there is nothing to measure.
    """
    _needs(row, {"id": str, "kind": str, "cluster": str})
    if row["kind"] not in ("text", "answer"):
        raise BadRow(f"kind is {row['kind']!r}; kinds are text and answer")
    asked = row["kind"] == "answer"
    _needs(row, {"messages": list, "answer": str} if asked else {"text": str})
    text = row["answer" if asked else "text"]
    if not text:
        raise BadRow("the text is empty")
    return LikelihoodItem(row["id"], row["kind"], row["cluster"], text, _messages(row["messages"]) if asked else [],
                          _tools(row.get("tools")))


def parse_lines(text: str, file: object) -> list[tuple[str, Any]]:
    """The rows of a JSONL text with `file:line`; blank lines are skipped.

    Raises:
        EvalError: a line is not JSON.
    """
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{file}:{number}"
            try:
                found.append((where, json.loads(line)))
            except json.JSONDecodeError as error:
                raise EvalError(f"{where} is not JSON ({error}); an items file holds one JSON object a line") from error
    return found


def _needs(row: Any, keys: Mapping[str, type]) -> None:
    if not isinstance(row, dict):
        raise BadRow(f"it is {type(row).__name__}, not an object")
    missing = [key for key in keys if key not in row]
    if missing:
        raise BadRow(f"it lacks {', '.join(missing)}")
    for key, kind in keys.items():
        if not isinstance(row[key], kind):
            raise BadRow(f"{key} is {type(row[key]).__name__}, not {kind.__name__}")


def _messages(found: list[Any]) -> Messages:
    good = found and all(
        isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str) for turn in found)
    if not good:
        raise BadRow(f"messages are not turns of role ({', '.join(ROLES)}) and content")
    return found


def _tools(found: Any) -> str | None:
    if found is None or isinstance(found, list):
        return json.dumps(found, ensure_ascii=False) if found else None
    try:
        parsed = json.loads(found)
    except (TypeError, json.JSONDecodeError) as error:
        raise BadRow(f"tools are neither a list nor the JSON text of one: {error}") from error
    if not isinstance(parsed, list):
        raise BadRow("tools are not a list")
    return str(found)
