"""What is kept, as rows of a source: messages, and beside them an id and where they come from.

Provenance holds ids and numbers and no words, so that the reader of sources does not take it for text that is lost;
what the ids stand for is in the manifest beside the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sft_core.stage import fingerprint, write_text

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/#@")


def word(name: str) -> str:
    """A name as one word of ASCII, where it is none its hash."""
    return name if name and set(name) <= _PLAIN else fingerprint(name)


def row_of(messages: list[dict[str, Any]], tools: str | None, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A row in the shape `messages`; its id is of its content."""
    row: dict[str, Any] = {"id": fingerprint(messages, tools), "messages": messages}
    if tools:
        row["tools"] = tools
    return row | {"provenance": dict(provenance)}


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSONL, whole or not at all."""
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
