"""Resumable checkpoints: `step-N/` with the trained weights, optimiser and generator state, and what they belong to.

A checkpoint appears whole or not at all: files are written and synced in a hidden folder that is then renamed. The
newest readable one wins; a damaged one is skipped and said; one of another configuration is an error, never resumed.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sft_core.errors import TrainingError
from sft_core.stage import read_json, write_json

NAME = re.compile(r"step-(\d+)")
WEIGHTS, STATE, META = "weights.safetensors", "state.pt", "meta.json"
DAMAGED = (OSError, ValueError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, AssertionError,
           ArithmeticError, MemoryError, SafetensorError, pickle.UnpicklingError, struct.error)
"""What reading a file of noise can raise: torch's unpickler takes its first bytes for instructions."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the rest of the run depends on, besides the inputs named by `belongs_to`."""

    step: int  # optimiser steps done
    belongs_to: Mapping[str, Any]  # JSON values: settings and inputs that must be equal on resume
    weights: Mapping[str, Tensor]  # the trained parameters by name
    state: Mapping[str, Any]  # tensors and plain values: optimiser, generators, counters


def save(root: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `root/step-N` and remove the oldest so that `keep` stay.

    Raises:
        TrainingError: the disk is full or not writable; earlier checkpoints stay.
    """
    final, draft = root / f"step-{checkpoint.step}", root / f".step-{checkpoint.step}.{os.getpid()}"
    try:
        draft.mkdir(parents=True)
        # Contiguous copies: safetensors refuses views that share memory.
        save_file({k: v.detach().cpu().contiguous() for k, v in checkpoint.weights.items()}, draft / WEIGHTS)
        torch.save(dict(checkpoint.state), draft / STATE)
        sizes = {name: (draft / name).stat().st_size for name in (WEIGHTS, STATE)}
        write_json(draft / META, {"step": checkpoint.step, "belongs_to": dict(checkpoint.belongs_to), "bytes": sizes})
        for path in (draft / WEIGHTS, draft / STATE, draft):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        sync(root)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise TrainingError(f"cannot write the checkpoint {final}: {error}; free some space and start the run again: "
                            "it continues from the checkpoint before") from error
    for old in _found(root)[keep:]:
        shutil.rmtree(old)
    return final


def load_latest(root: Path, belongs_to: Mapping[str, Any]) -> tuple[Checkpoint | None, list[str]]:
    """The newest readable checkpoint, or None, and what was skipped and why.

    Raises:
        TrainingError: the newest readable one belongs to another configuration or other inputs.
    """
    skipped: list[str] = []
    for folder in _found(root):
        try:
            meta = _checked_meta(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            skipped.append(f"{folder.name}: {error}")
            continue
        _same(folder, meta["belongs_to"], belongs_to)
        try:
            weights = load_file(folder / WEIGHTS)
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        except DAMAGED as error:
            skipped.append(f"{folder.name}: {type(error).__name__}: {error}")
            continue
        return Checkpoint(int(meta["step"]), meta["belongs_to"], weights, state), skipped
    return None, skipped


def tidy(root: Path) -> None:
    """Remove what a process that was killed while it wrote has left; for one process only."""
    for draft in root.glob(".step-*"):
        shutil.rmtree(draft)


def save_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write weights alone; the file appears whole or not at all.

    Raises:
        TrainingError: the disk is full or not writable.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, draft)
        sync(draft)
        draft.rename(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise TrainingError(f"cannot write the best weights to {file}: {error}; free some space and start the run "
                            "again") from error


def load_weights(file: Path) -> dict[str, Tensor]:
    """What `save_weights` wrote.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"the best weights in {file} cannot be read: {error}; delete {file.parent} to start "
                            "over") from error


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _found(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    matches = [(NAME.fullmatch(p.name), p) for p in root.glob("step-*")]
    return [p for _, p in sorted(((int(m[1]), p) for m, p in matches if m), reverse=True)]


def _checked_meta(folder: Path) -> dict[str, Any]:
    meta: dict[str, Any] = read_json(folder / META)
    for name, size in meta["bytes"].items():
        if (have := (folder / name).stat().st_size) != size:
            raise ValueError(f"{name} has {have} of {size} bytes")
    return meta


def _same(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    differ = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    if differ:
        told = "; ".join(f"{k} was {theirs.get(k)!r}, is {ours.get(k)!r}" for k in differ[:4])
        raise TrainingError(f"{folder} belongs to another run: {told}. Train into another folder, or delete "
                            f"{folder.parent} to start over")
