"""On the way from a base to what was trained of it: every weight in proportion, the folder whole."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_core.config.train import TrainSection
from sft_core.errors import ModelError
from sft_core.train.inputs import TrainInputs
from sft_core.train.interpolate import interpolate
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """As transformers alone loads them."""
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())


def at(share: float, inputs: TrainInputs, section: TrainSection, tuned: Path, out: Path) -> dict[str, torch.Tensor]:
    interpolate(inputs, section.model_copy(update={"interpolate": share}), tuned, out)
    return weights(out)


def test_every_weight_goes_its_share_of_the_way(train_inputs: TrainInputs, train_section: Section, tmp_path: Path
                                                ) -> None:
    section = train_section(epochs=2)
    tuned = train(train_inputs, section, tmp_path).model_folder
    base, end = weights(Path(train_inputs.model.path)), weights(tuned)
    for share in (0.0, 0.25, 1.0):
        found = at(share, train_inputs, section, tuned, tmp_path / f"a{share}")
        assert found.keys() == end.keys()
        for name, weight in found.items():
            torch.testing.assert_close(weight, base[name] + share * (end[name] - base[name]), rtol=0, atol=1e-7)
            assert share not in (0.0, 1.0) or torch.equal(weight, {0.0: base, 1.0: end}[share][name])
    half = tmp_path / "a0.25"
    assert AutoTokenizer.from_pretrained(half).chat_template == AutoTokenizer.from_pretrained(tuned).chat_template
    assert (half / "generation_config.json").read_text() == (tuned / "generation_config.json").read_text()
    assert "| of the way from the base to the trained model | 0.25 |" in (half / "README.md").read_text()


def test_half_of_a_merged_adapter_is_the_adapter_at_half_its_scale(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    section = train_section(method="lora", lr=1e-2, epochs=2, lora={"rank": 4})
    report = train(train_inputs, section, tmp_path)
    found = at(0.5, train_inputs, section, report.model_folder, tmp_path / "half")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(train_inputs.model.path),
                                      report.adapter_folder)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(0.5)
    for name, weight in model.merge_and_unload().named_parameters():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)


def test_a_stored_dtype_is_kept_and_its_rounding_takes_nothing_back(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path, make_llama: Callable[..., Any],
        tiny_tokenizer: Any) -> None:
    """Half of the smallest step of bfloat16 would round to one of its ends, always the same one."""
    section = train_section()
    for name, change in (("base", 1.0), ("tuned", 1.0 + 2**-7)):
        model = make_llama()
        for parameter in model.parameters():
            parameter.data = torch.full_like(parameter, change)
        model.bfloat16().save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)
    inputs = replace(train_inputs, model=train_inputs.model.model_copy(update={"path": str(tmp_path / "base")}))
    found = at(0.5, inputs, section, tmp_path / "tuned", tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    moved = torch.cat([weight.flatten() for weight in found.values()]) > 1
    assert 0.4 < moved.float().mean() < 0.6
    make_llama(num_hidden_layers=1).save_pretrained(tmp_path / "other")
    tiny_tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=r"differ in \d+ weights \(first: model\.layers\.1\..*train this base again"):
        at(0.5, inputs, section, tmp_path / "other", tmp_path / "no")
