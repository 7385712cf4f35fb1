"""The state of a run between two steps, as plain tensors: the same on one process and on many, sharded or not.

Weights and optimiser moments are keyed by parameter name and whole; so a run continues on another number of processes.
Generators are kept per process: with another number of them, dropout starts anew from the seed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class Keeper(Protocol):
    """Takes a copy of a tensor into main memory."""

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """The copy."""


def weights_of(parameters: Mapping[str, nn.Parameter], first: bool = True,
               copies: Keeper | None = None) -> dict[str, Tensor]:
    """The trained parameters, whole. With sharded ones every process must call this; the `first` gets them.

    Args:
        copies: where they are copied to; without it they are the parameters themselves, or what was gathered of them.
    """
    return {name: _whole(name, parameter.detach(), first, copies) for name, parameter in parameters.items()}


def moments_of(parameters: Mapping[str, nn.Parameter], optimizer: Any, first: bool,
               copies: Keeper | None = None) -> dict[str, dict[str, Any]]:
    """The optimiser's tensors by parameter name, whole; otherwise as `weights_of`."""
    return {name: {key: _whole(f"{name} {key}", value, first, copies)
                   for key, value in optimizer.state[parameter].items()}
            for name, parameter in parameters.items() if parameter in optimizer.state}


class Unreached:
    """The trained parameters that no gradient other than zero has reached in any step so far, whatever the optimiser.

    Only these are looked at: after the first steps nothing is left, and nothing waits for the device.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._left = dict(parameters)

    @property
    def names(self) -> list[str]:
        """Of those left; a checkpoint keeps them."""
        return list(self._left)

    def restore(self, names: Collection[str]) -> None:
        """Go on where a run had these left."""
        self._left = {name: parameter for name, parameter in self._left.items() if name in names}

    def sizes(self, like: Tensor) -> Tensor:
        """How large the gradients of a step are, [left], 0 without one; of the kind of `like` and on its device. With
        sharded parameters every process must call this."""
        sizes = [p.detach().new_zeros(()) if p.grad is None else p.grad.detach().abs().sum()
                 for p in self._left.values()]
        whole = [s.full_tensor() if isinstance(s, DTensor) else s for s in sizes]
        return torch.stack(whole).to(like) if whole else like.new_zeros(0)

    def look(self, sizes: Sequence[float]) -> None:
        """Strike out what `sizes`, read, tells of the step."""
        self._left = {name: p for (name, p), size in zip(self._left.items(), sizes, strict=True) if not size > 0}


@torch.no_grad()
def restore_weights(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Put whole tensors back into the parameters."""
    for name, parameter in parameters.items():
        parameter.copy_(_like(weights[name], parameter))


def restore_moments(parameters: Mapping[str, nn.Parameter], optimizer: Any,
                    moments: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the optimiser's tensors back."""
    for name, found in moments.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: _restored(value, parameter) for key, value in found.items()}


def generators() -> dict[str, Any]:
    """The state of this process's random generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}


def restore_generators(state: Mapping[str, Any]) -> None:
    """Continue where `generators` left off."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _whole(name: str, tensor: Any, keep: bool, copies: Keeper | None) -> Any:
    """Gathered one at a time and kept in main memory: a sharded model need not fit on one device."""
    if not isinstance(tensor, Tensor):
        return tensor
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    if not keep:
        return whole.new_empty(0)
    if copies is not None:
        return copies.of(name, whole)
    return whole.cpu() if isinstance(tensor, DTensor) else whole


def _restored(value: Any, parameter: Tensor) -> Any:
    """A number of a moment's state is what it was: bitsandbytes counts its steps in one, torch in a tensor."""
    if not isinstance(value, Tensor):
        return value
    # Of fused optimisers the count of steps lies where the parameter does, and is whole with sharded ones, too.
    return _like(value, parameter) if value.ndim else value.to(parameter.device, copy=True)


def _like(whole: Tensor, parameter: Tensor) -> Tensor:
    whole = whole.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(whole, parameter.device_mesh, parameter.placements)
    return whole
