"""The folder that is evaluated and served holds all that serving needs, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_core import stage
from sft_core.config.train import TrainSection
from sft_core.errors import ModelError, TrainingError
from sft_core.stage import whole_folder
from sft_core.train.artifact import served_tokenizer, write_model, writing
from sft_core.train.inputs import ServedTemplate, TrainInputs
from sft_core.train.trainer import train

TEMPLATE = ServedTemplate("chatml", ("<|im_end|>",), "{% for m in messages %}{{ m.content }}{% endfor %}")
Section = Callable[..., TrainSection]


def _save(model: Any, tokenizer: Any, template: ServedTemplate, folder: Path) -> None:
    with whole_folder(folder, writing) as draft:
        write_model(model, served_tokenizer(tokenizer, template), template, draft)


def test_a_reloaded_folder_speaks_the_template_and_stops(train_inputs: TrainInputs, train_section: Section,
                                                         tmp_path: Path) -> None:
    report = train(train_inputs, train_section(epochs=2), tmp_path)
    folder = report.model_folder
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.jsonl", "model"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "w5 w6"}], tokenize=False)
    assert text == "<|im_start|>w5 w6<|im_end|>"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [3, 0]
    assert generation["pad_token_id"] == 1
    model = AutoModelForCausalLM.from_pretrained(folder)
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
    assert out.shape[0] == 1
    card = (folder / "README.md").read_text()
    told = (train_inputs.model.path, "λ · LM", f"| steps | {report.steps} |", '"rows_per_step": 4', "base content")
    assert [words for words in told if words not in card] == []


def test_the_dtype_of_the_base_is_kept(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                       make_llama: Callable[..., Any], tiny_tokenizer: Any) -> None:
    make_llama().bfloat16().save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    inputs = replace(train_inputs, model=train_inputs.model.model_copy(update={"path": str(tmp_path / "base")}))
    report = train(inputs, train_section(), tmp_path / "run")
    with safe_open(report.model_folder / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert json.loads((report.model_folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_tokenizer_without_padding_gets_one(make_llama: Callable[..., Any], tiny_base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.pad_token = None
    _save(make_llama(), tokenizer, TEMPLATE, tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").pad_token == "<|end|>"
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["pad_token_id"] == 0


def test_generation_stops_on_every_stop_of_the_template(make_llama: Callable[..., Any], tiny_base: Path,
                                                        tmp_path: Path) -> None:
    template = replace(TEMPLATE, stops=("<|im_end|>", "<|im_start|>"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    _save(make_llama(), tokenizer, template, tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>", "<|end|>"])


def test_sampling_values_that_a_base_never_used_do_not_stop_the_saving(make_llama: Callable[..., Any], tiny_base: Path,
                                                                       tmp_path: Path) -> None:
    model = make_llama()
    model.generation_config.temperature = 0.6
    model.generation_config.top_p = 0.9
    _save(model, AutoTokenizer.from_pretrained(tiny_base), TEMPLATE, tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert not saved.get("do_sample")
    assert "temperature" not in saved


@pytest.mark.parametrize("stops", [("</s>",), ("<|im_end|>", "</s>")])
def test_a_stop_that_is_no_token_is_refused(stops: tuple[str, ...], make_llama: Callable[..., Any], tiny_base: Path,
                                            tmp_path: Path) -> None:
    template = replace(TEMPLATE, stops=stops)
    with pytest.raises(ModelError, match=r"'</s>' of template chatml"):
        _save(make_llama(), AutoTokenizer.from_pretrained(tiny_base), template, tmp_path / "m")


def test_a_full_disk_leaves_no_half_folder(make_llama: Callable[..., Any], tiny_base: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage, "sync", full)
    with pytest.raises(TrainingError, match="No space left"):
        _save(make_llama(), AutoTokenizer.from_pretrained(tiny_base), TEMPLATE, tmp_path / "model")
    assert not (tmp_path / "model").exists()
