"""Packed examples stay apart on every way of attention, and the proof of it refuses models that break it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sft_core.model import segments
from sft_core.model.attention import (
    Backend,
    block_causal_mask,
    hidden_of,
    isolation,
    layers_of,
)
from sft_core.model.proof import Rows, choose_backend
from sft_core.model.segments import flatten, line_of, segment_attention
from sft_core.templates.render import Example
from sft_core.train.objective import Term
from sft_core.train.pack import Batch, collate
from sft_core.train.policy import Policy

TIGHT = 1e-10
CPU = torch.device("cpu")
PACKED = Rows(packed=True, longest=40)
BACKENDS = pytest.mark.parametrize("backend", ["mask", "segments"])
Make = Callable[..., Any]
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.2,
         "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}


def _close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=TIGHT, atol=TIGHT)


def _batch(*rows: list[Example], width: int | None = None) -> Batch:
    return collate(rows, width or max(sum(len(e.input_ids) for e in row) for row in rows), 1)


def _sliding(backend: Backend = "mask") -> Any:
    """A model with sliding layers: Llama has none in transformers, Qwen3 takes the dict of masks."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SMALL, use_sliding_window=True, sliding_window=5, attn_implementation="sdpa",
                                         layer_types=["sliding_attention", "full_attention"])).double().eval()
    choose_backend(model, backend, CPU, torch.float64, PACKED)
    return model


# The kernel itself


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), shared=st.sampled_from([1, 3]),
       window=st.sampled_from([None, 1, 6]), limit=st.sampled_from([0, 12, 100]))
def test_the_line_equals_dense_attention_with_a_mask(lengths: list[int], shared: int, window: int | None,
                                                     limit: int) -> None:
    """Output and gradients, whichever segments are grouped and whichever go through torch's kernel."""
    g = torch.Generator().manual_seed(sum(lengths))
    n, heads, size = sum(lengths), 2, 4
    q, k, v = (torch.randn(1, h, n, size, generator=g, dtype=torch.float64, requires_grad=True)
               for h in (heads * shared, heads, heads))
    numbers = torch.cat([torch.full((length,), i + 1) for i, length in enumerate(lengths)])[None]
    module = torch.nn.Identity()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(segments.LONG, torch.float64, limit)
        got, _ = segment_attention(module, q, k, v, None, scaling=0.3, line=line_of(numbers, CPU, True),
                                   sliding_window=window)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=block_causal_mask(numbers, window), scale=0.3,
                                          enable_gqa=True).transpose(1, 2)
    _close(got, want)
    weight = torch.randn(got.shape, generator=g, dtype=torch.float64)
    for a, b in zip(torch.autograd.grad((got * weight).sum(), (q, k, v)),
                    torch.autograd.grad((want * weight).sum(), (q, k, v)), strict=True):
        _close(a, b)


@pytest.mark.parametrize("call", [{"softcap": 30.0}, {"s_aux": torch.ones(2)}, {"attention_mask": torch.ones(1)},
                                  {"line": None}], ids=lambda call: next(iter(call)))
def test_what_the_line_cannot_do_is_refused(call: dict[str, Any]) -> None:
    q = torch.randn(1, 2, 3, 4)
    arguments: dict[str, Any] = {"attention_mask": None, "line": line_of(torch.ones(1, 3), CPU, True), **call}
    with pytest.raises(NotImplementedError):
        segment_attention(torch.nn.Identity(), q, q, q, **arguments)


def test_dropout_of_attention_drops() -> None:
    q = torch.randn(1, 2, 9, 4)
    module, line = torch.nn.Identity(), line_of(torch.ones(1, 9), CPU, True)

    def attend() -> Tensor:
        return segment_attention(module, q, q, q, None, line=line, dropout=0.5)[0]

    assert not torch.equal(attend(), attend())
    module.eval()
    assert torch.equal(attend(), attend())


def test_flatten_leaves_padding_out_and_keeps_rows_apart() -> None:
    places, numbers = flatten(torch.tensor([[1, 1, 2, 0], [1, 2, 2, 2], [1, 0, 0, 0]]))
    assert places.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert line_of(numbers, CPU, True).lengths.tolist() == [2, 1, 1, 3, 1]
    ends, longest = line_of(numbers, CPU, False)
    assert (ends.tolist(), ends.dtype, longest) == ([0, 2, 3, 4, 7, 8], torch.int32, 3)


