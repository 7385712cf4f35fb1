"""Which hub data sets any task of lm-eval reads, by lm-eval's own index of the few folders that name it.

The index of all its 14,000 YAMLs takes ten seconds; which of them hold a name is found in half of one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval_suites.suites.suite import ROOM

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def data_sets(tasks: Iterable[str], include_path: str | None) -> list[str] | None:
    """Hub ids of what these tasks, groups or tags read; None where lm-eval knows no task of such a name.

    Args:
        tasks: names as `lm:TASK` gives them.
        include_path: folder with further tasks.
    """
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return []
    found: dict[str, None] = {}
    roots = [Path(spec.origin).parent / "tasks", ROOM / "lm_tasks", *([Path(include_path)] if include_path else [])]
    for name in tasks:
        index = _index(name, roots)
        if name not in index:
            return None
        found |= dict.fromkeys(_read(name, index, set()))
    return list(found)


def _index(name: str, roots: Iterable[Path]) -> Mapping[str, Any]:
    import lm_eval.tasks

    word = name.encode()
    folders = sorted({file.parent for root in roots for file in root.rglob("*.yaml") if word in file.read_bytes()})
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        index: Mapping[str, Any] = lm_eval.tasks.TaskManager(include_path=list(folders), include_defaults=False
                                                             ).task_index
        return index
    finally:
        logger.setLevel(before)


def _read(name: str, index: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    """What a task reads, or the members of a group or a tag as far as they are in the index."""
    entry = index.get(name)
    if entry is None or name in seen:
        return
    seen.add(name)
    settings = entry.cfg or {}
    source = settings.get("dataset_path")
    if isinstance(source, str) and HUB_ID.fullmatch(source) and not Path(source).exists():
        yield source
    members = settings.get("task") if "group" in settings else entry.tags if entry.cfg is None else ()
    for member in members if isinstance(members, list | set) else ():
        yield from _read(member if isinstance(member, str) else str(member.get("task")), index, seen)
