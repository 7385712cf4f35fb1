"""What TRL's SFTTrainer needs to run the course of a workbench: the rows as it takes them, its settings, a proof.

Packing. A packed row is handed over with its `seq_lengths`; TRL's padding-free collator then lays all rows of a
micro-batch end to end in one sequence without attention mask, with positions that restart at every example. With SDPA,
on the CPU too, transformers 5 finds the restarts and makes the dense block-causal mask [1, 1, tokens, tokens] of them
(`masking_utils.find_packed_sequence_indices`), so that examples do not see each other. That is proved again on the
model at hand before a packed run starts; where it does not hold, packing is refused. TRL's own `packing: bfd` is not
used: its rows would be other ones, and it cuts examples that are too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from huggingface_hub import constants as hub
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback

from sft_core.config.train import TrainSection
from sft_core.errors import ConfigError, ModelError
from sft_core.model.attention import layers_of
from sft_core.model.load import compute_dtype
from sft_core.model.proof import TOLERANCE
from sft_core.templates.render import IGNORE
from sft_core.train.course import Stream
from sft_core.train.inputs import TrainInputs
from sft_core.train.optim import learning_rate, make_optimizer
from sft_core.train.workbench import Workbench

INSTALL = "pip install 'sft-platform[trl]'"
PROOF_TOKENS = 12  # per example in the proof of isolation


def require_trl() -> None:
    """Raises ConfigError with the install line when the extra is absent."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"train.engine: trl needs the package trl ({error}); install it with {INSTALL}, or use "
                          "train.engine: native") from error


def dataset_of(stream: Stream, packed: bool) -> Dataset:
    """The rows of a stream, in order, as TRL takes them: `input_ids`, `labels` and, when packed, `seq_lengths`.

    TRL shifts by itself, so the label of a token is the target of the position before it.
    """
    rows = []
    for row in stream.rows:
        parts = [stream.examples[i] for i in row]
        rows.append({"input_ids": [token for part in parts for token in part.input_ids],
                     "labels": [label for part in parts for label in (IGNORE, *part.targets[:-1])]})
        if packed:
            rows[-1]["seq_lengths"] = [len(part.input_ids) for part in parts]
    return Dataset.from_list(rows)


@torch.no_grad()
def prove_isolation(model: Any) -> None:
    """Two examples in one sequence, told apart by restarting positions alone, give what the second gives alone.

    Raises:
        ModelError: they see each other, and by how much.
    """
    weight = model.get_input_embeddings().weight
    ids = (torch.arange(2 * PROOF_TOKENS, device=weight.device) * 7919 + 11).remainder(weight.shape[0])[None]
    one = torch.arange(PROOF_TOKENS, device=weight.device)[None]
    was_training, decoder = model.training, model.get_decoder().eval()
    packed = decoder(input_ids=ids, position_ids=torch.cat([one, one], 1), use_cache=False).last_hidden_state
    alone = decoder(input_ids=ids[:, PROOF_TOKENS:], position_ids=one, use_cache=False).last_hidden_state
    decoder.train(was_training)
    gap = float((packed[:, PROOF_TOKENS:] - alone).abs().max() / alone.abs().max())
    if not gap <= TOLERANCE[weight.dtype]:
        raise ModelError(f"with TRL, {type(model).__name__} lets packed examples see each other: the hidden states of "
                         f"one move by {gap:.2g} of their size when another stands before it; set data.pack: false, or "
                         "use train.engine: native")


@contextmanager
def as_before(*models: Any) -> Iterator[None]:
    """Takes back what TRL, Trainer and accelerate hang onto a model: patched forwards, `use_cache` off."""
    caches = [getattr(model.config, "use_cache", None) for model in models]  # the config of pictures and text has none
    try:
        yield
    finally:
        for model, cache in zip(models, caches, strict=True):
            if cache is None:
                vars(model.config).pop("use_cache", None)
            else:
                model.config.use_cache = cache
            for name in ("forward", "_original_forward"):
                model.__dict__.pop(name, None)


@contextmanager
def forgetting_precision() -> Iterator[None]:
    """accelerate remembers the precision that TRL was given for the whole process, and refuses the next run its own."""
    try:
        yield
    finally:
        AcceleratorState._reset_state()


def make_trainer(bench: Workbench, section: TrainSection, inputs: TrainInputs, out: Path) -> Any:
    """TRL's trainer over the course of `bench`, logging every step.

    Raises:
        ConfigError: TRL refuses the settings.
    """
    from trl import SFTConfig, SFTTrainer

    hub.HF_HUB_DISABLE_TELEMETRY = True  # TRL calls home when a trainer is made
    device, micro = bench.policy.device, min(section.micro_rows, section.rows_per_step)
    settings = SFTConfig(
        output_dir=str(out / "checkpoints"), num_train_epochs=1, per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro, gradient_accumulation_steps=section.rows_per_step // micro,
        train_sampling_strategy="sequential", max_length=None, packing=False, padding_free=inputs.pack,
        max_grad_norm=section.optim.max_grad_norm, gradient_checkpointing=section.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False}, seed=inputs.seed, use_cpu=device.type == "cpu",
        bf16=compute_dtype(inputs.model, device) == torch.bfloat16, dataloader_pin_memory=device.type == "cuda",
        logging_steps=1, logging_nan_inf_filter=False, save_strategy="no",
        report_to="none", disable_tqdm=True)
    optimizer = make_optimizer(section.optim, bench.parameters.values(), layers_of(bench.policy.model))
    steps = bench.course.steps
    # A factor on the peak rate; never asked for a step behind the last, but the scheduler is wound on once more.
    rates = LambdaLR(optimizer, lambda step: learning_rate(section.optim, min(step, steps - 1), steps)
                     / section.optim.lr)
    try:
        trainer = SFTTrainer(
            model=bench.policy.model, args=settings, train_dataset=dataset_of(bench.course.sft, inputs.pack),
            processing_class=bench.loaded.tokenizer, optimizers=(optimizer, rates))
    except ValueError as error:
        raise ConfigError(f"train.engine: trl: TRL refuses these settings: {error}; change them or use "
                          "train.engine: native") from error
    trainer.remove_callback(PrinterCallback)
    return trainer
