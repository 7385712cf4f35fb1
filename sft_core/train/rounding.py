"""The form in which trained weights are stored (dtype, rounding), and how much of the gain a form keeps.

Weights are trained in float32. An update smaller than half the distance of two bfloat16 numbers, which is up to 1/256
of the weight, is taken back by rounding to the nearest one; a run of a small learning rate consists of such updates.
Stochastic rounding (Gupta et al. 2015, https://arxiv.org/abs/1502.02551, section 3) keeps them in the mean and adds
noise. Which form is good enough is read from the folder itself: it is loaded anew and its validation loss compared, in
float32: products in bfloat16 round their weights to the nearest in any case and would show no difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sft_core.config.train import SaveDtype
from sft_core.errors import TrainingError

LOST = 0.1
"""Largest share of the gain that a stored model may lose."""
NOISE = 1e-4
"""Nats per token that count as nothing, however small the gain."""


class Form(NamedTuple):
    """How weights are stored."""

    dtype: torch.dtype
    rounding: Literal["nearest", "stochastic"]

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return name if self.dtype.itemsize >= torch.float32.itemsize else f"{name}, {self.rounding}"


@dataclass(frozen=True)
class Stored:
    """The model folder as a fresh reader finds it. Losses are in nats per trained token of the held-out rows, None
    where there are no such rows."""

    form: str  # dtype and, below float32, rounding
    base: float | None  # loss before the first step
    trained: float | None  # loss of the trained weights, in float32 unless the base is in 4 bits
    loss: float | None  # loss of the folder, read back
    merge_gap: float | None  # adapters: largest difference of a token's log-probability, folder against adapter
    tried: Mapping[str, float | None]  # every form that was read back, with its loss
    quantized_gap: float | None  # loss minus trained, where those were adapters on a base in 4 bits
    remark: str  # what was lost, and what to do; empty when nothing was


class Gain(NamedTuple):
    """Validation losses of a run, nats per trained token: before the first step, and of the weights that are saved."""

    base: float
    trained: float

    def lost(self, loss: float) -> float | None:
        """The share of the gain that a stored model of this loss has lost; None when it has lost too little to count.
        A loss that is not finite has lost.

        The gain is how far training has moved the loss, up or down.
        """
        gap, gain = loss - self.trained, abs(self.base - self.trained)
        if gap <= max(LOST * gain, NOISE):
            return None
        return gap / gain if gain > NOISE else math.inf


def forms(asked: SaveDtype, base: torch.dtype, measured: bool) -> tuple[Form, ...]:
    """The forms to try, in order; the first one that keeps the gain is taken, or else the one of the lowest loss.

    `auto`: the base's dtype, rounded to the nearest, then stochastically, then float32. `base`: its dtype only. Where
    nothing is measured, stochastic rounding, which on average takes nothing back.
    """
    whole = Form(torch.float32, "nearest")
    if asked == "float32":
        return (whole,)
    if base.itemsize >= torch.float32.itemsize:
        return (Form(base, "nearest"),)
    nearest, stochastic = Form(base, "nearest"), Form(base, "stochastic")
    if not measured:
        return (stochastic,)
    return (nearest, stochastic) if asked == "base" else (nearest, stochastic, whole)


def rounded(x: Tensor, form: Form, generator: torch.Generator) -> Tensor:
    """`x` (float32, on the generator's device) in the form's dtype; the same generator state gives the same result.

    Stochastically, a value becomes one of its two neighbours, the nearer one with the higher probability, so that the
    expectation is the value itself; values that the dtype can hold stay.
    """
    near = x.to(form.dtype)
    if form.rounding == "nearest":
        return near
    rest = x - near.float()
    other = torch.nextafter(near, torch.full_like(near, math.inf).copysign(rest.to(form.dtype)))
    share = rest / (other.float() - near.float())  # 0 to 1/2
    return torch.where(torch.rand(x.shape, generator=generator, device=x.device) < share, other, near)


def best(found: Mapping[Form, float], gain: Gain | None) -> Form:
    """The form to keep of those tried.

    Raises:
        TrainingError: no form has a finite loss.
    """
    last = list(found)[-1]
    if gain is None:
        return last
    losses = {form: loss for form, loss in found.items() if math.isfinite(loss)}
    if not losses:
        raise TrainingError(f"the saved weights have no finite loss in {' or '.join(map(str, found))}, the trained "
                            f"ones {gain.trained:.4f}: they do not fit into that dtype; set train.save_dtype: float32 "
                            "and start the run again, it continues from its last checkpoint")
    return last if last in losses and gain.lost(losses[last]) is None else min(losses, key=lambda form: losses[form])


def remark(form: Form, loss: float, gain: Gain | None, quantized: bool) -> str:
    """What a reader of the folder misses, and the remedy."""
    if gain is None or (share := gain.lost(loss)) is None:
        return ""
    much = f"{share:.0%} of the gain" if share <= 1 else "more than the gain"
    if quantized:
        remedy = "it was trained on a base in 4 bits and merged into the whole one: load base and adapter as trained"
    elif form.dtype.itemsize < torch.float32.itemsize:
        remedy = "set train.save_dtype: auto or float32, or train with a higher train.optim.lr"
    else:
        remedy = "trust the loss of the folder, and run `sft doctor` on this configuration"
    return (f"the saved model ({form}) has validation loss {loss:.4f}, the trained one {gain.trained:.4f}, the base "
            f"{gain.base:.4f}: {much} is lost; {remedy}")
