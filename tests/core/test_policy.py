"""One forward of model and base: the whole objective in float64, and its symmetries, on every way of attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sft_core.config.train import LoraSection
from sft_core.model.attention import Backend, hidden_of, masks_for
from sft_core.model.held import narrow
from sft_core.model.lora import apply_lora
from sft_core.model.proof import Rows, choose_backend
from sft_core.templates.render import IGNORE, Example
from sft_core.train.objective import Term, chosen
from sft_core.train.pack import Batch, collate
from sft_core.train.policy import Policy

TIGHT = 1e-10
PACKED = Rows(packed=True, longest=40)
BACKENDS = pytest.mark.parametrize("backend", ["mask", "segments"])
Make = Callable[..., Any]


def _close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=TIGHT, atol=TIGHT)


def _batch(*rows: list[Example], width: int | None = None) -> Batch:
    return collate(rows, width or max(sum(len(e.input_ids) for e in row) for row in rows), 1)


def _double(make_llama: Make, backend: Backend = "mask", **settings: Any) -> Any:
    model = make_llama(**settings).double().eval()
    assert choose_backend(model, backend, torch.device("cpu"), torch.float64, PACKED) == backend
    return model


@BACKENDS
@pytest.mark.parametrize("shape", [{}, {"num_key_value_heads": 4}, {"attention_bias": True, "num_key_value_heads": 1},
                                   {"tie_word_embeddings": False}], ids=str)
def test_the_whole_objective_equals_the_model_s_own_logits_in_float64(
        make_llama: Make, some_example: Make, backend: Backend, shape: dict[str, Any]) -> None:
    """λ, β and the normaliser: against HF's logits, a plain shift-free cross-entropy and probabilities."""
    model, reference = _double(make_llama, backend, **shape), _double(make_llama, **shape)
    policy = Policy(model, backend=backend, reference="copy")
    assert policy.reference is not None
    for p in policy.reference.parameters():
        p.data += 0.01 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p)
    reference.load_state_dict(policy.reference.state_dict())
    sft, replay = some_example(17, range(6, 16), 1), some_example(23, None, 2)
    lambda_, beta, n = 0.3, 0.7, len(replay.input_ids) - 1
    got = policy(policy.micro(_batch([sft], width=24)), Term(1 / 10)).loss
    got = got + policy(policy.micro(_batch([replay])), Term(lambda_ / n, beta / n)).loss
    plain = _double(make_llama, **shape)

    def logits(net: Any, e: Example) -> Tensor:
        return net(input_ids=torch.tensor([e.input_ids])).logits[0]

    want = F.cross_entropy(logits(plain, sft), torch.tensor(sft.targets), ignore_index=IGNORE)
    ours = logits(plain, replay)
    want = want + lambda_ * F.cross_entropy(ours[:-1], torch.tensor(replay.input_ids[1:]))
    p, q = ours[:-1].softmax(-1), logits(reference, replay)[:-1].softmax(-1).detach()
    want = want + beta * (p * (p / q).log()).sum() / n
    _close(got.detach(), want.detach())
    got.backward()
    want.backward()
    for (name, x), y in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert x.grad is not None, name
        _close(x.grad, y.grad)


@BACKENDS
def test_padding_changes_nothing_whatever_its_id(make_llama: Make, some_example: Make, backend: Backend) -> None:
    policy = Policy(_double(make_llama, backend), backend=backend)
    e = some_example(10, seed=3)
    tight = policy(policy.micro(_batch([e])), Term()).nll
    for pad_id in (0, 1, 33):
        _close(policy(policy.micro(collate([[e]], 32, pad_id)), Term()).nll, tight)


@BACKENDS
def test_eight_micro_batches_equal_one(make_llama: Make, some_example: Make, backend: Backend) -> None:
    """Sums over the whole step with one division: rows of very different trained lengths, one of them untrained."""
    rows = [[some_example(8 + 2 * i, range(i), seed=i)] for i in range(8)]
    total = sum(t != IGNORE for row in rows for e in row for t in e.targets)

    def gradients(parts: list[list[list[Example]]]) -> tuple[float, list[Tensor]]:
        policy = Policy(_double(make_llama, backend), backend=backend)
        losses = [policy(policy.micro(_batch(*part)), Term(1 / total)).loss for part in parts]
        for loss in losses:
            loss.backward()
        return sum(loss.item() for loss in losses), [p.grad for p in policy.model.parameters() if p.grad is not None]

    eight, one = gradients([[row] for row in rows]), gradients([rows])
    assert abs(eight[0] - one[0]) < TIGHT
    for a, b in zip(eight[1], one[1], strict=True):
        _close(a, b)


@BACKENDS
def test_gradient_checkpointing_changes_nothing(make_llama: Make, some_example: Make, backend: Backend) -> None:
    def gradients(on: bool) -> list[Tensor | None]:
        model = _double(make_llama, backend).train()
        if on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy = Policy(model, backend=backend)
        policy(policy.micro(_batch([some_example(20), some_example(7)])), Term()).loss.backward()
        return [p.grad for p in model.parameters()]

    for a, b in zip(gradients(True), gradients(False), strict=True):
        assert a is not None
        assert b is not None
        _close(a, b)


@BACKENDS
def test_the_base_of_an_adapter_is_the_model_without_it(make_llama: Make, some_example: Make,
                                                        backend: Backend) -> None:
    section = LoraSection(rank=4, dropout=0.5, modules_to_save=("embed_tokens",))
    plain = _double(make_llama)
    dropping = _double(make_llama, backend, attention_dropout=0.5)
    policy = Policy(apply_lora(dropping, section, 3).double(), backend=backend, reference="copy").train()
    assert policy.reference is None
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p += 0.05 * torch.cos(torch.arange(p.numel(), dtype=p.dtype)).view_as(p)
    batch = _batch([some_example(12), some_example(7)])
    base = policy.base(policy.micro(batch))
    want = hidden_of(plain, batch.ids, batch.positions, masks_for(plain, batch.segments))
    _close(base.hidden, want.reshape(-1, 32)[chosen(batch.targets)])
    _close(base.head(base.hidden), plain.lm_head(base.hidden))
    assert policy.model.training
    assert all(p.requires_grad for n, p in policy.model.named_parameters() if "lora_" in n)
    found = policy(policy.micro(batch), Term(0.0, 1.0))
    found.loss.backward()
    assert found.kl.item() > 0


def test_a_base_in_half_precision_stays_close(make_llama: Make, some_example: Make) -> None:
    """A frozen copy whose matrices are held in bfloat16: half the memory, and still almost no KL to itself."""
    model = make_llama()
    policy = Policy(model, backend="mask", reference="copy", dtype=torch.bfloat16)
    assert policy.reference is not None
    narrow(policy.reference, torch.bfloat16)
    assert {p.dtype for p in policy.reference.parameters() if p.ndim > 1} == {torch.bfloat16}
    whole = dict(policy.model.named_buffers())
    assert all(torch.equal(b, whole[name]) for name, b in policy.reference.named_buffers()), "never rounded"
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    example = some_example(20)
    found = policy(policy.micro(_batch([example])), Term(0.0, 1.0))
    assert abs(found.kl.item()) / 19 < 2e-3
    offloaded = Policy(model, backend="mask", reference="offload").place(torch.device("cpu"))
    assert abs(offloaded(offloaded.micro(_batch([example])), Term(0.0, 1.0)).kl.item()) < 1e-5
