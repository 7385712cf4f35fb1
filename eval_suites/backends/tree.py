"""Beginnings that inputs share, as a tree whose parts are each computed once.

The examples of an MMLU subject, the question behind four continuations, a system prompt, the earlier turns of a
conversation: whatever many inputs begin with is a part of its own, and what follows is computed behind its keys and
values. Nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

SHORTEST = 16
"""A shared part of fewer ids is left to those who share it: a pass of its own would cost more."""
SAVED = 48
"""A shared part saves at least so many ids."""
NOTABLE = 8
"""A shared part is at least one id for so many that follow: attention behind kept keys is slower."""
SLACK = 0.85
"""An input shorter than this share of a batch's longest waits for the next batch, if this one is large enough."""


@dataclass(eq=False, slots=True)
class Part:
    """`ids[start:end]`, behind its parent, which ends at `start`. A part with a `row` is the end of that input."""

    ids: Sequence[int]
    start: int
    end: int
    parent: Part | None
    row: int | None = None
    children: list[Part] = field(default_factory=list)
    held: Any = None
    """Keys and values up to `end`, while something needs them."""

    @property
    def size(self) -> int:
        """Ids of this part alone."""
        return self.end - self.start


def grow(rows: Sequence[Sequence[int]], stems: Sequence[int]) -> list[Part]:
    """The parts of these inputs, those without a parent first reached.

    Args:
        rows: ids of the inputs in lexical order.
        stems: how much of each input may be shared; what is behind it is computed for this input alone.
    """
    roots: list[Part] = []
    work: list[tuple[Sequence[int], Part | None, int]] = [(range(len(rows)), None, 0)]
    while work:
        numbers, parent, at = work.pop()  # they share `at` ids, of which the parent holds some
        siblings, start = (roots, 0) if parent is None else (parent.children, parent.end)
        for some in _alike(rows, stems, numbers, at):
            if len(some) == 1:
                siblings.append(Part(rows[some[0]], start, len(rows[some[0]]), parent, some[0]))
                continue
            shared = min(_common(rows[some[0]], rows[some[-1]]), min(stems[i] for i in some))
            behind = sum(len(rows[i]) - shared for i in some) / len(some)
            below = parent
            if _worth(shared - start, len(some), behind):
                below = Part(rows[some[0]], start, shared, parent)
                siblings.append(below)
            work.append((some, below, shared))
    return roots


def _worth(size: int, count: int, behind: float) -> bool:
    return size >= SHORTEST and size * (count - 1) >= SAVED and size * NOTABLE >= behind


def _alike(rows: Sequence[Sequence[int]], stems: Sequence[int], numbers: Sequence[int], at: int) -> list[list[int]]:
    """Inputs that agree on the id at `at` and may share it; every other one alone."""
    groups: dict[object, list[int]] = {}
    for i in numbers:
        groups.setdefault(rows[i][at] if stems[i] > at else (i,), []).append(i)
    return list(groups.values())


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


class Queue:
    """Parts that can be computed now, the longest first.

    Args:
        parts: their parents are computed.
        mixed: parts of several parents may stand in one batch, and parts that are continued; else only parts of one
            parent that are not, as a state that has read padding is spoilt.
    """

    def __init__(self, parts: Sequence[Part], *, mixed: bool) -> None:
        keys = {id(part): 0 if mixed else number + 1 if part.children else -id(part.parent)
                for number, part in enumerate(parts)}
        ordered = sorted(parts, key=lambda part: (keys[id(part)], -part.size))
        self._runs = [list(run) for _, run in groupby(ordered, key=lambda part: keys[id(part)])][::-1]

    def __bool__(self) -> bool:
        return bool(self._runs)

    def batch(self, budget: int, enough: int, more: int = 0) -> list[Part]:
        """The next parts, whose padded ids with all that stands before them come to at most `budget`, if it is not one.

        Args:
            enough: once a batch has so many padded ids of its own, a shorter part is not padded to its width.
            more: positions that each input will take beyond.
        """
        run, count, behind = self._runs[-1], 0, 0
        width = run[0].size
        for part in run:
            behind = max(behind, part.start)
            full = (count + 1) * (width + behind + more) > budget
            if count and (full or (count * width >= enough and part.size < SLACK * width)):
                break
            count += 1
        return run[:count]

    def done(self, batch: Sequence[Part]) -> None:
        """The batch was computed."""
        self._runs[-1] = self._runs[-1][len(batch):]
        if not self._runs[-1]:
            self._runs.pop()
