"""Rows of caches, cut out and joined, hold what transformers' own cache of each row alone would hold."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, MambaConfig, MistralConfig
from transformers.cache_utils import DynamicCache

from eval_suites.backends import kv
from eval_suites.backends.kv import Held, copies, join, separable


def tokens(rows: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, count, 4, generator=drawn), torch.randn(rows, 2, count, 6, generator=drawn)


def filled(rows: int, count: int, seed: int) -> DynamicCache:
    made = DynamicCache()
    for layer in range(2):
        made.update(*tokens(rows, count, seed + layer), layer)
    return made


def test_rows_of_several_caches_stand_in_one_padded_at_the_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv, "ROOM", 3)
    one, other = filled(3, 5, 0), filled(2, 9, 10)
    one.layers[0].keys[:, :, -1] = float("nan")  # behind what is held
    held = [Held(one, 2, 0, 4), Held(one, 2, 0, 4), Held(one, 0, 1, 3), Held(other, 1, 2, 9)]
    joined, moved = join(held, room=2), 0
    assert joined.get_seq_length() == 7
    new = [tokens(4, 1, seed) for seed in range(20, 28)]
    for keys, values in new:
        before = joined.layers[1].keys.data_ptr()
        joined.update(keys, values, 1)
        moved += joined.layers[1].keys.data_ptr() != before
    assert moved == 2  # where room ran out; other tokens were written in place
    for row, part in enumerate(held):
        size = part.end - part.begin
        for at, layer in enumerate(joined.layers):
            for name, more in (("keys", 0), ("values", 1)):
                want = [getattr(part.cache.layers[at], name)[part.row, :, part.begin:part.end]]
                want += [one[more][row] for one in new] if at == 1 else []
                found = getattr(layer, name)[row]
                assert torch.equal(found[:, 7 - size:], torch.cat(want, dim=1))
                assert not found[:, :7 - size].any()


def test_a_layer_that_reads_anothers_keys_stays_empty() -> None:
    cache = filled(1, 3, 0)
    cache.layers[1].reset()
    joined = join([Held(cache, 0, 0, 3)], room=1)
    assert [layer.is_initialized for layer in joined.layers] == [True, False]


def test_one_row_is_copied_whatever_it_holds() -> None:
    cache = filled(1, 3, 0)
    made = copies(cache, 4)
    assert made.layers[0].keys.shape[0] == 4
    assert torch.equal(made.layers[1].values[3], cache.layers[1].values[0])
    assert cache.layers[0].keys.shape[0] == 1


def test_a_state_is_not_separable() -> None:
    assert separable(LlamaConfig(num_hidden_layers=2))
    assert separable(MistralConfig(num_hidden_layers=2, sliding_window=8))
    assert not separable(MambaConfig(num_hidden_layers=2))
