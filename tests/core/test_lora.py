"""Adapters: the base is frozen, switching them off gives the base, merging changes nothing, and all of them move."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraModel
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from sft_core.config.train import LoraSection, TrainSection
from sft_core.errors import ModelError, TrainingError
from sft_core.model.lora import apply_lora
from sft_core.train import adapter, workbench
from sft_core.train.trainer import TrainInputs, train

Section = Callable[..., TrainSection]
IDS = torch.arange(4, 24)[None]


def _lora(train_section: Section, **fields: Any) -> TrainSection:
    return train_section(method="lora", lr=1e-2, epochs=3, lora={"rank": 4, **fields})


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modules_to_save", [(), ("embed_tokens",), ("embed_tokens", "lm_head")])
def test_the_saved_model_is_the_adapter_on_the_base(
        tied: bool, modules_to_save: tuple[str, ...], train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
        make_llama: Callable[..., Any]) -> None:
    """Base folder + adapter folder, loaded by peft alone, say the same as the model folder; a tied head stays tied."""
    base = Path(shutil.copytree(train_inputs.model.path, tmp_path / "base"))
    make_llama(tie_word_embeddings=tied).save_pretrained(base)
    model = train_inputs.model.model_copy(update={"path": str(base)})
    section = _lora(train_section, modules_to_save=modules_to_save)
    report = train(replace(train_inputs, model=model), section, tmp_path / "run")
    assert report.adapter_folder is not None
    before = AutoModelForCausalLM.from_pretrained(base)
    served = AutoModelForCausalLM.from_pretrained(report.model_folder)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), report.adapter_folder)
    torch.testing.assert_close(_logits(served), _logits(adapted), rtol=1e-4, atol=1e-4)
    assert (_logits(served) - _logits(before)).abs().max() > 0.1
    assert (served.lm_head.weight is served.model.embed_tokens.weight) == tied
    moved = not torch.equal(served.model.embed_tokens.weight, before.model.embed_tokens.weight)
    assert moved == bool(modules_to_save)
    assert torch.equal(served.model.norm.weight, before.model.norm.weight)


def test_only_adapters_are_trained_and_stored(train_inputs: TrainInputs, train_section: Section,
                                              tmp_path: Path) -> None:
    section = _lora(train_section, target_modules=("q_proj",)).model_copy(update={"checkpoint_every_s": 1e-6})
    train(train_inputs, section, tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda p: p.stat().st_mtime)
    with safe_open(newest / "weights.safetensors", "pt") as file:
        names = list(file.keys())
        assert {file.get_tensor(n).shape[0] for n in names if "lora_A" in n} == {4}
    assert len(names) == 4
    assert all("q_proj.lora_" in name for name in names)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 16.0, ["q_proj"])


def test_every_setting_has_an_effect(make_llama: Callable[..., Any]) -> None:
    model = apply_lora(make_llama(), LoraSection(rank=3, alpha=6.0, dropout=0.25, target_modules="all-linear",
                                                 modules_to_save=("norm",)), seed=0)
    layers = [m for m in model.modules() if hasattr(m, "lora_A")]
    assert len(layers) == 2 * 7
    assert layers[0].r["default"] == 3
    assert layers[0].scaling["default"] == pytest.approx(2.0)
    assert layers[0].lora_dropout["default"].p == pytest.approx(0.25)
    trained = {n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
    assert "base_model.model.model.norm.modules_to_save.default.weight" in trained
    assert all("norm.modules_to_save" in name for name in trained)


def test_the_start_of_adapters_hangs_on_the_seed_alone(make_llama: Callable[..., Any]) -> None:
    def start(seed: int, noise: int) -> list[torch.Tensor]:
        torch.manual_seed(noise)
        model = apply_lora(make_llama(), LoraSection(), seed)
        return [p for n, p in model.named_parameters() if "lora_A" in n]

    state = torch.get_rng_state()
    assert all(map(torch.equal, start(1, 5), start(1, 6)))
    assert not all(map(torch.equal, start(1, 5), start(2, 5)))
    torch.set_rng_state(state)


def test_a_target_that_does_not_exist_is_named(make_llama: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=r"\['c_attn'\].*'q_proj'"):
        apply_lora(make_llama(), LoraSection(target_modules=("c_attn",)), 0)
    with pytest.raises(ModelError, match=r"\['wte'\]"):
        apply_lora(make_llama(), LoraSection(modules_to_save=("wte",)), 0)


def test_a_merge_that_changes_the_model_is_refused(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoraModel, "merge_and_unload", lambda self: self.unload())
    with pytest.raises(TrainingError, match=r"merging .* log-probabilities by up to .*adapter is good"):
        train(train_inputs, _lora(train_section), tmp_path)
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert adapter.MERGE_TOLERANCE < 0.01


def test_an_adapter_that_could_never_move_is_refused_before_training(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter on a module that takes no part in the model's work (pitfall 18)."""
    load = workbench.load_as_stored

    def with_idle_module(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        loaded.model.model.layers[0].mlp.idle_proj = nn.Linear(32, 32)
        return loaded

    monkeypatch.setattr(workbench, "load_as_stored", with_idle_module)
    with pytest.raises(ModelError, match=r"target_modules names \['idle_proj'\], which text does not reach"):
        train(train_inputs, _lora(train_section, target_modules=("q_proj", "idle_proj")), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_of_one_step_is_not_refused(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """lora_A has no gradient before lora_B has moved."""
    section = train_section(method="lora", lr=1e-2, epochs=0.1)
    assert train(train_inputs, section, tmp_path).steps == 1


@pytest.mark.parametrize("targets", [("q_proj", "embed_tokens"), ("lm_head",), ("embed_tokens", "lm_head"),
                                     ".*(q_proj|embed_tokens)", ".*(q_proj|lm_head)"])
def test_adapters_on_tied_weights_are_refused_before_training(
        targets: Any, make_llama: Callable[..., Any], train_inputs: TrainInputs, train_section: Section,
        tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"embed_tokens and lm_head .*modules_to_save: \[embed_tokens\]"):
        train(train_inputs, _lora(train_section, target_modules=targets), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    untied = apply_lora(make_llama(tie_word_embeddings=False), LoraSection(target_modules=targets), 0)
    assert isinstance(untied, PeftModel)


def test_adapters_and_a_full_copy_of_one_module_are_refused(make_llama: Callable[..., Any]) -> None:
    section = LoraSection(target_modules=("q_proj", "lm_head"), modules_to_save=("embed_tokens",))
    with pytest.raises(ModelError, match=r"train\.lora"):
        apply_lora(make_llama(), section, 0)


@pytest.mark.parametrize("named", [("wte",), ("lm_head",), ("wte", "lm_head")])
def test_tied_weights_of_any_name_stay_tied(named: tuple[str, ...], tmp_path: Path) -> None:
    """GPT-2 calls its embedding `wte`: trained in full it also trains the head, and the merged model has it."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=32))
    model: Any = apply_lora(base, LoraSection(target_modules=("c_attn",), modules_to_save=named), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * parameter.requires_grad
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    said = _logits(model)
    model.merge_and_unload().save_pretrained(tmp_path)
    served = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(_logits(served), said, rtol=1e-4, atol=1e-4)
    assert served.lm_head.weight is served.transformer.wte.weight
