"""What a run will take: memory of the device, main memory and disk, forecast from shapes before anything is loaded.

What is counted: weights, gradients and the optimiser's moments as in Rajbhandari et al. 2020 (ZeRO, section 3.1), here
with weights held in float32; activations as in Korthikanti et al. 2022 (Reducing Activation Recomputation, section 4),
done anew for what this code base keeps for its backward pass (gated MLP, RMS norms, `sft_core/segments.py`); logits in
chunks (`objective.CHUNK_LOGITS`). Sums are of tensors alive at once, and tested on measured steps
(tests/core/test_memory.py); a CUDA context and fragments (about 1 GiB) come on top. A process on the CPU holds more
than its step: `Forecast.process`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sft_core.config.train import TrainSection
from sft_core.model.attention import Backend
from sft_core.model.segments import LONG
from sft_core.train.course import Course, Stream
from sft_core.train.inputs import TrainInputs, served_template
from sft_core.train.objective import CHUNK_LOGITS
from sft_core.train.shape import FLOAT, Architecture, architecture_of
from sft_core.train.stochastic import CHUNK, LOT

ORTHOGONAL = 10
"""Bytes per element of the matrix that Muon is at: its update, two iterates in bfloat16 and what they are made of."""
FOUR = 0.516
"""Bytes of a weight in 4 bits, with its scales in 8 (Dettmers et al. 2023, section 3)."""
EIGHT = 2 + 2 * 4 / 256
"""Bytes of two moments in 8 bits, with the scales of their blocks."""
DRAWN = 24
"""Bytes per weight that is being rounded stochastically: neighbours, shares and draws."""
LIBRARIES = 700 * 2**20
"""Bytes of a process before it has loaded a model: interpreter, torch, transformers, tracking."""
PADDED = 1.1
"""Tokens of grouped segments with their padding, per token (segments.SPARE bounds it at 1.25)."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


class Pass(NamedTuple):
    """The largest forward pass of a step."""

    rows: int
    width: int  # tokens of the longest row
    lengths: tuple[int, ...]  # tokens of its examples
    trained: int  # positions with a target
    several: bool  # the step has more than one pass, so that gradients are held during a forward pass


class Place(NamedTuple):
    """Where and how it is computed."""

    device: str  # cpu, cuda
    dtype: torch.dtype  # of the matrix products
    backend: Backend


@dataclass(frozen=True)
class Forecast:
    """Bytes. On the device, unless it says otherwise."""

    weights: int
    gradients: int
    moments: int
    reference: int  # the frozen base of a KL, or its head
    reference_elsewhere: int  # the same in main memory, with kl.reference: offload
    copies: int  # in main memory, of the first process: what checkpoints are written from, where there is room for it
    casts: int  # weights in the compute precision
    activations: int
    logits: int  # chunks of logits and the gradient of the head
    peak: int
    saving: int  # on the CPU: what saving takes beyond what the optimiser and its copies have left
    checkpoints: int  # on disk, while one more is written
    model: int  # on disk, with the adapter
    kept: int  # on disk: states of the base, with kl.reference: cache

    @property
    def disk(self) -> int:
        """All that a run writes and keeps."""
        return self.checkpoints + self.model + self.kept

    @property
    def resident(self) -> int:
        """What is there during the whole run, however small its batches."""
        return self.weights + self.gradients + self.moments + self.reference

    def process(self, processes: int) -> int:
        """Main memory of so many processes that train on the CPU: libraries, the worst moment of a step, and saving.

        They add up, for the allocator keeps what tensors leave (`keep_freed_memory`) in pieces that the next ones
        seldom fit into. With `copies` (of the first process, where there is room for them), measured on a model of
        135 M parameters in bfloat16 (Linux, peak of the resident set): full fine-tune of 3 steps 4.9 GiB, forecast
        5.2; LoRA of 5 steps 3.5, of 69 steps 5.1, forecast 3.1: with rows of many lengths the pieces still grow.
        """
        return processes * (LIBRARIES + self.peak) + self.saving


def largest_pass(streams: Sequence[Stream], section: TrainSection) -> Pass:
    """The forward pass with most tokens of all steps of these streams."""
    passes = [_pass(stream, rows, len(streams) * len(parts) > 1)
              for stream in streams for step in stream.steps for parts in [stream.micros(step, section)]
              for rows in parts]
    largest = max(passes, key=lambda one: sum(one.lengths))
    return largest._replace(trained=max(one.trained for one in passes), several=any(one.several for one in passes))


