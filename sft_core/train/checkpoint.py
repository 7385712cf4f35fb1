"""Resumable checkpoints: a folder with the trained weights, optimiser and generator state, and what they belong to.

A checkpoint appears whole or not at all: files are written and synced in a hidden folder that is then renamed. Each is
sealed by `meta.json` with the checksums of all other files and of its own content. The newest whole one wins. Only what
is proved damaged is skipped, and said: a file that is missing or not the one that was written. Whatever else keeps one
from being read (a disk that does not answer, no permission, no memory) ends the run before it has changed anything, and
so does a folder of checkpoints that cannot be listed or has lost all that the diary tells of. One of another
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

from sft_core.errors import DamagedFile, TrainingError, disk_advice
from sft_core.stage import canonical, give_usual_mode, read_json, sync, write_json
from sft_core.train.events import EVENTS

NAME = re.compile(r"(?:step|checkpoint)-\d+")  # of the own loop, of TRL
WEIGHTS, STATE, META = "weights.safetensors", "state.pt", "meta.json"
SAVED = (b'{"event": "checkpoint"', b'{"event": "resume"')
"""How lines of the diary begin that tell of a checkpoint."""
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
        raise TrainingError(f"cannot write the checkpoint {final}: {error}; {disk_advice(error)} and start the run "
                            "again: it continues from the newest checkpoint that is whole") from error
    return final


def seal(folder: Path, step: int, belongs_to: Mapping[str, Any], **more: Any) -> None:
    """Write `meta.json`, last of all: from then on the folder is a checkpoint."""
    give_usual_mode(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != META)
    for file in files:
        sync(file)
    sums = {file.relative_to(folder).as_posix(): _checksum(file) for file in files}
    content = {"step": step, "belongs_to": dict(belongs_to), "files": sums, **more}
    write_json(folder / META, {"content": content, "crc32": _json_checksum(content)})
    sync(folder)


def prune(root: Path, keep: int, damaged: Sequence[Damaged]) -> None:
    """Remove the damaged ones, which count for nothing, and the oldest so that `keep` stay."""
    for one in damaged:
        shutil.rmtree(one.folder)
    for old in found(root)[keep:]:
        shutil.rmtree(old)


def newest(root: Path, belongs_to: Mapping[str, Any]) -> Newest:
    """The newest whole checkpoint, and the newer ones that are damaged.

    Raises:
        TrainingError: the newest one belongs to another configuration or other inputs, or cannot be read just now; or
            there is none, damaged or not, and `events.jsonl` beside `root` tells of one.
    """
    damaged: list[Damaged] = []
    try:
        folders = found(root)
        if not folders:
            _check_none_lost(root)
    except OSError as error:
        raise TrainingError(not_now(root, error)) from error
    for folder in folders:
        try:
            why = _damage(folder, belongs_to)
        except (OSError, MemoryError) as error:
            raise TrainingError(not_now(folder, error)) from error
        if why is None:
            return Newest(folder, tuple(damaged))
        damaged.append(Damaged(folder, why))
    return Newest(None, tuple(damaged))


def found(root: Path) -> list[Path]:
    """Checkpoint folders, newest first; none where `root` does not exist.

    Raises:
        OSError: `root` cannot be listed, or is a link that leads nowhere.
    """
    return sorted((root / name for name in _names(root) if NAME.fullmatch(name)), key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name tells."""
    return int(folder.name.rpartition("-")[2])


def meta_of(folder: Path) -> dict[str, Any]:
    """What `seal` wrote of a checkpoint that is whole."""
    return dict(read_json(folder / META)["content"])


def load(folder: Path) -> Checkpoint:
    """A checkpoint of the own loop that is whole.

    Raises:
        TrainingError: it cannot be read just now.
    """
    try:
        meta = meta_of(folder)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        return Checkpoint(int(meta["step"]), meta["belongs_to"], tensors_of(folder / WEIGHTS)[0], state)
    except UNREAD as error:
        raise TrainingError(not_now(folder, error)) from error


