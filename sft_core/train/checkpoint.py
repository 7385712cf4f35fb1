"""Resumable checkpoints: a folder with the trained weights, optimiser and generator state, and what they belong to.

A checkpoint appears whole or not at all: files are written and synced in a hidden folder that is then renamed. Each is
sealed by `meta.json` with the checksums of all other files. The newest whole one wins. Only what is proved damaged is
skipped, and said: a file that is missing or not the one that was written. Whatever else keeps one from being read (a
disk that does not answer, no permission, no memory) ends the run before it has changed anything. One of another
configuration is an error, never resumed.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sft_core.errors import TrainingError
from sft_core.stage import give_usual_mode, read_json, write_json

NAME = re.compile(r"(?:step|checkpoint)-(\d+)")  # of the own loop, of TRL
WEIGHTS, STATE, META = "weights.safetensors", "state.pt", "meta.json"
UNREAD = (OSError, MemoryError, RuntimeError, SafetensorError, pickle.UnpicklingError)
"""How reading a whole file can fail."""
UNWRITABLE = (OSError, RuntimeError, SafetensorError)
"""What writing to a full disk can raise: torch's own is a RuntimeError."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the rest of the run depends on, besides the inputs named by `belongs_to`."""

    step: int  # optimiser steps done
    belongs_to: Mapping[str, Any]  # JSON values: settings and inputs that must be equal on resume
    weights: Mapping[str, Tensor]  # the trained parameters by name
    state: Mapping[str, Any]  # tensors and plain values: optimiser, generators, counters


class Damaged(NamedTuple):
    """A checkpoint that is proved not to be what was written."""

    folder: Path
    why: str

    def __str__(self) -> str:
        return f"{self.folder.name}: {self.why}"


class Newest(NamedTuple):
    """The newest whole checkpoint, if there is one, and the newer ones that are damaged."""

    folder: Path | None
    damaged: tuple[Damaged, ...]


def save(root: Path, checkpoint: Checkpoint, keep: int, damaged: Sequence[Damaged] = ()) -> Path:
    """Write `root/step-N`, then remove the damaged ones and the oldest so that `keep` stay.

    Raises:
        TrainingError: the disk is full or not writable; earlier checkpoints stay.
    """
    final, draft = root / f"step-{checkpoint.step}", root / f".step-{checkpoint.step}.{os.getpid()}"
    try:
        draft.mkdir(parents=True)
        # Contiguous copies: safetensors refuses views that share memory.
        save_file({k: v.detach().cpu().contiguous() for k, v in checkpoint.weights.items()}, draft / WEIGHTS)
        torch.save(dict(checkpoint.state), draft / STATE)
        seal(draft, checkpoint.step, checkpoint.belongs_to)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        sync(root)
        prune(root, keep, [one for one in damaged if one.folder != final])
    except UNWRITABLE as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise TrainingError(f"cannot write the checkpoint {final}: {error}; free some space and start the run again: "
                            "it continues from the newest checkpoint that is whole") from error
    return final


def seal(folder: Path, step: int, belongs_to: Mapping[str, Any], **more: Any) -> None:
    """Write `meta.json`, last of all: from then on the folder is a checkpoint."""
    give_usual_mode(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != META)
    for file in files:
        sync(file)
    sums = {file.relative_to(folder).as_posix(): _checksum(file) for file in files}
    write_json(folder / META, {"step": step, "belongs_to": dict(belongs_to), "crc32": sums, **more})
    sync(folder)


def prune(root: Path, keep: int, damaged: Sequence[Damaged]) -> None:
    """Remove the damaged ones, which count for nothing, and the oldest so that `keep` stay."""
    for one in damaged:
        shutil.rmtree(one.folder)
    for old in _found(root)[keep:]:
        shutil.rmtree(old)


