"""The end of a run, the same for both engines: counters and parameters checked, the model saved and read back, the
report."""

from __future__ import annotations

import json
import logging
import math
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from accelerate.utils import broadcast_object_list

from sft_core.config.train import TrainSection
from sft_core.errors import TrainingError
from sft_core.train import best, pulse
from sft_core.train.artifact import card_text
from sft_core.train.course import Counts, Course
from sft_core.train.events import EventLog
from sft_core.train.rounding import Gain, Stored
from sft_core.train.saving import Output, save_trained
from sft_core.train.snapshot import weights_of
from sft_core.train.step import Losses
from sft_core.train.workbench import Workbench

log = logging.getLogger("sft")

class Until(NamedTuple):
    """Where a run pauses before its end."""

    share: float  # of its steps, above 0 and below 1
    out: Path  # gets the model of that moment

    def step(self, steps: int) -> int:
        """After which of so many steps."""
        return math.ceil(self.share * steps)


@dataclass(frozen=True)
class Walked:
    """What an engine has done, as it counted it."""

    step: int  # optimiser steps done
    seconds: float  # in steps and validation, over all processes that took part
    done: Counts
    replayed: Counts
    last: Losses
    validations: Sequence[tuple[int, float]]  # (steps done, nats per trained token)
    resumed_from: int | None = None  # steps done at the checkpoint
    best: int | None = None  # steps done when early stopping found it best; None: the last ones are saved
    stopped_early: bool = False

    @property
    def gain(self) -> Gain | None:
        """Validation losses before the first step and of the weights that are saved; None without held-out rows."""
        losses = dict(self.validations)
        return Gain(losses[0], losses[self.step if self.best is None else self.best]) if losses else None


@dataclass(frozen=True)
class TrainReport:
    """What a finished run amounts to."""

    steps: int
    seconds: float  # in steps and validation, over all processes that took part
    saving_s: float  # in writing the model folder, reading it back and measuring it
    validation_tokens: int  # of the held-out rows, which every measurement reads
    rows: int
    used: Mapping[str, int]  # of each source, training examples that these steps used at all
    tokens: int  # of the training rows, padding excluded
    trained_tokens: int
    replay_tokens: int
    tokens_per_s: float  # training and replay tokens
    peak_rss_bytes: int
    final: Losses  # of the last step
    validation: tuple[tuple[int, float], ...]  # (steps done, nats per trained token)
    stopped_early: bool
    resumed_from: int | None  # steps done at the checkpoint
    model_folder: Path
    adapter_folder: Path | None
    stored: Stored  # what the model folder holds


TOLD = ("rows", "tokens", "trained_tokens", "replay_tokens", "tokens_per_s", "seconds", "saving_s", "peak_rss_bytes",
        "stopped_early")
"""Fields of the report that the last event has."""


def finish(bench: Workbench, section: TrainSection, out: Path, events: EventLog, walked: Walked,
           until: Until | None = None) -> TrainReport:
    """Check counters and parameters, save `out/model` (and `out/adapter`), read it back, write the last events.

    Every process calls this; the first one saves for all. `until`: the run pauses, its model goes there, and no event
    tells of it: the run is not over.

    Raises:
        TrainingError: counters that differ from the plan, a parameter that never moved, a merge that changes the
            model, weights that have no finite loss as they are saved, or a folder that cannot be written.
    """
    check_counters(bench.course, walked)
    if until is None:  # what few steps have not reached, later ones may
        check_reached(bench.unreached.names)
    bench.optimizer.state.clear()  # makes room for the model that is read back
    began = time.monotonic()
    folder = until.out if until else out
    adapter = folder / "adapter" if section.method == "lora" else None
    first = bench.accelerator.is_main_process
    weights = weights_of(bench.parameters, first)
    said: list[Stored | None] = [None]
    pulse.at("saving the model", long=True)
    if first:
        if walked.best is not None:
            weights = best.load(out / "checkpoints", walked.best)
        output = Output(folder / "model", adapter, partial(_card, bench, section, walked))
        said = [save_trained(bench, section, weights, output, walked.gain)]
    pulse.turn()  # where the other processes wait
    (stored,) = broadcast_object_list(said)
    if first and stored.remark:
        log.warning("%s", stored.remark)
    report = _report(bench, walked, Saved(folder / "model", adapter, stored, round(time.monotonic() - began, 1)))
    if until is None:
        events.write("saved", step=walked.step, **asdict(stored))
        events.write("end", step=walked.step, **{name: value for name, value in asdict(report).items() if name in TOLD})
    return report


