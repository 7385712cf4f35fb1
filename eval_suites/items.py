"""Own items (JSONL rows with messages and what is expected), and the question texts of every suite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval_suites.scorers import SCORERS
from eval_suites.suites import Suite, suite
from sft_core.curate.decontaminate import EvalItem
from sft_core.errors import EvalError


class ChatItem(NamedTuple):
    """One own item. Rows: {"id", "kind", "cluster", "messages", "tools"? (JSON text), "expect"}."""

    item_id: str
    kind: str
    cluster: str
    messages: list[dict[str, str]]
    tools: str | None
    expect: Mapping[str, Any]

    def parsed_tools(self) -> list[dict[str, Any]] | None:
        """The tools as the chat template wants them."""
        return json.loads(self.tools) if self.tools else None


def read_items(chosen: Suite, limit: int | None = None) -> list[ChatItem]:
    """The items of a suite of the engine `generate`, the first `limit` of each kind.

    Raises:
        EvalError: the file is missing, a row is not valid, or an id is there twice.
    """
    file = chosen.items_file
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EvalError(f"the items of suite {chosen.name} cannot be read: {error}") from error
    items = [_item(line, f"{file}:{number}") for number, line in enumerate(lines, 1)]
    if len({item.item_id for item in items}) < len(items):
        raise EvalError(f"{file} has an id twice; results are paired by id")
    seen: dict[str, int] = {}
    kept = []
    for item in items:
        seen[item.kind] = seen.get(item.kind, 0) + 1
        if limit is None or seen[item.kind] <= limit:
            kept.append(item)
    return kept


def _item(line: str, where: str) -> ChatItem:
    try:
        row = json.loads(line)
        item = ChatItem(row["id"], row["kind"], row["cluster"], row["messages"], row.get("tools"), row["expect"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise EvalError(f"{where} is not an item: {error!r}; rows need id, kind, cluster, messages and expect"
                        ) from error
    if item.kind not in SCORERS:
        raise EvalError(f"{where}: there is no scorer for kind {item.kind!r}; kinds are {sorted(SCORERS)}")
    return item


def eval_items(suites: Sequence[str], *, mirror: Path | None, include_path: str | None,
               scratch: Path) -> list[EvalItem]:
    """The questions of these suites, without few-shot examples and headings, for decontamination. Loads no model.

    Args:
        mirror: folder with hub data sets, see `lm_door`.
        include_path: folder with further lm-eval tasks.
        scratch: where generated task files may be written.

    Raises:
        EvalError: a suite is unknown or its items cannot be read.
    """
    from eval_suites import lm_door  # brings torch, and the flows import this file

    found: list[EvalItem] = []
    for name in suites:
        chosen = suite(name)
        if chosen.engine == "lm_eval":
            door = lm_door.LmDoor(chosen, include_path=include_path, mirror=mirror, scratch=scratch)
            found += [EvalItem(name, item_id, text) for item_id, text in door.questions()]
        else:
            found += [EvalItem(name, item.item_id, turn["content"]) for item in read_items(chosen)
                      for turn in item.messages if turn["role"] == "user"]
    return found
