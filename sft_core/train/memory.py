"""What a run will take: memory of the device, main memory and disk, forecast from shapes before anything is loaded.

What is counted: weights, gradients and the optimiser's moments as in Rajbhandari et al. 2020 (ZeRO, section 3.1), here
with weights held in float32; activations as in Korthikanti et al. 2022 (Reducing Activation Recomputation, section 4),
done anew for what this code base keeps for its backward pass (gated MLP, RMS norms, `sft_core/segments.py`); logits in
chunks (`objective.CHUNK_LOGITS`). Sums are of tensors alive at once: allocators, libraries and a CUDA context (about
0.5 GB each) come on top. How near the forecast comes is tested on measured steps (tests/core/test_memory.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import torch
from transformers import AutoModelForCausalLM

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.errors import ModelError
from sft_core.model.attention import Backend, layers_of, own_attention
from sft_core.model.load import first_line, load_config
from sft_core.model.lora import apply_lora, new_token_modules
from sft_core.model.proof import RAISED
from sft_core.model.segments import LONG
from sft_core.train.course import Course, Stream
from sft_core.train.inputs import TrainInputs, served_template
from sft_core.train.objective import CHUNK_LOGITS
from sft_core.train.optim import hidden_matrices

FLOAT = 4
"""Bytes of a weight, a gradient and a moment: Adam has two for each parameter, Muon one."""
ORTHOGONAL = 10
"""Bytes per element of the matrix that Muon is at: its update, two iterates in bfloat16 and what they are made of."""
PADDED = 1.1
"""Tokens of grouped segments with their padding, per token (segments.SPARE bounds it at 1.25)."""
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Architecture:
    """The shape of a model with its adapters."""

    parameters: int
    trained: int  # of these
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int  # width of the MLP; of all active experts together
    vocabulary: int
    head_trained: bool  # the LM head has a gradient
    stored: int  # bytes of its weights in the model folder
    eager: bool = False  # scores are soft-capped or kernels unknown: `mask` then keeps all attention weights
    adapted: int = 0  # linear layers with adapters
    muon: int = 0  # of the trained parameters, those that Muon moves
    muon_largest: int = 0  # parameters of the largest matrix among them

    @property
    def head(self) -> int:
        """Weights of the LM head."""
        return self.vocabulary * self.hidden


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
    reference: int  # the frozen base of a KL
    reference_elsewhere: int  # the same in main memory, with kl.reference: offload
    copies: int  # in main memory, of the first process: what checkpoints are written from, where there is room for it
    casts: int  # weights in the compute precision
    activations: int
    logits: int  # chunks of logits and the gradient of the head
    peak: int
    checkpoints: int  # on disk, while one more is written
    model: int  # on disk, with the adapter
    kept: int  # on disk: what the base said, with kl.reference: cache

    @property
    def disk(self) -> int:
        """All that a run writes and keeps."""
        return self.checkpoints + self.model + self.kept

    @property
    def resident(self) -> int:
        """What is there during the whole run, however small its batches."""
        return self.weights + self.gradients + self.moments + self.reference


def architecture_of(section: ModelSection, train: TrainSection, mirror: Path | None, grown: bool) -> Architecture:
    """The shape of the base with the adapters that it is to get; nothing is loaded but its config.

    Args:
        grown: the template adds tokens, so adapters bring embedding and head with them.

    Raises:
        ModelError: there is no such model, its config cannot be read, or the adapters do not fit.
    """
    config = load_config(section, mirror)
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=section.trust_remote_code)
    except RAISED as error:
        raise ModelError(f"no model can be made of the config of {section.path}: {first_line(error)}; choose another "
                         "base model") from error
    text, adapted = config.get_text_config(), 0
    heads = _widest(text, "num_attention_heads") or 1  # state spaces have none
    matrices = [p.numel() for p in hidden_matrices(layers_of(model))] if train.optim.name == "muon" else []
    # `auto` may come out as float32, and is forecast as that.
    low = getattr(config, "dtype", None) or torch.float32
    stored = (low.itemsize if train.save_dtype == "base" else FLOAT) * sum(p.numel() for p in model.parameters())
    head_trained = True
    if train.method == "lora":
        model = apply_lora(model, train.lora, 0, new_token_modules(model) if grown else ())
        adapted = sum(hasattr(module, "lora_A") for module in model.modules())
        head_trained = any(p.requires_grad for p in model.get_output_embeddings().parameters())
    return Architecture(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        hidden=text.hidden_size, layers=text.num_hidden_layers, heads=heads,
        kv_heads=_widest(text, "num_key_value_heads") or heads,
        head_size=_widest(text, "head_dim") or text.hidden_size // heads,
        intermediate=_intermediate(text), vocabulary=text.vocab_size, head_trained=head_trained,
        stored=stored, eager=own_attention(model) == "eager", adapted=adapted, muon=sum(matrices),
        muon_largest=max(matrices, default=0))


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
    gradients), or the update, when all gradients are.

    Args:
        kept_positions: trained positions of the data that `kl.reference: cache` keeps the base for.
    """
    low = place.dtype.itemsize
    shared = section.processes if section.shard == "fsdp" else 1
    weights = FLOAT * shape.parameters // shared
    if section.lora.quantize == "nf4":  # half a byte and its quantised scales (Dettmers et al. 2023)
        weights = int(0.55 * (shape.parameters - shape.trained)) + FLOAT * shape.trained
    gradients = FLOAT * shape.trained // shared
    moments = FLOAT * (2 * shape.trained - shape.muon) // shared
    copied = section.kl.beta > 0 and section.method == "full" and section.kl.reference != "cache"
    reference = low * shape.parameters // shared if copied else 0
    elsewhere = section.kl.reference == "offload" and place.device == "cuda"
    cast = low < FLOAT and not section.gradient_checkpointing and section.lora.quantize == "none"
    casts = low * shape.parameters if cast else 0
    activations = _activations(shape, section, work, place)
    logits = _logits(shape, section, work, place)
    resident = weights + moments + (0 if elsewhere else reference)
    at_head = casts + activations + logits + (gradients if work.several else 0)
    # The embedding's own gradient is as large as it, and added to the head's where they are tied.
    at_update = gradients + FLOAT * shape.head * (shape.trained == shape.parameters) + ORTHOGONAL * shape.muon_largest
    state = FLOAT * (3 * shape.trained - shape.muon)
    best = FLOAT * shape.trained * (section.keep_checkpoints + 1) if section.stopping.patience else 0
    return Forecast(
        weights, gradients, moments, 0 if elsewhere else reference, reference if elsewhere else 0,
        state if section.engine == "native" else 0, casts, activations, logits, resident + max(at_head, at_update),
        checkpoints=state * (section.keep_checkpoints + 1) + best,
        model=shape.stored + (FLOAT * shape.trained if section.method == "lora" else 0),
        kept=(8 * section.kl.top_k + 8) * kept_positions)


