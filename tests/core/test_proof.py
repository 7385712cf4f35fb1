"""The proof on the loaded model: it refuses what breaks training, says why, and refuses nothing for another reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
)

from sft_core.errors import ModelError
from sft_core.model.attention import Backend, masks_for
from sft_core.model.proof import Rows, choose_backend
from sft_core.model.segments import Line

CPU = torch.device("cpu")
BACKENDS = pytest.mark.parametrize("backend", ["mask", "segments"])
PACKED, ALONE = Rows(packed=True, longest=40), Rows(packed=False, longest=40)
Make = Callable[..., Any]
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _proved(model: Any, backend: Any = "mask", dtype: torch.dtype = torch.float32, rows: Rows = PACKED) -> Backend:
    return choose_backend(model, backend, CPU, dtype, rows)


def _patched(model: Any, change: Callable[[Callable[..., Any], dict[str, Any]], Any]) -> Any:
    """The model with another forward of its decoder."""
    decoder = model.get_decoder()
    inner = decoder.forward
    decoder.forward = lambda input_ids=None, **kwargs: change(inner, {"input_ids": input_ids, **kwargs})
    return model


@BACKENDS
@pytest.mark.parametrize("rows", [PACKED, ALONE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_proved(make_llama: Make, backend: Backend, rows: Rows, dtype: torch.dtype) -> None:
    model = make_llama().train()
    assert _proved(model, backend, dtype, rows) == backend
    assert _proved(model, "auto", dtype, rows) == "segments"
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@BACKENDS
def test_rounding_among_experts_is_no_leak(backend: Backend) -> None:
    """Tokens of an expert are computed together, so that values move by rounding when others stand beside them."""
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4, sliding_window=None))
    assert _proved(model, backend) == backend
    assert _proved(model, backend, torch.bfloat16) == backend


def test_a_model_that_scales_its_logits_in_an_unknown_way_is_refused(make_llama: Make) -> None:
    model = make_llama()
    inner = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        out.logits = 30 * torch.tanh(out.logits / 30)
        return out

    model.forward = scaled
    with pytest.raises(ModelError, match=r"after its LM head .* differ by 0\.0\d+ of their size"):
        _proved(model)


def test_a_model_that_ignores_the_mask_is_refused(make_llama: Make) -> None:
    def plain_causal(inner: Callable[..., Any], call: dict[str, Any]) -> Any:
        mask = call.get("attention_mask")
        return inner(**{**call, "attention_mask": None if mask is None else torch.ones_like(mask).tril()})

    model = _patched(make_llama(), plain_causal)
    with pytest.raises(ModelError, match=r"packed rows: with model.attention: mask it lets examples see .* data.pack"):
        _proved(model)
    assert _proved(model, rows=ALONE) == "mask"


@pytest.mark.parametrize("size", [1e-5, 1e-12])
def test_a_leak_below_every_tolerance_is_refused(make_llama: Make, size: float) -> None:
    def leaking(inner: Callable[..., Any], call: dict[str, Any]) -> Any:
        out = inner(**call)
        out.last_hidden_state = out.last_hidden_state + size * out.last_hidden_state[:, :1]
        return out

    with pytest.raises(ModelError, match="see each other .* a gradient of"):
        _proved(_patched(make_llama(), leaking))


def test_a_model_that_looks_ahead_is_refused_one_example_a_row_too(make_llama: Make) -> None:
    """Padding behind an example must not be seen either."""
    def looking(inner: Callable[..., Any], call: dict[str, Any]) -> Any:
        out = inner(**call)
        out.last_hidden_state = out.last_hidden_state + 0.1 * out.last_hidden_state[:, -1:]
        return out

    with pytest.raises(ModelError, match=r"one example a row: .* see each other or padding"):
        _proved(_patched(make_llama(), looking), rows=ALONE)


def test_a_model_that_hands_nothing_through_falls_back_to_the_mask(make_llama: Make) -> None:
    model = _patched(make_llama(), lambda inner, call: inner(**{k: v for k, v in call.items() if k != "line"}))
    assert _proved(model, "auto") == "mask"
    with pytest.raises(ModelError, match=r"attention: segments .*hand arguments through.* Use model.attention: auto"):
        _proved(model, "segments")


def test_a_line_that_leaks_is_refused(make_llama: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One segment instead of two: the proof sees it."""
    monkeypatch.setattr("sft_core.model.attention.line_of",
                        lambda segments, device, by_hand: Line(torch.tensor([segments.numel()])))
    with pytest.raises(ModelError, match="see each other"):
        _proved(make_llama(), "segments")


