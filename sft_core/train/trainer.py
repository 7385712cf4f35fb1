"""The training loop: steps, validation, events, checkpoints, resume, early stopping. Callable from a plain script.

Started by torchrun it is one of several processes: all take the same steps, the first one writes.
"""

from __future__ import annotations

import logging
import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object

from sft_core.config.train import TrainSection
from sft_core.errors import Interrupted, TrainingError
from sft_core.model.release import giving_back
from sft_core.progress import progress
from sft_core.stopping import StopRequest, stop_on_signals
from sft_core.train import best, checkpoint, pulse
from sft_core.train.course import Counts
from sft_core.train.events import EVENTS, EventLog
from sft_core.train.finish import TrainReport, Until, Walked, finish
from sft_core.train.inputs import TrainInputs
from sft_core.train.reference import with_reference
from sft_core.train.saver import Copies, Saver
from sft_core.train.shortage import told_when_short
from sft_core.train.snapshot import (
    generators,
    moments_of,
    restore_generators,
    restore_moments,
    restore_weights,
    weights_of,
)
from sft_core.train.step import Losses, Stepper
from sft_core.train.system import Meter
from sft_core.train.workbench import join, set_up

log = logging.getLogger("sft")
Probe = Callable[[Any, Any], Mapping[str, float]]
"""Model in evaluation mode and tokenizer → score by suite, higher is better; must leave both as they are."""


@giving_back()
def train(inputs: TrainInputs, section: TrainSection, out: Path, *,  # noqa: PLR0913  (what a run is told, by keyword)
          on_events: Callable[[Path], None] | None = None, sync_every_s: float = 5.0,
          until: Until | None = None, probe: Probe | None = None) -> TrainReport:
    """Train, or continue what an earlier call left in `out`; write `out/model` (and `out/adapter` for LoRA).

    A run that was killed at any point ends bit-identical on the CPU when it is called again with the same arguments.

    Args:
        inputs: prepared data, base model, row length and seed.
        section: how to train.
        out: the run's own folder: events.jsonl, checkpoints/, model/, adapter/.
        probe: run after every validation; its scores are written down and can stop the run.
        until: where to pause: with a checkpoint, and the model of that moment in `until.out`. The next call continues
            from there, on the schedule of the whole run. A run that is past it, or that early stopping ends before it,
            goes on to its end.
        on_events: told the path of events.jsonl at most every `sync_every_s` seconds and at the end; must not raise.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; the state was saved.
        TrainingError: a step without trained token, a loss or gradient that is not finite, no memory left, counters
            that differ from the plan, a parameter that never moved, a checkpoint of another run.
        ModelError, DataError: base or prepared data cannot be used.
    """
    join(inputs.model)
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=cuda), stop_on_signals() as stop, pulse.watched(out, section.compile):
        torch.manual_seed(inputs.seed)
        with told_when_short(inputs, section, lambda: "while the run was set up"):
            bench = set_up(with_reference(inputs, section, out / "reference"), section)
        first = bench.accelerator.is_main_process
        torch.manual_seed(inputs.seed + bench.accelerator.process_index)  # other dropout on every process
        diary = out / EVENTS if first else Path(os.devnull)
        with EventLog(diary, on_events if first else None, sync_every_s) as events, \
                Saver(events, section.checkpoint_every_s) as saver:
            run = _Run(Stepper(bench, section), out, saver, stop, probe)
            run.until = until
            with told_when_short(inputs, section, lambda: "while its last checkpoint was restored"):
                run.start()
            # Steps and validations tell more of themselves; this is for what lies between them.
            with told_when_short(inputs, section, lambda: f"after step {run.step}, in a probe or a checkpoint"):
                run.walk()
            with told_when_short(inputs, section, lambda: "while the trained model was saved and read back"):
                return run.finish()


