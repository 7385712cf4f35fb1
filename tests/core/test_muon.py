"""Muon for the matrices of the layers, AdamW for everything else: as torch does each, resumed, by several processes."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaForCausalLM

from sft_core.config.data import ModelSection
from sft_core.config.train import OptimSection, TrainSection
from sft_core.errors import Interrupted, ModelError
from sft_core.model.attention import layers_of
from sft_core.train import launch, trl_engine
from sft_core.train.inputs import TrainInputs
from sft_core.train.optim import MuonAdamW, hidden_matrices, make_optimizer, set_rate
from sft_core.train.shape import architecture_of
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
MUON = {"name": "muon", "lr": 3e-3, "muon_lr": 1e-2, "weight_decay": 0.1}
LEARN = {"optim": MUON, "lambda_": 0.3, "beta": 0.5, "on": "both", "epochs": 2, "validate_every_steps": 3}


def _model(make_llama: Callable[..., LlamaForCausalLM], **shape: Any) -> tuple[LlamaForCausalLM, MuonAdamW]:
    model = make_llama(**shape)
    made = make_optimizer(OptimSection.model_validate(MUON), model.parameters(), layers_of(model))
    assert isinstance(made, MuonAdamW)
    return model, made


def _gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def test_muon_takes_the_matrices_of_the_layers_and_nothing_else(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    model, optimizer = _model(make_llama, tie_word_embeddings=False, attention_bias=True)
    muon = {id(p) for group in optimizer.param_groups if "ns_steps" in group for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in muon}
    assert names == {name for name, _ in model.named_parameters() if "_proj.weight" in name}
    rest = [p for group in optimizer.param_groups if "ns_steps" not in group for p in group["params"]]
    assert len(muon) + len(rest) == len(list(model.parameters()))
    decay = {name: group["weight_decay"] for group in optimizer.param_groups
             for name, p in model.named_parameters() if any(p is one for one in group["params"])}
    assert {name for name, rate in decay.items() if rate == 0.0} == {
        name for name, p in model.named_parameters() if p.ndim < 2}


def test_a_step_is_that_of_torchs_muon_and_of_torchs_adamw(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    model, optimizer = _model(make_llama)
    twin = copy.deepcopy(model)
    matrices = hidden_matrices(layers_of(twin))
    rest = [p for p in twin.parameters() if all(p is not one for one in matrices)]
    muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([{"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.1},
                               {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}],
                              lr=1.0, betas=(0.9, 0.95), fused=True)
    for step, rate in enumerate((1e-3, 3e-3)):
        _gradients(model, step)
        _gradients(twin, step)
        set_rate(optimizer, OptimSection.model_validate(MUON), rate)
        for group in muon.param_groups:
            group["lr"] = rate * 1e-2 / 3e-3
        for group in adamw.param_groups:
            group["lr"] = rate
        for one in (optimizer, muon, adamw):
            one.step()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_an_update_is_as_large_as_adamws(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    """Root mean square 0.2 to 0.4 of the rate (Liu et al. 2025, section 2.2): one rate fits both."""
    model = make_llama()
    section = OptimSection(name="muon", lr=1e-3)
    optimizer = make_optimizer(section, model.parameters(), layers_of(model))
    before = [p.detach().clone() for p in hidden_matrices(layers_of(model))]
    _gradients(model, 0)
    optimizer.step()
    for p, was in zip(hidden_matrices(layers_of(model)), before, strict=True):
        assert 0.1e-3 < float((p.detach() - was).square().mean().sqrt()) < 0.4e-3


def test_what_was_saved_goes_on_bit_identical(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    """`state_dict` and back, as TRL does it: both parts stay parts of one."""
    model, optimizer = _model(make_llama)
    _gradients(model, 0)
    optimizer.step()
    saved, twin = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model)
    other = make_optimizer(OptimSection.model_validate(MUON), twin.parameters(), layers_of(twin))
    other.load_state_dict(saved)
    for one, of in ((optimizer, model), (other, twin)):
        set_rate(one, OptimSection.model_validate(MUON), 2e-3)
        _gradients(of, 1)
        one.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert len(other.state) == len(list(twin.parameters()))


def test_without_layers_it_says_so() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="muon finds no matrix.*use optim.name: adamw"):
        make_optimizer(OptimSection(name="muon", lr=1e-3), model.parameters(), ())


@pytest.mark.parametrize(("fields", "told"), [
    ({"optim": {"lr": 1e-3, "muon_lr": 1e-2}}, "muon_lr is the rate of optim.name: muon, and this is adamw"),
    ({"optim": MUON, "method": "lora"}, "muon needs method: full.*factors of an adapter"),
])
def test_settings_that_do_not_meet_are_refused(fields: dict[str, Any], told: str, train_section: Section) -> None:
    with pytest.raises(ValidationError, match=told):
        train_section(**fields)


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


@pytest.mark.parametrize("engine", ["native", "trl"])
def test_it_learns_and_resumes_bit_identical(engine: str, train_inputs: TrainInputs, train_section: Section,
                                             tmp_path: Path) -> None:
    if engine == "trl":
        pytest.importorskip("trl")
    section = train_section(engine=engine, optim=MUON, epochs=3, validate_every_steps=3, micro_rows=4)
    go = trl_engine.train if engine == "trl" else train
    whole = go(train_inputs, section, tmp_path / "whole")
    assert whole.validation[-1][1] < whole.validation[0][1] - 0.05
    calls = iter(range(100))

    def stop(_: Path) -> None:
        if next(calls) == 6:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        go(train_inputs, section, tmp_path / "halves", on_events=stop, sync_every_s=0.0)
    rest = go(train_inputs, section, tmp_path / "halves")
    assert rest.resumed_from is not None
    assert 0 < rest.resumed_from < whole.steps
    ours, theirs = _weights(tmp_path / "halves"), _weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_both_engines_take_the_same_steps(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    mine = train(train_inputs, train_section(optim=MUON, micro_rows=4), tmp_path / "mine")
    its = trl_engine.train(train_inputs, train_section(engine="trl", optim=MUON, micro_rows=4), tmp_path / "its")
    assert mine.final.loss == pytest.approx(its.final.loss, abs=1e-3)


@pytest.mark.parametrize("shard", [pytest.param("none", marks=pytest.mark.chaos), "fsdp"])
def test_two_processes_go_on_where_one_was_and_learn_what_one_learns(
        shard: str, train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """Whole or sharded. The iteration is in bfloat16, so rounding differs where sums are added in another order: by
    1.6e-4 and 3.4e-4 at a rate of 1e-2, of weights that move by more than 1e-2."""
    section = train_section(**LEARN)
    alone = train(train_inputs, section, tmp_path / "one")
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        train(train_inputs, section, tmp_path / shard, sync_every_s=0.0,
              on_events=lambda _: signal.raise_signal(signal.SIGTERM) if next(calls) == 5 else None)
    two = launch.launch(train_inputs, section.model_copy(update={"processes": 2, "shard": shard}), tmp_path / shard)
    assert two.resumed_from
    ours, theirs = _weights(tmp_path / shard), _weights(tmp_path / "one")
    base = load_file(Path(train_inputs.model.path) / "model.safetensors")
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 1e-3
    assert min(float((base[name] - theirs[name]).abs().max()) for name in theirs if "_proj" in name) > 1e-2
    assert two.final.loss == pytest.approx(alone.final.loss, abs=1e-3)


def test_the_forecast_knows_that_muon_has_one_moment(train_inputs: TrainInputs, train_section: Section,
                                                     make_llama: Callable[..., LlamaForCausalLM]) -> None:
    shape = architecture_of(ModelSection(path=train_inputs.model.path), train_section(optim=MUON), None, grown=False)
    sizes = [p.numel() for p in hidden_matrices(layers_of(make_llama()))]
    assert (shape.muon, shape.muon_largest) == (sum(sizes), max(sizes))
    assert architecture_of(ModelSection(path=train_inputs.model.path), train_section(), None, grown=False).muon == 0
