"""Frozen weights as their folder holds them: the same numbers as from a copy in float32, in half of its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.model.held import AsFloat32, load_as_stored
from sft_core.model.load import LoadedModel, load_model
from sft_core.model.proof import Rows
from sft_core.train import workbench
from sft_core.train.inputs import TrainInputs
from sft_core.train.objective import Term
from sft_core.train.pack import collate
from sft_core.train.policy import Policy, make_policy
from sft_core.train.trainer import train

Make = Callable[..., Any]
ROWS = Rows(packed=True, longest=32)
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0,
         "eos_token_id": 0, "initializer_range": 0.2}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen3": {}, "gemma3_text": {}, "mixtral": EXPERTS, "qwen3_moe": EXPERTS,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
             "attn_pdrop": 0.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Callable[[str, torch.dtype], Path]:
    def make(kind: str, dtype: torch.dtype) -> Path:
        place = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**SMALL, **KINDS[kind]}))
        model.to(dtype).save_pretrained(place)
        tiny_tokenizer.save_pretrained(place)
        return place

    return make


def _section(**fields: Any) -> TrainSection:
    return TrainSection.model_validate({"optim": {"lr": 1e-3}, **fields})


def _policy(loaded: LoadedModel, place: ModelSection, section: TrainSection) -> Policy:
    return make_policy(loaded, place, section, 0, rows=ROWS, grown=False).train()


def _gradients(policy: Policy, some_example: Make) -> tuple[float, dict[str, Tensor]]:
    batch = collate([[some_example(12), some_example(9, seed=3)], [some_example(20, seed=4)]], 24, 1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.sin(torch.arange(parameter.numel())).view_as(parameter))
    sums = policy(policy.micro(batch), Term(1.0, 0.5))
    sums.loss.backward()
    return float(sums.loss), {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_base_held_as_stored_computes_what_its_copy_in_float32_does(
        kind: str, dtype: torch.dtype, folder: Callable[[str, torch.dtype], Path], some_example: Make) -> None:
    place = ModelSection(path=str(folder(kind, dtype)), device="cpu", precision="bfloat16")
    section = _section(method="lora", kl={"beta": 0.5, "on": "assistant"})
    narrow = _policy(load_as_stored(place, mirror=None), place, section)
    whole = _policy(load_model(place, mirror=None), place, section)
    held = {p.dtype for p in narrow.model.parameters() if not p.requires_grad and p.ndim > 1}
    assert dtype in held
    assert {p.dtype for p in narrow.model.parameters() if p.requires_grad or p.ndim == 1} == {torch.float32}
    (ours, mine), (theirs, yours) = _gradients(narrow, some_example), _gradients(whole, some_example)
    assert mine.keys() == yours.keys()
    if KINDS[kind] is EXPERTS:  # transformers multiplies experts in the dtype that they are held in
        assert ours == pytest.approx(theirs, rel=5e-3)
        return
    assert ours == theirs
    assert all(torch.equal(mine[name], yours[name]) for name in yours)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kl_is_0_before_the_first_step_in_bfloat16(
        kind: str, folder: Callable[[str, torch.dtype], Path], some_example: Make) -> None:
    place = ModelSection(path=str(folder(kind, torch.bfloat16)), device="cpu", precision="bfloat16")
    policy = _policy(load_model(place, mirror=None), place, _section(kl={"beta": 1.0, "on": "assistant"})).eval()
    assert policy.reference is not None
    assert torch.bfloat16 in {p.dtype for p in policy.reference.parameters()}
    assert {b.dtype for b in policy.reference.buffers() if b.is_floating_point()} <= {torch.float32}
    with torch.no_grad():
        found = policy(policy.micro(collate([[some_example(30)]], 32, 1)), Term(1.0, 1.0))
    assert abs(float(found.kl)) < (1e-2 if KINDS[kind] is EXPERTS else 1e-6)  # nats over 29 tokens; see above


def test_half_of_the_bytes_and_what_is_stored_whole_stays(folder: Callable[[str, torch.dtype], Path]) -> None:
    place = folder("llama", torch.bfloat16)
    weights = load_file(place / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name].float() + 1e-6
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    loaded = load_as_stored(ModelSection(path=str(place), device="cpu", precision="bfloat16"), mirror=None)
    held = dict(loaded.model.named_parameters())
    assert torch.equal(held[name], weights[name])
    others = {n: p for n, p in held.items() if n != name}
    assert all(p.element_size() == (2 if p.ndim > 1 else 4) for p in others.values())
    exact = load_as_stored(ModelSection(path=str(place), device="cpu"), mirror=None).model
    assert {p.dtype for p in exact.parameters()} == {torch.float32}


def test_a_folder_in_float32_is_held_in_float32(folder: Callable[[str, torch.dtype], Path]) -> None:
    place = ModelSection(path=str(folder("llama", torch.float32)), device="cpu", precision="bfloat16")
    assert {p.dtype for p in load_as_stored(place, mirror=None).model.parameters()} == {torch.float32}


def test_reading_as_float32_is_computing_in_float32(folder: Callable[[str, torch.dtype], Path]) -> None:
    place = ModelSection(path=str(folder("llama", torch.bfloat16)), device="cpu", precision="bfloat16")
    low, high = load_as_stored(place, mirror=None).model, load_model(place, mirror=None).model
    ids = torch.arange(20)[None]
    with torch.no_grad(), AsFloat32():
        said = low(input_ids=ids).logits
    assert torch.equal(said, high(input_ids=ids).logits)


def test_a_run_with_a_base_held_as_stored_ends_as_one_in_float32(
        train_inputs: TrainInputs, train_section: Make, make_llama: Make, tiny_tokenizer: Any, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained weights, merged weights and losses, bit by bit; modules trained in full are in float32."""
    base = tmp_path / "base"
    make_llama().bfloat16().save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    inputs = replace(train_inputs, model=ModelSection(path=str(base), device="cpu", precision="bfloat16"))
    section = train_section(method="lora", epochs=1, beta=0.2, lambda_=0.1, save_dtype="float32",
                            lora={"modules_to_save": ["embed_tokens"], "rank": 4})
    low = train(inputs, section, tmp_path / "low")
    monkeypatch.setattr(workbench, "load_as_stored", lambda *args, quantize, **kwargs: load_model(*args, **kwargs))
    high = train(inputs, section, tmp_path / "high")
    assert low.final == high.final
    for where in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        ours, theirs = load_file(tmp_path / "low" / where), load_file(tmp_path / "high" / where)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert {x.dtype for x in ours.values()} == {torch.float32}
