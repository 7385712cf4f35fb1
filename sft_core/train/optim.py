"""Optimisers and learning rate. The rate is a pure function of the step: a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from sft_core.config.train import OptimSection
from sft_core.errors import ModelError
from sft_core.train.stochastic import Stochastic


def learning_rate(section: OptimSection, step: int, total: int) -> float:
    """Rate of step `step` (0-based) of `total`.

    Warm-up over w = round(warmup_share · total) steps: lr · (step + 1) / (w + 1), a line through zero just before the
    first step. Then `constant`, `linear` or `cosine` (Loshchilov & Hutter 2017, without restarts) from lr at step w to
    zero just after the last step, so that no step is spent on a rate of zero. `wsd` is constant, and a line to zero
    over the last round(decay_share · total) steps (Hu et al. 2024), at least one and none of them in the warm-up.
    """
    warmup = warmup_steps(section, total)
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


def warmup_steps(section: OptimSection, total: int) -> int:
    """Steps of `total` over which the rate rises."""
    return min(round(section.warmup_share * total), total - 1)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimiser: one step, one state, one list of groups."""

    def __init__(self, adamw: torch.optim.AdamW, muon: torch.optim.Muon) -> None:
        self._parts = (adamw, muon)
        super().__init__([*adamw.param_groups, *muon.param_groups], {})
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both."""
        for part in self._parts:
            part.step()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `load_state_dict` puts in place, for both."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Both work on the groups and the state of this one."""
        adamw, muon = self._parts
        split = len(adamw.param_groups)
        adamw.param_groups, muon.param_groups = self.param_groups[:split], self.param_groups[split:]
        adamw.state = muon.state = self.state


def make_optimizer(section: OptimSection, parameters: Iterable[nn.Parameter],
                   layers: Sequence[nn.Module] = ()) -> torch.optim.Optimizer:
    """Fused AdamW (Loshchilov & Hutter 2019), the same with moments in 8 bits (Dettmers et al. 2022, blocks of 256;
    tensors of less than 4,096 numbers keep theirs in float32), or Muon for the matrices of `layers` and AdamW for
    everything else. Weights in bfloat16 are moved in float32 and rounded stochastically.

    Matrices are decayed; vectors (norms, biases) never. Muon is torch's, with Nesterov momentum 0.95 and five
    Newton-Schulz steps (Jordan et al. 2024, kellerjordan.github.io/posts/muon), its updates scaled to the root mean
    square of AdamW's (Liu et al. 2025, arXiv 2502.16982). Experts held as one tensor of three dimensions are AdamW's.

    Raises:
        ModelError: there is no matrix for Muon, or no bitsandbytes for moments in 8 bits.
    """
    trained = [p for p in parameters if p.requires_grad]
    if section.name != "muon":
        make = partial(_adamw if section.name == "adamw" else _adamw_8bit, section)
        return Stochastic(trained, make) if any(p.dtype == torch.bfloat16 for p in trained) else make(trained)
    matrices = hidden_matrices(layers)
    if not matrices:
        raise ModelError("train.optim.name: muon finds no matrix in this model's layers, which it does not keep in a "
                         "list of modules; use optim.name: adamw")
    chosen = set(matrices)
    muon = torch.optim.Muon(matrices, lr=section.muon_lr or section.lr, weight_decay=section.weight_decay,
                            adjust_lr_fn="match_rms_adamw")
    return MuonAdamW(_adamw(section, [p for p in trained if p not in chosen]), muon)


def hidden_matrices(layers: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The trained matrices of these layers: what Muon is for."""
    return [p for layer in layers for p in layer.parameters() if p.requires_grad and p.ndim == 2]


def set_rate(optimizer: torch.optim.Optimizer, section: OptimSection, rate: float, step: int = 0) -> None:
    """Use `rate` from the next step on, which is number `step`; Muon's keeps its proportion to it."""
    for group in optimizer.param_groups:
        if "at" in group:
            group["at"] = step
        share = (section.muon_lr or section.lr) / section.lr if "ns_steps" in group else 1.0
        group["lr"] = rate * share


def _adamw(section: OptimSection, trained: Sequence[nn.Parameter]) -> torch.optim.AdamW:
    return torch.optim.AdamW(_groups(section, trained), lr=section.lr, betas=section.betas, fused=True)


def _adamw_8bit(section: OptimSection, trained: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    if find_spec("bitsandbytes") is None:
        raise ModelError("train.optim.name: adamw_8bit needs bitsandbytes: pip install 'sft-platform[qlora]'; or use "
                         "adamw")
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(_groups(section, trained), lr=section.lr, betas=section.betas)
    return made


def _groups(section: OptimSection, trained: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    groups = [{"params": [p for p in trained if p.ndim >= 2], "weight_decay": section.weight_decay},
              {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
