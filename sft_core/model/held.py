"""Weights held in the dtype in which their folder has them, with nothing computed otherwise than in float32.

Under autocast a product takes its weights in bfloat16, in whatever dtype they are held: the same numbers come out of a
base in bfloat16 as of its copy in float32. What autocast leaves alone is not narrowed (norms, biases, whatever else is
not a product's weight), and the rows of an embedding are widened on their way out, so that the states between the
layers are in float32 as ever. A folder in float32 is held in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from sft_core.config.data import ModelSection
from sft_core.model.folder import held_dtype, stored_tensors
from sft_core.model.load import LoadedModel, compute_dtype, load_model, locate, resolve_device

HALVES = (torch.bfloat16, torch.float16)


def load_as_stored(section: ModelSection, *, mirror: Path | None, added: Sequence[str] = (),
                quantize: Literal["none", "nf4"] = "none") -> LoadedModel:
    """Load a base as its folder holds it, or in float32 where the products are; see `load_model` for the arguments and
    what it raises.
    """
    low = compute_dtype(section, resolve_device(section)) in HALVES
    folder = locate(section, mirror)
    dtype = held_dtype(folder) if low else torch.float32
    loaded = load_model(section, mirror=mirror, added=added, quantize=quantize, dtype=dtype)
    if dtype in HALVES:
        weights = dict(loaded.model.named_parameters())
        for name, tensor in stored_tensors(folder, loaded.whole & weights.keys()):
            weights[name].data = tensor.to(weights[name].device)
        _widen_buffers(loaded.model, section.trust_remote_code)
        narrow(loaded.model, dtype, loaded.whole)
    for module in loaded.model.modules():  # on a CPU bitsandbytes repacks what it evaluates, and that has no gradient
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return loaded


def narrow(model: nn.Module, dtype: torch.dtype, whole: Collection[str] = ()) -> None:
    """Hold the weights of products and lookups in half precision, all others and those named in `whole` in float32; in
    place.

    Weights in 4 bits stay as they are.
    """
    # The products of experts see no autocast: in float16 they would overflow.
    low = low_weights(model, experts=dtype == torch.bfloat16)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype if parameter in low and name not in whole else torch.float32)
    for module in model.modules():
        looks_up = type(module) is nn.Embedding and module.weight.dtype in HALVES
        if looks_up and _widen not in module._forward_hooks.values():
            module.register_forward_hook(_widen)


def widen(model: nn.Module) -> None:
    """Hold all weights in float32 again, in place."""
    for parameter in model.parameters():
        if parameter.dtype in HALVES:
            parameter.data = parameter.data.float()


def held_low(model: nn.Module) -> bool:
    """Whether weights are held in less than float32, so that the model can be called under autocast alone, or in
    `AsFloat32`."""
    return any(p.dtype in HALVES or not p.is_floating_point() for p in model.parameters())


def in_4_bits(model: nn.Module) -> bool:
    """Whether weights are held in 4 bits: their products are in bfloat16 at best."""
    return not all(p.is_floating_point() for p in model.parameters())


class AsFloat32(TorchFunctionMode):
    """Within it every tensor in half precision is read as float32, one operation at a time; writing is left alone."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        """See torch.overrides."""
        if func.__name__ in ("__get__", "__set__", "requires_grad_"):
            found = func(*args, **(kwargs or {}))
            return torch.float32 if isinstance(found, torch.dtype) and found in HALVES else _wide(found)
        return func(*tree_map(_wide, args), **tree_map(_wide, kwargs or {}))


def _widen_buffers(model: Any, trust_remote_code: bool) -> None:
    """Numbers that a model makes of its config, as the scale of Gemma's embedding, are made in the dtype of its
    weights: those of a model in float32 instead, so that the merged model is what a reader of its folder gets."""
    if not any(buffer.dtype in HALVES for buffer in model.buffers()):
        return
    with init_empty_weights(include_buffers=False):
        exact = dict(AutoModelForCausalLM.from_config(
            copy.deepcopy(model.config), dtype=torch.float32, trust_remote_code=trust_remote_code).named_buffers())
    stored = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if buffer.dtype in HALVES:
            buffer.data = buffer.float() if name in stored else exact[name].to(buffer.device)


def low_weights(model: nn.Module, experts: bool) -> set[nn.Parameter]:
    """Weights that are multiplied under autocast (those of experts in one tensor too if asked for), or looked up and
    nothing more: an embedding of another class may scale its rows, and would do so in less."""
    kinds = nn.Linear | nn.Embedding | Conv1D
    scaled = {m.weight for m in model.modules() if isinstance(m, nn.Embedding) and type(m) is not nn.Embedding}
    weights = {m.weight for m in model.modules() if isinstance(m, kinds)}
    return (weights | {p for p in model.parameters() if p.ndim == 3 and experts}) - scaled


def _widen(_module: nn.Module, _arguments: Any, out: Tensor) -> Tensor:
    return out.float()


def _wide(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in HALVES else x
