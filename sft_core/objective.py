"""The sums that the objective is made of: negative log-likelihood and KL to the base, over selected positions only.

    L = SFT + λ · LM + β · KL(π_θ ‖ π_base)        (to be minimised)

Each term is a token mean over one whole optimiser step: this file returns sums, the trainer knows the counts of all
micro-batches before the first backward pass and divides once. Logits exist only for positions with a target, in
chunks that are recomputed in the backward pass, so that nothing of size [tokens × vocabulary] is ever held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sft_core.render import IGNORE

Head = Callable[[Tensor], Tensor]

CHUNK_LOGITS = 1 << 25
"""Logits in one chunk (128 MiB in float32); a handful of tensors of this size live at a time."""


class NllSum(NamedTuple):
    """Cross-entropy of the targets."""

    total: Tensor  # nats, summed over the targets; carries the graph
    tokens: int


class KlSum(NamedTuple):
    """KL(π_θ ‖ π_base), exact over the vocabulary."""

    total: Tensor  # nats, summed over positions; carries the graph of π_θ only
    tokens: int


class Base(NamedTuple):
    """What the base model says at the selected positions."""

    hidden: Tensor  # [n, hidden]
    head: Head


def chosen(targets: Tensor) -> Tensor:
    """Flat indices [n] of the positions that have a target, in order. `targets` is [rows, tokens], already shifted."""
    return torch.nonzero(targets.reshape(-1) != IGNORE).squeeze(1)


def nll_sum(hidden: Tensor, head: Head, targets: Tensor, chunk: int | None = None) -> NllSum:
    """Σ −log π_θ(target) in nats.

    Args:
        hidden: [n, hidden], the selected positions.
        head: the LM head, [m, hidden] → [m, vocabulary].
        targets: [n] token ids, none of them IGNORE.
        chunk: positions per chunk; by default as many as make CHUNK_LOGITS logits.
    """
    return sums(hidden, head, targets, None, chunk)[0]


def sums(hidden: Tensor, head: Head, targets: Tensor, base: Base | None,
         chunk: int | None = None) -> tuple[NllSum, KlSum | None]:
    """Σ −log π_θ(target), and with a base Σ KL(π_θ ‖ π_base), in nats, from the same logits.

    KL(π_θ ‖ π_base) = Σ_v π_θ(v) · (log π_θ(v) − log π_base(v)) per position (Kullback & Leibler 1951): zero exactly
    when both agree, positive otherwise. Softmax in float32, or in float64 when the logits are float64.

    Args:
        hidden, head, targets, chunk: see `nll_sum`.
        base: the base's hidden states at the same positions and its head; no gradient goes there.

    Returns:
        Both sums; the second is None without a base. With no position at all both totals are zero and carry a graph.
    """
    n = hidden.shape[0]
    nll, kl = _zero(hidden), _zero(hidden)
    size = chunk or n
    if chunk is None and n:
        vocabulary = _vocabulary(head, hidden)
        size = min(n, max(1, CHUNK_LOGITS // vocabulary))
    for start in range(0, n, max(1, size)):
        part = slice(start, start + size)
        reference = None if base is None else base.hidden[part]
        inputs = (hidden[part], targets[part], reference, head, None if base is None else base.head)
        if size < n and torch.is_grad_enabled():
            pair = checkpoint(_chunk, *inputs, use_reentrant=False)
        else:
            pair = _chunk(*inputs)
        nll, kl = nll + pair[0], kl + pair[1]
    return NllSum(nll, n), None if base is None else KlSum(kl, n)


def _chunk(hidden: Tensor, targets: Tensor, base_hidden: Tensor | None, head: Head,
           base_head: Head | None) -> tuple[Tensor, Tensor]:
    ours = _log_softmax(head(hidden))
    nll = F.nll_loss(ours, targets, reduction="sum")
    if base_hidden is None or base_head is None:
        return nll, nll.new_zeros(())
    with torch.no_grad():
        theirs = _log_softmax(base_head(base_hidden))
    return nll, (ours.exp() * (ours - theirs)).sum()


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def _vocabulary(head: Head, hidden: Tensor) -> int:
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor):
        return weight.shape[0]
    with torch.no_grad():
        return head(hidden[:1]).shape[-1]


def _zero(hidden: Tensor) -> Tensor:
    """Zero that hangs on the graph: a micro-batch without targets may be sent backward like any other."""
    return hidden[:0].sum(dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32)
