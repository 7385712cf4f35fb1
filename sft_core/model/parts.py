"""A base of which every process loads its part: what the proof needs whole, and of all other layers a share alone.

The model begins on the meta device, as names and shapes. Its front is loaded whole: embedding, head, whatever else is
no layer, and the first layers until there has been one of every kind. The proof runs on that model of a few layers:
what keeps examples apart in one layer does so in every other of its kind, and a chain of such layers does, too. The
rest comes from the files when it is shared out, each process reading no more than its own rows (`fill`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils import swap_tensors
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights

from sft_core.config.data import ModelSection
from sft_core.model.attention import decoder_of, layers_of
from sft_core.model.folder import Stored, held_dtype, places, stored_dtype, stored_whole
from sft_core.model.held import HALVES, narrow
from sft_core.model.load import (
    UNREADABLE,
    LoadedModel,
    check_finite,
    check_tokens,
    compute_dtype,
    grow,
    load_config,
    load_tokenizer,
    locate,
    resolve_device,
)
from sft_core.model.where import check_complete

WRAPPED = re.compile(r"^base_model\.model\.|\.(base_layer|original_module|modules_to_save\.default)(?=\.)")
"""What adapters add to the names of the weights that they lie on."""


def load_in_parts(section: ModelSection, *, mirror: Path | None, added: Sequence[str] = (),
                  as_stored: bool) -> LoadedModel | None:
    """Load the front of the base onto the device; `LoadedModel.rest` tells where all other weights lie. None where the
    base must be loaded whole: see `divisible`, or a weight is not found under its name and in its shape.

    Args:
        as_stored: hold weights as `load_as_stored` does, not in float32.
        added: see `load_model`, and what it raises.
    """
    check_complete(folder := locate(section, mirror))
    if section.trust_remote_code:  # code that may not know the meta device
        return None
    config, device = load_config(section, mirror), resolve_device(section)
    try:
        with init_empty_weights(include_buffers=False), no_init_weights():
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except UNREADABLE:  # told when it is loaded whole
        return None
    model.eval().tie_weights()
    if not divisible(model) or (found := _found(model, folder)) is None:
        return None
    _set_generation(model, folder)
    dtype, whole = held_dtype(folder), stored_whole(folder)
    low = as_stored and dtype in HALVES and compute_dtype(section, device) in HALVES
    if low:
        narrow(model, dtype, whole)
    _load_front(model, found, device)
    check_finite(model, folder)
    tokenizer = load_tokenizer(section, folder)
    check_tokens(model, tokenizer, folder)
    grow(model, tokenizer, added)
    if low:
        narrow(model, dtype, whole)  # an embedding that has grown is another module
    rest = {name: found[name] for name, p in model.named_parameters() if p.is_meta}
    return LoadedModel(model, tokenizer, folder, stored_dtype(folder), whole, rest)


def divisible(model: Any) -> bool:
    """Whether every weight of the model is one of its folder as it is: neither in a format that transformers widens,
    nor one that it makes of several, as it does those of experts."""
    return getattr(model.config, "quantization_config", None) is None and not any(
        isinstance(one, WeightConverter) for one in get_model_conversion_mapping(model))


def front(model: Any) -> set[nn.Parameter]:
    """The parameters that are loaded whole: of the first layers, until there has been one of every kind, and of all
    that is no layer."""
    layers = layers_of(model)
    kinds = [_kind(layer) for layer in layers]
    count = next(n for n in range(len(kinds) + 1) if set(kinds[:n]) == set(kinds))
    first = {p for layer in layers[:count] for p in layer.parameters()}
    return set(model.parameters()) - ({p for layer in layers[count:] for p in layer.parameters()} - first)


@contextmanager
def shortened(model: Any) -> Iterator[None]:
    """The model without the layers that are on the meta device."""
    layers = layers_of(model)
    here = [layer for layer in layers if not any(p.is_meta for p in layer.parameters())]
    own = next((m for m in decoder_of(model).modules() if isinstance(m, nn.ModuleList) and list(m) == layers), None)
    if own is None or len(here) == len(layers):
        yield
        return
    del own[len(here) :]
    try:
        yield
    finally:
        own.extend(layers[len(here) :])


@contextmanager
def hollow(model: nn.Module, rest: Collection[str], device: torch.device) -> Iterator[None]:
    """The weights on the meta device as if they lay on this one, each of a single number, so that adapters that are
    laid on them lie there."""
    for p in [p for name, p in model.named_parameters() if name in rest]:
        _become(p, torch.zeros((), dtype=p.dtype, device=device).expand(p.shape))
    yield
    for p in [p for name, p in model.named_parameters() if _of_base(name) in rest]:
        _become(p, torch.empty(p.shape, dtype=p.dtype, device="meta"))


@torch.no_grad()
def fill(models: nn.Module, rest: Mapping[str, Stored]) -> None:
    """Give every weight that is shared out on the meta device this process's rows of it, in its dtype.

    Args:
        models: the module of which this model, with or without adapters, and copies of it are children.
    """
    shares: dict[str, Tensor] = {}
    for name, p in models.named_parameters():
        if isinstance(p, DTensor) and p.is_meta:
            local, mesh = p.to_local(), p.device_mesh
            begin = mesh.get_local_rank() * -(-p.shape[0] // mesh.size())  # as torch.chunk cuts
            rows = slice(begin, begin + local.shape[0])
            mine = _read(rest[_of_base(name.partition(".")[2])], torch.empty_like(local, device=mesh.device_type), rows)
            shares[name] = DTensor.from_local(mine, mesh, p.placements, run_check=False, shape=p.shape,
                                              stride=p.stride())
    models.load_state_dict(shares, strict=False, assign=True)


def _kind(layer: nn.Module) -> str:
    """What makes a layer compute as it does, but for its number."""
    def settings(module: nn.Module) -> list[tuple[str, object]]:
        return sorted((k, v) for k, v in vars(module).items()
                      if type(v) in (bool, int, float, str) and k not in ("layer_idx", "training"))

    return repr([(name, type(m).__name__, settings(m)) for name, m in layer.named_modules()]
                + [(name, p.shape) for name, p in layer.named_parameters()])


def _found(model: Any, folder: Path) -> dict[str, Stored] | None:
    """Where every weight of the model lies, by its names; None where one is missing or has another shape."""
    wanted = model.state_dict()
    renamings = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]
    found = {rename_source_key(one.key, renamings, [], model.base_model_prefix, wanted)[0]: one
             for one in places(folder)}
    tied: dict[nn.Parameter, set[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        tied.setdefault(p, set()).add(name)
    for names in tied.values():
        if one := next((found[name] for name in sorted(names) if name in found), None):
            found |= dict.fromkeys(names, one)
    return found if all(name in found and found[name].shape == tuple(t.shape) for name, t in wanted.items()) else None


@torch.no_grad()
def _load_front(model: Any, found: Mapping[str, Stored], device: torch.device) -> None:
    ours = front(model)
    for name, p in model.named_parameters():
        if p in ours:
            _become(p, _read(found[name], torch.empty(p.shape, dtype=p.dtype, device=device)))
    for name, buffer in model.named_buffers():
        buffer.data = buffer.to(device)
        if name in model.state_dict():
            _read(found[name], buffer)


def _read(stored: Stored, into: Tensor, rows: slice = slice(None)) -> Tensor:
    """These rows of a stored weight, in the tensor that is to hold them."""
    with safe_open(stored.file, "pt") as tensors:
        if into.ndim and into.numel():
            return into.copy_(tensors.get_slice(stored.key)[rows])
        return into.copy_(tensors.get_tensor(stored.key)) if into.numel() else into


def _become(parameter: nn.Parameter, tensor: Tensor) -> None:
    """Give a parameter other contents on another device, wherever it is used."""
    swap_tensors(  # type: ignore[no-untyped-call]
        parameter, nn.Parameter(tensor, requires_grad=parameter.requires_grad))


def _of_base(name: str) -> str:
    """The name of a weight in the plain model."""
    return WRAPPED.sub("", name)


def _set_generation(model: Any, folder: Path) -> None:
    try:
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:  # none: what the config says, as it is
        return
