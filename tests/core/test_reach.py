"""What text does not reach of a model is found before the first step, kept as it is, and said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, MllamaForCausalLM
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from sft_core.config.train import LoraSection, TrainSection
from sft_core.errors import ModelError
from sft_core.model.lora import apply_lora
from sft_core.model.reach import idle_modules, unreached
from sft_core.train import trl_engine
from sft_core.train.inputs import TrainInputs
from sft_core.train.shape import architecture_of
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "image_size": 16, "patch_size": 8}
BASES: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": TEXT, "vision_config": TOWER, "mm_tokens_per_image": 4},
    "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 1},
}
IDLE = {"gemma3": ("vision_tower", "multi_modal_projector"), "bart": ("encoder_attn",)}


def _base(name: str, vocabulary: int = 64) -> Any:
    settings = dict(BASES[name])
    if "text_config" in settings:
        settings["text_config"] = {**settings["text_config"], "vocab_size": vocabulary}
    else:
        settings["vocab_size"] = vocabulary
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**settings))


@pytest.fixture(params=BASES)
def idle_inputs(request: pytest.FixtureRequest, train_inputs: TrainInputs, tiny_tokenizer: Any,
                tmp_path: Path) -> TrainInputs:
    """The usual data, one example a row, on a base with parts that text does not reach."""
    folder = tmp_path / request.param
    _base(request.param, len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return replace(train_inputs, pack=False, model=train_inputs.model.model_copy(update={"path": str(folder)}))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_towers_are_forecast_as_held_and_not_trained(method: str, tmp_path: Path, train_section: Section,
                                                     train_inputs: TrainInputs) -> None:
    base = _base("gemma3")
    base.save_pretrained(tmp_path)
    section = train_section(method=method)
    shape = architecture_of(train_inputs.model.model_copy(update={"path": str(tmp_path)}), section, None, grown=False)
    idle = unreached(base)
    assert sum(p.numel() for name, p in base.named_parameters() if name in idle) > 0
    assert shape.parameters >= sum(p.numel() for p in base.parameters())
    if method == "lora":
        base = apply_lora(base, section.lora, 0, (), idle_modules(base, idle))
        assert shape.adapted == sum(hasattr(module, "lora_A") for module in base.modules())
        idle = frozenset(name for name, p in base.named_parameters() if not p.requires_grad)
    assert shape.trained == sum(p.numel() for name, p in base.named_parameters() if name not in idle)


@pytest.mark.parametrize(("engine", "method"), [("native", "full"), ("native", "lora"), ("trl", "full")])
def test_it_is_kept_as_it_is_and_the_run_ends_well(
        engine: str, method: str, idle_inputs: TrainInputs, train_section: Section, tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    base = Path(idle_inputs.model.path)
    with caplog.at_level(logging.INFO, "sft"):
        run = trl_engine.train if engine == "trl" else train
        report = run(idle_inputs, train_section(engine=engine, method=method, epochs=0.5), tmp_path / "run")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, report.model_folder))
    idle = {name for name in before if any(part in name for part in IDLE[base.name])}
    assert idle
    assert all(torch.equal(before[name], after[name]) for name in idle)
    assert any(not torch.equal(before[name], after[name]) for name in before.keys() - idle)
    kept = sum(before[name].numel() for name in idle)
    start = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[0])
    assert start["kept_as_is"] == kept
    assert f"{kept:,} parameters outside the text decoder" in caplog.text
    assert f"kept as they are | {kept:,} |" in (report.model_folder / "README.md").read_text()


@pytest.mark.parametrize(("name", "target"), [("gemma3", "out_proj"), ("bart", "encoder_attn.k_proj")])
def test_a_target_that_text_does_not_reach_is_refused_with_what_works(name: str, target: str) -> None:
    model = _base(name)
    idle = idle_modules(model, unreached(model))
    for field in ("target_modules", "modules_to_save"):
        with pytest.raises(ModelError, match=rf"lora.{field} names \['{target}'\], which text does not reach.*"
                                             "all-linear takes what it reaches"):
            apply_lora(model, LoraSection(**{field: (target,)}), 0, (), idle)
    for targets in ("all-linear", ("q_proj", "k_proj")):  # of the tower and the cross-attention, too
        wrapped = apply_lora(_base(name), LoraSection(target_modules=targets), 0, (), idle)
        adapted = [n for n, p in wrapped.named_parameters() if p.requires_grad]
        assert adapted
        assert not [n for n in adapted if any(part in n for part in IDLE[name])]


class Routed(nn.Module):
    """An MLP of which one of two experts is taken, always the first one."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.experts = nn.ModuleList([first, second])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.experts[0](x)
        return out


def test_an_expert_that_no_token_was_routed_to_is_trained(make_llama: Callable[..., Any]) -> None:
    model, other = make_llama(), make_llama()
    assert unreached(model) == frozenset()
    for layer, like in zip(model.model.layers, other.model.layers, strict=True):
        layer.mlp = Routed(layer.mlp, like.mlp)
    assert unreached(model) == frozenset()
    model.model.spare = nn.Linear(2, 2)
    assert unreached(model) == {"model.spare.weight", "model.spare.bias"}


def test_layers_that_are_passed_by_as_a_whole_are_unreached() -> None:
    """Llama 3.2 Vision has layers for pictures among those for text; their MLPs are called alike."""
    model = MllamaForCausalLM(MllamaTextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, cross_attention_layers=[1], pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}))
    found = unreached(model)
    assert found == {name for name, _ in model.named_parameters() if ".layers.1." in name}