def check_counters(course: Course, walked: Walked) -> None:
    """Raises TrainingError when what was counted is not what the course had planned."""
    pairs = [("training", course.sft, walked.done)]
    if course.replay is not None:
        pairs.append(("replay", course.replay, walked.replayed))
    for name, stream, counted in pairs:
        if counted != (planned := stream.totals(walked.step)):
            raise TrainingError(f"the {name} counters do not meet the plan: counted {counted}, planned {planned}; "
                                "this is a bug of the platform, the model was not saved")


def check_reached(unreached: Sequence[str]) -> None:
    """Raises TrainingError when the gradient of a trained parameter was zero in every step: it is not part of the
    model's work."""
    # lora_A has no gradient as long as lora_B is zero, so in a run of one step it rightly stays.
    still = [name for name in unreached if "lora_A" not in name and "lora_embedding_A" not in name]
    if still:
        raise TrainingError(f"{len(still)} trained parameters never got a gradient (first: {still[0]}); take them "
                            "out of train.lora.target_modules or modules_to_save, or use another base model")


def _card(bench: Workbench, section: TrainSection, walked: Walked, stored: Stored) -> str:
    """The README of the model folder."""
    model, done = bench.inputs.model, walked.done
    losses = "-" if stored.loss is None else (
        f"base {stored.base:.4f}, trained {stored.trained:.4f}, this folder {stored.loss:.4f}")
    facts = {"engine": section.engine, "base": model.path, "revision": model.revision or "-",
             "base content": bench.belongs_to["base"], "data content": bench.belongs_to["data"],
             "template": bench.template.name, "seed": bench.inputs.seed, "steps": walked.step,
             "training tokens": f"{done.tokens} ({done.trained_tokens} trained)",
             "replay tokens": walked.replayed.tokens, "weights": stored.form,
             "parameters outside the text decoder, kept as they are": f"{bench.policy.kept_as_is:,}",
             "validation loss (nats per trained token)": losses, "tried": _tried(stored),
             "merged against adapter (nats)": "-" if stored.merge_gap is None else f"up to {stored.merge_gap:.2g}",
             "merged into the whole base against adapter on 4 bits (nats per trained token)":
                 "-" if stored.quantized_gap is None else f"{stored.quantized_gap:+.4f}",
             "remark": stored.remark or "-"}
    return card_text(f"{Path(model.path).name}, fine-tuned", facts,
                     json.loads(section.model_dump_json(by_alias=True)))


def _tried(stored: Stored) -> str:
    return "; ".join(f"{form}: {'not measured' if loss is None else f'{loss:.4f}'}"
                     for form, loss in stored.tried.items())


class Saved(NamedTuple):
    """What was saved, and how long that took."""

    model: Path
    adapter: Path | None
    stored: Stored
    seconds: float


def _report(bench: Workbench, walked: Walked, saved: Saved) -> TrainReport:
    done, replayed = walked.done, walked.replayed
    return TrainReport(
        steps=walked.step, seconds=walked.seconds, saving_s=saved.seconds,
        validation_tokens=sum(bench.validation.tokens), rows=done.rows,
        used=bench.course.sft.used_by_source(walked.step), tokens=done.tokens,
        trained_tokens=done.trained_tokens, replay_tokens=replayed.tokens,
        tokens_per_s=(done.tokens + replayed.tokens) / walked.seconds,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, final=walked.last,
        validation=tuple(walked.validations), stopped_early=walked.stopped_early, resumed_from=walked.resumed_from,
        model_folder=saved.model, adapter_folder=saved.adapter, stored=saved.stored)