def forecast(shape: Architecture, section: TrainSection, work: Pass, place: Place, kept_positions: int = 0) -> Forecast:
    """Memory of one process at the worst moment of a training step, and what lies on the disk.

    The worst moment is the LM head of the last forward pass, when all activations are alive (and with accumulation all
    gradients), or the update, when all gradients are; with fsdp it may be the beginning: every process loads the front
    of the model (`sft_core/model/parts.py`) before it is shared out, and all of it where that cannot be done in parts.

    Args:
        kept_positions: trained positions of the data that `kl.reference: cache` keeps the base for.
    """
    shared = section.all_processes if section.shard == "fsdp" else 1
    weights = _weights(shape, section, place) // shared
    narrow = section.weights == "bfloat16"
    gradients = (FLOAT * shape.trained - 2 * narrow * min(shape.low, shape.trained)) // shared
    moments = _moments(shape, section)
    reference = _reference(shape, section, place) // shared
    elsewhere = section.kl.reference == "offload" and place.device == "cuda"
    casts = _casts(shape, section, place)
    activations = _activations(shape, section, work, place)
    logits = _logits(shape, section, work, place)
    resident = weights + moments // shared + (0 if elsewhere else reference)
    at_head = casts + activations + logits + (gradients if work.several else 0)
    # The embedding's own gradient is as large as it, and added to the head's where they are tied.
    at_update = gradients + FLOAT * shape.head * shape.head_trained + ORTHOGONAL * shape.muon_largest
    if narrow:
        lot = max(shape.largest, min(LOT, shape.low))
        at_update = gradients + 2 * FLOAT * lot + DRAWN * min(CHUNK, shape.largest)
    if section.optim.name == "adamw_8bit" and place.device == "cpu":  # where it widens the tensor at hand
        at_update += 4 * FLOAT * shape.largest
    own = FLOAT * shape.trained - 2 * narrow * min(shape.low, shape.trained)
    state = own + moments
    best = own * (section.keep_checkpoints + 1) if section.stopping.patience else 0
    return Forecast(
        weights, gradients, moments // shared, 0 if elsewhere else reference, reference if elsewhere else 0,
        state if section.engine == "native" else 0, casts, activations, logits,
        max(resident + max(at_head, at_update), shared * (weights + reference) * shape.begins // shape.parameters,
            _asked(shape, section, place)),
        max(_saving(shape, section) - moments - state, 0) if place.device == "cpu" else 0,
        checkpoints=state * (section.keep_checkpoints + 1) + best,
        model=shape.stored + (FLOAT * shape.trained if section.method == "lora" else 0),
        kept=place.dtype.itemsize * shape.hidden * kept_positions)


def remedies(inputs: TrainInputs, section: TrainSection, course: Course, place: Place) -> str:
    """Changes to a configuration with the peak that each is forecast to have, for an error or a table.

    First those that leave the result as it is.
    """
    grown = bool(served_template(inputs.prepared).added)
    streams = [stream for stream in (course.sft, course.replay) if stream is not None]

    def peak(change: dict[str, Any]) -> int:
        changed = section.model_copy(update=change)
        shape = architecture_of(inputs.model, changed, inputs.mirror, grown)
        found = forecast(shape, changed, largest_pass(streams, changed), place)
        return found.process(changed.processes) if place.device == "cpu" else found.peak

    changes: dict[str, dict[str, Any]] = {}
    if section.micro_rows > 1 or section.micro_tokens is not None:
        changes["train.micro_rows: 1"] = {"micro_rows": 1, "micro_tokens": None}
    if not section.gradient_checkpointing:
        changes["train.gradient_checkpointing: true"] = {"gradient_checkpointing": True}
    if section.kl.beta > 0 and section.kl.reference != "cache":
        changes["train.kl.reference: cache"] = {"kl": section.kl.model_copy(update={"reference": "cache"})}
    if section.method == "full":
        plain = section.optim.model_copy(update={"name": "adamw", "muon_lr": None})  # all that adapters may have
        changes["train.method: lora" + " with optim.name: adamw" * (plain != section.optim)] = {
            "method": "lora", "optim": plain}
    told = [f"{name} ({in_words(peak(change))})" for name, change in changes.items()]
    return f"forecast now {in_words(peak({}))}; with " + ", ".join([*told, "or a smaller data.max_tokens"])


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors leave, for the next ones; elsewhere nothing happens.

    It would give back every large block at once, and the kernel fills each new one with zeros, page by page: about
    half the CPU time of a large head's gradient. The process ends with its training.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def in_words(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def _pass(stream: Stream, rows: tuple[tuple[int, ...], ...], several: bool) -> Pass:
    used = [i for row in rows for i in row]
    return Pass(len(rows), max(sum(stream.tokens[i] for i in row) for row in rows),
                tuple(stream.tokens[i] for i in used), sum(stream.trained[i] for i in used), several)


def _each(shape: Architecture, place: Place) -> int:
    """Bytes of a product's weight that is not trained."""
    return min(shape.held, FLOAT) if place.dtype.itemsize < FLOAT else FLOAT


def _reference(shape: Architecture, section: TrainSection, place: Place) -> int:
    """Bytes of the base of a KL that is there beside the model."""
    if section.kl.beta == 0 or section.method == "lora":
        return 0
    return _each(shape, place) * shape.head if section.kl.reference == "cache" else _held(shape, place)


def _asked(shape: Architecture, section: TrainSection, place: Place) -> int:
    """Bytes of the whole base, which one process asks before training."""
    cached = section.kl.beta > 0 and section.kl.reference == "cache"
    return min(_weights(shape, section, place), _held(shape, place)) if cached else 0


