"""Keys and values of texts: held row by row, joined to batches, with room so that a token costs no copy of the text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

ROOM = 128
"""Positions made at a time."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A `DynamicLayer` whose keys and values [rows, heads, tokens, width] are the filled part of larger tensors."""

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        super().__init__()
        self._key_room, self._value_room = keys, values
        self.keys, self.values, self.is_initialized = keys[:, :, :filled], values[:, :, :filled], True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append in place where there is room."""
        self.keys, self._key_room = _appended(self.keys, key_states, self._key_room)
        self.values, self._value_room = _appended(self.values, value_states, self._value_room)
        return self.keys, self.values


def _appended(held: Tensor, new: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """`held` is the beginning of `room`."""
    before, after = held.shape[2], held.shape[2] + new.shape[2]
    if after > room.shape[2]:
        room = held.new_empty((*held.shape[:2], after + ROOM, held.shape[3]))
        room[:, :, :before] = held
    room[:, :, before:after] = new
    return room[:, :, :after], room


class Held(NamedTuple):
    """The positions `begin` to `end` of one row of a cache."""

    cache: Any
    row: int
    begin: int
    end: int


def separable(config: Any) -> bool:
    """Whether a model's whole memory of a text is keys and values by position: rows can then be cut, padded, joined.

    Not so where a state is carried from token to token (Mamba, linear attention).
    """
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def join(held: Sequence[Held], room: int) -> Any:
    """One cache of several rows, padded at the left, with room for more tokens; the rows stay as they are.

    Layers with a sliding window keep all positions here, as rows of several lengths end in one place; their masks are
    the model's own.
    """
    width = max(one.end - one.begin for one in held)
    made = DynamicCache()
    for at, layer in enumerate(held[0].cache.layers):
        if not layer.is_initialized:  # a layer that reads another one's keys
            made.layers.append(DynamicLayer())
            continue
        keys, values = (_joined([getattr(one.cache.layers[at], name) for one in held], held, width, room)
                        for name in ("keys", "values"))
        made.layers.append(RoomyLayer(keys, values, width))
    return made


def _joined(tensors: Sequence[Tensor], held: Sequence[Held], width: int, room: int) -> Tensor:
    rows, shape = len(held), tensors[0].shape
    made = tensors[0].new_empty((rows, shape[1], width + room, shape[3]))
    at = 0
    for one, run in groupby(range(rows), key=lambda i: held[i]):
        count, size = len(list(run)), one.end - one.begin
        made[at:at + count, :, :width - size] = 0.0  # masked, and what is masked must not be NaN
        made[at:at + count, :, width - size:width] = tensors[at][one.row, :, one.begin:one.end]
        at += count
    return made


def copies(cache: Any, count: int) -> Any:
    """The cache of one row for `count` rows, whatever it holds."""
    made = copy.deepcopy(cache)
    made.reorder_cache(torch.zeros(count, dtype=torch.long))  # the one way to choose rows that states have too
    return made
