"""Trained weights → the model folder: in the form that keeps what was gained, read back before it appears.

For adapters the merged weights are the artifact; the adapter itself lies beside it.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sft_core.config.data import ModelSection
from sft_core.config.train import KlSection, TrainSection
from sft_core.errors import TrainingError
from sft_core.model.held import HALVES, held_low, widen
from sft_core.model.load import LoadedModel, load_model
from sft_core.model.proof import Rows
from sft_core.model.room import free_bytes
from sft_core.progress import progress
from sft_core.stage import whole_folder
from sft_core.train.adapter import MERGE_TOLERANCE, merge_adapter, save_adapter, token_log_probs
from sft_core.train.artifact import served_tokenizer, write_model, writing
from sft_core.train.objective import Term
from sft_core.train.pack import Batch
from sft_core.train.policy import Policy, make_policy
from sft_core.train.rounding import Form, Gain, Stored, best, forms, remark, rounded
from sft_core.train.shape import FLOAT
from sft_core.train.snapshot import restore_weights
from sft_core.train.workbench import Workbench

log = logging.getLogger("sft")

ROOM = 1.2
"""Free memory of a device that a model needs to be read back on it, as a multiple of its weights."""


class Output(NamedTuple):
    """Where a trained model goes, and with which card."""

    model: Path
    adapter: Path | None
    card: Callable[[Stored], str]


class _Read(NamedTuple):
    """What a saved model says."""

    loss: float  # nats per trained token over the held-out rows; NaN without any
    log_probs: Tensor  # of the tokens that adapter and merged model are compared on


def save_trained(bench: Workbench, section: TrainSection, weights: Mapping[str, Tensor], output: Output,
                 gain: Gain | None) -> Stored:
    """Write the model folder, and the adapter's, with these trained weights; one process does it for all.

    A base that is held as stored is merged into in float32, in main memory where the device has no room for that. A
    model that is sharded or held in 4 bits is not saved as it is: the base is loaded anew, in main memory, and given
    the weights. The model of the workbench cannot be trained on afterwards.

    Args:
        gain: the trainer's validation losses; None without held-out rows. Under autocast the trained weights are
            measured again in float32, and so is the base: products in bfloat16 round them to the nearest, so that the
            trainer does not see its small updates, and nearest rounding seems to lose nothing.

    Raises:
        TrainingError: merging changes the model, no form of the weights has a finite loss, or a folder cannot be
            written.
    """
    loaded, policy = _whole(bench, section)
    model: Any = policy.model
    trained = {name: p for name, p in model.named_parameters() if name in weights}
    restore_weights(trained, weights)
    tokenizer = served_tokenizer(loaded.tokenizer, bench.template)
    sample = bench.micro(bench.course.sft, bench.course.sft.rows[:1]).batch
    tried = forms(section.save_dtype, loaded.dtype, gain is not None)
    said: Tensor | None = None
    anew = gain is not None and section.lora.quantize == "none" and bench.policy.dtype in HALVES
    if gain is not None:
        log.info("saving the model: %s the folder is read back and measured on the %d held-out examples, in up to %d "
                 "forms", "trained weights and base are measured in float32, then" if anew else "then",
                 len(bench.validation.examples), len(tried))
    exact = _exact(policy, bench, section) if anew else math.nan
    if output.adapter is not None:
        save_adapter(model, loaded, bench, output.adapter)
        with policy.in_float32():
            model, said = merge_adapter(model, policy.micro(sample))
    model.to("cpu")  # makes room on the device for the models that are read back
    if anew:
        gain = Gain(_base_loss(bench, section), exact)
    ready = _Ready(model, {name: p.detach() for name, p in model.named_parameters()}, tokenizer, bench)
    found: dict[Form, _Read] = {}
    with whole_folder(output.model, writing) as draft:
        for form in tried:
            ready.write(form, draft)
            found[form] = _read_back(draft, bench, section, sample)
            if gain is None or gain.lost(found[form].loss) is None:
                break
        chosen = best({form: read.loss for form, read in found.items()}, gain)
        if chosen != form:
            ready.write(chosen, draft)
        stored = _stored(chosen, found, gain, said, section)
        with writing(output.model):
            (draft / "README.md").write_text(output.card(stored), encoding="utf-8")
    return stored


class _Ready(NamedTuple):
    """A plain model that can be written in any form."""

    model: Any
    weights: Mapping[str, Tensor]  # as they were trained
    tokenizer: Any
    bench: Workbench

    @torch.no_grad()
    def write(self, form: Form, draft: Path) -> None:
        """Give the model its weights in this form, and write it. Buffers, which no form may round, and what the base
        has in float32 stay whole."""
        generator = torch.Generator().manual_seed(self.bench.inputs.seed)
        for name, parameter in self.model.named_parameters():
            whole = name in self.bench.loaded.whole
            parameter.data = self.weights[name] if whole else rounded(self.weights[name], form, generator)
        write_model(self.model, self.tokenizer, self.bench.template, draft)


def _whole(bench: Workbench, section: TrainSection) -> tuple[LoadedModel, Policy]:
    """The model that is trained, in float32, or one like it where that is in parts, in 4 bits or has no room."""
    loaded, policy, inputs = bench.loaded, bench.policy, bench.inputs
    whole = section.lora.quantize == "none" and not any(isinstance(p, DTensor) for p in policy.model.parameters())
    if whole and (not held_low(policy.model) or _room_for(policy)):
        widen(policy.model)
        return loaded, policy
    apart = inputs.model.model_copy(update={"device": "cpu", "attention": "auto"})
    loaded = load_model(apart, mirror=inputs.mirror, added=bench.template.added)
    return loaded, make_policy(loaded, apart, section.model_copy(update={"kl": KlSection()}), inputs.seed,
                               grown=bool(bench.template.added), rows=Rows(inputs.pack, inputs.max_tokens))


def _read_back(folder: Path, bench: Workbench, section: TrainSection, sample: Batch) -> _Read:
    """Load the folder as anybody would and compute its validation loss."""
    read = _fresh(bench, section, bench.inputs.model.model_copy(update={"path": str(folder), "revision": None}))
    # Against adapters on 4 bits, whose products are in bfloat16, in bfloat16 too.
    loss = (_exact if section.lora.quantize == "none" else _validation_loss)(read, bench, section)
    with read.in_float32():
        log_probs = token_log_probs(read.model, read.micro(sample))
    del read
    gc.collect()  # a model is a circle of references
    return _Read(loss, log_probs)


def _base_loss(bench: Workbench, section: TrainSection) -> float:
    """Validation loss of the base, in float32."""
    base = _fresh(bench, section, bench.inputs.model)
    loss = _exact(base, bench, section)
    del base
    gc.collect()
    return loss


def _fresh(bench: Workbench, section: TrainSection, model: ModelSection) -> Policy:
    """A model as it lies in its folder, on the device of training where there is room, else on the CPU."""
    inputs, policy = bench.inputs, bench.policy
    here = model.model_copy(update={"precision": str(policy.dtype).removeprefix("torch."),
                                    **({} if _room_for(policy) else {"device": "cpu", "attention": "auto"})})
    plain = section.model_copy(update={"method": "full", "kl": KlSection()})
    loaded = load_model(here, mirror=inputs.mirror, added=bench.template.added)
    return make_policy(loaded, here, plain, inputs.seed, grown=False, rows=Rows(inputs.pack, inputs.max_tokens)).eval()


def _exact(policy: Policy, bench: Workbench, section: TrainSection) -> float:
    """Validation loss with products in float32, on the device of training where there is room."""
    before = policy.device
    if before != bench.policy.device and _room_for(bench.policy):
        policy.place(bench.policy.device)
    with policy.in_float32():
        loss = _validation_loss(policy.eval(), bench, section)
    policy.place(before)
    return loss


@torch.no_grad()
def _validation_loss(policy: Policy, bench: Workbench, section: TrainSection) -> float:
    """Nats per trained token over the held-out rows; NaN without any."""
    stream, total, tokens = bench.validation, 0.0, 0
    with progress("measuring what is saved", sum(map(len, stream.steps)), "rows") as bar:
        for rows in stream.steps:
            for part in bench.micros(stream, rows, section):
                total += float(policy(policy.micro(part.batch), Term()).nll)
                tokens += part.counts.trained_tokens
                bar.advance(part.counts.rows)
    return total / tokens if tokens else math.nan


def _room_for(policy: Policy) -> bool:
    """Whether one more model like this, in float32, has room on its device."""
    size = FLOAT * sum(p.numel() for p in policy.model.parameters())
    return policy.device.type == "cpu" or free_bytes(policy.device) > ROOM * size


def _stored(form: Form, found: Mapping[Form, _Read], gain: Gain | None, said: Tensor | None,
            section: TrainSection) -> Stored:
    """Raises TrainingError when a merged model that was stored in float32 is not what its adapter is."""
    read = found[form]
    gap = None if said is None else float((read.log_probs - said).abs().max())
    if gap is not None and form.dtype.itemsize >= FLOAT and not gap <= MERGE_TOLERANCE:
        raise TrainingError(f"the merged model as it is stored ({form}) says something else than its adapter: "
                            f"log-probabilities differ by up to {gap:.2g} nats (allowed {MERGE_TOLERANCE:g}); the "
                            "adapter is good, the merged model was not saved")
    return Stored(str(form), gain and gain.base, gain and gain.trained, _finite(read.loss), gap,
                  {str(one): _finite(other.loss) for one, other in found.items()},
                  _finite(read.loss - gain.trained) if gain and section.lora.quantize != "none" else None,
                  remark(form, read.loss, gain, section.lora.quantize != "none"))


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
