"""The weight files of a model's folder: whole, and in which dtype each weight lies there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from sft_core.errors import ModelError

KINDS = {torch.bfloat16: "BF16", torch.float16: "F16"}


class Stored(NamedTuple):
    """Where a weight lies."""

    file: Path
    key: str
    shape: tuple[int, ...]


def check_complete(folder: Path) -> None:
    """Config, and every weight file whole: a truncated download is found by its header, without reading it."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = _object(adapter).get("base_model_name_or_path")
        raise ModelError(f"{folder} holds an adapter for {base}, not a model; give model.path a model: the base, or "
                         "the merged folder `model` that lies beside the adapter of a finished run")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give model.path the folder of a saved model")
    for file in weight_files(folder):
        if not file.is_file():
            raise ModelError(f"{folder} is incomplete: {file.name} is missing; fetch the model again")
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            have = file.stat().st_size
            header = stream.read(size) if 8 + size <= have else b""
        if not header or have < 8 + size + _data_end(header, file):
            raise ModelError(f"{file} is cut off at {have} bytes; fetch the model again")


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype that the config tells of the weights."""
    config = _object(folder / "config.json")
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


def weight_files(folder: Path) -> Iterable[Path]:
    """The safetensors files that make up the model, whether they are there or not.

    Raises:
        ModelError: there is no such file.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{index} has no weight_map from weights to files; fetch the model again")
        return [folder / name for name in sorted(set(shards.values()))]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    other = sorted(p.name for p in folder.glob("*.bin"))
    has = f" but {', '.join(other[:3])}; load and save it once with save_pretrained to convert it" if other else ""
    raise ModelError(f"{folder} has no model.safetensors{has or '; fetch the model again'}")


def _object(file: Path) -> dict[str, Any]:
    """What a JSON file of the folder holds.

    Raises:
        ModelError: it cannot be read, or is no JSON object.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}; fetch the model again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds {type(found).__name__}, not an object of JSON; fetch the model again")
    return found


def _data_end(header: bytes, file: Path) -> int:
    try:
        tensors = json.loads(header)
        return max((t["data_offsets"][1] for n, t in tensors.items() if n != "__metadata__"), default=0)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is not a safetensors file; fetch the model again") from error
