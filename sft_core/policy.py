"""The model that is trained together with the base that it is measured against; one forward makes the sums.

The base is free for adapters (they are switched off) and a frozen second copy otherwise. Everything that a step
computes goes through `Policy.forward`, so that a wrapper that hooks into `forward` (DDP, FSDP) sees all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from sft_core.attention import Mask, hidden_of, masks_for
from sft_core.objective import Base, Head, KlSum, NllSum, chosen, sums
from sft_core.pack import Batch


class Micro(NamedTuple):
    """What one forward pass needs, on the device."""

    ids: Tensor  # [rows, tokens]
    positions: Tensor  # [rows, tokens], restarting at 0 per example
    mask: Mask
    places: Tensor  # [n] flat indices of the positions with a target
    targets: Tensor  # [n]


class Policy(nn.Module):
    """The tuned model and, for the KL, its base."""

    def __init__(self, model: nn.Module, *, keep_base: bool, dtype: torch.dtype = torch.float32) -> None:
        """`keep_base`: the KL is wanted. Without adapters this copies the model, frozen, as it is now."""
        super().__init__()
        self.model = model
        self._dtype = dtype
        self._adapters = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
        self.reference: nn.Module | None = None
        if keep_base and not self._adapters:
            self.reference = copy.deepcopy(model).eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.model.parameters()).device

    def micro(self, batch: Batch) -> Micro:
        """Bring a batch to the device. What is selected is found on the CPU, so that no step waits for the device."""
        places = chosen(batch.targets)
        targets = batch.targets.reshape(-1).index_select(0, places)
        parts = (batch.ids, batch.positions, batch.segments, places, targets)
        ids, positions, segments, places, targets = (t.to(self.device, non_blocking=True) for t in parts)
        return Micro(ids, positions, masks_for(self.model, segments), places, targets)

    def forward(self, micro: Micro, with_kl: bool) -> tuple[NllSum, KlSum | None]:
        """Sums of negative log-likelihood and, on request, KL to the base over the selected positions, in nats."""
        base = self._base(micro) if with_kl else None
        with self._autocast():
            hidden = self._selected(self.model, micro)
            return sums(hidden, self._head(self.model), micro.targets, base)

    def train(self, mode: bool = True) -> Policy:
        """Training mode for the tuned model only: the base never drops anything."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    @torch.no_grad()
    def _base(self, micro: Micro) -> Base:
        # An autocast of its own: casts that were cached under no_grad carry no graph and must not be met again.
        with self._autocast():
            if self.reference is not None:
                return Base(self._selected(self.reference, micro), self._head(self.reference))
            with self._adapters_off():
                hidden = self._selected(self.model, micro)
        head = self._head(self.model)
        # The head is called again when chunks are recomputed, with adapters on: take the frozen one inside.
        return Base(hidden, getattr(head, "base_layer", None) or getattr(head, "original_module", None) or head)

    @contextmanager
    def _adapters_off(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        for adapter in self._adapters:
            adapter.enable_adapters(False)
        try:
            yield
        finally:
            for adapter in self._adapters:
                adapter.enable_adapters(True)
            self.model.train(was_training)

    @staticmethod
    def _head(model: nn.Module) -> Head:
        head: Head = model.get_output_embeddings()  # type: ignore[operator]
        return head

    @staticmethod
    def _selected(model: nn.Module, micro: Micro) -> Tensor:
        hidden = hidden_of(model, micro.ids, micro.positions, micro.mask)
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, micro.places)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16)
