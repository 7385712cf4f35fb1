"""Weights that are held in bfloat16 and trained: moved in float32, one lot after the other, and rounded at random.

A step of a small rate is less than half the distance of two bfloat16 numbers and would be lost in rounding to the
nearest; stochastic rounding keeps it in the mean (`sft_core/train/rounding.py`). The noise hangs on the step and on the
parameter's place alone, so that a resumed run draws the same again, and so does every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from sft_core.train.rounding import Form, rounded

LOT = 1 << 27
"""Weights that stand in float32 at once, with their gradients; one tensor at least."""
CHUNK = 1 << 24
"""Weights that are rounded at once."""
LOW = Form(torch.bfloat16, "stochastic")


class Stochastic(torch.optim.Optimizer):
    """An optimiser of float32 weights made to train bfloat16 ones; those of other dtypes are its own as ever."""

    def __init__(self, weights: Sequence[nn.Parameter],
                 make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]) -> None:
        self._low = [p for p in weights if p.dtype == torch.bfloat16]
        self._copies = [nn.Parameter(_nothing(p)) for p in self._low]
        self._moving = make(self._copies)
        others = [p for p in weights if p.dtype != torch.bfloat16]
        self._rest = make(others) if others else None
        groups = [*self._moving.param_groups, *(self._rest.param_groups if self._rest else ())]
        super().__init__([{**group, "at": 0} for group in groups], {})
        count = len(self._moving.param_groups)
        self._moving.param_groups = self.param_groups[:count]
        if self._rest:
            self._rest.param_groups, self._rest.state = self.param_groups[count:], self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, the number `at` of the groups (`optim.set_rate`)."""
        if self._rest:
            self._rest.step()
        for lot in self._lots():
            for place in lot:
                parameter, copy = self._low[place], self._copies[place]
                assert parameter.grad is not None
                copy.data, copy.grad = parameter.float(), parameter.grad.float()
                self._moving.state[copy] = self.state[parameter]
            self._moving.step()
            for place in lot:
                self._round(place)
                copy = self._copies[place]
                copy.data, copy.grad = _nothing(self._low[place]), None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """No gradient is left, of no weight."""
        super().zero_grad(set_to_none)
        for parameter in self._low:
            parameter.grad = None

    def _round(self, place: int) -> None:
        parameter = self._low[place]
        generator = torch.Generator(parameter.device)
        generator.manual_seed((self.param_groups[0]["at"] << 20) + place)
        moved = self._copies[place].view(-1)
        for start in range(0, len(moved), CHUNK):
            part = slice(start, start + CHUNK)
            parameter.view(-1)[part] = rounded(moved[part], LOW, generator)

    def _lots(self) -> Iterator[list[int]]:
        """Places of the weights with a gradient, as many as may stand in float32 together."""
        lot: list[int] = []
        size = 0
        for place, parameter in enumerate(self._low):
            if parameter.grad is None:
                continue
            if lot and size + parameter.numel() > LOT:
                yield lot
                lot, size = [], 0
            lot.append(place)
            size += parameter.numel()
        if lot:
            yield lot


def _nothing(parameter: nn.Parameter) -> Tensor:
    """An empty float32 tensor of as many dimensions: matrices are decayed, vectors are not."""
    return parameter.new_empty((0,) * parameter.ndim, dtype=torch.float32)