def newest(root: Path, belongs_to: Mapping[str, Any]) -> Newest:
    """The newest whole checkpoint, and the newer ones that are damaged.

    Raises:
        TrainingError: the newest one belongs to another configuration or other inputs, or cannot be read just now.
    """
    damaged: list[Damaged] = []
    for folder in _found(root):
        try:
            why = _damage(folder, belongs_to)
        except (OSError, MemoryError) as error:
            raise TrainingError(not_now(folder, error)) from error
        if why is None:
            return Newest(folder, tuple(damaged))
        damaged.append(Damaged(folder, why))
    return Newest(None, tuple(damaged))


def load(folder: Path) -> Checkpoint:
    """A checkpoint of the own loop that is whole.

    Raises:
        TrainingError: it cannot be read just now.
    """
    try:
        meta = read_json(folder / META)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        return Checkpoint(int(meta["step"]), meta["belongs_to"], _tensors(folder / WEIGHTS)[0], state)
    except UNREAD as error:
        raise TrainingError(not_now(folder, error)) from error


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
        whole = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
        save_file(whole, draft, {"crc32": _content(whole)})
        give_usual_mode(draft)
        sync(draft)
        draft.rename(file)
    except UNWRITABLE as error:
        draft.unlink(missing_ok=True)
        raise TrainingError(f"cannot write the best weights to {file}: {error}; free some space and start the run "
                            "again") from error


def load_weights(file: Path) -> dict[str, Tensor]:
    """What `save_weights` wrote.

    Raises:
        TrainingError: the file is missing or damaged, or cannot be read just now.
    """
    try:
        weights, told = _tensors(file)
        why = None if told.get("crc32") == _content(weights) else "its content is not what was written"
    except (FileNotFoundError, SafetensorError) as error:
        why = str(error)
    except UNREAD as error:
        raise TrainingError(not_now(file, error)) from error
    if why is not None:
        raise TrainingError(f"the best weights in {file} are damaged: {why}. No checkpoint holds them: delete "
                            f"{file.parent} to start over")
    return weights


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _found(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    matches = [(NAME.fullmatch(p.name), p) for p in root.glob("*-*")]
    return [p for _, p in sorted(((int(m[1]), p) for m, p in matches if m), reverse=True)]


def _damage(folder: Path, belongs_to: Mapping[str, Any]) -> str | None:
    """What proves that a checkpoint is not what was written; None when it is.

    Raises:
        TrainingError: it belongs to another run. OSError, MemoryError: it cannot be read.
    """
    try:
        meta = read_json(folder / META)
    except FileNotFoundError:
        return f"without {META}: it was never finished, or removed in part"
    except ValueError as error:
        return f"{META} is no JSON: {error}"
    if not isinstance(meta, dict) or not {"step", "belongs_to", "crc32"} <= meta.keys():
        raise TrainingError(f"{folder} was written by another version of this platform; train into another folder, or "
                            f"delete {folder.parent} to start over")
    _same(folder, meta["belongs_to"], belongs_to)
    for name, checksum in meta["crc32"].items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _checksum(folder / name) != checksum:
            return f"{name} is not what was written: its checksum differs"
    return None


def not_now(place: Path, error: BaseException) -> str:
    """What a run says that cannot read a checkpoint and must not take it for damaged."""
    return (f"{place} cannot be read: {type(error).__name__}: {error}. Nothing proves it damaged and nothing was "
            "changed: start the run again when the disk answers, the file may be read and there is memory for it, or "
            f"move {place} away to do without it")


def _checksum(file: Path) -> int:
    """CRC-32 of a file: three times as fast as SHA-256, and damage is no attack."""
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and what is told of them."""
    with safe_open(file, framework="pt") as stream:
        names: list[str] = stream.keys()
        return {name: stream.get_tensor(name) for name in names}, stream.metadata() or {}


def _content(weights: Mapping[str, Tensor]) -> str:
    """CRC-32 of tensors: a file cannot hold its own checksum."""
    value = 0
    for name, tensor in sorted(weights.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return str(value)


def _same(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    differ = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    if differ:
        told = "; ".join(f"{k} was {theirs.get(k)!r}, is {ours.get(k)!r}" for k in differ[:4])
        raise TrainingError(f"{folder} belongs to another run: {told}. Train into another folder, or delete "
                            f"{folder.parent} to start over")
