"""What both models were asked and answered, item by item, for a page that shows some at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from eval_suites.results import ItemResult, SuiteResult, reason
from sft_core.names import file_name
from sft_core.stage import write_text
from sft_core.visible import shortened, visible

EMBEDDED_BYTES = 900_000
"""Of items inside a page."""
ITEMS_PER_FILE = 500
CHANGED = "changed"
CHANGES = (CHANGED, "unscored", "same")
"""What became of an item's score, in the order in which readers want to see it."""
FLAGS = ("refused", "form")
"""Marks of an answer that a reader can choose by."""


class Items(NamedTuple):
    """`inside` the page, and the rest, by the file beside it that holds them."""

    inside: list[dict[str, Any]]
    files: dict[str, list[dict[str, Any]]]

    @property
    def outside(self) -> int:
        """How many are not in the page."""
        return sum(map(len, self.files.values()))

    def write(self, folder: Path) -> None:
        """Write the files into the page's folder, each a script that hands over its items: a page that was opened from
        a disk may load no other kind."""
        for name, some in self.files.items():
            write_text(folder / name, f"sftItems({json.dumps(some, ensure_ascii=False)});\n")


def items(base: Mapping[str, SuiteResult], tuned: Mapping[str, SuiteResult], folder: str) -> Items:
    """All items of these suites: those that changed first, losses and gains in turn, suite by suite in turn. Texts
    whose perplexity was measured have neither question nor answer.

    Args:
        base, tuned: results by suite.
        folder: name of the one beside the page that its further items are to be in.
    """
    told = [_by_change(base[name], result) for name, result in tuned.items() if result.scale != "log"]
    ordered = [one for kind in CHANGES for one in _in_turn([of.get(kind, []) for of in told])]
    inside, left, room = list[dict[str, Any]](), dict[str, list[dict[str, Any]]](), EMBEDDED_BYTES
    for one in ordered:
        size = len(json.dumps(one, ensure_ascii=False).encode())
        if size <= room and not left.get(one["suite"]):
            inside.append(one)
            room -= size
        else:
            left.setdefault(one["suite"], []).append(one)
    files = {f"{folder}/{file_name(suite)}-{at // ITEMS_PER_FILE + 1}.js": some[at : at + ITEMS_PER_FILE]
             for suite, some in left.items() for at in range(0, len(some), ITEMS_PER_FILE)}
    return Items(inside, files)


def _in_turn(queues: Sequence[Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for some in zip_longest(*queues):
        yield from (one for one in some if one is not None)


def _by_change(base: SuiteResult, tuned: SuiteResult) -> dict[str, list[dict[str, Any]]]:
    """The items of a suite by what became of their score, the largest changes first."""
    before, after = ({item.item_id: item for item in side.items} for side in (base, tuned))
    found = dict[str, list[dict[str, Any]]]()
    for key in before | after:
        one = _told(before.get(key), after.get(key))
        found.setdefault(CHANGED if one["change"] in ("lost", "gained") else one["change"], []).append(one)
    changed = sorted(found.get(CHANGED, []), key=lambda one: -abs(one["scores"][0] - one["scores"][1]))
    kinds = [[one for one in changed if one["change"] == kind] for kind in ("lost", "gained")]
    return found | {CHANGED: list(_in_turn(kinds))}


def _told(before: ItemResult | None, after: ItemResult | None) -> dict[str, Any]:
    sides = (before, after)
    asked = after or before
    assert asked is not None, "an item is in one of the two results"
    scores = [one.score if one else None for one in sides]
    told: dict[str, Any] = {
        "suite": visible(asked.suite), "task": visible(asked.task), "id": visible(asked.item_id),
        "change": _change(*scores), "scores": scores,
        "prompt": shortened(asked.prompt), "target": shortened(asked.target),
        "answers": [_answer(one.answer) if one else "" for one in sides],
        "why": [shortened(reason(one.why)) if one and one.why else "" for one in sides]}
    for flag in FLAGS:
        marks = [one.metrics.get(flag) if one else None for one in sides]
        if any(mark is not None for mark in marks):
            told[flag] = marks
    return told


def _answer(text: str) -> str:
    """White space alone would be a gap that nobody sees."""
    return shortened(text) if not text or text.strip() else f"({len(text):,} characters, white space alone)"


def _change(base: float | None, tuned: float | None) -> str:
    if base is None or tuned is None:
        return "unscored"
    return "same" if base == tuned else "lost" if tuned < base else "gained"