def _held(shape: Architecture, place: Place) -> int:
    """Bytes of all weights of a base that is not trained itself, with its adapters."""
    return _each(shape, place) * shape.low + FLOAT * (shape.parameters - shape.low)


def _weights(shape: Architecture, section: TrainSection, place: Place) -> int:
    if section.weights == "bfloat16":
        return 2 * shape.low + FLOAT * (shape.parameters - shape.low)
    if section.method == "full":
        return FLOAT * shape.parameters
    held = _held(shape, place)
    if section.lora.quantize == "none":
        return held
    return held - int((_each(shape, place) - FOUR) * shape.four)


def _moments(shape: Architecture, section: TrainSection) -> int:
    if section.optim.name == "adamw_8bit":
        return int(EIGHT * (shape.trained - shape.small)) + 2 * FLOAT * shape.small
    return FLOAT * (2 * shape.trained - shape.muon)


def _casts(shape: Architecture, section: TrainSection, place: Place) -> int:
    """Bytes of weights in the precision of their products, or gathered whole from several processes."""
    low = place.dtype.itemsize
    if section.shard == "fsdp":  # the layer at hand and the next one; embedding and head stay, with their gradients
        ends = shape.low - shape.four
        return 2 * low * shape.four // shape.layers + 2 * FLOAT * ends
    if low == FLOAT or section.gradient_checkpointing or section.weights == "bfloat16":
        return 0
    if section.method == "full":
        return low * shape.low
    wide = shape.low if shape.held >= FLOAT and section.lora.quantize == "none" else 0
    return low * (wide + shape.trained)


def _activations(shape: Architecture, section: TrainSection, work: Pass, place: Place) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    tokens = sum(work.lengths) if place.backend != "mask" else work.rows * work.width
    low = place.dtype.itemsize
    stream = tokens * shape.hidden
    # Two norms keep their input and, for their own weights, the normalised states; the products keep what they take in:
    # the same states in float32, a cast of its own for each of five otherwise.
    casts = 2 * FLOAT if low == FLOAT else 5 * low
    norms = stream * (2 * FLOAT * (1 if shape.adapted else 2) + casts)
    # The MLP: gate, its activation, up, and their product.
    mlp = 4 * low * tokens * shape.intermediate
    adapters = _adapters(shape, section, tokens, low)
    layer = norms + mlp + _attention(shape, work, place, tokens) + adapters
    ends = stream * (3 * FLOAT) + 3 * FLOAT * work.trained * shape.hidden
    if section.gradient_checkpointing:
        back = 2 * low * tokens * shape.intermediate  # gradients on their way through the MLP that is made anew
        return int(shape.layers * FLOAT * stream + layer + back + ends)
    return int(shape.layers * layer + ends)


def _attention(shape: Architecture, work: Pass, place: Place, tokens: int) -> float:
    """Bytes that one layer's attention keeps."""
    low, width, shared = place.dtype.itemsize, shape.head_size, 2 * shape.heads + 2 * shape.kv_heads
    output = low * tokens * shape.heads * width
    if place.backend == "mask":
        square = work.rows * work.width**2
        masked = len(work.lengths) > work.rows
        repeated = low * tokens * width * 4 * shape.heads  # query, key, value, result
        return output + repeated + low * square * (3 * shape.heads if shape.eager else masked)
    if place.backend != "segments":
        return float(low * tokens * width * shared)  # query, key, value and the output, which is kept once
    limit = LONG.get(place.dtype, 0)
    short = [n for n in work.lengths if n <= limit]
    grouped = PADDED * 3 * sum(short) * shape.heads * width + PADDED**2 * shape.heads * sum(n * n for n in short)
    alone = (tokens - sum(short)) * width * shared
    return output + low * (grouped + alone)


def _saving(shape: Architecture, section: TrainSection) -> int:
    """Bytes of the model that is read back, in float32, and where it was made of adapters, of the merged one."""
    return FLOAT * shape.parameters * (2 if section.method == "lora" else 1)


def _adapters(shape: Architecture, section: TrainSection, tokens: int, low: int) -> float:
    """Bytes that the adapters of one layer keep: what they make of their input, and what dropout leaves of it."""
    if not shape.adapted:
        return 0.0
    each = shape.adapted / shape.layers
    taken = (each - 1) * shape.hidden + shape.intermediate  # widths of their inputs, one of them behind the MLP
    dropped = (low + 1) * taken if section.lora.dropout else 0
    return tokens * (each * low * section.lora.rank + dropped)


def _logits(shape: Architecture, section: TrainSection, work: Pass, place: Place) -> int:
    """Bytes of the chunks of logits that live at once, and of the head's gradient.

    Two chunks (logits and their log-softmax), four with a KL; one more where a chunk follows another.
    """
    chunk = min(work.trained, max(1, CHUNK_LOGITS[place.device] // shape.vocabulary))
    alive = (4 if section.kl.beta > 0 else 2) + (work.trained > chunk)
    return FLOAT * (alive * chunk * shape.vocabulary + shape.head * shape.head_trained)
