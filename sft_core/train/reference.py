"""What the base makes of the training data, kept once: its last hidden states at the positions that have a target.

One folder per stream of examples, written by `keep` and read by `KeptBase`; every selected position of every example
stands at a fixed place, so that any packing, epoch and trial can use it. With the base's LM head they are all that its
distribution hangs on. A position takes as many bytes as the model is wide, times 2 where the products are in bfloat16
(the head would round the states to that anyhow) and times 4 elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_core.config.train import KlSection, TrainSection
from sft_core.errors import DamagedFile, DataError, TrainingError, disk_advice
from sft_core.model.held import load_as_stored
from sft_core.model.load import compute_dtype, model_identity, resolve_device
from sft_core.model.proof import Rows
from sft_core.model.release import giving_back
from sft_core.model.room import is_short
from sft_core.progress import progress
from sft_core.stage import read_json, write_json
from sft_core.stopping import check
from sft_core.train import pulse
from sft_core.train.course import Packing, Stream
from sft_core.train.inputs import TrainInputs, data_digest, read_data, served_template
from sft_core.train.pack import collate
from sft_core.train.policy import Policy, make_policy

FILE, MARK = "hidden.npy", "kept.json"
ROWS = 4  # rows in one forward pass


def keep(policy: Policy, stream: Stream, packing: Packing, folder: Path) -> None:
    """Write the last hidden states of `policy`'s model, which is the base, at every position of `stream` that has a
    target.

    Raises:
        DataError: the folder cannot be written.
    """
    total, starts, each = sum(stream.trained), _starts(stream), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("wb") as file:  # written, not mapped: a full disk is then an error and no signal
            for rows, hidden in _said(policy, stream, packing):
                states = (hidden.view(torch.int16) if hidden.dtype == torch.bfloat16 else hidden).cpu().numpy()
                if not each:
                    np.lib.format.write_array_header_1_0(file, {
                        "descr": states.dtype.str, "fortran_order": False, "shape": (total, states.shape[1])})
                    first, each = file.tell(), states.itemsize * states.shape[1]
                begin = 0
                for example in rows:
                    size = stream.trained[example]
                    file.seek(first + starts[example] * each)
                    file.write(states[begin : begin + size].tobytes())
                    begin += size
    except OSError as error:
        raise DataError(f"cannot write the states of the base to {folder}: {error}; they take {each * total:,} bytes; "
                        f"{disk_advice(error)}, or use train.kl.reference: copy") from error


def with_reference(inputs: TrainInputs, section: TrainSection, folder: Path) -> TrainInputs:
    """The inputs with a kept base for every stream that the KL looks at, where `kl.reference: cache` asks for it.

    What `inputs.kept` or `folder` already holds for the same base, data and precision is used as it is.

    Raises:
        TrainingError: the first process, which holds all of the base while it asks it, has no memory for that.
    """
    if not section.kl.streams or section.kl.reference != "cache":
        return inputs
    kept = {name: inputs.kept.get(name, folder / name) for name in section.kl.streams}
    stamp = {"base": model_identity(inputs.model, inputs.mirror)["digest"], "data": data_digest(inputs.prepared),
             "precision": str(compute_dtype(inputs.model, resolve_device(inputs.model))),
             "quantize": section.lora.quantize}
    pulse.at("asking the base", long=True)
    with pulse.first_before_others():
        lacking = [name for name, place in kept.items() if _mark(place) != stamp]
        try:
            if lacking:
                _keep_all(inputs, section, {name: kept[name] for name in lacking}, stamp)
        except (RuntimeError, MemoryError) as error:
            if not is_short(error):
                raise
            raise TrainingError(
                f"no memory left while the base was asked for train.kl.reference: cache ({error}). One process asks, "
                "and holds all of the base, whatever train.shard says; use train.kl.reference: copy, which shard: fsdp "
                "shares out, or a device that has room for the base") from error
    return replace(inputs, kept=kept)


@giving_back()
def _keep_all(inputs: TrainInputs, section: TrainSection, places: Mapping[str, Path], stamp: Mapping[str, Any]) -> None:
    plain = section.model_copy(update={"method": "full", "kl": KlSection()})
    data, template = read_data(inputs, section), served_template(inputs.prepared)
    loaded = load_as_stored(inputs.model, mirror=inputs.mirror, added=template.added, quantize=section.lora.quantize)
    policy = make_policy(loaded, inputs.model, plain, inputs.seed, grown=bool(template.added),
                         rows=Rows(inputs.pack, inputs.max_tokens))
    packing = Packing(inputs.max_tokens, inputs.pack, inputs.seed)
    for name, place in places.items():
        keep(policy, data.course.streams[name], packing, place)
        write_json(place / MARK, stamp)


def _mark(place: Path) -> object:
    try:
        return read_json(place / MARK)
    except (FileNotFoundError, DamagedFile):
        return None


class KeptBase:
    """A folder written by `keep`, looked up by example."""

    def __init__(self, folder: Path, stream: Stream) -> None:
        """Raises DataError when it is missing, damaged, or of other data."""
        self._starts = _starts(stream)
        try:
            self._states = np.load(folder / FILE, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"the states of the base in {folder} cannot be read: {error}; delete the folder and start "
                            "the run again") from error
        if len(self._states) != self._starts[-1]:
            raise DataError(f"the states of the base in {folder} are of {len(self._states)} positions, the data has "
                            f"{self._starts[-1]}; delete the folder and start the run again")

    def look_up(self, examples: Iterable[int]) -> Tensor:
        """States [n, hidden] at the positions of these examples, in order, on the CPU."""
        found = torch.from_numpy(np.concatenate([self._states[slice(*self._starts[i : i + 2])] for i in examples]))
        return found.view(torch.bfloat16) if found.dtype == torch.int16 else found


@torch.no_grad()
def _said(policy: Policy, stream: Stream, packing: Packing) -> Iterable[tuple[list[int], Tensor]]:
    """Examples, and the states [n, hidden] at their positions in the precision that the head reads them in."""
    policy.eval()
    rows = packing.rows(stream.examples, "reference", 0)
    with progress("asking the base", len(rows), "rows") as bar:
        for start in range(0, len(rows), ROWS):
            check()
            part = rows[start : start + ROWS]
            examples = [[stream.examples[i] for i in row] for row in part]
            width = max(sum(stream.tokens[i] for i in row) for row in part)
            hidden = policy.base(policy.micro(collate(examples, width, 0))).hidden
            yield [i for row in part for i in row], hidden.to(torch.bfloat16) if policy.dtype == torch.bfloat16 else (
                hidden)
            bar.advance(len(part))


def _starts(stream: Stream) -> list[int]:
    """Where each example's positions begin."""
    return [0, *accumulate(stream.trained)]