def remedies(inputs: TrainInputs, section: TrainSection, course: Course, place: Place) -> str:
    """Changes to a configuration with the peak that each is forecast to have, for an error or a table.

    First those that leave the result as it is.
    """
    grown = bool(served_template(inputs.prepared).added)
    streams = [stream for stream in (course.sft, course.replay) if stream is not None]

    def peak(change: dict[str, Any]) -> int:
        changed = section.model_copy(update=change)
        shape = architecture_of(inputs.model, changed, inputs.mirror, grown)
        return forecast(shape, changed, largest_pass(streams, changed), place).peak

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


def in_words(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def is_short(error: RuntimeError | MemoryError) -> bool:
    """Whether it says that memory ran out: on CUDA by its class, on the CPU by torch's words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def free_bytes(device: torch.device) -> int:
    """Memory that a run could take now: of the CUDA device, or of this machine within its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used)) if limit != "max" else free
    except (OSError, ValueError):  # no control group that limits
        return free


def _pass(stream: Stream, rows: tuple[tuple[int, ...], ...], several: bool) -> Pass:
    used = [i for row in rows for i in row]
    return Pass(len(rows), max(sum(stream.tokens[i] for i in row) for row in rows),
                tuple(stream.tokens[i] for i in used), sum(stream.trained[i] for i in used), several)


def _activations(shape: Architecture, section: TrainSection, work: Pass, place: Place) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    tokens = sum(work.lengths) if place.backend != "mask" else work.rows * work.width
    low = place.dtype.itemsize
    stream = tokens * shape.hidden
    # Two norms keep their input and, for their own weights, the normalised states; the products keep their output.
    norms = 2 * stream * (FLOAT * (1 if shape.adapted else 2) + low)
    # The MLP: gate, its activation, up, and their product.
    mlp = 4 * low * tokens * shape.intermediate
    adapters = _adapters(shape, section, tokens, low)
    layer = norms + mlp + _attention(shape, work, place, tokens) + adapters
    ends = stream * (3 * FLOAT) + 3 * FLOAT * work.trained * shape.hidden
    if section.gradient_checkpointing:
        return int(shape.layers * FLOAT * stream + layer + ends)
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


def _adapters(shape: Architecture, section: TrainSection, tokens: int, low: int) -> float:
    """Bytes that the adapters of one layer keep: what they make of their input, and what dropout leaves of it."""
    if not shape.adapted:
        return 0.0
    each = shape.adapted / shape.layers
    dropped = (low + 1) * shape.hidden if section.lora.dropout else 0
    return each * tokens * (low * section.lora.rank + dropped)


def _logits(shape: Architecture, section: TrainSection, work: Pass, place: Place) -> int:
    """Bytes of the chunks of logits that live at once, and of the head's gradient.

    Two chunks (logits and their log-softmax), four with an exact KL; one more where a chunk follows another.
    """
    chunk = min(work.trained, max(1, CHUNK_LOGITS[place.device] // shape.vocabulary))
    alive = (4 if section.kl.beta > 0 and section.kl.reference != "cache" else 2) + (work.trained > chunk)
    return FLOAT * (alive * chunk * shape.vocabulary + shape.head * shape.head_trained)


def _intermediate(text: Any) -> int:
    """Width of the MLP, of all experts that a token goes through where there are several."""
    if experts := _widest(text, "num_experts_per_tok"):
        return experts * (_widest(text, "moe_intermediate_size") or _widest(text, "intermediate_size") or 0)
    named = (_widest(text, name) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    return next((size for size in named if size), 4 * int(text.hidden_size))


def _widest(text: Any, name: str) -> int | None:
    """A number of the config; the largest where it differs by layer, None where there is none."""
    layers = text.per_layer_config if text.is_heterogeneous else (text,)
    found = [getattr(layer, name, None) for layer in layers]
    return max((int(n) for one in found for n in (one if isinstance(one, list | tuple) else [one]) if n), default=None)
