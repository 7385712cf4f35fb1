"""What the base says about the training data, kept once: its k likeliest tokens and the mass of all others.

One folder per stream of examples, written by `keep` and read by `KeptBase`; every selected position of every example
stands at a fixed place, so that any packing, epoch and trial can use it. 8·k + 8 bytes per trained token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_core.config.train import KlSection, TrainSection
from sft_core.errors import DamagedFile, DataError
from sft_core.model.held import load_as_stored
from sft_core.model.load import model_identity
from sft_core.model.proof import Rows
from sft_core.model.release import giving_back
from sft_core.progress import progress
from sft_core.stage import read_json, write_json
from sft_core.stopping import check
from sft_core.train import pulse
from sft_core.train.course import Packing, Stream
from sft_core.train.inputs import TrainInputs, data_digest, read_data, served_template
from sft_core.train.objective import TopK, top_k
from sft_core.train.pack import collate
from sft_core.train.policy import Policy, make_policy

COLUMNS = {"ids": np.int32, "log_probs": np.float32, "rest": np.float32, "floor": np.float32}
MARK = "kept.json"
ROWS = 4  # rows in one forward pass


def keep(policy: Policy, stream: Stream, packing: Packing, k: int, folder: Path) -> None:
    """Write what `policy`'s model, which is the base, says at every position of `stream` that has a target.

    Args:
        k: likeliest tokens; a smaller vocabulary has all but one of its tokens kept, the last is the rest.

    Raises:
        DataError: the folder cannot be written.
    """
    total, k = sum(stream.trained), min(k, _vocabulary(policy) - 1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        columns = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype,
                                                   (total, k) if name in ("ids", "log_probs") else (total,))
                   for name, dtype in COLUMNS.items()}
        starts = _starts(stream)
        for rows, found in _said(policy, stream, packing, k):
            begin = 0
            for example in rows:
                span = slice(starts[example], starts[example] + stream.trained[example])
                size = stream.trained[example]
                for name, values in found._asdict().items():
                    columns[name][span] = values[begin : begin + size].cpu().numpy()
                begin += size
        for column in columns.values():
            column.flush()
    except OSError as error:
        raise DataError(f"cannot write the kept base to {folder}: {error}; it takes {(8 * k + 8) * total:,} bytes; "
                        "free some space, lower train.kl.top_k, or use train.kl.reference: copy") from error


def with_reference(inputs: TrainInputs, section: TrainSection, folder: Path) -> TrainInputs:
    """The inputs with a kept base for every stream that the KL looks at, where `kl.reference: cache` asks for it.

    What `inputs.kept` or `folder` already holds for the same base, data and k is used as it is.
    """
    if not section.kl.streams or section.kl.reference != "cache":
        return inputs
    kept = {name: inputs.kept.get(name, folder / name) for name in section.kl.streams}
    stamp = {"base": model_identity(inputs.model, inputs.mirror)["digest"], "data": data_digest(inputs.prepared),
             "top_k": section.kl.top_k, "quantize": section.lora.quantize}
    pulse.at("asking the base", long=True)
    with pulse.first_before_others():
        lacking = [name for name, place in kept.items() if _mark(place) != stamp]
        if lacking:
            _keep_all(inputs, section, {name: kept[name] for name in lacking}, stamp)
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
        keep(policy, data.course.streams[name], packing, section.kl.top_k, place)
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
        self._starts, self._trained = _starts(stream), stream.trained
        try:
            self._columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS}
        except (OSError, ValueError) as error:
            raise DataError(f"the kept base in {folder} cannot be read: {error}; delete the folder and start the run "
                            "again") from error
        if len(self._columns["ids"]) != sum(self._trained):
            raise DataError(f"the kept base in {folder} has {len(self._columns['ids'])} positions, the data "
                            f"{sum(self._trained)}; delete the folder and start the run again")

    def look_up(self, examples: Iterable[int]) -> TopK:
        """The positions of these examples, in order, on the CPU."""
        at = [n for i in examples for n in range(self._starts[i], self._starts[i] + self._trained[i])]
        return TopK(*(self._column(name, at) for name in COLUMNS))

    def _column(self, name: str, at: Sequence[int]) -> Tensor:
        values: Any = self._columns[name][at]
        found = torch.from_numpy(values)
        return found.long() if name == "ids" else found


@torch.no_grad()
def _said(policy: Policy, stream: Stream, packing: Packing, k: int) -> Iterable[tuple[list[int], TopK]]:
    policy.eval()
    rows = packing.rows(stream.examples, "reference", 0)
    with progress("asking the base", len(rows), "rows") as bar:
        for start in range(0, len(rows), ROWS):
            check()
            part = rows[start : start + ROWS]
            examples = [[stream.examples[i] for i in row] for row in part]
            width = max(sum(stream.tokens[i] for i in row) for row in part)
            micro = policy.micro(collate(examples, width, 0))
            base = policy.base(micro)
            with policy.autocast():
                found = top_k(base.hidden, base.head, k)
            yield [i for row in part for i in row], found
            bar.advance(len(part))


def _vocabulary(policy: Policy) -> int:
    model: Any = policy.model
    return int(model.get_output_embeddings().weight.shape[0])


def _starts(stream: Stream) -> list[int]:
    """Where each example's positions begin."""
    return [0, *accumulate(stream.trained)]
