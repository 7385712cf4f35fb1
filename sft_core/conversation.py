"""The values that walk from a raw row to a conversation: `Origin`, `Row`, `Turn`, `Conversation`, `Rejected`.

Every row ends either as a `Conversation` or as a `Rejected` with a reason, so that
`len(kept) + len(rejected) == len(rows)` holds in every stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]


LINED = (".jsonl", ".ndjson", ".txt")
"""Files whose rows are counted in lines."""


class Origin(NamedTuple):
    """Where a row stands, so that a person can find it again."""

    source: str
    file: str
    line: int  # 1-based line of a JSONL or text file, 1-based row number elsewhere

    def __str__(self) -> str:
        """`rows.jsonl:3` is a line; `rows.json row 3` an element of an array, a record or a row."""
        name = self.file.lower().removesuffix(".gz")
        return f"{self.file}:{self.line}" if name.endswith(LINED) else f"{self.file} row {self.line}"


class Row(NamedTuple):
    """One raw row as it was read."""

    origin: Origin
    data: Mapping[str, Any]
    nulls: tuple[str, ...] = ()  # dotted paths of Arrow struct keys left out because they were null or never there


class ToolCall(NamedTuple):
    """A function call by the assistant. `arguments` is JSON text: Arrow would fill missing keys with None."""

    name: str
    arguments: str


class Turn(NamedTuple):
    """One message."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    masked: bool = False  # an answer that its data marks as context: it is not trained


class Conversation(NamedTuple):
    """A checked chat: at least one non-empty assistant turn, roles in order. `tools` is JSON text or None."""

    turns: tuple[Turn, ...]
    origin: Origin
    tools: str | None = None
    nulls: int = 0  # keys of tool arguments and schemas that Arrow gave as null: meant so, or never there
    unused: tuple[str, ...] = ()  # columns of the row that hold words and went into no turn
    repaired: bool = False  # turns were left out or joined, as `data.repair` asks for
    variables: str | None = None  # of the chat template for this row alone, an object as JSON text


class Why(StrEnum):
    """Why a row is not trained on."""

    UNREADABLE = "unreadable"  # not JSON, not an object, wrong encoding
    MISSING_COLUMN = "missing_column"
    WRONG_TYPE = "wrong_type"
    UNKNOWN_LABEL = "unknown_label"  # a value that data.sources.labels gives no name
    UNKNOWN_ROLE = "unknown_role"
    ROLE_ORDER = "role_order"
    TURN_WEIGHT = "turn_weight"  # a message asks to be trained, or not to be, against its role
    BAD_ANSWER = "bad_answer"  # a preference data set marks the answer as the one not wanted
    EMPTY_ASSISTANT = "empty_assistant"
    EMPTY_TEXT = "empty_text"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    CONTAMINATED = "contaminated"
    PERSONAL_DATA = "personal_data"  # it holds personal data or a secret, and data.pii.action is drop
    SCORE = "score"  # data.scores.keep wants others
    NOT_SELECTED = "not_selected"  # data.select keeps others
    LENGTH = "length"  # from here to LANGUAGE: flaws that data.quality.drop names
    PLACEHOLDER = "placeholder"
    REPETITION = "repetition"
    REFUSAL = "refusal"
    TRUNCATED = "truncated"
    DAMAGE = "damage"
    ECHO = "echo"
    LANGUAGE = "language"
    TOO_LONG = "too_long"
    NO_ITEM = "no_item"  # it is of a task in data.held_out_tasks, and no suite can ask it
    NO_TRAINED_TOKEN = "no_trained_token"
    THOUGHT = "thought"  # an answer thinks, and template.thinking is error
    TEMPLATE_REFUSED = "template_refused"  # the chat template cannot express it
    CONTROL_TOKEN = "control_token"  # the text holds the template's own control tokens


class Rejected(NamedTuple):
    """A row that is not used, with the reason and where it stands."""

    why: Why
    detail: str
    origin: Origin
