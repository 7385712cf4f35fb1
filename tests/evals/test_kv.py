"""A cache with room says the same as transformers' own, whatever happens to its rows on the way."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from eval_suites.backends import kv


def tokens(rows: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, count, 4, generator=drawn), torch.randn(rows, 2, count, 4, generator=drawn)


def test_rows_leave_and_room_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv, "ROOM", 3)
    own, roomy = DynamicCache(), DynamicCache()
    for cache in (own, roomy):
        cache.update(*tokens(4, 5, 0), 0)
    kv.make_room(roomy)
    assert type(roomy.layers[0]) is kv.RoomyLayer
    rows, moved = 4, 0
    for step in range(1, 12):
        if step in (3, 9):  # rows end in the middle and just before the room does
            kept = torch.tensor([0, rows - 1])
            for cache in (own, roomy):
                cache.batch_select_indices(kept)
            rows = 2
        if step == 6:  # the same number of rows in another order
            for cache in (own, roomy):
                cache.batch_select_indices(torch.tensor([1, 0]))
        before = roomy.layers[0].keys.data_ptr()
        for mine, other in zip(roomy.update(*tokens(rows, 1, step), 0), own.update(*tokens(rows, 1, step), 0),
                               strict=True):
            assert torch.equal(mine, other)
        moved += roomy.layers[0].keys.data_ptr() != before
        assert roomy.get_seq_length() == own.get_seq_length() == 5 + step
    assert moved < 6  # most tokens were written in place


def test_only_plain_filled_layers_are_replaced() -> None:
    class Other(DynamicLayer):
        """Some layer of its own kind."""

    cache = DynamicCache()
    cache.update(*tokens(1, 2, 0), 0)
    cache.layers += [Other(), DynamicLayer()]
    kv.make_room(cache)
    assert [type(layer) for layer in cache.layers] == [kv.RoomyLayer, Other, DynamicLayer]
