"""Rows that are messages of a tree (OpenAssistant: `message_id`, `parent_id`, `role`, `text`, `rank`) → conversations.

A tree gives one thread: from its root through the best ranked reply of every message to an answer. All messages of a
file are held at once: a child may stand anywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import inf

from sft_core.conversation import Rejected, Row, Why

TREE = ("message_id", "parent_id", "role", "text")
"""Columns that make a row a message of a tree."""


def is_message(row: Row) -> bool:
    """The row is a message of a tree."""
    return set(TREE) <= set(row.data)


def threads(rows: Iterable[Row]) -> Iterator[tuple[Row, int] | Rejected]:
    """The thread of every tree as a row with `messages` and how many rows went into it, and the messages left out."""
    below: dict[str | None, list[Row]] = defaultdict(list)
    known: set[str] = set()
    for row in rows:
        name, parent = row.data.get("message_id"), row.data.get("parent_id")
        if not isinstance(name, str) or not isinstance(parent, str | None) or name in known:
            yield Rejected(Why.WRONG_TYPE, "its message_id or parent_id is no text, or its message_id is there twice",
                           row.origin)
            continue
        known.add(name)
        below[parent].append(row)
    for replies in below.values():
        replies.sort(key=_rank)
    used: set[str] = set()
    for root in below[None]:
        thread = _answered(root, below)
        used |= {message.data["message_id"] for message in thread}
        if thread:
            said = [{"role": message.data.get("role"), "content": message.data.get("text")} for message in thread]
            yield Row(root.origin, {"messages": said}), len(thread)
    for row in (row for replies in below.values() for row in replies if row.data["message_id"] not in used):
        parent = row.data["parent_id"]
        why, detail = (Why.BAD_ANSWER, "another thread of its tree is ranked higher, or nobody answered it") \
            if parent is None or parent in known else (Why.MISSING_COLUMN, f"its parent {parent} is not in the file")
        yield Rejected(why, detail, row.origin)


def _rank(reply: Row) -> float:
    """0 is best; a reply that was not ranked comes last."""
    rank = reply.data.get("rank")
    return rank if isinstance(rank, int | float) else inf


def _answered(root: Row, below: Mapping[str | None, list[Row]]) -> list[Row]:
    """The best ranked thread of a tree, up to its last answer."""
    thread = [root]
    while replies := below.get(thread[-1].data["message_id"]):
        thread.append(replies[0])
    while thread and thread[-1].data.get("role") != "assistant":
        thread.pop()
    return thread
