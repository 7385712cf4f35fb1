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

    from sft_core.render import Example

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
    another order. Best fit needs at most 11/9 of the fewest possible rows, plus one (Johnson 1974).

    Raises:
        DataError: an example does not fit a row, or has no token.
    """
    wrong = [at for at, length in enumerate(lengths) if not 0 < length <= capacity]
    if wrong:
        raise DataError(f"{len(wrong)} of {len(lengths)} examples do not fit a row of {capacity} tokens (first: "
                        f"#{wrong[0]}, {lengths[wrong[0]]} tokens); raise data.max_tokens or set data.too_long: drop")
    order = list(range(len(lengths)))
    rng = random.Random(seed)
    rng.shuffle(order)
    order.sort(key=lambda at: -lengths[at])
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # free tokens → rows with exactly so many
    free_spaces = 0  # bit n is set when open_rows has a row with n free tokens: the best fit is one shift away
    for at in order:
        space, row = _best(lengths[at], free_spaces, open_rows)
        if row is None:
            space, row = capacity, len(rows)
            rows.append([])
        elif not open_rows[space]:
            free_spaces ^= 1 << space
        rows[row].append(at)
        left = space - lengths[at]
        if left:
            open_rows.setdefault(left, []).append(row)
            free_spaces |= 1 << left
    rng.shuffle(rows)
    return tuple(tuple(row) for row in rows)


def _best(length: int, free_spaces: int, open_rows: dict[int, list[int]]) -> tuple[int, int | None]:
    """Take the row with the smallest free space of at least `length`, if there is one."""
    fitting = free_spaces >> length
    if not fitting:
        return 0, None
    space = length + (fitting & -fitting).bit_length() - 1
    return space, open_rows[space].pop()


def collate(rows: Sequence[Sequence[Example]], width: int, pad_id: int) -> Batch:
    """Lay rows of examples out as one batch of `width` tokens per row.

    Raises:
        DataError: a row is longer than `width`.
    """
    import torch

    columns = list(zip(*(_row(row, width, pad_id) for row in rows), strict=True))
    return Batch(*(torch.tensor(column, dtype=torch.long).reshape(len(rows), width) for column in columns))


def _row(row: Sequence[Example], width: int, pad_id: int) -> Iterator[list[int]]:
    from sft_core.render import IGNORE

    tokens = sum(len(example.input_ids) for example in row)
    if tokens > width:
        raise DataError(f"a row of {tokens} tokens does not fit a width of {width} (first example: {row[0].origin}); "
                        "plan the rows with the width as capacity")
    padding = width - tokens
    yield [token for example in row for token in example.input_ids] + [pad_id] * padding
    yield [target for example in row for target in example.targets] + [IGNORE] * padding
    yield [at for example in row for at in range(len(example.input_ids))] + [0] * padding
    yield [number for number, example in enumerate(row, 1) for _ in example.input_ids] + [0] * padding
