"""Optimiser and learning rate. The rate is a pure function of the step: a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from sft_core.config.train import OptimSection


def learning_rate(section: OptimSection, step: int, total: int) -> float:
    """Rate of step `step` (0-based) of `total`.

    Warm-up over w = round(warmup_share · total) steps: lr · (step + 1) / (w + 1), a line through zero just before the
    first step. Then `constant`, `linear` or `cosine` (Loshchilov & Hutter 2017, without restarts) from lr at step w to
    zero just after the last step, so that no step is spent on a rate of zero. `wsd` is constant, and a line to zero
    over the last round(decay_share · total) steps (Hu et al. 2024), at least one and none of them in the warm-up.
    """
    warmup = min(round(section.warmup_share * total), total - 1)
    if step < warmup:
        return section.lr * (step + 1) / (warmup + 1)
    start = warmup
    if section.schedule == "wsd":
        start = max(warmup, total - max(1, round(section.decay_share * total)))
    way = max(0.0, (step - start) / (total - start))
    if section.schedule in ("linear", "wsd"):
        return section.lr * (1.0 - way)
    if section.schedule == "cosine":
        return section.lr * 0.5 * (1.0 + math.cos(math.pi * way))
    return section.lr


def make_optimizer(section: OptimSection, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov & Hutter 2019). Matrices are decayed; vectors (norms, biases) never."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim >= 2], "weight_decay": section.weight_decay},
              {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=section.lr, betas=section.betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
