"""The objective against naive references in float64, forward and backward, and its symmetries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from sft_core import objective
from sft_core.attention import block_causal_mask, hidden_of, masks_for, prove
from sft_core.config.train import LoraSection
from sft_core.conversation import Origin
from sft_core.errors import ModelError
from sft_core.models import apply_lora
from sft_core.objective import Base, chosen, nll_sum, sums
from sft_core.pack import Batch, collate
from sft_core.policy import Policy
from sft_core.render import IGNORE, Example

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


def _naive(hidden: Tensor, head: nn.Linear, targets: Tensor, base_hidden: Tensor,
           base_head: nn.Linear) -> tuple[Tensor, Tensor]:
    """Token by token, from probabilities, as the formulas stand."""
    nll = kl = torch.zeros((), dtype=torch.float64)
    for h, t, b in zip(hidden, targets, base_hidden, strict=True):
        p = torch.exp(h @ head.weight.T + head.bias)
        p = p / p.sum()
        q = torch.exp(b @ base_head.weight.T + base_head.bias)
        q = (q / q.sum()).detach()
        nll = nll - torch.log(p[t])
        kl = kl + sum(p[v] * torch.log(p[v] / q[v]) for v in range(VOCABULARY))
    return nll, kl


@pytest.mark.parametrize("chunk", [None, 1, 3, 7, 11, 50])
@pytest.mark.parametrize("n", [1, 2, N])
def test_sums_and_gradients_equal_a_naive_reference(n: int, chunk: int | None) -> None:
    hidden, head, targets, base_hidden, base_head = _case(n)
    inputs = (hidden, head.weight, head.bias)
    nll, kl = sums(hidden, head, targets, Base(base_hidden, base_head), chunk)
    assert kl is not None
    assert (nll.tokens, kl.tokens) == (n, n)
    want_nll, want_kl = _naive(hidden, head, targets, base_hidden, base_head)
    _close(nll.total, want_nll)
    _close(kl.total, want_kl)
    for got, want in ((nll.total, want_nll), (kl.total, want_kl)):
        for a, b in zip(torch.autograd.grad(got, inputs, retain_graph=True),
                        torch.autograd.grad(want, inputs, retain_graph=True), strict=True):
            _close(a, b)


def test_no_position_gives_zero_that_can_go_backward() -> None:
    hidden, head, targets, base_hidden, base_head = _case(0)
    nll, kl = sums(hidden, head, targets, Base(base_hidden, base_head))
    assert kl is not None
    assert (nll.total.item(), nll.tokens, kl.total.item(), kl.tokens) == (0.0, 0, 0.0, 0)
    (nll.total + kl.total).backward()
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_a_base_gets_no_gradient_and_equal_models_have_no_divergence() -> None:
    hidden, head, targets, base_hidden, base_head = _case(5)
    base_hidden.requires_grad_()
    _, kl = sums(hidden, head, targets, Base(base_hidden, base_head))
    assert kl is not None
    kl.total.backward()
    assert base_hidden.grad is None
    assert base_head.weight.grad is None
    assert kl.total.item() > 0.1
    _, none = sums(hidden, head, targets, Base(hidden.detach(), head))
    assert none is not None
    assert abs(none.total.item()) < TIGHT


def test_kl_has_the_direction_tuned_to_base() -> None:
    """KL(p‖q) ≠ KL(q‖p); the value for p = (¾, ¼), q = (½, ½) is known by hand."""
    p, q = nn.Linear(1, 2, dtype=torch.float64), nn.Linear(1, 2, dtype=torch.float64)
    for head, odds in ((p, 3.0), (q, 1.0)):
        head.weight.data.zero_()
        head.bias.data = torch.tensor([odds, 1.0], dtype=torch.float64).log()
    x = torch.zeros(1, 1, dtype=torch.float64)
    _, kl = sums(x, p, torch.tensor([0]), Base(x, q))
    assert kl is not None
    want = 0.75 * torch.tensor(1.5, dtype=torch.float64).log() + 0.25 * torch.tensor(0.5, dtype=torch.float64).log()
    _close(kl.total.detach(), want)


def test_softmax_of_half_precision_logits_is_done_in_float32() -> None:
    hidden, head, targets, *_ = _case(4)
    hidden, head = hidden.detach().bfloat16(), head.bfloat16()
    want = F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    torch.testing.assert_close(nll_sum(hidden, head, targets).total, want, rtol=1e-6, atol=1e-6)


def test_logits_exist_only_for_chosen_positions_and_in_chunks(monkeypatch: pytest.MonkeyPatch,
                                                              make_llama: Callable[..., Any]) -> None:
    policy = Policy(make_llama(), keep_base=True)
    asked: list[int] = []
    head = policy.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, out: asked.append(args[0].shape[0]))
    monkeypatch.setattr(objective, "CHUNK_LOGITS", 64 * 4)
    batch = _batch([_example(20, trained=range(3, 9))])
    nll, _ = policy(policy.micro(batch), True)
    assert nll.tokens == 6
    assert asked == [4, 2]
    assert batch.ids.numel() == 20


# Symmetries of the whole forward


def _example(length: int, trained: range | None = None, seed: int = 0) -> Example:
    g = torch.Generator().manual_seed(seed * 1000 + length)
    ids = torch.randint(4, 64, (length,), generator=g).tolist()
    wanted = range(length - 1) if trained is None else trained
    targets = [ids[i + 1] if i in wanted and i + 1 < length else IGNORE for i in range(length)]
    return Example(ids, targets, Origin("s", "f", seed + 1))


def _batch(*rows: list[Example], width: int | None = None) -> Batch:
    return collate(rows, width or max(sum(len(e.input_ids) for e in row) for row in rows), 1)


def _double(make_llama: Callable[..., Any], **settings: Any) -> Any:
    return make_llama(**settings).double().eval()


def test_the_whole_objective_equals_the_model_s_own_logits_in_float64(make_llama: Callable[..., Any]) -> None:
    """λ, β and the normaliser: against HF's logits, a plain shift-free cross-entropy and probabilities."""
    model, reference = _double(make_llama), _double(make_llama)
    policy = Policy(model, keep_base=True)
    assert policy.reference is not None
    for p in policy.reference.parameters():
        p.data += 0.01 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p)
    reference.load_state_dict(policy.reference.state_dict())
    sft, replay = _example(17, range(6, 16), 1), _example(23, None, 2)
    lambda_, beta = 0.3, 0.7
    a, _ = policy(policy.micro(_batch([sft], width=24)), False)
    b, kl = policy(policy.micro(_batch([replay])), True)
    got = a.total / a.tokens + lambda_ * b.total / b.tokens + beta * kl.total / kl.tokens
    plain = _double(make_llama)

    def logits(net: Any, e: Example) -> Tensor:
        return net(input_ids=torch.tensor([e.input_ids])).logits[0]

    want = F.cross_entropy(logits(plain, sft), torch.tensor(sft.targets), ignore_index=IGNORE)
    ours = logits(plain, replay)
    want = want + lambda_ * F.cross_entropy(ours[:-1], torch.tensor(replay.input_ids[1:]))
    p, q = ours[:-1].softmax(-1), logits(reference, replay)[:-1].softmax(-1).detach()
    want = want + beta * (p * (p / q).log()).sum() / (len(replay.input_ids) - 1)
    _close(got.detach(), want.detach())
    got.backward()
    want.backward()
    for (name, x), y in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert x.grad is not None, name
        _close(x.grad, y.grad)