class _Run:
    """A run under way: the counters that change with every step."""

    def __init__(self, stepper: Stepper, out: Path, saver: Saver, stop: StopRequest,
                 probe: Probe | None = None) -> None:
        self.stepper, self.out, self.stop, self.probe = stepper, out, stop, probe
        self.saver, self.events = saver, saver.events
        self.bench, self.section = stepper.bench, stepper.section
        bench = self.bench
        self.first, self.alone = bench.accelerator.is_main_process, bench.accelerator.num_processes == 1
        self.step = 0  # optimiser steps done
        self.until: Until | None = None
        self.done, self.replayed = Counts(), Counts()
        self.last: Losses | None = None
        self.validations: list[tuple[int, float]] = []
        self.watched: list[tuple[int, float]] = []  # (steps done, what early stopping wants low)
        self.measured: int | None = None  # steps done at the last validation and probe
        self.seconds = 0.0
        self.resumed_from: int | None = None
        self.damaged: tuple[checkpoint.Damaged, ...] = ()  # checkpoints that the next good one replaces
        self.saved_step: int | None = None
        self.meter = Meter()
        self.asked = False  # all processes know that one of them was asked to stop

    def start(self) -> None:
        """Continue from the newest checkpoint, or begin the diary."""
        newest, course = self._newest(), self.bench.course
        self.damaged, skipped = newest.damaged, [str(one) for one in newest.damaged]
        if newest.folder is None:
            self.events.cut(0)
            self.events.write("start", **self.bench.beginning, attention=self.bench.policy.backend,
                              processes=self.bench.accelerator.num_processes, skipped_checkpoints=skipped)
            return
        self._restore(checkpoint.load(newest.folder))
        self.events.write("resume", step=self.step, of=course.steps, skipped_checkpoints=skipped)

    def walk(self) -> None:
        """All steps that are left, with validation and checkpoints between them."""
        total = self.bench.course.steps
        began, before = time.monotonic(), self.seconds
        with progress("training", total, "steps", begun=self.step, shown=self.first) as bar:
            while True:
                # Before the validation of this step: the next call makes it, as if there had been no pause.
                if self.paused:
                    self._save()
                    self.saver.wait()
                    return
                self._validate_if_due()
                self.seconds = before + time.monotonic() - began
                self._stop_if_asked()
                if self.step == total or self.stopped_early:
                    self.saver.wait()
                    return
                self.saver.look()
                save = self._one_step()
                self.seconds = before + time.monotonic() - began
                assert self.last is not None, "a step tells its losses"
                rate = (self.done.tokens + self.replayed.tokens) / self.seconds
                bar.advance(1, **self.last.told(), **{"tokens/s": rate})
                # Before the validation of this step: a run that continues from here makes it again.
                if save:
                    self._save()

    def finish(self) -> TrainReport:
        """Check what was done, save the model folder, write the last event."""
        assert self.last is not None, "a course has at least one step"
        paused = self.until if self.paused else None
        validations, best_step = self.validations, self._bests()[-1] if self.watched else None
        if paused:  # the weights of this moment, whatever early stopping will find best
            best_step = None
            if self.bench.validation.examples and (loss := self.stepper.validation_loss(None)) is not None:
                validations = [*validations, (self.step, loss)]
        walked = Walked(self.step, self.seconds, self.done, self.replayed, self.last, validations,
                        self.resumed_from, best_step, self.stopped_early)
        return finish(self.bench, self.section, self.out, self.events, walked, paused)

    def _one_step(self) -> bool:
        """Take a step and write it down; says whether a checkpoint is due."""
        taken = self.stepper.take(self.step, bool(self.stop), self.first and self.saver.due())
        pulse.steady()
        self.step += 1
        self.asked = taken.stop
        self.last = taken.losses
        self.done, self.replayed = self.done + taken.counts, self.replayed + taken.replay_counts
        self.events.write("step", step=self.step, **asdict(taken.losses), lr=taken.rate, grad_norm=taken.grad_norm,
                          tokens=self.done.tokens, trained_tokens=self.done.trained_tokens,
                          replay_tokens=self.replayed.tokens,
                          tokens_per_s=round((taken.counts.tokens + taken.replay_counts.tokens) / taken.seconds, 1))
        if found := self.meter.read():
            self.events.write("system", step=self.step, **found)
        return taken.save

    # Validation and early stopping

    def _validate_if_due(self) -> None:
        due = self.step % self.section.validate_every_steps == 0 or self.step == self.bench.course.steps
        if not due or self.measured == self.step:
            return
        loss = None
        if self.bench.validation.examples:
            # Several processes would not agree on where to break off: they hear of the signal in the next step.
            loss = self.stepper.validation_loss(self.stop if self.alone else None)
            if loss is None:
                return
        try:
            scores = self._probed()
        except Interrupted:
            return  # saved and told between two steps, as everywhere in training
        found = {suite: -score for suite, score in scores.items()}
        if loss is not None:
            self.validations.append((self.step, loss))
            self.events.write("validation", step=self.step, loss=loss)
            found["validation_loss"] = loss
        if scores:
            self.events.write("probe", step=self.step, **scores)
        self.measured = self.step
        self._watch(found)

    def _probed(self) -> Mapping[str, float]:
        if self.probe is None:
            return {}
        with torch.random.fork_rng(), self.bench.policy.speaking() as model:
            return self.probe(model, self.bench.loaded.tokenizer)

    def _watch(self, found: Mapping[str, float]) -> None:
        """Remember what early stopping looks at, and the weights when it was never better."""
        stopping = self.section.stopping
        if not stopping.patience or stopping.metric not in found:
            return
        self.watched.append((self.step, found[stopping.metric]))
        if self._bests()[-1] == self.step:
            weights = weights_of(self.bench.parameters, self.first, self._copies())
            if self.first:
                root, keep = self.out / "checkpoints", self._bests_of_checkpoints()
                self.saver.save_best(partial(best.save, root, self.step, weights, keep))

    def _bests(self) -> list[int]:
        """The best step so far, after every validation."""
        bests: list[int] = []
        lowest = float("inf")
        for step, loss in self.watched:
            if not bests or loss < lowest - self.section.stopping.min_delta:
                lowest = loss
                bests.append(step)
            else:
                bests.append(bests[-1])
        return bests

    def _bests_of_checkpoints(self) -> set[int]:
        """The best steps that the checkpoints name: a run that continues from one may save no others.

        One that a signal asked for is made after the validation of its step, all others before it: both count.
        """
        bests, at = self._bests(), [step for step, _ in self.watched]
        saved = [checkpoint.step_of(folder) for folder in checkpoint.found(self.out / "checkpoints")]
        known = {cut(at, step) for step in saved for cut in (bisect_left, bisect_right)}
        return {bests[n - 1] for n in known if n}

    @property
    def stopped_early(self) -> bool:
        """The last `patience` validations brought no new best."""
        patience, bests = self.section.stopping.patience, self._bests()
        return 0 < patience < len(bests) and bests[-1] == bests[-1 - patience]

    @property
    def paused(self) -> bool:
        """At the step where this call is to pause, with steps left."""
        steps = self.bench.course.steps
        return self.until is not None and self.step == self.until.step(steps) < steps

    # State

    def _newest(self) -> checkpoint.Newest:
        """What the first process finds, so that all continue from the same; it alone reads all bytes twice."""
        told: list[Any] = [None]
        if self.first:
            try:
                told = [checkpoint.newest(self.out / "checkpoints", self.bench.belongs_to)]
                checkpoint.tidy(self.out / "checkpoints")
            except TrainingError as error:
                told = [str(error)]
        pulse.turn()
        broadcast_object_list(told)
        if isinstance(told[0], str):
            raise TrainingError(told[0])
        found: checkpoint.Newest = told[0]
        return found

    def _save(self) -> None:
        """A checkpoint of the state between two steps."""
        pulse.at("saving a checkpoint", long=True)
        if self.saved_step == self.step:
            return
        began, bench, copies = time.monotonic(), self.bench, self._copies()
        generators_of_all = gather_object([generators()])
        state = {"moments": moments_of(bench.parameters, bench.optimizer, self.first, copies),
                 "generators": generators_of_all,
                 "done": asdict(self.done), "replayed": asdict(self.replayed),
                 "last": self.last and asdict(self.last), "validations": list(self.validations),
                 "watched": list(self.watched), "measured": self.measured,
                 "unreached": bench.unreached.names,
                 "seconds": self.seconds, "events": self.events.length() if self.first else 0}
        weights = weights_of(bench.parameters, self.first, copies)
        if self.first:
            found = checkpoint.Checkpoint(self.step, bench.belongs_to, weights, state)
            self.saver.save(self.step, began, partial(checkpoint.save, self.out / "checkpoints", found,
                                                      self.section.keep_checkpoints, self.damaged))
            self.damaged = ()
        self.saved_step = self.step

    def _copies(self) -> Copies | None:
        """Where the first process copies to what it is to write."""
        parameters = self.bench.parameters.values()
        moments = (moment for one in parameters for moment in self.bench.optimizer.state.get(one, {}).values()
                   if isinstance(moment, torch.Tensor))
        return self.saver.copies(chain(parameters, moments)) if self.first else None

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        state: dict[str, Any] = dict(found.state)
        restore_weights(self.bench.parameters, found.weights)
        restore_moments(self.bench.parameters, self.bench.optimizer, state["moments"])
        self.bench.unreached.restore(state["unreached"])
        if len(state["generators"]) == self.bench.accelerator.num_processes:
            restore_generators(state["generators"][self.bench.accelerator.process_index])
        self.step = self.resumed_from = self.saved_step = found.step
        self.done, self.replayed = Counts(**state["done"]), Counts(**state["replayed"])
        self.last = Losses(**state["last"]) if state["last"] else None
        self.validations = [tuple(v) for v in state["validations"]]
        self.watched, self.measured = [tuple(v) for v in state["watched"]], state["measured"]
        self.seconds = state["seconds"]
        self.events.cut(state["events"])

    def _stop_if_asked(self) -> None:
        if not (self.stop if self.alone else self.asked):
            return
        self._save()
        self.saver.wait()
        pulse.turn()
        by = self.stop.asked_by or "a signal to another process"
        raise Interrupted(f"training stopped by {by} after step {self.step} of "
                          f"{self.bench.course.steps}; the state is saved in {self.out / 'checkpoints'}: start the "
                          "same run again to continue")
