"""Everything a training run works with, put together from prepared data and a base model before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from sft_core.artifact import ServedTemplate
from sft_core.attention import prove
from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.course import Counts, Course, Packing, Row, Stream, lay_out
from sft_core.errors import DataError, ModelError, TrainingError
from sft_core.models import Loaded, apply_lora, compute_dtype, load_model, model_identity, resolve_device
from sft_core.optim import make_optimizer
from sft_core.pack import Batch, collate
from sft_core.policy import Policy
from sft_core.prepare import load_examples
from sft_core.render import IGNORE, Example
from sft_core.stage import file_digest, read_json

UNRESUMED = {"checkpoint_every_s", "keep_checkpoints", "validate_every_steps"}
"""Fields of TrainSection that change no weight and may differ on resume."""


@dataclass(frozen=True)
class TrainInputs:
    """What is trained, apart from how."""

    prepared: Path  # folder written by prepare(): train, validation and replay Parquet files, template.json
    model: ModelSection
    max_tokens: int  # length of a row, DataSection.max_tokens
    pack: bool  # DataSection.pack
    seed: int
    mirror: Path | None = None


@dataclass(frozen=True)
class Micro:
    """One forward pass worth of rows, still on the CPU, with what it counts."""

    batch: Batch
    counts: Counts


@dataclass(frozen=True)
class Workbench:
    """A run that is ready to take its first step, or to be resumed."""

    accelerator: Accelerator
    policy: Policy  # for bringing batches to the device
    forward: Any  # the policy as the accelerator wrapped it
    optimizer: Any
    parameters: dict[str, nn.Parameter]  # the trained ones by name
    course: Course
    validation: Stream
    loaded: Loaded
    template: ServedTemplate
    belongs_to: Mapping[str, Any]
    capacity: int
    pad_id: int

    def micros(self, stream: Stream, rows: Sequence[Row], micro_rows: int) -> Iterator[Micro]:
        """Collate rows, `micro_rows` at a time, no wider than the longest needs (in steps of 8 tokens)."""
        for start in range(0, len(rows), micro_rows):
            part = [[stream.examples[i] for i in row] for row in rows[start : start + micro_rows]]
            longest = max(sum(len(e.input_ids) for e in row) for row in part)
            batch = collate(part, min(self.capacity, -(-longest // 8) * 8), self.pad_id)
            counts = Counts(len(part), int((batch.segments > 0).sum()), int((batch.targets != IGNORE).sum()))
            yield Micro(batch, counts)


def set_up(inputs: TrainInputs, section: TrainSection) -> Workbench:
    """Load data and base, prove the base, lay out the course, add adapters or the frozen copy, make the optimiser.

    Raises:
        ModelError: the base cannot be used. DataError: prepared files are missing or empty.
        TrainingError: the course has no step.
    """
    train = _examples(inputs.prepared, "train")
    validation = _examples(inputs.prepared, "validation", needed=False)
    replay = _examples(inputs.prepared, "replay") if wants_replay(section) else []
    loaded = load_model(inputs.model, mirror=inputs.mirror)
    _check_ids(loaded, [*train, *validation, *replay])
    prove(loaded.model)
    packing = Packing(inputs.max_tokens, inputs.pack, inputs.seed)
    course = lay_out(train, replay, section, packing)
    if course.steps == 0:
        raise TrainingError(f"train.epochs {section.epochs:g} of {len(train)} examples makes no step; train longer")
    device = resolve_device(inputs.model)
    model = apply_lora(loaded.model, section.lora, inputs.seed) if section.method == "lora" else loaded.model
    if section.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    keep_base = section.kl.beta > 0
    policy = Policy(model, keep_base=keep_base, dtype=compute_dtype(inputs.model, device)).to(device).train()
    # Precision and placement stay here: an Accelerator's are shared by the whole process and cannot be changed later.
    accelerator = Accelerator(mixed_precision="no", device_placement=False)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    forward, optimizer = accelerator.prepare(policy, make_optimizer(section.optim, parameters.values()))
    rows = tuple(packing.rows(validation, "validation", 0)) if validation else ()
    tokenizer = loaded.tokenizer
    pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return Workbench(accelerator, policy, forward, optimizer, parameters, course,
                     Stream(validation, rows, section.micro_rows), loaded, served_template(inputs.prepared),
                     _belongs_to(inputs, section, course), inputs.max_tokens, next(p for p in pads if p is not None))


def wants_replay(section: TrainSection) -> bool:
    """Whether any term of the objective looks at replay text."""
    return section.replay.lambda_ > 0 or (section.kl.beta > 0 and section.kl.on != "assistant")


def served_template(prepared: Path) -> ServedTemplate:
    """The template that the data was rendered with.

    Raises:
        DataError: `template.json` is missing.
    """
    try:
        found = read_json(prepared / "template.json")
        return ServedTemplate(found["name"], found["stop"], found["jinja"])
    except (FileNotFoundError, KeyError) as error:
        raise DataError(f"{prepared}/template.json is missing or incomplete ({error}); prepare the data "
                        "again") from error


def data_digest(prepared: Path) -> str:
    """Content hash of the prepared training files, 16 hex digits."""
    files = [prepared / f"{name}.parquet" for name in ("train", "validation", "replay")]
    return "-".join(file_digest(f)[:8] for f in files if f.is_file())


def _examples(prepared: Path, name: str, needed: bool = True) -> list[Example]:
    file = prepared / f"{name}.parquet"
    examples = load_examples(file) if file.is_file() else []
    if needed and not examples:
        raise DataError(f"{file} {'has no rows' if file.is_file() else 'is missing'}, but this run trains on it; "
                        "prepare the data again with the sources of this run")
    return examples


def _check_ids(loaded: Loaded, examples: Sequence[Example]) -> None:
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    for example in examples:
        if max(example.input_ids) >= rows:
            raise ModelError(f"{example.origin} holds token id {max(example.input_ids)}, but the embedding of "
                             f"{loaded.folder} has {rows} rows; the data was prepared with another tokenizer: prepare "
                             "it again")


def _belongs_to(inputs: TrainInputs, section: TrainSection, course: Course) -> dict[str, Any]:
    settings = section.model_dump(mode="json", by_alias=True, exclude=UNRESUMED)
    return {"train." + key: value for key, value in settings.items()} | {
        "seed": inputs.seed, "data.max_tokens": inputs.max_tokens, "data.pack": inputs.pack,
        "model.precision": inputs.model.precision, "course": course.digest(),
        "data": data_digest(inputs.prepared), "base": model_identity(inputs.model, inputs.mirror)["digest"][:16]}
