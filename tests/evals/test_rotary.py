"""Rotary positions that depend on the longest row of a batch: inputs above and below the turning point."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from eval_suites.backends import alone
from eval_suites.backends.contract import Continuation, Prompt, Stops
from eval_suites.backends.local import Local

TURN = 64
SHAPE = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
         "initializer_range": 0.2}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": TURN,
        "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
STOPS = Stops(frozenset())


def llama(positions: int, **rope: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=positions, rope_parameters=rope))


def phi3() -> Any:
    return Phi3ForCausalLM(Phi3Config(
        **SHAPE, max_position_embeddings=256, original_max_position_embeddings=TURN,
        rope_parameters={**LONG, "partial_rotary_factor": 1.0}))


@pytest.fixture(params=["phi3", "longrope", "dynamic"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return {"phi3": phi3, "longrope": lambda: llama(256, **LONG, factor=4.0),
            "dynamic": lambda: llama(TURN, rope_type="dynamic", factor=8.0, rope_theta=1e4)}[request.param]().eval()


def ids(count: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 128, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


def test_numbers_are_the_models_own_whatever_is_asked_beside(model: Any) -> None:
    """A short input beside a long one had a log-probability of -25.195, and -23.636 alone."""
    fresh, local = deepcopy(model), Local(model, 4096)
    stem = ids(50, 0)
    asked = [Continuation(stem[:20], ids(4, 1)), Continuation(stem, ids(4, 2)), Continuation(ids(200, 3), ids(5, 4)),
             Continuation(stem + ids(120, 5), ids(3, 6)), Continuation(ids(TURN - 3, 7), ids(4, 8))]
    prompts = [Prompt(ids(count, count), 8) for count in (30, 20, 150, TURN - 8, TURN - 4, 100)]
    for _ in range(2):  # what was asked before is forgotten, too
        for place, found in local.likelihoods(asked):
            read = (asked[place].context + asked[place].continuation)[-(local.window + 1):]
            said = asked[place].continuation
            own = alone.logits(deepcopy(fresh), read[:-1]).log_softmax(-1)[-len(said):]
            assert found.logprob == pytest.approx(float(own[range(len(said)), list(said)].sum()), abs=1e-3), place
        for place, answer in local.generate(prompts, STOPS):
            assert answer == alone.generated(deepcopy(fresh), prompts[place], STOPS, 0), place


def test_what_lies_below_the_turning_point_is_asked_side_by_side(model: Any) -> None:
    rows: list[int] = []
    asked = [Continuation(ids(20 + at, at), ids(2, 9)) for at in range(8)]
    prompts = [Prompt(ids(20, at), 4) for at in range(8)]
    local = Local(model, 4096)
    list(local.generate(prompts, STOPS))  # with the proof
    model.model.register_forward_pre_hook(lambda _, __, said: rows.append(len(said["input_ids"])), with_kwargs=True)
    list(local.likelihoods(asked))
    list(local.generate([*prompts, Prompt(ids(80, 80), 2)], STOPS))
    assert rows.count(8) == 5, rows
