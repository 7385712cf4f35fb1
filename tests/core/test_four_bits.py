"""Adapters on a base in 4 bits, by bitsandbytes itself, which quantises on the CPU too."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.model.held import in_4_bits, load_as_stored
from sft_core.train.inputs import TrainInputs
from sft_core.train.reference import with_reference
from sft_core.train.trainer import train
from sft_core.train.workbench import set_up

pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")


@pytest.fixture(scope="module")
def low_inputs(train_inputs: TrainInputs, make_llama: Callable[..., Any], tiny_tokenizer: Any,
               tmp_path_factory: pytest.TempPathFactory) -> TrainInputs:
    base = tmp_path_factory.mktemp("base")
    make_llama(hidden_size=64, intermediate_size=128).bfloat16().save_pretrained(base)  # blocks of 64 weights
    tiny_tokenizer.save_pretrained(base)
    return replace(train_inputs, model=ModelSection(path=str(base), device="cpu", precision="bfloat16"))


@pytest.fixture
def section(train_section: Callable[..., TrainSection]) -> Callable[..., TrainSection]:
    def make(quantize: str = "nf4", **fields: Any) -> TrainSection:
        lora = {"rank": 4, "modules_to_save": ["embed_tokens"], "quantize": quantize}
        return train_section(method="lora", lora=lora, epochs=1, **fields)

    return make


def test_only_products_of_the_layers_are_in_4_bits_and_nothing_trained_is_in_less_than_float32(
        low_inputs: TrainInputs, section: Callable[..., TrainSection]) -> None:
    policy = set_up(low_inputs, section()).policy
    kinds = {(p.dtype, p.requires_grad, p.ndim > 1) for n, p in policy.model.named_parameters() if "lora_" not in n}
    assert kinds == {(torch.uint8, False, True), (torch.float32, False, False),  # layers, norms
                     (torch.bfloat16, False, True), (torch.float32, True, True)}  # embedding, and its trained copy
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}


def test_the_merge_into_the_whole_base_is_measured_and_told(
        low_inputs: TrainInputs, section: Callable[..., TrainSection], tmp_path: Path) -> None:
    report = train(low_inputs, section(save_dtype="float32"), tmp_path)
    assert report.stored.loss is not None
    assert report.stored.trained is not None
    gap = report.stored.quantized_gap
    assert gap == report.stored.loss - report.stored.trained != 0
    saved = [e for e in map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines()) if e["event"] == "saved"]
    assert saved[0]["quantized_gap"] == gap
    assert f"| {gap:+.4f} |" in (report.model_folder / "README.md").read_text()
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "quantization_config=BitsAndBytesConfig(" in card
    trained = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    merged = load_file(report.model_folder / "model.safetensors")
    (name,) = (name for name in trained if "embed_tokens" in name)
    assert torch.equal(merged["model.embed_tokens.weight"], trained[name])
    assert {x.dtype for x in trained.values()} == {torch.float32}


def test_the_kept_base_is_the_one_in_4_bits(low_inputs: TrainInputs, section: Callable[..., TrainSection],
                                            tmp_path: Path) -> None:
    cached = section(kl={"beta": 0.5, "on": "assistant", "reference": "cache"})
    inputs = with_reference(low_inputs, cached, tmp_path / "kept")
    first = train(inputs, cached.model_copy(update={"epochs": 0.1}), tmp_path / "run").final
    assert first.kl == pytest.approx(0, abs=2e-3)
    kept = np.load(tmp_path / "kept" / "train" / "hidden.npy")
    whole = with_reference(low_inputs, section("none", kl=cached.kl.model_dump()), tmp_path / "kept")
    assert not np.allclose(np.load(whole.kept["train"] / "hidden.npy"), kept, atol=1e-3), "kept anew"


def test_in_float32_too(low_inputs: TrainInputs) -> None:
    place = low_inputs.model.model_copy(update={"precision": "float32"})
    model = load_as_stored(place, mirror=None, quantize="nf4").model
    assert in_4_bits(model)
    assert {p.dtype for p in model.parameters()} == {torch.uint8, torch.float32}
