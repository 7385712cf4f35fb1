"""The model that is trained together with the base that it is measured against; one forward makes the sums.

The base is free for adapters (they are switched off), a frozen second copy otherwise, or its head with the states that
were kept of it earlier (`sft_core/train/reference.py`). Everything that a step computes goes through `Policy.forward`,
so that a wrapper that hooks into `forward` (DDP, FSDP) sees all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import cpu_offload
from torch import Tensor, nn

from sft_core.config.data import ModelSection
from sft_core.config.train import KlReference, TrainSection
from sft_core.model.attention import (
    HALF_ONLY,
    NAMES,
    Backend,
    Mask,
    ScaledHead,
    head_of,
    hidden_of,
    isolation,
    layers_of,
)
from sft_core.model.folder import held_dtype
from sft_core.model.held import HALVES, narrow
from sft_core.model.load import LoadedModel, compute_dtype, resolve_device
from sft_core.model.lora import adapters_of, apply_lora, new_token_modules
from sft_core.model.parts import hollow, shortened
from sft_core.model.proof import Rows, attending, choose_backend, evaluating
from sft_core.model.reach import alike, freeze, idle_modules, unreached
from sft_core.model.segments import flatten
from sft_core.model.sending import sent
from sft_core.train.objective import Base, Head, Sums, Term, chosen, sums
from sft_core.train.pack import Batch


class Micro(NamedTuple):
    """What one forward pass needs, on the device."""

    ids: Tensor  # [rows, tokens]
    positions: Tensor  # [rows, tokens], restarting at 0 per example
    mask: Mask
    places: Tensor  # [n] flat indices of the positions with a target
    targets: Tensor  # [n]
    weights: Tensor | None = None  # [n] weight of each target; None: all 1
    kept: Tensor | None = None  # [n, hidden] states of the base at these positions, where they were kept


class Policy(nn.Module):
    """The tuned model and, for the KL, its base."""

    def __init__(self, model: nn.Module, *, backend: Backend, reference: KlReference | None = None,
                 dtype: torch.dtype = torch.float32, kept_as_is: int = 0) -> None:
        """`reference`: where the base of a KL comes from, None without a KL.

        `copy` and `offload` copy the model as it is now, frozen, `cache` its head alone; with adapters nothing is
        copied. `dtype`: of the products. `kept_as_is`: how many numbers of the model text does not reach.
        """
        super().__init__()
        self.kept_as_is = kept_as_is
        self.model, self.backend = model, backend
        self.dtype = dtype
        self._adapters = adapters_of(model)
        self.reference: nn.Module | None = None
        self._offload = reference == "offload"
        if reference in ("copy", "offload") and not self._adapters:
            self.reference = copy.deepcopy(model).eval().requires_grad_(False)
        self.base_head: nn.Module | None = None
        if reference == "cache" and not self._adapters:
            self.base_head = copy.deepcopy(head_of(model)).requires_grad_(False)

    def compile_layers(self) -> None:
        """Compile every layer of the tuned model, for rows of any length."""
        for layer in layers_of(self.model):
            layer.compile(dynamic=True)

    def place(self, device: torch.device) -> Policy:
        """Bring it to the device; an offloaded base stays in main memory and is lent to the device layer by layer."""
        self.model.to(device)
        if self.reference is not None and not (self._offload and device.type == "cuda"):
            self.reference.to(device)
        elif self.reference is not None:
            cpu_offload(self.reference, execution_device=device)
        if self.base_head is not None:
            self.base_head.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.model.parameters()).device

    def micro(self, batch: Batch, weights: Tensor | None = None, kept: Tensor | None = None) -> Micro:
        """Bring a batch to the device. What is selected is found on the CPU, so that no step waits for the device.

        Args:
            weights: [n] weights of the positions that have a target, in order; None: all 1.
            kept: [n, hidden] states of the base at these positions.
        """
        ids, targets, positions, segments = batch
        if self.backend != "mask":
            places, segments = flatten(segments)
            ids, targets, positions = (x.reshape(-1)[places][None] for x in (ids, targets, positions))
        places = chosen(targets)
        targets = targets.reshape(-1).index_select(0, places)
        ids, positions, places, targets = (self._sent(x) for x in (ids, positions, places, targets))
        return Micro(ids, positions, isolation(self.model, self.backend, segments, self.device), places, targets,
                     None if weights is None else self._sent(weights),
                     None if kept is None else self._sent(kept))

    def forward(self, micro: Micro, term: Term) -> Sums:
        """The sums over the selected positions, in nats, and the graph of what `term` asks for."""
        reference = self.base(micro) if term.kl else None
        with self.autocast():
            return sums(self.selected(self.model, micro), head_of(self.model), micro.targets,
                        term._replace(weights=micro.weights), reference)

    def train(self, mode: bool = True) -> Policy:
        """Training mode for the tuned model only: the base never drops anything."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    @torch.no_grad()
    def base(self, micro: Micro) -> Base:
        """What the base says at the selected positions."""
        if micro.kept is not None:
            return Base(micro.kept, self.base_head or _frozen_head(self.model))
        # An autocast of its own: casts that were cached under no_grad carry no graph and must not be met again.
        with self.autocast():
            if self.reference is not None:
                return Base(self.selected(self.reference, micro), head_of(self.reference))
            with self._adapters_off():
                hidden = self.selected(self.model, micro)
        return Base(hidden, _frozen_head(self.model))

    @contextmanager
    def speaking(self) -> Iterator[nn.Module]:
        """The tuned model ready to generate: in evaluation mode, with the attention that a cache of keys needs."""
        inner = self._inner
        before = inner.config._attn_implementation
        with attending(inner, "sdpa" if before == NAMES[self.backend] else before), evaluating(self.model), \
                self.autocast(), torch.no_grad():
            yield self.model

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Without autocast. CUDA's kernels of a line take half precision only: `segments` is the same line in
        float32."""
        before, dtype = self.backend, self.dtype
        self.backend, self.dtype = "segments" if before in HALF_ONLY else before, torch.float32
        try:
            with attending(self._inner, NAMES[self.backend]) if self.backend != before else nullcontext():
                yield
        finally:
            self.backend, self.dtype = before, dtype

    @property
    def _inner(self) -> Any:
        """The model without the wrapper of its adapters."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def autocast(self) -> torch.autocast:
        """The precision of the matrix products."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    @staticmethod
    def selected(model: nn.Module, micro: Micro) -> Tensor:
        """Hidden states [n, hidden] of the positions with a target."""
        hidden = hidden_of(model, micro.ids, micro.positions, micro.mask)
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, micro.places)

    def _sent(self, x: Tensor) -> Tensor:
        return sent(x, self.device)

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


def make_policy(loaded: LoadedModel, model_section: ModelSection, section: TrainSection, seed: int, *,
                rows: Rows, grown: bool) -> Policy:
    """The loaded base on its device, proved, with adapters or the frozen copy that the section asks for.

    A base in parts is proved by its first layers and stays in parts: share it out, then `fill` it.

    Args:
        rows: what it will be trained on.
        grown: the vocabulary has new tokens, so that adapters need the embedding and the head in full.

    Raises:
        ModelError: no attention backend isolates, or the adapters do not fit.
    """
    device = resolve_device(model_section)
    dtype = compute_dtype(model_section, device)
    model = loaded.model if loaded.rest else loaded.model.to(device)
    with shortened(model):
        backend = choose_backend(model, model_section.attention, device, dtype, rows)
        found = unreached(model)
    idle = alike(model, found)
    kept = sum(p.numel() for name, p in model.named_parameters() if name in idle)
    freeze(model, idle)
    if section.method == "lora":
        with hollow(model, loaded.rest, device):
            model = apply_lora(model, section.lora, seed, new_token_modules(model) if grown else (),
                               idle_modules(model, idle))
    policy = Policy(model, backend=backend, reference=section.kl.reference if section.kl.beta > 0 else None,
                    dtype=dtype, kept_as_is=kept)
    held = held_dtype(loaded.folder) if dtype in HALVES else dtype
    for frozen in (policy.reference, policy.base_head):
        if frozen is not None and held in HALVES:
            narrow(frozen, held, loaded.whole)
    return policy if loaded.rest else policy.place(device)


def _frozen_head(model: nn.Module) -> Head:
    """The head of the base under adapters, with what the model does to its logits."""
    head = head_of(model)
    return ScaledHead(_unwrapped(head.head), head.factor, head.cap) if isinstance(head, ScaledHead) else (
        _unwrapped(head))


def _unwrapped(head: nn.Module) -> nn.Module:
    """It is called when adapters are on again, so what they wrap is taken out."""
    inner: nn.Module | None = getattr(head, "base_layer", None) or getattr(head, "original_module", None)
    return head if inner is None else inner
