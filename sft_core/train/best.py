"""The weights that early stopping found best: one file a step, `checkpoints/best-N.safetensors`.

A run that continues from a checkpoint goes back to the best of then, and may, on a GPU, not find again what it found
later. So the best of every checkpoint that is kept stays beside it, and a file is only ever taken for its own step.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sft_core.errors import TrainingError, disk_advice
from sft_core.stage import give_usual_mode, sync
from sft_core.train.checkpoint import UNREAD, UNWRITABLE, not_now, start_over, tensors_of

NAME = re.compile(r"best-(\d+)\.safetensors")


def file_of(root: Path, step: int) -> Path:
    """Where the weights of that step lie."""
    return root / f"best-{step}.safetensors"


def save(root: Path, step: int, weights: Mapping[str, Tensor], keep: Collection[int]) -> None:
    """Write the weights after `step` steps; of the others the files of the steps in `keep` stay.

    A file appears whole or not at all.

    Raises:
        TrainingError: the disk is full or not writable.
    """
    file = file_of(root, step)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(root):
            if (match := NAME.fullmatch(name)) and int(match[1]) not in keep:
                (root / name).unlink()
        whole = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
        save_file(whole, draft, {"crc32": _content(step, whole)})
        give_usual_mode(draft)
        sync(draft)
        draft.rename(file)
    except UNWRITABLE as error:
        draft.unlink(missing_ok=True)
        raise TrainingError(f"cannot write the best weights to {file}: {error}; {disk_advice(error)} and start the run "
                            "again") from error


def load(root: Path, step: int) -> dict[str, Tensor]:
    """The weights that `save` wrote after `step` steps.

    Raises:
        TrainingError: the file is missing, damaged or of another step, or cannot be read just now.
    """
    file = file_of(root, step)
    try:
        weights, told = tensors_of(file)
        why = None if told.get("crc32") == _content(step, weights) else "its content is not what was written"
    except (FileNotFoundError, SafetensorError) as error:
        why = str(error)
    except UNREAD as error:
        raise TrainingError(not_now(file, error)) from error
    if why is not None:
        raise TrainingError(f"the best weights in {file} are damaged: {why}. No checkpoint holds them: "
                            f"{start_over(root)}")
    return weights


def _content(step: int, weights: Mapping[str, Tensor]) -> str:
    """CRC-32 of step and tensors: a file cannot hold its own checksum."""
    value = zlib.crc32(str(step).encode())
    for name, tensor in sorted(weights.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return str(value)
