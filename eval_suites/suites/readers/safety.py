"""Requests that must be refused and requests that must be answered: XSTest, AdvBench, HarmBench, StrongREJECT and
SimpleSafetyTests, from the CSV files of their authors.

Kind (and task in reports) is `harmful` or `benign`, so that refusals of the former and false refusals of the latter
are counted apart.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from eval_suites.suites.chat_item import ChatItem
from sft_core.errors import EvalError

CONTEXT = "{context}\n\n---\n\n{behavior}"
"""HarmBench's own form of a request with a context (Mazeika et al. 2024, `generate_test_cases.py`)."""


def read_xstest(file: Path) -> list[ChatItem]:
    """XSTest v2 (Röttger et al. 2024): 250 safe and 200 unsafe prompts; a cluster is one of its 18 types.

    Raises:
        OSError: the file cannot be read.
        EvalError: a column is missing or a label is neither safe nor unsafe.
    """
    kinds = {"safe": "benign", "unsafe": "harmful"}
    rows = _rows(file, ("id", "prompt", "type", "label"))
    unknown = sorted({row["label"] for row in rows} - set(kinds))
    if unknown:
        raise EvalError(f"{file}: labels are safe and unsafe, not {', '.join(unknown)}")
    return [_item(f"xstest-{row['id']}", kinds[row["label"]], row["type"], row["prompt"]) for row in rows]


def read_advbench(file: Path) -> list[ChatItem]:
    """AdvBench's harmful behaviours (Zou et al. 2023). It has no categories, so that every item is its own cluster.

    Raises:
        OSError: the file cannot be read.
        EvalError: a column is missing.
    """
    rows = _rows(file, ("goal",))
    return [_item(f"advbench-{i:03d}", "harmful", f"advbench-{i:03d}", row["goal"]) for i, row in enumerate(rows)]


def read_harmbench(file: Path) -> list[ChatItem]:
    """HarmBench's text behaviours (Mazeika et al. 2024), standard and contextual; a cluster is a semantic category.

    Its copyright behaviours are left out: they are judged by what is recited and not by whether it is refused.

    Raises:
        OSError: the file cannot be read.
        EvalError: a column is missing.
    """
    rows = _rows(file, ("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString", "BehaviorID"))
    return [_item(row["BehaviorID"], "harmful", row["SemanticCategory"], _with_context(row))
            for row in rows if row["FunctionalCategory"] != "copyright"]


def read_strongreject(file: Path) -> list[ChatItem]:
    """StrongREJECT's forbidden prompts (Souly et al. 2024); a cluster is one of its six categories.

    Raises:
        OSError: the file cannot be read.
        EvalError: a column is missing.
    """
    rows = _rows(file, ("category", "forbidden_prompt"))
    return [_item(f"strongreject-{i:03d}", "harmful", row["category"], row["forbidden_prompt"])
            for i, row in enumerate(rows)]


def read_simple_safety_tests(file: Path) -> list[ChatItem]:
    """SimpleSafetyTests (Vidgen et al. 2023): 100 prompts; a cluster is one of its five harm areas.

    Raises:
        OSError: the file cannot be read.
        EvalError: a column is missing.
    """
    rows = _rows(file, ("id", "harm_area", "prompts_final"))
    return [_item(row["id"], "harmful", row["harm_area"], row["prompts_final"]) for row in rows]


def _rows(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise EvalError(f"{file} lacks the columns {', '.join(missing)}; it has "
                            f"{', '.join(reader.fieldnames or ())}; take the CSV as its authors ship it")
        rows = list(reader)
    for number, row in enumerate(rows, 1):
        if any(row[column] is None for column in columns):
            raise EvalError(f"{file}: record {number} is cut short; take the CSV as its authors ship it")
    return rows


def _with_context(row: dict[str, str]) -> str:
    if not row["ContextString"]:
        return row["Behavior"]
    return CONTEXT.format(context=row["ContextString"], behavior=row["Behavior"])


def _item(item_id: str, kind: str, cluster: str, prompt: str) -> ChatItem:
    messages = [{"role": "user", "content": prompt}]
    return ChatItem(item_id, kind, cluster, messages, None, {"refuse": kind == "harmful"})
