"""Rows that are messages of a tree (OpenAssistant: `message_id`, `parent_id`, `role`, `text`, `rank`) → conversations.

A tree gives one thread: from its root through the best ranked reply of every message to an answer. All messages of a
file are held at once: a child may stand anywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from sft_core.conversation import Rejected, Row, Why

TREE = ("message_id", "parent_id", "role", "text")
"""Columns that make a row a message of a tree."""


def is_message(row: Row) -> bool:
    """The row is a message of a tree."""
    return set(TREE) <= set(row.data)


def threads(rows: Iterable[Row]) -> Iterator[tuple[Row, int] | Rejected]:
    """The thread of every tree as a row with `messages` and how many rows went into it, and the messages left out."""
    below: dict[Any, list[Row]] = defaultdict(list)
    known: set[Any] = set()
    for row in rows:
        below[row.data["parent_id"]].append(row)
        known.add(row.data["message_id"])
    for replies in below.values():
        replies.sort(key=lambda reply: (reply.data.get("rank") is None, reply.data.get("rank") or 0))
    used: set[Any] = set()
    for root in below[None]:
        thread = _answered(root, below)
        used |= {message.data["message_id"] for message in thread}
        if thread:
            yield Row(root.origin, {"messages": [{"role": message.data["role"], "content": message.data["text"]}
                                                 for message in thread]}), len(thread)
    for row in (row for replies in below.values() for row in replies if row.data["message_id"] not in used):
        if row.data["parent_id"] is None or row.data["parent_id"] in known:
            yield Rejected(Why.BAD_ANSWER, "another thread of its tree is ranked higher, or nobody answered it",
                           row.origin)
        else:
            yield Rejected(Why.MISSING_COLUMN, f"its parent {row.data['parent_id']} is not in the file", row.origin)


def _answered(root: Row, below: dict[Any, list[Row]]) -> list[Row]:
    """The best ranked thread of a tree, up to its last answer."""
    thread = [root]
    while replies := below.get(thread[-1].data["message_id"]):
        thread.append(replies[0])
    while thread and thread[-1].data["role"] != "assistant":
        thread.pop()
    return thread
