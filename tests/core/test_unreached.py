"""A parameter that no gradient reaches is told, whatever the optimiser, and after a resume too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sft_core.config.train import TrainSection
from sft_core.errors import TrainingError
from sft_core.train import workbench
from sft_core.train.inputs import TrainInputs
from sft_core.train.snapshot import Unreached
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "plain": lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
    "decays what has no gradient": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.5),
    "momentum alone": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
}


def test_only_a_gradient_other_than_zero_reaches_a_parameter() -> None:
    parameters = {name: nn.Parameter(torch.ones(2)) for name in ("none", "zero", "tiny", "later")}
    unreached = Unreached(parameters)
    unreached.look(unreached.sizes(torch.zeros(1)).tolist())
    assert unreached.names == ["none", "zero", "tiny", "later"]
    for name, grad in (("zero", 0.0), ("tiny", -1e-30), ("later", 0.0)):
        parameters[name].grad = torch.full((2,), grad)
    unreached.look(unreached.sizes(torch.zeros(1)).tolist())
    assert unreached.names == ["none", "zero", "later"]
    again = Unreached(parameters)
    again.restore(unreached.names)
    parameters["later"].grad = torch.tensor([0.0, 3.0])
    again.look(again.sizes(torch.zeros(1)).tolist())
    assert again.names == ["none", "zero"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_told_under_every_optimiser_and_after_a_resume(
        name: str, train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "make_optimizer", lambda section, parameters, *_: OPTIMIZERS[name](parameters))
    section = train_section(checkpoint_every_s=1e-6)
    train(train_inputs, section, tmp_path / "sound")
    load = workbench.load_model

    def with_idle_module(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        attention = loaded.model.model.layers[0].self_attn
        attention.register_parameter("idle", nn.Parameter(torch.ones(3)))
        attention.register_forward_hook(lambda module, _, out: (out[0] + 0 * module.idle.sum(), *out[1:]))
        return loaded

    monkeypatch.setattr(workbench, "load_model", with_idle_module)
    told = r"1 trained parameters never got a gradient \(first: .*idle"
    with pytest.raises(TrainingError, match=told):
        train(train_inputs, section, tmp_path / "idle")
    with pytest.raises(TrainingError, match=told):  # from the last step's checkpoint
        train(train_inputs, section, tmp_path / "idle")


def test_what_was_reached_before_a_stop_stays_reached(train_inputs: TrainInputs, train_section: Section,
                                                      tmp_path: Path) -> None:
    """A run that continues behind its last step sees no gradient at all."""
    section = train_section(checkpoint_every_s=1e-6)
    first = train(train_inputs, section, tmp_path)
    assert train(train_inputs, section, tmp_path).resumed_from == first.steps
