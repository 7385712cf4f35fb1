"""The sums that the objective is made of: cross-entropy and KL to the base, over selected positions only.

    L = SFT + λ · LM + β · KL        (to be minimised)

Each term is a mean over one whole optimiser step: the trainer knows the counts of all micro-batches before the first
forward pass, so the division is a factor that is handed in (`Term.nll`, `Term.kl`). Logits exist only for positions
with a target, in chunks; the gradient of a chunk is formed while its logits are there, so that nothing of size
[tokens × vocabulary] is ever held and no logits are computed twice. `F.linear_cross_entropy` of torch 2.13 does the
same for plain cross-entropy and was 1.6 to 3 times slower on the CPU (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sft_core.templates.render import IGNORE

Head = Callable[[Tensor], Tensor]

CHUNK_LOGITS = {"cpu": 3 << 22, "cuda": 1 << 28}
"""Logits in one chunk (48 MiB and 1 GiB in float32); two or three tensors of this size live at a time. Each chunk adds
a gradient as large as the head's weight, which small chunks pay for more often (docs/LOG.md)."""

class Term(NamedTuple):
    """What one forward pass is to be minimised for: nll · Σ wᵢ·CEᵢ + kl · Σ KLᵢ."""

    nll: float = 1.0
    kl: float = 0.0
    weights: Tensor | None = None  # wᵢ [n]; None: all 1
    smoothing: float = 0.0
    """ε: the target distribution is (1 − ε) on the target and ε spread evenly (Szegedy et al. 2016)."""
    direction: Literal["reverse", "forward"] = "reverse"
    """KL(π_θ ‖ π_base), or KL(π_base ‖ π_θ)."""


class Base(NamedTuple):
    """What the base model says at the selected positions: its last hidden states, and the head that reads them."""

    hidden: Tensor  # [n, hidden]
    head: Head


class Sums(NamedTuple):
    """Only `loss` carries a graph. All in nats."""

    loss: Tensor  # what `Term` asks for
    nll: Tensor  # Σ wᵢ·CEᵢ
    kl: Tensor  # Σ KLᵢ; 0 without a reference


def chosen(targets: Tensor) -> Tensor:
    """Flat indices [n] of the positions that have a target, in order. `targets` is [rows, tokens], already shifted."""
    return torch.nonzero(targets.reshape(-1) != IGNORE).squeeze(1)


