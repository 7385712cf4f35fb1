"""The weight files of a model's folder: in which dtype each weight lies there."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from sft_core.model.where import read_object, weight_files

KINDS = {torch.bfloat16: "BF16", torch.float16: "F16"}


class Stored(NamedTuple):
    """Where a weight lies."""

    file: Path
    key: str
    shape: tuple[int, ...]


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype that the config tells of the weights."""
    config = read_object(folder / "config.json")
    found = getattr(torch, str(config.get("dtype", config.get("torch_dtype", "float32"))), torch.float32)
    return found if isinstance(found, torch.dtype) and found.is_floating_point else torch.float32


def held_dtype(folder: Path) -> torch.dtype:
    """The dtype in which a copy of these weights loses nothing: the stored one where there is such a weight, else
    float32."""
    told = stored_dtype(folder)
    return told if KINDS.get(told) in _kinds(folder).values() else torch.float32


def stored_tensors(folder: Path, names: Set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """These weights as they lie there."""
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            for name in names & set(tensors.keys()):
                yield name, tensors.get_tensor(name)


def places(folder: Path) -> Iterator[Stored]:
    """Every weight of the folder; none is read."""
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                yield Stored(file, key, tuple(tensors.get_slice(key).get_shape()))


def stored_whole(folder: Path) -> frozenset[str]:
    """Names of the weights in float32 beside others in less: what must not be rounded, as the bias of DeepSeek-V3's
    router, whose differences decide. A folder that is in float32 throughout has none."""
    kinds = _kinds(folder)
    whole = frozenset(name for name, kind in kinds.items() if kind == "F32")
    return whole if len(whole) < len(kinds) else frozenset()


def _kinds(folder: Path) -> dict[str, str]:
    """Name of every weight → its dtype as safetensors writes it."""
    kinds: dict[str, str] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            kinds |= {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return kinds
