"""Conversations of tasks that are held out → items of a suite, which ask for the answer in its own words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sft_core.config.data import DataSection
from sft_core.conversation import Rejected, Why
from sft_core.data.curate.curated import Curated
from sft_core.data.sources import name_of

FILE = "held_out.jsonl"


def item_of(one: Curated, task: str) -> dict[str, Any] | Rejected:
    """A conversation as a row of a suite of the engine `generate`: all that stands before its last answer is asked."""
    turns, origin = one.conversation.turns, one.conversation.origin
    last = max((at for at, turn in enumerate(turns) if turn.role == "assistant" and not turn.masked), default=None)
    if last is None:
        return Rejected(Why.NO_ITEM, "all of its answers are marked as context", origin)
    if any(turn.tool_calls for turn in turns[: last + 1]):
        return Rejected(Why.NO_ITEM, "it calls tools, and items of held-out tasks are answered in words", origin)
    answer = turns[last].content.strip()
    name = f"{origin.source}:{origin.file}:{origin.line}"
    return {"id": name, "kind": "bare", "task": task,
            "cluster": name if one.cluster is None else f"alike-{one.cluster}",
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns[:last]],
            "expect": {"answers": [answer]}, "reference": answer}


def held_sources(data: DataSection) -> dict[str, str]:
    """The sources of held-out tasks, with their task."""
    return {name_of(source): str(source.task) for source in data.sources if data.holds_out(source)}


class HeldOut:
    """Writes items to `held_out.jsonl` as they come; the file is there where tasks are held out, and only there."""

    def __init__(self, data: DataSection, folder: Path) -> None:
        self._stream = (folder / FILE).open("w", encoding="utf-8") if held_sources(data) else None

    def write(self, items: Iterable[Mapping[str, Any]]) -> None:
        """These come next."""
        for item in items:
            assert self._stream is not None
            self._stream.write(json.dumps(item) + "\n")

    def close(self) -> None:
        """Nothing more comes."""
        if self._stream is not None:
            self._stream.close()
