"""A KV cache that has room for the next tokens, so that a decoding step copies one token and not the whole text."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 128
"""Positions made at a time."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A `DynamicLayer` whose keys and values [rows, heads, tokens, width] are the filled part of larger tensors."""

    def __init__(self, filled: DynamicLayer) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = filled.keys, filled.values, filled.is_initialized
        self.dtype, self.device = filled.dtype, filled.device
        self._key_room, self._value_room = filled.keys, filled.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append in place where there is room."""
        self.keys, self._key_room = _appended(self.keys, key_states, self._key_room)
        self.values, self._value_room = _appended(self.values, value_states, self._value_room)
        return self.keys, self.values


def _appended(held: Tensor, new: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """`held` is the beginning of `room`, unless rows were chosen or copied since; then room is made anew."""
    before, after = held.shape[2], held.shape[2] + new.shape[2]
    if held.data_ptr() != room.data_ptr() or held.shape[0] != room.shape[0] or after > room.shape[2]:
        room = held.new_empty((*held.shape[:2], after + ROOM, held.shape[3]))
        room[:, :, :before] = held
    room[:, :, before:after] = new
    return room[:, :, :after], room


def make_room(cache: Any) -> None:
    """Give a filled cache's plain layers room; others (sliding windows, linear attention) stay as they are."""
    layers = getattr(cache, "layers", [])
    for at, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[at] = RoomyLayer(layer)
