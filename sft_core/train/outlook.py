"""What a training run will do and take, known before its first step: its course, memory and disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.data.mix.plan import Mixed
from sft_core.model.attention import fastest
from sft_core.model.load import compute_dtype, resolve_device
from sft_core.model.room import free_bytes
from sft_core.train.course import Counts, Stream
from sft_core.train.inputs import Data, TrainInputs, read_data, served_template
from sft_core.train.memory import (
    Forecast,
    Pass,
    Place,
    forecast,
    largest_pass,
)
from sft_core.train.optim import warmup_steps
from sft_core.train.shape import FLOAT, Architecture, architecture_of


@dataclass(frozen=True)
class Outlook:
    """A run that has not begun. Sizes in bytes; `free` of the device's memory, `disk_free` where it will be written."""

    inputs: TrainInputs
    data: Data
    section: TrainSection
    shape: Architecture
    place: Place
    work: Pass
    forecast: Forecast
    free: int
    disk_free: int

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.data.course.steps

    @property
    def warmup_steps(self) -> int:
        """Steps of these over which the rate rises."""
        return warmup_steps(self.section.optim, self.steps)

    @property
    def trained(self) -> Counts:
        """Training rows and tokens of the whole run, without replay."""
        return self.data.course.sft.totals()

    @property
    def replayed(self) -> Counts:
        """Replay rows and tokens of the whole run."""
        replay = self.data.course.replay
        return Counts() if replay is None else replay.totals()

    @property
    def epoch(self) -> Counts:
        """One pass over the training examples: rows as they are filled, and tokens; of a mixture the mean epoch."""
        stream, whole, epochs = self.data.course.sft, self.trained, self.section.epochs
        if self.data.mixture is not None:
            return Counts(*(round(number / epochs) for number in (whole.rows, whole.tokens, whole.trained_tokens)))
        return Counts(round(whole.rows / epochs), sum(stream.tokens), sum(stream.trained))

    @property
    def used(self) -> int:
        """Training examples that the run uses at all."""
        return len(self.data.course.sft.used())

    @property
    def examples(self) -> str:
        """How many training examples there are, for a person; and of how many where the run leaves some out."""
        there, used = len(self.data.course.sft.examples), self.used
        return f"{there:,}" if used == there else f"{used:,} of {there:,}"

    @property
    def narrow(self) -> str:
        """What keeps the epochs of a mixture far below what there is; empty where nothing does."""
        return self.data.mixture.narrow if self.data.mixture else ""

    @property
    def mixed(self) -> Sequence[Mixed]:
        """What `data.mixture` wanted and what the epochs of the run bring; nothing without one."""
        return self.data.mixture.table(self.section.epochs) if self.data.mixture else ()

    @property
    def validations(self) -> int:
        """Measurements of the validation loss: before the first step, on the way, at the end."""
        every = self.section.validate_every_steps
        return 1 + self.steps // every + (self.steps % every > 0)

    @property
    def readings(self) -> int:
        """Measurements of the validation loss in saving: of the folder, and, computed in float32, of trained weights
        and base where training computes in less. Every further form of the weights that has to be tried adds one."""
        return 3 if self.place.dtype.itemsize < FLOAT and self.section.lora.quantize == "none" else 1

    @property
    def processes(self) -> int:
        """Processes that share the memory of one device; each GPU has memory of its own."""
        return self.section.processes if self.place.device == "cpu" else 1

    @property
    def peak(self) -> int:
        """Memory at the worst moment, of all processes that share it. On a GPU its tensors; on the CPU all that the
        processes take, with copies for checkpoints where there is room for these."""
        if self.place.device != "cpu":
            return self.forecast.peak
        taken = self.forecast.process(self.processes)
        return taken + self.forecast.copies * (taken + self.forecast.copies <= self.free)

    @property
    def resident(self) -> int:
        """Memory during the whole run, however small its batches."""
        return self.forecast.resident * self.processes

    @property
    def work_of_token(self) -> float:
        """Floating-point operations of a token in one forward pass, 2 per weight that it meets (Kaplan et al. 2020,
        section 2.1): the layers', and the head's as often as a token is trained."""
        shape, whole = self.shape, self.trained
        attention = 2 * shape.hidden * shape.head_size * (shape.heads + shape.kv_heads)
        layer = attention + 3 * shape.hidden * shape.intermediate
        return 2.0 * (shape.layers * layer + shape.head * whole.trained_tokens / whole.tokens)

    @property
    def work_of_run(self) -> float:
        """Floating-point operations of the run. Backward is twice a forward pass, once where no weight of the base is
        trained."""
        section = self.section
        passes = 3 if section.method == "full" else 2
        kept = section.kl.reference == "cache"
        passes += section.gradient_checkpointing + (section.kl.beta > 0 and not kept)
        looked = (self.validations + self.readings) * sum(self.data.validation.tokens)
        # The head reads what was kept of the base.
        read = (self.trained.trained_tokens + self.replayed.trained_tokens) * (section.kl.beta > 0 and kept)
        return self.work_of_token * (passes * (self.trained.tokens + self.replayed.tokens) + looked) + (
            2.0 * self.shape.head * read)


def look_ahead(inputs: TrainInputs, section: TrainSection, disk: Path, grow: float = 1.0) -> Outlook:
    """The outlook of a run whose data is prepared. No model is loaded.

    Args:
        disk: an existing folder on the disk that the run will write to.
        grow: as in `read_data`.

    Raises:
        ModelError: the base cannot be used. DataError: prepared files are missing or empty.
        TrainingError: the course has no step.
    """
    data = read_data(inputs, section, grow)
    shape = architecture_of(inputs.model, section, inputs.mirror, bool(served_template(inputs.prepared).added))
    place = place_of(inputs.model)
    streams: Sequence[Stream] = list(data.course.streams.values())
    work = largest_pass(streams, section)
    kept = sum(sum(stream.trained) for stream in streams) if section.kl.reference == "cache" else 0
    return Outlook(inputs, data, section, shape, place, work, forecast(shape, section, work, place, kept),
                   free_bytes(resolve_device(inputs.model)), shutil.disk_usage(disk).free)


def place_of(model: ModelSection) -> Place:
    """Where and how a run will compute, before its model is loaded and its attention proved.

    Raises:
        ModelError: the device is not there.
    """
    device = resolve_device(model)
    dtype = compute_dtype(model, device)
    return Place(device.type, dtype, fastest(device, dtype) if model.attention == "auto" else model.attention)