def tidy(root: Path) -> None:
    """Remove what a process that was killed while it wrote has left; for one process only.

    Raises:
        TrainingError: it cannot be removed.
    """
    try:
        for name in _names(root):
            if name.startswith(".step-"):
                shutil.rmtree(root / name)
    except OSError as error:
        raise TrainingError(f"cannot clear {root} of what a killed process left: {error}; let the user of this run "
                            "write there, and start the run again") from error


def _names(root: Path) -> list[str]:
    """What lies in a folder; nothing where there is no folder. `Path.glob` would also find nothing where it may not
    look."""
    try:
        return os.listdir(root)
    except FileNotFoundError:
        if not root.is_symlink():
            return []
        raise FileNotFoundError(f"it is a link to {os.readlink(root)}, where nothing is (a disk that is not "
                                "mounted?)") from None


def _check_none_lost(root: Path) -> None:
    """Raises TrainingError when the diary tells of a checkpoint: beginning again would cut it and lose the steps."""
    diary = root.with_name(EVENTS)
    if not diary.exists():
        return
    with diary.open("rb") as lines:
        if any(line.startswith(SAVED) for line in lines):
            raise TrainingError(f"{root} holds no checkpoint, but {diary} tells that one was saved; nothing was "
                                f"changed. Bring {root} back (is its disk mounted?) and start the run again, or "
                                f"{start_over(root)}")


def start_over(root: Path) -> str:
    """What to do for a run that begins again: without the diary too, or it tells of checkpoints that are lost."""
    return f"delete {root} and {root.with_name(EVENTS)} to start over"


def _damage(folder: Path, belongs_to: Mapping[str, Any]) -> str | None:
    """What proves that a checkpoint is not what was written; None when it is.

    Raises:
        TrainingError: it belongs to another run, or is a thing of another kind. OSError, MemoryError: it cannot be
            read.
    """
    _check_kinds(folder)
    content = _proved(folder)
    if isinstance(content, str):
        return content
    _same(folder, content["belongs_to"], belongs_to)
    for name, checksum in content["files"].items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _checksum(folder / name) != checksum:
            return f"{name} is not what was written: its checksum differs"
    return None


def _proved(folder: Path) -> dict[str, Any] | str:
    """The content of `meta.json`, or what proves that it is not what was written."""
    try:
        meta = read_json(folder / META)
    except FileNotFoundError:
        return f"without {META}: it was never finished, or removed in part"
    except DamagedFile as error:
        return f"{META} is no JSON: {error.__cause__}"
    if isinstance(meta, dict) and {"step", "belongs_to"} & meta.keys():
        raise TrainingError(f"{folder} was written by another version of this platform; train into another folder, or "
                            f"{start_over(folder.parent)}")
    if not isinstance(meta, dict) or meta.get("crc32") != _json_checksum(meta.get("content")):
        return f"{META} is not what was written: its checksum differs"
    content: dict[str, Any] = meta["content"]
    return content if content["step"] == step_of(folder) else f"{META} is of step {content['step']}"


def _check_kinds(folder: Path) -> None:
    """Raises TrainingError for what no run has written: it is not read, and not removed either."""
    meta = folder / META
    if not folder.is_dir():
        odd = f"{folder} is no folder, as a checkpoint is,"
    elif os.path.lexists(meta) and not meta.is_file():
        odd = f"{meta} is no file"
    else:
        return
    raise TrainingError(f"{odd} or a link that leads nowhere; no run of this platform wrote that, and nothing was "
                        f"changed. Look what it is, move {folder} away and start the run again: it continues from the "
                        "next older checkpoint")


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


def _json_checksum(content: object) -> int:
    return zlib.crc32(canonical(content).encode("utf-8", "surrogatepass"))


def tensors_of(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and what is told of them."""
    with safe_open(file, framework="pt") as stream:
        names: list[str] = stream.keys()
        return {name: stream.get_tensor(name) for name in names}, stream.metadata() or {}


def _same(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    differ = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    if differ:
        told = "; ".join(f"{k} was {theirs.get(k)!r}, is {ours.get(k)!r}" for k in differ[:4])
        raise TrainingError(f"{folder} belongs to another run: {told}. Train into another folder, or "
                            f"{start_over(folder.parent)}")