def test_a_model_that_ignores_positions_is_refused() -> None:
    """Rotary positions are relative, so only a model with absolute ones can show a missing restart."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0,
                                       eos_token_id=0, initializer_range=0.2))
    _proved(model)
    with pytest.raises(ModelError, match="something else than by itself: .* its positions are not honoured"):
        _proved(_patched(model, lambda inner, call: inner(**{**call, "position_ids": None})))


@pytest.mark.parametrize(("longest", "taken"), [(16, "segments"), (17, "mask")])
def test_a_window_counts_once_an_example_can_outgrow_it(longest: int, taken: str) -> None:
    """PhiMoE tells its attention nothing of its window: only a mask brings it there."""
    torch.manual_seed(0)
    model = PhimoeForCausalLM(PhimoeConfig(**SMALL, num_local_experts=4, sliding_window=16))
    assert _proved(model, "auto", rows=Rows(True, longest)) == taken
    if taken == "mask":
        with pytest.raises(ModelError, match=r"segments it computes .* behind its first 16 tokens \(the longest wind"):
            _proved(model, "segments", rows=Rows(True, longest))


def test_a_state_that_is_carried_on_is_refused_when_packed() -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8))
    with pytest.raises(ModelError, match=r"MambaForCausalLM cannot be trained on packed rows: .*segments.*see each "
                                         r"other.*carry a state.*; with model.attention: mask .*Set data.pack: false"):
        _proved(model, "auto")
    assert _proved(model, "auto", rows=ALONE) == "mask"


@pytest.mark.parametrize("error", [AttributeError, TypeError, ValueError, KeyError, IndexError, AssertionError,
                                   NotImplementedError, RuntimeError, ImportError])
def test_whatever_an_architecture_raises_is_told_as_one(make_llama: Make, error: type[Exception]) -> None:
    def raising(inner: Callable[..., Any], call: dict[str, Any]) -> Any:
        if call.get("attention_mask") is not None:
            raise error("no such thing\nin two lines")
        return inner(**call)

    model = _patched(make_llama(), raising)
    with pytest.raises(ModelError, match=f"cannot be called \\({error.__name__}: .?no such thing"):
        _proved(model)


def test_no_memory_is_no_fault_of_the_model(make_llama: Make) -> None:
    def short(inner: Callable[..., Any], call: dict[str, Any]) -> Any:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        _proved(_patched(make_llama(), short))


def test_masks_of_a_model_without_layer_types_are_one(make_llama: Make) -> None:
    assert isinstance(masks_for(make_llama(), torch.ones(1, 3, dtype=torch.long)), Tensor)


@pytest.mark.parametrize("backend", ["varlen", "flash"])
def test_what_needs_cuda_says_so(make_llama: Make, backend: Backend) -> None:
    with pytest.raises(ModelError, match=f"attention: {backend} needs CUDA"):
        _proved(make_llama(), backend, torch.bfloat16)


def test_experts_that_score_alike_are_no_fault() -> None:
    """A position whose expert rounding has changed differs, and the proof lets a few be."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL))

    def other_expert(places: int) -> Callable[[Callable[..., Any], dict[str, Any]], Any]:
        def change(inner: Callable[..., Any], call: dict[str, Any]) -> Any:
            out = inner(**call)
            if call.get("attention_mask") is not None:
                out.last_hidden_state = torch.cat([out.last_hidden_state[:, :-places],
                                                   2 * out.last_hidden_state[:, -places:]], 1)
            return out
        return change

    decoder, inner = model.get_decoder(), model.get_decoder().forward
    assert _proved(_patched(model, other_expert(1))) == "mask"
    decoder.forward = inner
    with pytest.raises(ModelError, match="something else"):
        _proved(_patched(model, other_expert(4)))
