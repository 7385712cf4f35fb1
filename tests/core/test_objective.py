"""The objective against naive references in float64, forward and backward, and its symmetries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_core.model.attention import ScaledHead
from sft_core.templates.render import IGNORE, Example
from sft_core.train import objective
from sft_core.train.objective import Base, Term, chosen, sums
from sft_core.train.pack import collate
from sft_core.train.policy import Policy

TIGHT = 1e-10
N, HIDDEN, VOCABULARY = 11, 6, 13


def _close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=TIGHT, atol=TIGHT)


def _case(n: int, seed: int = 0) -> tuple[Tensor, nn.Linear, Tensor, Tensor, nn.Linear]:
    g = torch.Generator().manual_seed(seed)
    head, base_head = (nn.Linear(HIDDEN, VOCABULARY, bias=True, dtype=torch.float64) for _ in range(2))
    for p in (*head.parameters(), *base_head.parameters()):
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    hidden = torch.randn(n, HIDDEN, generator=g, dtype=torch.float64).requires_grad_()
    base_hidden = torch.randn(n, HIDDEN, generator=g, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, (n,), generator=g)
    return hidden, head, targets, base_hidden, base_head


def _naive(hidden: Tensor, head: nn.Linear, targets: Tensor, base: Base, term: Term) -> tuple[Tensor, Tensor]:
    """Token by token, from probabilities, as the formulas stand."""
    nll = kl = torch.zeros((), dtype=torch.float64)
    for i, (h, t, b) in enumerate(zip(hidden, targets, base.hidden, strict=True)):
        p = torch.exp(h @ head.weight.T + head.bias)
        p = p / p.sum()
        q = torch.exp(b @ base.head.weight.T + base.head.bias)  # type: ignore[attr-defined]
        q = (q / q.sum()).detach()
        weight = 1.0 if term.weights is None else term.weights[i]
        even = sum(-torch.log(p[v]) / VOCABULARY for v in range(VOCABULARY))
        nll = nll + weight * ((1 - term.smoothing) * -torch.log(p[t]) + term.smoothing * even)
        a, c = (p, q) if term.direction == "reverse" else (q, p)
        kl = kl + sum(a[v] * torch.log(a[v] / c[v]) for v in range(VOCABULARY))
    return nll, kl


TERMS = [Term(), Term(0.7, 0.3), Term(0.0, 1.0), Term(0.5, 2.0, direction="forward"), Term(1.0, 0.4, smoothing=0.1),
         Term(0.2, 0.1, torch.linspace(0.0, 3.0, N, dtype=torch.float64), 0.2)]


@pytest.mark.parametrize("chunk", [None, 1, 3, 11, 50])
@pytest.mark.parametrize("term", TERMS, ids=str)
@pytest.mark.parametrize("wrapped", [False, True])
def test_sums_and_gradients_equal_a_naive_reference(term: Term, chunk: int | None, wrapped: bool) -> None:
    hidden, head, targets, base_hidden, base_head = _case(N)
    inputs, base = (hidden, head.weight, head.bias), Base(base_hidden, base_head)
    called = ScaledHead(head, 1.0, None) if wrapped else head
    got = sums(hidden, called, targets, term, base, chunk)
    nll, kl = _naive(hidden, head, targets, base, term)
    _close(got.nll, nll)
    _close(got.kl, kl)
    _close(got.loss, term.nll * nll + term.kl * kl)
    for a, b in zip(torch.autograd.grad(3 * got.loss, inputs),
                    torch.autograd.grad(3 * (term.nll * nll + term.kl * kl), inputs), strict=True):
        _close(a, b)
    with torch.no_grad():
        assert torch.equal(sums(hidden, called, targets, term, base, chunk).loss, got.loss.detach())


def test_no_position_gives_zero_that_can_go_backward() -> None:
    hidden, head, targets, base_hidden, base_head = _case(0)
    got = sums(hidden, head, targets, Term(1.0, 1.0), Base(base_hidden, base_head))
    assert (got.loss.item(), got.nll.item(), got.kl.item()) == (0.0, 0.0, 0.0)
    got.loss.backward()
    for gradient in (hidden.grad, head.weight.grad):
        assert gradient is not None
        assert not gradient.any()


def test_a_base_gets_no_gradient_and_equal_models_have_no_divergence() -> None:
    hidden, head, targets, base_hidden, base_head = _case(5)
    base_hidden.requires_grad_()
    got = sums(hidden, head, targets, Term(0.0, 1.0), Base(base_hidden, base_head))
    got.loss.backward()
    assert base_hidden.grad is None
    assert base_head.weight.grad is None
    assert got.kl.item() > 0.1
    assert abs(sums(hidden, head, targets, Term(0.0, 1.0), Base(hidden.detach(), head)).kl.item()) < TIGHT


def test_kl_has_the_direction_asked_for() -> None:
    """KL(p‖q) ≠ KL(q‖p); the values for p = (¾, ¼), q = (½, ½) are known by hand."""
    p, q = nn.Linear(1, 2, dtype=torch.float64), nn.Linear(1, 2, dtype=torch.float64)
    for head, odds in ((p, 3.0), (q, 1.0)):
        head.weight.data.zero_()
        head.bias.data = torch.tensor([odds, 1.0], dtype=torch.float64).log()
    x, target = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0])
    log = lambda number: torch.tensor(number, dtype=torch.float64).log()  # noqa: E731
    _close(sums(x, p, target, Term(0.0, 1.0), Base(x, q)).kl, 0.75 * log(1.5) + 0.25 * log(0.5))
    _close(sums(x, p, target, Term(0.0, 1.0, direction="forward"), Base(x, q)).kl, 0.5 * log(1 / 1.5) + 0.5 * log(2.0))


def test_softmax_of_half_precision_logits_is_done_in_float32() -> None:
    hidden, head, targets, *_ = _case(4)
    hidden, head = hidden.detach().bfloat16(), head.bfloat16()
    want = F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    torch.testing.assert_close(sums(hidden, head, targets, Term()).nll, want.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("plain", [True, False])
def test_autocast_gives_the_gradients_that_autograd_gives(plain: bool) -> None:
    hidden, head, targets, *_ = _case(9)
    hidden, head = hidden.detach().float().requires_grad_(), head.float()
    with torch.autocast("cpu", torch.bfloat16):
        got = sums(hidden, head if plain else ScaledHead(head, 1.0, None), targets, Term(), chunk=4).loss
        want = F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(got, (hidden, head.weight)),
                    torch.autograd.grad(want, (hidden, head.weight)), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_logits_exist_only_for_chosen_positions_and_in_chunks(monkeypatch: pytest.MonkeyPatch,
                                                              make_llama: Callable[..., Any],
                                                              some_example: Callable[..., Example]) -> None:
    policy = Policy(make_llama(), backend="mask", reference="copy")
    assert policy.reference is not None
    asked: list[int] = []
    policy.reference.get_output_embeddings().register_forward_hook(  # type: ignore[operator]
        lambda module, args, out: asked.append(args[0].shape[0]))
    monkeypatch.setattr(objective, "CHUNK_LOGITS", {"cpu": 64 * 4})
    batch = collate([[some_example(20, trained=range(3, 9))]], 20, 1)
    policy(policy.micro(batch), Term(1.0, 1.0))
    assert asked == [4, 2]
    assert batch.ids.numel() == 20


def test_chosen_skips_exactly_the_ignored() -> None:
    assert chosen(torch.tensor([[IGNORE, 5, IGNORE], [0, IGNORE, 1]])).tolist() == [1, 3, 5]
    assert chosen(torch.full((2, 2), IGNORE)).tolist() == []