# Through whole models


@BACKENDS
@pytest.mark.parametrize("sliding", [False, True])
def test_packed_equals_alone(make_llama: Make, some_example: Make, sliding: bool, backend: Backend) -> None:
    model = _sliding(backend) if sliding else make_llama().double().eval()
    choose_backend(model, backend, CPU, torch.float64, PACKED)
    a, b, c = (some_example(n, seed=n) for n in (9, 5, 12))
    policy = Policy(model, backend=backend)
    packed = policy(policy.micro(_batch([a, b, c], [c, b], width=40)), Term()).loss
    alone = [policy(policy.micro(_batch([e])), Term()).loss for e in (a, b, c, c, b)]
    want = torch.stack(alone).sum()
    _close(packed, want)
    for got, ref in zip(torch.autograd.grad(packed, model.parameters()),
                        torch.autograd.grad(want, model.parameters()), strict=True):
        _close(got, ref)


@BACKENDS
def test_sliding_layers_keep_their_window(backend: Backend) -> None:
    """We compute what the model itself computes for a row longer than its window."""
    model, own = _sliding(backend), _sliding()
    ids, one = torch.randint(4, 64, (1, 30)), torch.ones(1, 30, dtype=torch.long)
    ours = hidden_of(model, ids, torch.arange(30)[None], isolation(model, backend, one, CPU))
    theirs = own.model(input_ids=ids).last_hidden_state
    _close(ours, theirs)
    full = hidden_of(own, ids, torch.arange(30)[None], block_causal_mask(one))
    assert not torch.allclose(full, ours)


@BACKENDS
def test_changing_a_neighbour_does_not_move_an_example(make_llama: Make, some_example: Make, backend: Backend) -> None:
    policy = Policy(make_llama().double().eval(), backend=backend)
    choose_backend(policy.model, backend, CPU, torch.float64, PACKED)
    b = some_example(10, seed=3)

    def hidden_of_b(neighbour: Example) -> Tensor:
        micro = policy.micro(_batch([neighbour, b], width=30))
        return hidden_of(policy.model, micro.ids, micro.positions, micro.mask)[0, 12:22]

    with torch.no_grad():
        assert torch.equal(hidden_of_b(some_example(12, seed=4)), hidden_of_b(some_example(12, seed=5)))


@pytest.mark.parametrize(("made", "backend"), [
    (lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, query_pre_attn_scalar=8, sliding_window=4)), "mask"),
    (lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0)), "segments"),
    (lambda: Cohere2ForCausalLM(Cohere2Config(**SMALL, logit_scale=0.5, sliding_window=4)), "segments"),
], ids=["gemma2", "granite", "cohere2"])
def test_capped_and_scaled_logits_are_trained_as_the_model_makes_them(made: Make, backend: str,
                                                                      some_example: Make) -> None:
    """Against the model's own loss in its own eager attention; Gemma 2 caps scores too, which only `mask` can."""
    torch.manual_seed(0)
    model = made().double().eval()
    assert choose_backend(model, "auto", CPU, torch.float64, PACKED) == backend
    policy, example = Policy(model, backend=backend), some_example(14)  # type: ignore[arg-type]
    got = policy(policy.micro(_batch([example])), Term()).loss
    model.set_attn_implementation("eager")
    logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
    want = F.cross_entropy(logits, torch.tensor(example.input_ids[1:]), reduction="sum")
    parameters = list(model.parameters())
    for a, b in zip((got, *torch.autograd.grad(got, parameters)), (want, *torch.autograd.grad(want, parameters)),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # eager attention takes its softmax in float32


@pytest.mark.parametrize(("name", "settings", "kind", "count"), [
    ("phi4_multimodal", {"num_hidden_layers": 3}, "Phi4MultimodalDecoderLayer", 3),  # and 24 blocks for sound
    ("git", {}, "GitLayer", 6),  # and 12 for pictures
    ("bart", {"encoder_layers": 1, "decoder_layers": 3}, "BartDecoderLayer", 3),
    ("gpt2", {"n_layer": 3}, "GPT2Block", 3),
    ("gemma3", {}, "Gemma3DecoderLayer", 26),
], ids=str)
def test_the_layers_are_the_decoder_s_own(name: str, settings: dict[str, int], kind: str, count: int) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**settings))
    assert [type(layer).__name__ for layer in layers_of(model)] == [kind] * count
