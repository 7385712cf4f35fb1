"""TRL's SFTTrainer as a second engine: the same examples, rows, steps, rates, events and model folder as the own loop.

Ours are the prepared examples and their targets, the course (the rows of every step, handed over in order and sampled
sequentially), AdamW and its rate, validation as one token mean, events.jsonl and the saved folder. TRL's are collation,
attention, fused head and loss, accumulation, clipping, the step, and the checkpoints in `out/checkpoints`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from sft_core.config.train import TrainSection
from sft_core.errors import ConfigError, Interrupted, TrainingError
from sft_core.model.release import giving_back
from sft_core.progress import progress
from sft_core.stopping import StopRequest, stop_on_signals
from sft_core.templates.render import IGNORE
from sft_core.train import checkpoint
from sft_core.train.course import Counts
from sft_core.train.events import EVENTS, EventLog
from sft_core.train.finish import TrainReport, Until, Walked, finish
from sft_core.train.inputs import TrainInputs
from sft_core.train.shortage import told_when_short
from sft_core.train.step import Losses, origins
from sft_core.train.trl_bridge import (
    as_before,
    dataset_of,
    forgetting_precision,
    make_trainer,
    prove_isolation,
    require_trl,
)
from sft_core.train.workbench import Workbench, join, set_up


@giving_back()
@forgetting_precision()
def train(inputs: TrainInputs, section: TrainSection, out: Path, *,
          on_events: Callable[[Path], None] | None = None, sync_every_s: float = 5.0,
          until: Until | None = None) -> TrainReport:
    """Train with TRL, or continue from TRL's newest whole checkpoint; arguments and files as of the own loop.

    Raises:
        ConfigError: trl is not installed, or refuses these settings, as to pause (`until`).
        Interrupted: SIGTERM or Ctrl-C; the state was saved.
        TrainingError: a loss that is not finite, counters that differ from the plan, a parameter that never moved, a
            checkpoint of another run.
        ModelError, DataError: base or prepared data cannot be used, or the model does not keep packed examples apart.
    """
    require_trl()
    if until is not None:
        raise ConfigError("engine: trl trains to its end in one go and cannot pause at a share of its steps "
                          "(search.rungs); leave search.rungs out, or use engine: native")
    join(inputs.model)
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=cuda), stop_on_signals() as stop:
        torch.manual_seed(inputs.seed)
        with told_when_short(inputs, section, lambda: "while the run was set up"):
            bench = set_up(inputs, section)
        model: Any = bench.policy.model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.set_attn_implementation("sdpa")
        if inputs.pack:
            prove_isolation(base)
        with EventLog(out / EVENTS, on_events, sync_every_s) as events:
            with as_before(model, base):
                run = _Run(bench, section, inputs, out, events, stop)
                with told_when_short(inputs, section, lambda: f"after step {run.step}"):
                    run.walk()
            with told_when_short(inputs, section, lambda: "while the trained model was saved and read back"):
                return run.finish()


class _Run(TrainerCallback):  # type: ignore[misc]
    """A run under way: listens to TRL's trainer, keeps the diary, asks for checkpoints and for the stop."""

    def __init__(self, bench: Workbench, section: TrainSection, inputs: TrainInputs, out: Path, events: EventLog,
                 stop: StopRequest) -> None:
        self.bench, self.section, self.inputs, self.out = bench, section, inputs, out
        self.events, self.stop = events, stop
        # Before TRL makes the folder: where it cannot be seen nothing is begun.
        self.found, self.damaged = checkpoint.newest(out / "checkpoints", bench.belongs_to)  # damaged: until replaced
        self.trainer = make_trainer(bench, section, inputs, out)
        self.trainer.add_callback(self)
        self._loss, self.trainer.compute_loss = self.trainer.compute_loss, self._counted_loss
        self.step, self.done, self.told = 0, Counts(), 0  # told: tokens up to the last event
        self.last: Losses | None = None
        self.validations: list[tuple[int, float]] = []
        self.seconds = 0.0  # up to the last event
        self.resumed_from: int | None = None
        self.begun = False  # TRL has loaded what it continues from
        self.clock = self.saved_at = time.monotonic()

    def walk(self) -> None:
        """All steps that are left.

        Raises:
            Interrupted: a signal asked to stop.
        """
        course, found = self.bench.course, self.found
        skipped = [str(one) for one in self.damaged]
        if found is None:
            self.events.cut(0)
            self.events.write("start", **self.bench.beginning, skipped_checkpoints=skipped)
        else:
            self._restore(checkpoint.meta_of(found))
            self.events.write("resume", step=self.step, of=course.steps, skipped_checkpoints=skipped)
        self.clock = self.saved_at = time.monotonic()
        with progress("training", course.steps, "steps", begun=self.step) as self.bar:
            try:
                self.trainer.train(resume_from_checkpoint=None if found is None else str(found))
            except checkpoint.UNREAD as error:
                if self.begun or found is None:
                    raise
                raise TrainingError(checkpoint.not_now(found, error)) from error
        if self.step < course.steps:
            raise Interrupted(f"training stopped by {self.stop.asked_by} after step {self.step} of {course.steps}; "
                              f"the state is saved in {self.out / 'checkpoints'}: start the same run again to continue")

    def finish(self) -> TrainReport:
        """Check what was done, save the model folder, write the last event."""
        assert self.last is not None, "a course has at least one step"
        walked = Walked(self.step, self.seconds, self.done, Counts(), self.last, self.validations, self.resumed_from)
        self.trainer.optimizer.state.clear()  # makes room for the model that is read back
        return finish(self.bench, self.section, self.out, self.events, walked)

    # What TRL's trainer calls

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The validation loss of the base; what a checkpoint holds is loaded."""
        self.begun = True
        self._validate_if_due()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The gradients of a step stand there, clipped."""
        unreached = self.bench.unreached
        unreached.look(unreached.sizes(torch.zeros(1)).tolist())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint where one is due, and for the end where a signal came."""
        control.should_training_stop |= bool(self.stop)
        control.should_save |= bool(self.stop) or time.monotonic() - self.saved_at >= self.section.checkpoint_every_s

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        """The event of a step, and its validation."""
        if "grad_norm" not in logs:  # the summary at the end
            return
        if not math.isfinite(logs["grad_norm"]):
            raise TrainingError(f"step {state.global_step}: gradient norm {logs['grad_norm']:g}. {self._advice()}")
        took, tokens, self.told = self._lap(), self.done.tokens - self.told, self.done.tokens
        self.done = self.done + Counts(len(self.bench.course.sft.step(self.step)), 0, 0)
        self.step = state.global_step
        self.last = Losses(logs["loss"], logs["loss"], None, None)
        self.events.write("step", step=self.step, **asdict(self.last), lr=logs["learning_rate"],
                          grad_norm=logs["grad_norm"], tokens=self.done.tokens,
                          trained_tokens=self.done.trained_tokens, replay_tokens=0,
                          tokens_per_s=round(tokens / took, 1))
        self.bar.advance(1, **self.last.told(), **{"tokens/s": tokens / took})
        self._validate_if_due()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Complete TRL's checkpoint with what it does not keep."""
        root = self.out / "checkpoints"
        mine = root / f"checkpoint-{self.step}"
        checkpoint.seal(mine, self.step, self.bench.belongs_to, done=asdict(self.done),
                        last=self.last and asdict(self.last), validations=self.validations, seconds=self.seconds,
                        unreached=self.bench.unreached.names, events=self.events.length())
        self.events.write("checkpoint", step=self.step)  # told when it is true: it must be found from now on
        checkpoint.prune(root, self.section.keep_checkpoints, [one for one in self.damaged if one.folder != mine])
        self.damaged = ()
        self.saved_at = time.monotonic()

    def _counted_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss of a micro-batch; counts its tokens and stops before the backward pass where it is not finite."""
        loss = self._loss(model, inputs, *args, **kwargs)
        if not model.training:
            return loss
        tokens = inputs["attention_mask"].sum() if "attention_mask" in inputs else inputs["input_ids"].numel()
        self.done = self.done + Counts(0, int(tokens), _trained(inputs["labels"]))
        if not bool(loss.isfinite()):
            raise TrainingError(f"step {self.step + 1}: loss {float(loss):g}; the step was not applied. "
                                + self._advice())
        return loss

    # Validation

    @torch.no_grad()
    def _validate_if_due(self) -> None:
        """Nats per trained token over the held-out rows; TRL's own figure would be a mean of means."""
        stream, at = self.bench.validation, self.step
        due = at % self.section.validate_every_steps == 0 or at == self.bench.course.steps
        if not due or not stream.rows or (self.validations and self.validations[-1][0] == at):
            return
        model, total, tokens = self.trainer.model, 0.0, 0
        model.eval()
        for batch in self.trainer.get_eval_dataloader(dataset_of(stream, self.inputs.pack)):
            trained = _trained(batch["labels"])
            with self.trainer.compute_loss_context_manager():
                total += float(self.trainer.compute_loss(model, dict(batch))) * trained
            tokens += trained
        model.train()
        self.validations.append((at, total / tokens))
        self._lap()
        self.events.write("validation", step=at, loss=total / tokens)

    # State

    def _restore(self, kept: Mapping[str, Any]) -> None:
        self.step = self.resumed_from = kept["step"]
        self.done, self.told = Counts(**kept["done"]), kept["done"]["tokens"]
        self.last = Losses(**kept["last"])
        self.validations = [(at, loss) for at, loss in kept["validations"]]
        self.bench.unreached.restore(kept["unreached"])
        self.seconds = kept["seconds"]
        self.events.cut(kept["events"])

    def _lap(self) -> float:
        """Seconds since the last call, which are added to the run's."""
        now = time.monotonic()
        took, self.clock = now - self.clock, now
        self.seconds += took
        return took

    def _advice(self) -> str:
        stream = self.bench.course.sft
        return (f"Rows: {origins(stream, stream.step(self.step))}. Look at these rows, or lower train.optim.lr (peak "
                f"{self.section.optim.lr:g})")


def _trained(labels: torch.Tensor) -> int:
    """Tokens with a loss: the first of a sequence has none."""
    return int((labels[:, 1:] != IGNORE).sum())