@pytest.mark.parametrize("sliding", [False, True])
def test_packed_equals_alone(make_llama: Callable[..., Any], sliding: bool) -> None:
    model = _sliding() if sliding else _double(make_llama)
    a, b, c = (_example(n, seed=n) for n in (9, 5, 12))
    policy = Policy(model, keep_base=False)
    packed, _ = policy(policy.micro(_batch([a, b, c], [c, b], width=40)), False)
    alone = [policy(policy.micro(_batch([e])), False)[0] for e in (a, b, c, c, b)]
    assert packed.tokens == sum(x.tokens for x in alone)
    want = torch.stack([x.total for x in alone]).sum()
    _close(packed.total, want)
    for got, ref in zip(torch.autograd.grad(packed.total, model.parameters()),
                        torch.autograd.grad(want, model.parameters()), strict=True):
        _close(got, ref)


def _sliding() -> Any:
    """A model with sliding layers: Llama has none in transformers, Qwen3 takes the dict of masks."""
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
                         use_sliding_window=True, sliding_window=5, attn_implementation="sdpa",
                         layer_types=["sliding_attention", "full_attention"], initializer_range=0.2)
    return Qwen3ForCausalLM(config).double().eval()


def test_sliding_layers_keep_their_window() -> None:
    """Our masks give what the model itself computes for a row longer than its window."""
    model = _sliding()
    ids = torch.randint(4, 64, (1, 30))
    ours = hidden_of(model, ids, torch.arange(30)[None], masks_for(model, torch.ones_like(ids)))
    _close(ours, model.model(input_ids=ids).last_hidden_state)
    full = hidden_of(model, ids, torch.arange(30)[None], block_causal_mask(torch.ones_like(ids)))
    assert not torch.allclose(full, ours)


def test_changing_a_neighbour_does_not_move_an_example(make_llama: Callable[..., Any]) -> None:
    model = _double(make_llama)
    b = _example(10, seed=3)

    def hidden_of_b(neighbour: Example) -> Tensor:
        batch = _batch([neighbour, b], width=30)
        mask = masks_for(model, batch.segments)
        return hidden_of(model, batch.ids, batch.positions, mask)[0, 12:22]

    with torch.no_grad():
        assert torch.equal(hidden_of_b(_example(12, seed=4)), hidden_of_b(_example(12, seed=5)))