def sums(hidden: Tensor, head: Head, targets: Tensor, term: Term, reference: Base | None = None,
         chunk: int | None = None) -> Sums:
    """Cross-entropy and KL of the selected positions with the gradient that `term` asks for.

    Softmax in float32, or in float64 when the logits are float64. No position at all gives zeros that can be sent
    backward like any other.

    Args:
        hidden: [n, hidden], the selected positions.
        head: the LM head, [m, hidden] → [m, vocabulary].
        targets: [n] token ids, none of them IGNORE.
        reference: the base; needed for KL. No gradient goes there.
        chunk: positions per chunk; by default as many as make CHUNK_LOGITS logits.
    """
    module = head if isinstance(head, nn.Module) else nn.Module()
    parameters = [p for p in module.parameters() if p.requires_grad]
    size = chunk or max(1, CHUNK_LOGITS[hidden.device.type] // _vocabulary(head, hidden))
    work = _Work(head, targets, term, reference, size)
    if torch.is_grad_enabled():
        loss, *rest = _Objective.apply(work, hidden, *parameters)  # type: ignore[no-untyped-call]
    else:
        loss, *rest = _run(work, hidden, None)
    return Sums(loss, *rest)


class _Work(NamedTuple):
    head: Head
    targets: Tensor
    term: Term
    reference: Base | None
    chunk: int


class _Objective(torch.autograd.Function):
    """Forward makes the sums and, beside them, the gradients of `loss`; backward only hands them out."""

    @staticmethod
    def forward(ctx: Any, work: _Work, hidden: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        plain = type(work.head) is nn.Linear
        maker: Any = _LinearGradients if plain else _AnyGradients
        gradients = maker(work.head, hidden, parameters)
        result = _run(work, hidden, gradients)
        ctx.gradients = (gradients.hidden, *gradients.parameters)
        ctx.mark_non_differentiable(*result[1:])
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.gradients = ctx.gradients, None  # scaled in place: a copy would be one more vocabulary × hidden
        if found is None:
            raise RuntimeError("the sums were sent backward twice; retain_graph is not for them")
        if grad.is_cpu and grad == 1.0:  # on CUDA the question would wait for the device
            return (None, *found)
        return (None, *(gradient.mul_(grad) for gradient in found))


class _AnyGradients:
    """Gradients with respect to the hidden states and the parameters of any head, chunk by chunk."""

    def __init__(self, head: Head, hidden: Tensor, parameters: tuple[Tensor, ...]) -> None:
        self._head, self._inputs = head, parameters
        self.hidden = torch.zeros_like(hidden)
        self.parameters = [torch.zeros_like(p) for p in parameters]
        self._pending: tuple[Tensor, Tensor] | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of one chunk, remembered for `add`."""
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            self._pending = leaf, self._head(leaf)
        return self._pending[1].detach()

    def add(self, part: slice, grad: Tensor) -> None:
        """Send the gradient of the chunk's logits on."""
        assert self._pending is not None, "logits() comes first"
        leaf, logits = self._pending
        first, *rest = torch.autograd.grad(logits, [leaf, *self._inputs], grad.to(logits.dtype))
        self.hidden[part] = first
        for total, found in zip(self.parameters, rest, strict=True):
            total += found


class _LinearGradients:
    """The same for a plain linear head, without a graph, adding up in place."""

    def __init__(self, head: nn.Linear, hidden: Tensor, parameters: tuple[Tensor, ...]) -> None:
        dtype = head.weight.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        self._weight = head.weight.detach().to(dtype)
        self._bias = None if head.bias is None else head.bias.detach().to(dtype)
        self.hidden = torch.zeros_like(hidden)
        self._wanted = [p is head.weight for p in parameters]
        self.parameters = [torch.zeros_like(p) for p in parameters]
        self._chunk = hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of one chunk, remembered for `add`."""
        self._chunk = hidden.detach().to(self._weight.dtype)
        return nn.functional.linear(self._chunk, self._weight, self._bias)

    def add(self, part: slice, grad: Tensor) -> None:
        """Send the gradient of the chunk's logits on."""
        low = grad.to(self._weight.dtype)
        self.hidden[part] = low @ self._weight
        for is_weight, total in zip(self._wanted, self.parameters, strict=True):
            if not is_weight:
                total += grad.sum(0)
            elif total.dtype == low.dtype:
                total.addmm_(low.T, self._chunk)
            else:
                total += low.T @ self._chunk


@torch.no_grad()
def _run(work: _Work, hidden: Tensor, gradients: _AnyGradients | _LinearGradients | None) -> tuple[Tensor, ...]:
    n, dtype = hidden.shape[0], torch.float64 if hidden.dtype == torch.float64 else torch.float32
    zero = torch.zeros((), dtype=dtype, device=hidden.device)
    nll = kl = zero
    for start in range(0, n, work.chunk):
        part = slice(start, start + work.chunk)
        logits = work.head(hidden[part]) if gradients is None else gradients.logits(hidden[part])
        ours = _log_softmax(logits)
        del logits
        more = None
        if work.reference is not None:
            drift, more = _exact(ours, work.reference, part, work.term)
            kl = kl + drift
        loss, slope = _cross_entropy(ours, work.targets[part], work.term, part)
        nll = nll + loss
        if gradients is not None:
            gradients.add(part, _gradient(ours, slope, more))
    return work.term.nll * nll + work.term.kl * kl, nll, kl


class _Slope(NamedTuple):
    """A gradient with respect to logits that is a·p + b at every token, and something more at one."""

    a: Tensor  # [m]
    b: Tensor | None  # [m]
    at: Tensor  # [m, 1]
    more: Tensor  # [m, 1]


def _gradient(ours: Tensor, slope: _Slope, dense: Tensor | None) -> Tensor:
    """The sum of a slope and of a dense gradient [m, vocabulary]; uses `ours`, the log-probabilities, up."""
    grad = ours.exp_().mul_(slope.a[:, None])
    grad.scatter_add_(1, slope.at, slope.more)
    if slope.b is not None:
        grad.add_(slope.b[:, None])
    return grad if dense is None else grad.add_(dense)


def _cross_entropy(ours: Tensor, targets: Tensor, term: Term, part: slice) -> tuple[Tensor, _Slope]:
    """Σ wᵢ·CEᵢ and the slope of `term.nll` times it: w · (p − target distribution)."""
    at, smoothing = targets[:, None], term.smoothing
    loss = -ours.gather(1, at).squeeze(1)
    if smoothing:
        loss = (1.0 - smoothing) * loss - smoothing * ours.mean(-1)
    weights = torch.ones_like(loss) if term.weights is None else term.weights[part].to(loss)
    scale = term.nll * weights
    even = -scale * (smoothing / ours.shape[-1]) if smoothing else None
    return (loss * weights).sum(), _Slope(scale, even, at, scale[:, None] * (smoothing - 1.0))


def _exact(ours: Tensor, base: Base, part: slice, term: Term) -> tuple[Tensor, Tensor]:
    """Σ KLᵢ and the gradient [m, vocabulary] of `term.kl` times it."""
    theirs = _log_softmax(base.head(base.hidden[part]))
    p = ours.exp()
    if term.direction == "forward":
        q = theirs.exp()
        return (q * theirs.sub_(ours)).sum(), p.sub_(q).mul_(term.kl)
    gap = theirs.neg_().add_(ours)
    kl = (p * gap).sum(-1, keepdim=True)
    # d/dz Σ p·(log p − log q) = p · (log p − log q − KL): the derivative of log p itself adds up to zero.
    return kl.sum(), gap.sub_(kl).mul_(p).mul_(term.kl)


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, -1, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)


def _vocabulary(head: Head, hidden: Tensor) -> int:
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor):
        return weight.shape[0]
    with torch.no_grad():
        return head(hidden.new_zeros(1, hidden.shape[-1])).shape[-1]
