"""Learning rate as a function of the step, and what the optimiser decays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sft_core.config.train import OptimSection
from sft_core.train.optim import learning_rate, make_optimizer, set_rate


def _rates(total: int, **fields: object) -> list[float]:
    section = OptimSection.model_validate({"lr": 1.0, **fields})
    return [learning_rate(section, step, total) for step in range(total)]


def test_warm_up_is_a_line_from_zero() -> None:
    assert _rates(20, schedule="constant", warmup_share=0.2)[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_linear_and_cosine_end_at_zero_just_after_the_last_step() -> None:
    assert _rates(4, schedule="linear", warmup_share=0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert _rates(2, schedule="cosine", warmup_share=0.0) == pytest.approx([1.0, 0.5])
    cosine = _rates(100, schedule="cosine", warmup_share=0.1)
    assert cosine[10] == pytest.approx(1.0)
    assert cosine[55] == pytest.approx(0.5)
    assert 0.0 < cosine[-1] < 0.001


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("total", [1, 2, 37])
def test_no_step_is_spent_on_a_rate_of_zero(schedule: str, share: float, total: int) -> None:
    rates = _rates(total, schedule=schedule, warmup_share=share)
    assert all(0.0 < rate <= 1.0 for rate in rates)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model[0].weight.data.fill_(1.0)
    model[0].bias.data.fill_(1.0)
    optimizer = make_optimizer(OptimSection(lr=0.1, weight_decay=0.5), model.parameters())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.allclose(model[0].weight, torch.full((3, 3), 0.95))
    assert torch.equal(model[0].bias, torch.ones(3))
    assert torch.equal(model[1].weight, torch.ones(3))


def test_a_step_is_adamw_with_the_given_moments() -> None:
    """Two steps by hand (Loshchilov & Hutter 2019), in float64."""
    p = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    section = OptimSection(lr=0.1, betas=(0.8, 0.9), weight_decay=0.01)
    optimizer = make_optimizer(section, [p, frozen])
    want, m, v = p.detach().clone(), torch.zeros(1, 2).double(), torch.zeros(1, 2).double()
    for step, (rate, grad) in enumerate([(0.1, [[0.5, -1.0]]), (0.05, [[2.0, 0.1]])], start=1):
        g = torch.tensor(grad, dtype=torch.float64)
        set_rate(optimizer, section, rate)
        p.grad = g
        optimizer.step()
        want = want * (1 - rate * 0.01)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        want = want - rate * (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)).sqrt() + 1e-8)
    torch.testing.assert_close(p.detach(), want, rtol=1e-10, atol=1e-10)
    assert len(optimizer.param_groups) == 1


def test_wsd_is_stable_and_then_falls_in_a_line() -> None:
    rates = _rates(20, schedule="wsd", warmup_share=0.1, decay_share=0.25)
    assert rates[:2] == pytest.approx([1 / 3, 2 / 3])
    assert rates[2:16] == pytest.approx([1.0] * 14)
    assert rates[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert _rates(10, schedule="wsd", warmup_share=0.5, decay_share=1.0)[5:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
