"""Noise that the base's own config adds in training is said, with field and value."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from sft_core.config.train import TrainSection
from sft_core.doctor import steps
from sft_core.model.noise import own_noise
from sft_core.model.proof import Rows
from sft_core.train.inputs import TrainInputs
from sft_core.train.trainer import train
from sft_core.train.workbench import set_up


@pytest.mark.parametrize(("name", "said"), [
    ("phimoe", "(router_jitter_noise: 0.01)"), ("seed_oss", "(attention_dropout: 0.1, residual_dropout: 0.1)"),
    ("gpt2", "(resid_pdrop: 0.1, embd_pdrop: 0.1, attn_pdrop: 0.1)"), ("bart", "(dropout: 0.1)"),
    ("llama", ""), ("gpt_neox", ""), ("qwen3_moe", "")])
def test_fields_and_values_are_named(name: str, said: str) -> None:
    found = own_noise(CONFIG_MAPPING[name]())
    assert said in found
    assert bool(found) == bool(said)


def test_log_and_doctor_tell_it_once(train_inputs: TrainInputs, train_section: Callable[..., TrainSection],
                                     make_llama: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path,
                                     caplog: pytest.LogCaptureFixture) -> None:
    make_llama(attention_dropout=0.125).save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    model = train_inputs.model.model_copy(update={"path": str(tmp_path / "base")})
    inputs, section = replace(train_inputs, model=model), train_section(epochs=0.1)
    said = "adds noise in training (attention_dropout: 0.125), which stays on"
    with caplog.at_level(logging.INFO, "sft"):
        train(inputs, section, tmp_path / "run")
    assert caplog.text.count(said) == 1
    rows = Rows(inputs.pack, inputs.max_tokens)
    assert said in steps.attention(set_up(inputs, section), model, rows).told
    assert "noise" not in steps.attention(set_up(train_inputs, section), train_inputs.model, rows).told
