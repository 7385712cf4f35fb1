"""Everything a training run works with, put together from prepared data and a base model before the first step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from sft_core.config.data import ModelSection
from sft_core.config.train import NO_WEIGHT, TrainSection
from sft_core.data.mix.plan import Mixed
from sft_core.errors import ModelError
from sft_core.model.attention import layers_of
from sft_core.model.held import load_as_stored, narrow
from sft_core.model.load import (
    LoadedModel,
    check_positions,
    compute_dtype,
    load_model,
    model_identity,
    resolve_device,
)
from sft_core.model.noise import own_noise
from sft_core.model.parts import fill, load_in_parts
from sft_core.model.proof import Rows
from sft_core.model.reach import in_sentence
from sft_core.templates.render import IGNORE, Example
from sft_core.train.course import Counts, Course, Row, Stream
from sft_core.train.inputs import ServedTemplate, TrainInputs, data_digest, read_data, served_template
from sft_core.train.memory import keep_freed_memory
from sft_core.train.optim import make_optimizer
from sft_core.train.pack import Batch, collate
from sft_core.train.policy import Policy, make_policy
from sft_core.train.reference import KeptBase
from sft_core.train.snapshot import Unreached

log = logging.getLogger("sft")

UNRESUMED = NO_WEIGHT | {"validate_every_steps", "save_dtype"}
"""Fields of TrainSection that may differ on resume. The last two change what a run tells and saves, not what it
learns."""


PATIENCE = timedelta(minutes=20)
"""How long processes wait for each other inside of a collective: they may load the base at different speeds. Long work
of the first one is waited for in `pulse.turn`, which also tells who is gone or stuck much sooner."""


@dataclass(frozen=True)
class Collated:
    """One forward pass worth of rows, still on the CPU, with what it counts."""

    batch: Batch
    counts: Counts
    rows: tuple[Row, ...]
    weights: Tensor | None = None  # [targets]
    kept: Tensor | None = None  # [targets, hidden]


@dataclass(frozen=True)
class Workbench:
    """A run that is ready to take its first step, or to be resumed."""

    inputs: TrainInputs
    accelerator: Accelerator
    policy: Policy  # for bringing batches to the device
    forward: Any  # the policy as the accelerator wrapped it
    optimizer: Any
    unreached: Unreached
    parameters: dict[str, nn.Parameter]  # the trained ones by name
    course: Course
    validation: Stream
    loaded: LoadedModel
    template: ServedTemplate
    belongs_to: Mapping[str, Any]
    capacity: int
    pad_id: int
    kept: Mapping[str, KeptBase]  # by stream: `train`, `replay`
    mixture: Sequence[Mixed] = ()  # what data.mixture wanted, and what its epochs bring
    narrow: str = ""  # what keeps its epochs small

    @property
    def beginning(self) -> dict[str, Any]:
        """What the first event of a run tells of it, whichever engine takes the steps."""
        told = {"steps": self.course.steps, "plan": asdict(self.course.sft.totals()),
                "parameters": sum(p.numel() for p in self.policy.model.parameters()),
                "trained_parameters": sum(p.numel() for p in self.parameters.values()),
                "kept_as_is": self.policy.kept_as_is, "device": str(self.policy.device)}
        mixed = {"mixture": [row._asdict() for row in self.mixture], "narrow": self.narrow}
        return told | (mixed if self.mixture else {})

    def micros(self, stream: Stream, rows: Sequence[Row], section: TrainSection) -> Iterator[Collated]:
        """Collate the rows of one forward pass after the other."""
        for part in stream.micros(rows, section):
            yield self.micro(stream, part)

    def micro(self, stream: Stream, rows: tuple[Row, ...]) -> Collated:
        """Collate rows for one forward pass, no wider than the longest needs (in steps of 8 tokens)."""
        examples = [[stream.examples[i] for i in row] for row in rows]
        longest = max(sum(stream.tokens[i] for i in row) for row in rows)
        batch = collate(examples, min(self.capacity, -(-longest // 8) * 8), self.pad_id)
        counts = Counts(len(rows), int((batch.segments > 0).sum()), int((batch.targets != IGNORE).sum()))
        used = [i for row in rows for i in row]
        weights = stream.weights
        spread = None if weights is None else torch.tensor([weights[i] for i in used]).repeat_interleave(
            torch.tensor([stream.trained[i] for i in used]))
        # By identity: each stream numbers its examples from 0, and what is kept of another's is another text's.
        kept = next((self.kept.get(name) for name, one in self.course.streams.items() if one is stream), None)
        return Collated(batch, counts, rows, spread, None if kept is None else kept.look_up(used))


def set_up(inputs: TrainInputs, section: TrainSection) -> Workbench:
    """Load data and base, prove the base, lay out the course, add adapters or the frozen copy, make the optimiser.

    Raises:
        ModelError: the base cannot be used. DataError: prepared files are missing or empty.
        TrainingError: the course has no step.
    """
    check_positions(inputs.model, inputs.mirror, inputs.max_tokens)
    data = read_data(inputs, section)
    mixture = data.mixture.table(section.epochs) if data.mixture else ()
    template = served_template(inputs.prepared)
    device = resolve_device(inputs.model)
    if device.type == "cpu":
        keep_freed_memory()
    # Precision and placement stay here: an Accelerator's are shared by the whole process and cannot be changed later.
    accelerator = Accelerator(mixed_precision="no", device_placement=False, cpu=device.type == "cpu")
    loaded = _load(inputs, section, template, in_parts=accelerator.num_processes > 1 and section.shard == "fsdp")
    for stream in (data.course.sft, data.validation, data.course.replay):
        _check_ids(loaded, stream.examples if stream else ())
    policy = make_policy(loaded, inputs.model, section, inputs.seed, grown=bool(template.added),
                         rows=Rows(inputs.pack, inputs.max_tokens))
    if accelerator.is_main_process:
        _say(loaded, policy, mixture)
    if section.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable(  # type: ignore[operator]
            gradient_checkpointing_kwargs={"use_reentrant": False})
    if section.compile:
        policy.compile_layers()
    policy.train()
    forward = _spread(policy, accelerator, section, compute_dtype(inputs.model, device))
    fill(policy, loaded.rest)
    parameters = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
    optimizer = accelerator.prepare_optimizer(
        make_optimizer(section.optim, parameters.values(), layers_of(policy.model)))
    kept = {name: KeptBase(inputs.kept[name], data.course.streams[name])
            for name in section.kl.streams if name in inputs.kept}
    tokenizer = loaded.tokenizer
    # Nobody sees padding. EOS first: a padding token's embedding may be zero, whose norm has no gradient (Gemma 3n).
    pads = (tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
    return Workbench(inputs, accelerator, policy, forward, optimizer, Unreached(parameters), parameters, data.course,
                     data.validation, loaded, template, _belongs_to(inputs, section, data.course), inputs.max_tokens,
                     next(p for p in pads if p is not None), kept, mixture,
                     data.mixture.narrow if data.mixture else "")


def _load(inputs: TrainInputs, section: TrainSection, template: ServedTemplate, in_parts: bool) -> LoadedModel:
    """The base, held as it is to be trained; in parts, where it is to be shared out and can be.

    Raises:
        ModelError: it cannot be used, or its products are not in the precision that weights in bfloat16 need.
    """
    wide = section.method == "full" and section.weights == "float32"
    # The scale of DoRA is made of the weights themselves.
    if in_parts and not section.lora.dora:
        parts = load_in_parts(inputs.model, mirror=inputs.mirror, added=template.added, as_stored=not wide)
        if parts is not None:
            return parts
    if wide:
        return load_model(inputs.model, mirror=inputs.mirror, added=template.added)
    loaded = load_as_stored(inputs.model, mirror=inputs.mirror, added=template.added, quantize=section.lora.quantize)
    if section.weights == "bfloat16":
        if compute_dtype(inputs.model, resolve_device(inputs.model)) != torch.bfloat16:
            raise ModelError("train.weights: bfloat16 needs products in bfloat16, and this run's are in float32; set "
                             "model.precision: bfloat16, or train.weights: float32")
        narrow(loaded.model, torch.bfloat16, loaded.whole)
    return loaded


def _say(loaded: LoadedModel, policy: Policy, mixture: Sequence[Mixed]) -> None:
    """What the base brings that nobody may have asked for, and what became of the mixture that somebody did ask for."""
    for row in mixture:
        log.info("mixture: %s", row)
    if policy.kept_as_is:
        log.info("%s", in_sentence(policy.kept_as_is))
    if noise := own_noise(loaded.model.config):
        log.info("%s", noise)


def join(model: ModelSection) -> PartialState:
    """Meet the other processes of this run, if torchrun started several; from then on `cuda` means the GPU of this one.

    Raises:
        ModelError: the device is not there.
    """
    device = resolve_device(model)
    if device.type == "cuda" and not torch._C._accelerator_getAllocatorSettings():  # what PYTORCH_ALLOC_CONF says stays
        # Every line has another length: blocks that grow leave no holes between them that nothing fits into.
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    return PartialState(cpu=device.type == "cpu", timeout=PATIENCE)


def _spread(policy: Policy, accelerator: Accelerator, section: TrainSection, dtype: torch.dtype) -> Any:
    """The policy as several processes run it: a copy in each (DDP), or its layers shared out (FSDP2)."""
    whole = section.shard == "none"
    if accelerator.num_processes == 1:
        return policy
    if whole:
        # Buffers never change, nor does the base, which may be lent from main memory.
        same = [name for name, _ in policy.named_buffers()]
        same += [name for name, _ in policy.named_parameters() if name.startswith(("reference.", "base_head."))]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(policy, same)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(policy, gradient_as_bucket_view=True)
    mesh = init_device_mesh(policy.device.type, (accelerator.num_processes,))
    # In bfloat16 the gathered weights are: under autocast alone each layer would leave a whole cast copy for backward.
    how = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False) if dtype == torch.bfloat16 else (
        MixedPrecisionPolicy())
    for model in (policy.reference, policy.model):
        for layer in layers_of(model) if model is not None else ():
            fully_shard(layer, mesh=mesh, mp_policy=how)
    fully_shard(policy, mesh=mesh)
    return policy


def _check_ids(loaded: LoadedModel, examples: Sequence[Example]) -> None:
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    for example in examples:
        if max(example.input_ids) >= rows:
            raise ModelError(f"{example.origin} holds token id {max(example.input_ids)}, but the embedding of "
                             f"{loaded.folder} has {rows} rows; the data was prepared with another tokenizer: prepare "
                             "it again")


def _belongs_to(inputs: TrainInputs, section: TrainSection, course: Course) -> dict[str, Any]:
    settings = section.model_dump(mode="json", by_alias=True, exclude=UNRESUMED)
    mixing = {} if inputs.mixing is None else {"data.mixture": inputs.mixing.to_dict()}
    return mixing | {"train." + key: value for key, value in settings.items()} | {
        "seed": inputs.seed, "data.max_tokens": inputs.max_tokens, "data.pack": inputs.pack,
        "model.precision": inputs.model.precision, "course": course.digest(), "weights": dict(inputs.weights),
        "data": data_digest(inputs.prepared, inputs.mixing),
        "base": model_identity(inputs.model, inputs.mirror)["digest"][:16]}
