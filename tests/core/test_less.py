"""Full fine-tuning in less memory: weights in bfloat16 rounded stochastically, moments in 8 bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from sft_core.config.data import ModelSection
from sft_core.config.train import OptimSection, TrainSection
from sft_core.errors import ModelError
from sft_core.train import optim, stochastic
from sft_core.train.inputs import TrainInputs
from sft_core.train.optim import make_optimizer, set_rate
from sft_core.train.trainer import train
from sft_core.train.workbench import set_up

Section = Callable[..., TrainSection]
WITH_BITS = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra qlora is not installed")
WAYS = [pytest.param("bfloat16", "adamw", id="weights"), pytest.param("float32", "adamw_8bit", id="moments",
        marks=WITH_BITS), pytest.param("bfloat16", "adamw_8bit", id="both", marks=WITH_BITS)]


@pytest.fixture(scope="module")
def low_inputs(train_inputs: TrainInputs, make_llama: Callable[..., Any], tiny_tokenizer: Any,
               tmp_path_factory: pytest.TempPathFactory) -> TrainInputs:
    base = tmp_path_factory.mktemp("base")
    make_llama(hidden_size=64, intermediate_size=128).bfloat16().save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    return replace(train_inputs, model=ModelSection(path=str(base), device="cpu", precision="bfloat16"))


def _section(make: Section, weights: str, name: str, **fields: Any) -> TrainSection:
    return make(**{"weights": weights, "optim": {"name": name, "lr": 3e-3, "weight_decay": 0.1}, "epochs": 1, **fields})


def test_small_steps_are_kept_in_the_mean_and_lost_by_rounding_to_the_nearest() -> None:
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = make_optimizer(OptimSection(lr=1e-5, weight_decay=0.0), [weight])
    for step in range(100):
        weight.grad = torch.ones_like(weight)
        set_rate(optimizer, OptimSection(lr=1e-5), 1e-5, step)
        optimizer.step()
    assert float(1 - weight.detach().double().mean()) == pytest.approx(100 * 1e-5, rel=0.2)
    nearest = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    plain = torch.optim.AdamW([nearest], lr=1e-5, weight_decay=0.0)
    nearest.grad = torch.ones_like(nearest)
    plain.step()
    assert torch.equal(nearest, torch.ones_like(nearest))


def test_a_step_is_that_of_float32_rounded_to_a_neighbour_whatever_the_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    section = OptimSection(lr=1e-2, weight_decay=0.1)

    def moved(lot: int, step: int = 3) -> list[nn.Parameter]:
        monkeypatch.setattr(stochastic, "LOT", lot)
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape).to(dtype)) for shape, dtype in (
            ((8, 16), torch.bfloat16), ((16,), torch.float32), ((4, 4), torch.bfloat16), ((3, 5), torch.bfloat16))]
        optimizer = make_optimizer(section, weights)
        for weight in weights[:3]:
            weight.grad = torch.randn(weight.shape).to(weight.dtype)
        set_rate(optimizer, section, 1e-2, step)
        optimizer.step()
        optimizer.zero_grad()
        assert all(weight.grad is None for weight in weights)
        return weights

    ours, others = moved(1 << 27), moved(1)
    assert all(map(torch.equal, ours, others))
    assert not torch.equal(moved(1, step=4)[0], ours[0])
    torch.manual_seed(0)
    exact = [nn.Parameter(torch.randn(shape).to(dtype).float()) for shape, dtype in (
        ((8, 16), torch.bfloat16), ((16,), torch.float32), ((4, 4), torch.bfloat16), ((3, 5), torch.bfloat16))]
    for weight, low in zip(exact[:3], ours[:3], strict=True):
        weight.grad = torch.randn(weight.shape).to(low.dtype).float()
    make_optimizer(section, exact).step()
    assert torch.equal(exact[1], ours[1])
    for want, got in zip(exact, ours, strict=True):
        assert torch.all((got.float() - want).abs() <= want.abs() / 128), "a neighbour of the exact one"


@pytest.mark.parametrize(("weights", "name"), WAYS)
def test_it_learns_as_float32_does_and_continues_bit_by_bit(
        weights: str, name: str, low_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """Continued from a checkpoint in the middle, weights, moments and losses are those of a run that went through."""
    section = _section(train_section, weights, name, checkpoint_every_s=1e-6, keep_checkpoints=99)
    whole = train(low_inputs, section, tmp_path / "run")
    plain = train(low_inputs, _section(train_section, "float32", "adamw"), tmp_path / "plain")
    first, last = plain.validation[0][1], plain.validation[-1][1]
    assert first - whole.validation[-1][1] > 0.8 * (first - last) > 0
    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("step-*"), key=lambda f: int(f.name[5:]))
    final = checkpoints[-1]
    state, held = torch.load(final / "state.pt"), load_file(final / "weights.safetensors")
    for later in checkpoints[len(checkpoints) // 2:]:
        shutil.rmtree(later)
    again = train(low_inputs, section, tmp_path / "run")
    assert again.resumed_from == len(checkpoints) // 2
    assert again.final == whole.final
    found = load_file(final / "weights.safetensors")
    assert all(torch.equal(found[key], held[key]) for key in held)
    moments = torch.load(final / "state.pt")["moments"]
    for key, kept in state["moments"].items():
        for part, value in kept.items():
            assert torch.equal(torch.as_tensor(moments[key][part]), torch.as_tensor(value)), (key, part)
    if name == "adamw_8bit":
        large = {key for key, value in held.items() if value.numel() >= 4096}
        assert {state["moments"][key]["state1"].dtype for key in large} == {torch.uint8}


def test_matrices_and_their_gradients_are_in_bfloat16_and_vectors_are_not(low_inputs: TrainInputs,
                                                                         train_section: Section) -> None:
    parameters = set_up(low_inputs, _section(train_section, "bfloat16", "adamw")).parameters
    assert {(p.ndim, p.dtype) for p in parameters.values()} == {(2, torch.bfloat16), (1, torch.float32)}


def test_what_does_not_go_together_is_refused(low_inputs: TrainInputs, train_section: Section) -> None:
    for fields, told in (({"method": "lora"}, "method: full"), ({"optim": {"name": "muon", "lr": 1e-3}}, "adamw_8bit"),
                         ({"shard": "fsdp", "processes": 2}, "shard: none"), ({"engine": "trl"}, "weights")):
        with pytest.raises(ValidationError, match=told):
            train_section(weights="bfloat16", **fields)
    with pytest.raises(ValidationError, match="cannot cut those of 8 bits"):
        train_section(optim={"name": "adamw_8bit", "lr": 1e-3}, shard="fsdp", processes=2)
    place = low_inputs.model.model_copy(update={"precision": "float32"})
    with pytest.raises(ModelError, match=r"set model\.precision: bfloat16"):
        set_up(replace(low_inputs, model=place), _section(train_section, "bfloat16", "adamw"))


def test_an_absent_library_is_told_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'sft-platform\[qlora\]'; or use adamw"):
        make_optimizer(OptimSection(name="adamw_8bit", lr=1e-3), [nn.Parameter(torch.ones(2, 2))])
