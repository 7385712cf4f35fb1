"""A base of which every process loads its part: the same model as a whole one, proved by its first layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, MixtralConfig

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.errors import ModelError
from sft_core.model import parts
from sft_core.model.attention import layers_of
from sft_core.model.load import load_model
from sft_core.model.parts import front, load_in_parts, shortened
from sft_core.model.reach import alike, unreached
from sft_core.train import workbench
from sft_core.train.inputs import TrainInputs
from sft_core.train.memory import Pass, Place, forecast
from sft_core.train.shape import architecture_of
from sft_core.train.workbench import set_up

CASES: dict[str, dict[str, Any]] = {
    "full, beside its copy": {"beta": 0.5},
    "adapters": {"method": "lora", "lora": {"rank": 4}},
    "adapters, and a matrix of the layers in full": {"method": "lora", "lora": {
        "rank": 4, "target_modules": ["q_proj"], "modules_to_save": ["up_proj"]}},
    "DoRA": {"method": "lora", "lora": {"rank": 4, "dora": True}},
}


@pytest.fixture
def deep(tmp_path: Path, make_llama: Callable[..., Any], tiny_tokenizer: Any) -> ModelSection:
    """A base of four layers in bfloat16, in several files, with rows that two cannot share evenly."""
    make_llama(num_hidden_layers=4, intermediate_size=45).bfloat16().save_pretrained(
        tmp_path / "base", max_shard_size="20KB")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    return ModelSection(path=str(tmp_path / "base"), device="cpu")


def _in_parts(section: ModelSection, **how: Any) -> Any:
    return load_in_parts(section, mirror=None, **{"as_stored": False, **how})


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.full_tensor() if isinstance(p, DTensor) else p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("run", product(CASES, ("float32", "bfloat16")), ids=" in ".join)
def test_shares_are_those_of_the_whole_model(run: tuple[str, str], deep: ModelSection, train_inputs: TrainInputs,
                                             train_section: Callable[..., TrainSection], tmp_path: Path,
                                             forked: Callable[..., list[int | None]]) -> None:
    """Weight by weight, in its dtype, adapters included; nobody but DoRA reads more than its rows of a later layer."""
    case, precision = run
    inputs = replace(train_inputs, model=deep.model_copy(update={"precision": precision}))
    section = train_section(on="both", **CASES[case])
    torch.manual_seed(inputs.seed)
    expected = _weights(set_up(inputs, section).policy)
    read: list[tuple[str, int]] = []
    inner = parts._read

    def listening(stored: Any, into: torch.Tensor, *rows: slice) -> torch.Tensor:
        read.append((stored.key, into.numel()))
        return inner(stored, into, *rows)

    def work(rank: int) -> None:
        parts._read = listening  # in this process alone
        workbench.join(inputs.model)
        torch.manual_seed(inputs.seed)
        found = _weights(set_up(inputs, section.model_copy(update={"processes": 2, "shard": "fsdp"})).policy)
        torch.save((found, read), tmp_path / str(rank))

    assert forked(work) == [0, 0]
    sizes = {name.removeprefix("model."): w.numel() for name, w in expected.items()}
    for rank in range(2):
        found, heard = torch.load(tmp_path / str(rank))
        assert {n: w.dtype for n, w in found.items()} == {n: w.dtype for n, w in expected.items()}
        assert all(torch.equal(found[name], whole) for name, whole in expected.items())
        later = [(key, size) for key, size in heard if any(f"layers.{n}." in key for n in (1, 2, 3))]
        assert bool(later) == (case != "DoRA")
        assert all(size <= (sizes.get(key) or 45 * 32) * 0.52 for key, size in later)


def test_the_front_is_there_and_the_rest_is_named(deep: ModelSection) -> None:
    whole, ours = load_model(deep, mirror=None, added=["<new>"]), _in_parts(deep, added=["<new>"])
    expected, buffers = dict(whole.model.named_parameters()), dict(whole.model.named_buffers())
    for name, p in ours.model.named_parameters():
        assert p.is_meta == (name in ours.rest) == any(f"layers.{n}." in name for n in (1, 2, 3))
        assert p.is_meta or torch.equal(p, expected[name]), name
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in ours.model.named_buffers())
    assert ours.model.generation_config.to_dict() == whole.model.generation_config.to_dict()
    assert len(ours.tokenizer) == len(whole.tokenizer)
    with shortened(ours.model):
        assert len(layers_of(ours.model)) == 1
        assert alike(ours.model, unreached(ours.model)) == unreached(whole.model)
    assert len(layers_of(ours.model)) == 4


def test_layers_are_whole_until_all_kinds_have_been_seen(make_llama: Callable[..., Any]) -> None:
    model = make_llama(num_hidden_layers=4)
    layers_of(model)[2].self_attn.sliding_window = 7
    there = front(model)
    assert [all(p in there for p in layer.parameters()) for layer in layers_of(model)] == [True, True, True, False]


def test_the_forecast_counts_what_is_loaded_whole(deep: ModelSection, train_section: Callable[..., TrainSection]
                                                  ) -> None:
    model = load_model(deep, mirror=None).model

    def begins(**fields: Any) -> int:
        return architecture_of(deep, train_section(**fields), None, grown=False).begins

    assert begins() == begins(**CASES["adapters"]) == sum(p.numel() for p in front(model)) < begins(**CASES["DoRA"])
    assert begins(**CASES["DoRA"]) == sum(p.numel() for p in model.parameters())
    work, place = Pass(1, 8, (8,), 4, several=False), Place("cpu", torch.float32, "segments")
    shared = train_section(processes=4, shard="fsdp")
    # Frozen and large, so that nothing of a step is as large as the beginning.
    shape = replace(architecture_of(deep, shared, None, grown=False), parameters=10**9)
    whole, half, front_only = (forecast(replace(shape, begins=n), shared, work, place).peak
                               for n in (10**9, 5 * 10**8, 1000))
    assert (whole, half) == (4 * 10**9, 2 * 10**9)
    assert 10**9 < front_only < 1.01 * 10**9, "its share"


def test_what_is_not_there_is_told_by_the_whole_way(deep: ModelSection) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    [file] = [one for one in Path(deep.path).glob("*.safetensors") if name in load_file(one)]
    save_file({key: w for key, w in load_file(file).items() if key != name}, file, {"format": "pt"})
    assert _in_parts(deep) is None
    with pytest.raises(ModelError, match="1 weights are missing"):
        load_model(deep, mirror=None)


def test_experts_that_are_joined_on_loading_are_loaded_whole(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2)).save_pretrained(tmp_path)
    assert _in_parts(ModelSection(path=str(tmp_path), device="cpu")) is None
