"""The A/A floor: how far a model's scores differ from its own when it is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eval_suites.results import ItemResult, SuiteResult

ROUNDS = 3
"""How often each of its items is asked: twice in the same batches, and once one by one."""


class Floor(NamedTuple):
    """Items of one suite asked again: under the same settings nothing may change; another batch size may round
    differently."""

    suite: str
    items: int  # asked again
    same: int  # of these, changed their score under the same settings; must be 0
    batch: int  # of these, changed their score under another batch size
    worst: float  # largest change of a score
    of: str = ""  # the model, where it is not the base of the comparison


def changed(before: Sequence[ItemResult], after: Sequence[ItemResult]) -> tuple[int, float]:
    """Items whose score changed, and the largest change; an item that lost or found its score changed by 1."""
    again = {item.item_id: item.score for item in after}
    found = []
    for item in before:
        other = again[item.item_id]
        if item.score is None or other is None:
            found.append(float(item.score is not other))
        else:
            found.append(abs(item.score - other))
    return sum(change > 0 for change in found), max(found, default=0.0)


def measure(result: SuiteResult, first: Sequence[ItemResult], second: Sequence[ItemResult],
            alone: Sequence[ItemResult]) -> Floor:
    """The floor of a suite from some of its items asked twice in the same batches, and once one by one.

    Args:
        result: of the whole suite, for its name.
        first, second: the same items, asked the same way twice.
        alone: the same items, one row per batch.
    """
    same, drift = changed(first, second)
    batch, moved = changed(first, alone)
    return Floor(result.suite, len(first), same, batch, max(drift, moved))


def larger(one: Floor | None, two: Floor | None) -> Floor | None:
    """The one that changed more, of floors of different models; None where none was measured."""
    known = [floor for floor in (one, two) if floor is not None and floor.items]
    return max(known, key=lambda one: (one.same / one.items * one.worst, one.batch / one.items), default=None)