def test_padding_changes_nothing_whatever_its_id(make_llama: Callable[..., Any]) -> None:
    policy = Policy(_double(make_llama), keep_base=False)
    e = _example(10, seed=3)
    tight, _ = policy(policy.micro(_batch([e])), False)
    for pad_id in (0, 1, 33):
        wide, _ = policy(policy.micro(collate([[e]], 32, pad_id)), False)
        _close(wide.total, tight.total)


def test_eight_micro_batches_equal_one(make_llama: Callable[..., Any]) -> None:
    """Sums over the whole step with one division: rows of very different trained lengths, one of them untrained."""
    rows = [[_example(8 + 2 * i, range(i), seed=i)] for i in range(8)]
    total = sum(t != IGNORE for row in rows for e in row for t in e.targets)

    def gradients(parts: list[list[list[Example]]]) -> tuple[float, list[Tensor]]:
        policy = Policy(_double(make_llama), keep_base=False)
        loss = 0.0
        for part in parts:
            nll, _ = policy(policy.micro(_batch(*part)), False)
            (nll.total / total).backward()
            loss += nll.total.item() / total
        return loss, [p.grad for p in policy.model.parameters() if p.grad is not None]

    eight, one = gradients([[row] for row in rows]), gradients([rows])
    assert abs(eight[0] - one[0]) < TIGHT
    for a, b in zip(eight[1], one[1], strict=True):
        _close(a, b)


def test_gradient_checkpointing_changes_nothing(make_llama: Callable[..., Any]) -> None:
    def gradients(on: bool) -> list[Tensor | None]:
        model = make_llama().double().train()
        if on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy = Policy(model, keep_base=False)
        nll, _ = policy(policy.micro(_batch([_example(20)])), False)
        nll.total.backward()
        return [p.grad for p in model.parameters()]

    for a, b in zip(gradients(True), gradients(False), strict=True):
        assert a is not None
        assert b is not None
        _close(a, b)


def test_chosen_skips_exactly_the_ignored() -> None:
    assert chosen(torch.tensor([[IGNORE, 5, IGNORE], [0, IGNORE, 1]])).tolist() == [1, 3, 5]
    assert chosen(torch.full((2, 2), IGNORE)).tolist() == []


def test_the_base_of_an_adapter_is_the_model_without_it(make_llama: Callable[..., Any]) -> None:
    section = LoraSection(rank=4, dropout=0.5, modules_to_save=("embed_tokens",))
    plain = _double(make_llama)
    dropping = make_llama(attention_dropout=0.5).double()
    policy = Policy(apply_lora(dropping, section, 3).double(), keep_base=True).train()
    assert policy.reference is None
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p += 0.05 * torch.cos(torch.arange(p.numel(), dtype=p.dtype)).view_as(p)
    batch = _batch([_example(12), _example(7)])
    base = policy._base(policy.micro(batch))
    want = hidden_of(plain, batch.ids, batch.positions, masks_for(plain, batch.segments))
    _close(base.hidden, want.reshape(-1, 32)[chosen(batch.targets)])
    _close(base.head(base.hidden), plain.lm_head(base.hidden))
    assert policy.model.training
    assert all(p.requires_grad for n, p in policy.model.named_parameters() if "lora_" in n)
    _, kl = policy(policy.micro(batch), True)
    kl.total.backward()
    assert kl.total.item() > 0


# The proof that a base is trainable as the objective needs it


def test_a_model_is_proved(make_llama: Callable[..., Any]) -> None:
    prove(make_llama())


def test_a_model_that_scales_its_logits_is_refused(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    inner = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        out.logits = 30 * torch.tanh(out.logits / 30)
        return out

    model.forward = scaled
    with pytest.raises(ModelError, match="soft-capping"):
        prove(model)


def test_a_model_that_ignores_the_mask_is_refused(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    decoder = model.get_decoder()
    inner = decoder.forward

    def plain_causal(**kwargs: Any) -> Any:
        mask = kwargs["attention_mask"]
        return inner(**{**kwargs, "attention_mask": None if mask is None else torch.ones_like(mask).tril()})

    decoder.forward = plain_causal
    with pytest.raises(ModelError, match="see each other"):
        prove(model)


def test_a_model_that_ignores_positions_is_refused() -> None:
    """Rotary positions are relative, so only a model with absolute ones can show a missing restart."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0,
                                       eos_token_id=0, initializer_range=0.2, attn_implementation="sdpa"))
    prove(model)
    decoder = model.get_decoder()
    inner = decoder.forward
    decoder.forward = lambda *args, **kwargs: inner(*args, **{**kwargs, "position_ids": None})
    with pytest.raises(ModelError, match="see each other"):
        prove(model)


def test_layers_without_a_mask_are_refused(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ModelError, match="linear_attention"):
        prove(model)
