"""Packing: lengths → plan of rows; examples → `Batch`. Planning needs no torch.

Examples in one row are kept apart by `segments` and by positions that restart; padding is known by its place
(segment 0), never by its id, because many tokenizers pad with EOS.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sft_core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from sft_core.templates.render import Example

Plan = tuple[tuple[int, ...], ...]


class Batch(NamedTuple):
    """Rows of packed examples, all `torch.long` of shape [rows, tokens]."""

    ids: Tensor
    targets: Tensor  # already shifted; IGNORE where nothing is trained
    positions: Tensor  # restart at 0 with every example
    segments: Tensor  # 1, 2, … per example of a row; 0 is padding


def plan(lengths: Sequence[int], capacity: int, seed: int) -> Plan:
    """Which examples share a row of `capacity` tokens: best-fit decreasing, every index exactly once.

    Equal lengths and the finished rows are shuffled by `seed`, so that another epoch brings other neighbours and
    another order. Best fit needs at most 11/9 of the fewest possible rows, plus one (Johnson 1974). Examples of one
    length are laid down together: the row with the tightest space that fits one stays the tightest until it is full.

    Raises:
        DataError: an example does not fit a row, or has no token.
    """
    wrong = [at for at, length in enumerate(lengths) if not 0 < length <= capacity]
    if wrong:
        raise DataError(f"{len(wrong)} of {len(lengths)} examples do not fit a row of {capacity} tokens (first: "
                        f"#{wrong[0]}, {lengths[wrong[0]]} tokens); raise data.max_tokens or set data.too_long: drop")
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    by_length: dict[int, list[int]] = {}
    for at in order:
        by_length.setdefault(lengths[at], []).append(at)
    rows = _Rows(capacity)
    for length in sorted(by_length, reverse=True):
        rows.add(length, by_length[length])
    rng.shuffle(rows.rows)
    return tuple(map(tuple, rows.rows))


class _Rows:
    """Rows under construction, found by their free space."""

    def __init__(self, capacity: int) -> None:
        self.rows: list[list[int]] = []
        self._capacity = capacity
        self._open: dict[int, list[list[int]]] = {}  # free tokens → rows with exactly so many
        self._spaces = 0  # bit n is set when a row has n free tokens: the best fit is one shift away

    def add(self, length: int, members: list[int]) -> None:
        """Lay down all examples of one length, none longer than those before."""
        done = 0
        while done < len(members):
            space, row = self._best(length)
            fitting = space // length
            part = members[done : done + fitting]
            row += part
            done += len(part)
            if left := space - length * len(part):
                self._open.setdefault(left, []).append(row)
                self._spaces |= 1 << left

    def _best(self, length: int) -> tuple[int, list[int]]:
        """Take the row with the smallest free space of at least `length`, or a new one."""
        fitting = self._spaces >> length
        if not fitting:
            self.rows.append([])
            return self._capacity, self.rows[-1]
        space = length + (fitting & -fitting).bit_length() - 1
        rows = self._open[space]
        row = rows.pop()
        if not rows:
            self._spaces ^= 1 << space
        return space, row


def collate(rows: Sequence[Sequence[Example]], width: int, pad_id: int) -> Batch:
    """Lay rows of examples out as one batch of `width` tokens per row.

    Raises:
        DataError: a row is longer than `width`.
    """
    import torch

    columns = list(zip(*(_row(row, width, pad_id) for row in rows), strict=True))
    return Batch(*(torch.tensor(column, dtype=torch.long).reshape(len(rows), width) for column in columns))


def _row(row: Sequence[Example], width: int, pad_id: int) -> Iterator[list[int]]:
    from sft_core.templates.render import IGNORE

    tokens = sum(len(example.input_ids) for example in row)
    if tokens > width:
        raise DataError(f"a row of {tokens} tokens does not fit a width of {width} (first example: {row[0].origin}); "
                        "plan the rows with the width as capacity")
    padding = width - tokens
    yield [token for example in row for token in example.input_ids] + [pad_id] * padding
    yield [target for example in row for target in example.targets] + [IGNORE] * padding
    yield [at for example in row for at in range(len(example.input_ids))] + [0] * padding
    yield [number for number, example in enumerate(row, 1) for _ in example.input_ids] + [0] * padding
