"""The training loop: steps, events, checkpoints, resume. Callable from a plain script.

    L = SFT + λ · LM(replay) + β · KL(π_θ ‖ π_base)

One optimiser step: the counts of all its micro-batches are known first, each forward pass gives sums, each sum is
divided by the count of the whole step, gradients add up. So the size of micro-batches changes memory and speed but not
the result. One wait for the device per step: loss terms and gradient norm are read together, and a step that is not
finite is never applied.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sft_core import checkpoint
from sft_core.artifact import card_text, merge_adapter, save_model_folder
from sft_core.config.train import TrainSection
from sft_core.course import Counts, Row, Stream
from sft_core.errors import Interrupted, TrainingError
from sft_core.events import EventLog
from sft_core.optim import learning_rate, set_rate
from sft_core.progress import progress
from sft_core.stopping import StopRequest, stop_on_signals
from sft_core.workbench import Micro, Workbench, set_up
from sft_core.workbench import TrainInputs as TrainInputs

NAMED_ROWS = 6  # origins told in an error


@dataclass(frozen=True)
class Losses:
    """Terms of one step, token means in nats; None where a term is not computed."""

    loss: float  # what was minimised
    sft: float
    replay: float | None
    kl: float | None


@dataclass(frozen=True)
class TrainReport:
    """What a finished run amounts to."""

    steps: int
    seconds: float  # in steps and validation, over all processes that took part
    rows: int
    tokens: int  # of the training rows, padding excluded
    trained_tokens: int
    replay_tokens: int
    tokens_per_s: float  # training and replay tokens
    peak_rss_bytes: int
    final: Losses  # of the last step
    validation: tuple[tuple[int, float], ...]  # (steps done, nats per trained token)
    resumed_from: int | None  # steps done at the checkpoint
    model_folder: Path
    adapter_folder: Path | None


def train(inputs: TrainInputs, section: TrainSection, out: Path, *,
          on_events: Callable[[Path], None] | None = None, sync_every_s: float = 5.0) -> TrainReport:
    """Train, or continue what an earlier call left in `out`; write `out/model` (and `out/adapter` for LoRA).

    A run that was killed at any point ends bit-identical on the CPU when it is called again with the same arguments.

    Args:
        inputs: prepared data, base model, row length and seed.
        section: how to train.
        out: the run's own folder: events.jsonl, checkpoints/, model/, adapter/.
        on_events: told the path of events.jsonl at most every `sync_every_s` seconds and at the end; must not raise.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; the state was saved.
        TrainingError: a step without trained token, a loss or gradient that is not finite, counters that differ from
            the plan, a parameter that never moved, a checkpoint of another run.
        ModelError, DataError: base or prepared data cannot be used.
    """
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=cuda), stop_on_signals() as stop:
        torch.manual_seed(inputs.seed)
        bench = set_up(inputs, section)
        with EventLog(out / "events.jsonl", on_events, sync_every_s) as events:
            run = _Run(bench, section, out, events, stop)
            run.start()
            run.walk()
            return run.finish(inputs)


class _Run:
    """A run under way: the counters that change with every step."""

    def __init__(self, bench: Workbench, section: TrainSection, out: Path, events: EventLog, stop: StopRequest) -> None:
        self.bench, self.section, self.out, self.events, self.stop = bench, section, out, events, stop
        self.step = 0  # optimiser steps done
        self.done, self.replayed = Counts(), Counts()
        self.last: Losses | None = None
        self.validations: list[tuple[int, float]] = []
        self.seconds = 0.0
        self.resumed_from: int | None = None
        self.saved_step: int | None = None
        self.saved_at = time.monotonic()

    def start(self) -> None:
        """Continue from the newest checkpoint, or begin the diary."""
        found, skipped = checkpoint.load_latest(self.out / "checkpoints", self.bench.belongs_to)
        course = self.bench.course
        if found is None:
            self.events.cut(0)
            self.events.write("start", steps=course.steps, plan=asdict(course.sft.totals()),
                              parameters=sum(p.numel() for p in self.bench.policy.model.parameters()),
                              trained_parameters=sum(p.numel() for p in self.bench.parameters.values()),
                              device=str(self.bench.policy.device), skipped_checkpoints=skipped)
            return
        self._restore(found)
        self.events.write("resume", step=self.step, of=course.steps, skipped_checkpoints=skipped)

    def walk(self) -> None:
        """All steps that are left, with validation and checkpoints between them."""
        total = self.bench.course.steps
        began, before = time.monotonic(), self.seconds
        with progress("training", total - self.step, "steps") as bar:
            while True:
                self._validate_if_due()
                self.seconds = before + time.monotonic() - began
                self._stop_if_asked()
                if self.step == total:
                    return
                self.last = self._one_step()
                self.seconds = before + time.monotonic() - began
                bar.advance(1, loss=self.last.loss)
                # Before the validation of this step: a run that continues from here makes it again.
                if time.monotonic() - self.saved_at >= self.section.checkpoint_every_s:
                    self._save()

    def finish(self, inputs: TrainInputs) -> TrainReport:
        """Check the counters against the plan, save the model folder, write the last event."""
        self._check_counters()
        self._check_moved()
        model_folder, adapter_folder = self._save_model(inputs)
        total = self.done.tokens + self.replayed.tokens
        assert self.last is not None, "a course has at least one step"
        report = TrainReport(
            steps=self.step, seconds=self.seconds, rows=self.done.rows, tokens=self.done.tokens,
            trained_tokens=self.done.trained_tokens, replay_tokens=self.replayed.tokens,
            tokens_per_s=total / self.seconds,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, final=self.last,
            validation=tuple(self.validations), resumed_from=self.resumed_from, model_folder=model_folder,
            adapter_folder=adapter_folder)
        self.events.write("end", step=self.step, rows=report.rows, tokens=report.tokens,
                          trained_tokens=report.trained_tokens, replay_tokens=report.replay_tokens,
                          tokens_per_s=report.tokens_per_s, seconds=report.seconds,
                          peak_rss_bytes=report.peak_rss_bytes)
        return report

    # One step

    def _one_step(self) -> Losses:
        bench, section, began = self.bench, self.section, time.monotonic()
        course = bench.course
        rate = learning_rate(section.optim, self.step, course.steps)
        set_rate(bench.optimizer, rate)
        rows = course.sft.step(self.step)
        sft = list(bench.micros(course.sft, rows, section.micro_rows))
        replay: list[Micro] = []
        if course.replay is not None:
            replay = list(bench.micros(course.replay, course.replay.step(self.step), section.micro_rows))
        counts, replay_counts = _sum(sft), _sum(replay)
        sums = self._accumulate(sft, replay, counts.trained_tokens, replay_counts.trained_tokens)
        norm = bench.accelerator.clip_grad_norm_(list(bench.parameters.values()), section.optim.max_grad_norm)
        *terms, grad_norm = torch.cat([sums, norm.detach().reshape(1).to(sums)]).tolist()
        losses = self._losses(terms)
        if not all(map(math.isfinite, (losses.loss, grad_norm))):
            raise TrainingError(f"step {self.step + 1}: loss {losses.loss:g}, gradient norm {grad_norm:g}; the step "
                                f"was not applied. Rows: {self._origins(course.sft, rows)}. Look at these rows, or "
                                f"lower train.optim.lr (it was {rate:g} in this step)")
        bench.optimizer.step()
        bench.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.done, self.replayed = self.done + counts, self.replayed + replay_counts
        took = time.monotonic() - began
        self.events.write("step", step=self.step, **asdict(losses), lr=rate, grad_norm=grad_norm,
                          tokens=self.done.tokens, trained_tokens=self.done.trained_tokens,
                          replay_tokens=self.replayed.tokens,
                          tokens_per_s=round((counts.tokens + replay_counts.tokens) / took, 1))
        return losses

    def _accumulate(self, sft: list[Micro], replay: list[Micro], trained: int, replayed: int) -> Tensor:
        """Gradients of the whole step; returns its token means [SFT, replay LM, KL], on the device."""
        if trained == 0 or (replay and replayed == 0):
            rows = self._origins(self.bench.course.sft, self.bench.course.sft.step(self.step))
            raise TrainingError(f"step {self.step + 1} has no {'replay' if trained else 'trained'} token, so it has no "
                                f"loss. Rows: {rows}. Look at their masks with `sft data`")
        lambda_, kl = self.section.replay.lambda_, self.section.kl
        on_sft, on_replay = kl.beta > 0 and kl.on != "replay", kl.beta > 0 and kl.on != "assistant"
        kl_tokens = max(1, trained * on_sft + replayed * on_replay)
        zero = torch.zeros((), device=self.bench.policy.device)
        means = [zero, zero, zero]
        parts = [(m, 0, 1.0, trained, on_sft) for m in sft] + [(m, 1, lambda_, replayed, on_replay) for m in replay]
        for micro, term, weight, tokens, with_kl in parts:
            nll, divergence = self.bench.forward(self.bench.policy.micro(micro.batch), with_kl)
            mean = nll.total / tokens
            means[term] = means[term] + mean.detach()
            # λ = 0 with KL on replay: the LM loss is reported, and takes no part.
            loss = weight * mean if weight else 0.0
            if divergence is not None:
                drift = divergence.total / kl_tokens
                means[2] = means[2] + drift.detach()
                loss = loss + kl.beta * drift
            self.bench.accelerator.backward(loss)
        return torch.stack(means)

    def _losses(self, terms: list[float]) -> Losses:
        sft, replay, kl = terms
        loss = sft + self.section.replay.lambda_ * replay + self.section.kl.beta * kl
        return Losses(loss, sft, None if self.bench.course.replay is None else replay,
                      kl if self.section.kl.beta > 0 else None)

    @staticmethod
    def _origins(stream: Stream, rows: tuple[Row, ...]) -> str:
        told = [str(stream.examples[i].origin) for row in rows for i in row]
        more = f" and {len(told) - NAMED_ROWS} more" if len(told) > NAMED_ROWS else ""
        return ", ".join(told[:NAMED_ROWS]) + more

    # Validation

    def _validate_if_due(self) -> None:
        due = self.step % self.section.validate_every_steps == 0 or self.step == self.bench.course.steps
        validated = self.validations and self.validations[-1][0] == self.step
        if not due or validated or not self.bench.validation.rows:
            return
        loss = self._validation_loss()
        if loss is not None:
            self.validations.append((self.step, loss))
            self.events.write("validation", step=self.step, loss=loss)

    @torch.no_grad()
    def _validation_loss(self) -> float | None:
        """Nats per trained token over the held-out rows; None when a signal asked to stop."""
        bench, stream = self.bench, self.bench.validation
        total, tokens = torch.zeros((), device=bench.policy.device), 0
        bench.forward.eval()
        for micro in bench.micros(stream, stream.rows, stream.per_step):
            if self.stop:
                break
            nll, _ = bench.forward(bench.policy.micro(micro.batch), False)
            total, tokens = total + nll.total, tokens + nll.tokens
        bench.forward.train()
        return None if self.stop else float(total) / tokens

    # State

    def _save(self) -> None:
        """A checkpoint of the state between two steps."""
        if self.saved_step != self.step:
            self.events.write("checkpoint", step=self.step)
            state = {"optimizer": self.bench.optimizer.state_dict(), "rng": torch.get_rng_state(),
                     "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                     "done": asdict(self.done), "replayed": asdict(self.replayed),
                     "last": self.last and asdict(self.last), "validations": self.validations,
                     "seconds": self.seconds, "events": self.events.length()}
            found = checkpoint.Checkpoint(self.step, self.bench.belongs_to, self.bench.parameters, state)
            checkpoint.save(self.out / "checkpoints", found, self.section.keep_checkpoints)
        self.saved_step, self.saved_at = self.step, time.monotonic()

    @torch.no_grad()
    def _restore(self, found: checkpoint.Checkpoint) -> None:
        state: dict[str, Any] = dict(found.state)
        for name, parameter in self.bench.parameters.items():
            parameter.copy_(found.weights[name])
        self.bench.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.step = self.resumed_from = self.saved_step = found.step
        self.done, self.replayed = Counts(**state["done"]), Counts(**state["replayed"])
        self.last = Losses(**state["last"]) if state["last"] else None
        self.validations = [tuple(v) for v in state["validations"]]
        self.seconds = state["seconds"]
        self.events.cut(state["events"])

    def _stop_if_asked(self) -> None:
        if not self.stop:
            return
        self._save()
        raise Interrupted(f"training stopped by {self.stop.signal_name} after step {self.step} of "
                          f"{self.bench.course.steps}; the state is saved in {self.out / 'checkpoints'}: start the "
                          "same run again to continue")

    # The end

    def _check_counters(self) -> None:
        course = self.bench.course
        pairs = [("training", course.sft, self.done)]
        if course.replay is not None:
            pairs.append(("replay", course.replay, self.replayed))
        for name, stream, counted in pairs:
            if counted != (planned := stream.totals()):
                raise TrainingError(f"the {name} counters do not meet the plan: counted {counted}, planned {planned}; "
                                    "this is a bug of the platform, the model was not saved")

    def _check_moved(self) -> None:
        """A trained parameter whose gradient was zero in every step never moved: it is not part of the model's work."""
        states = self.bench.optimizer.state
        # lora_A has no gradient as long as lora_B is zero, so in a run of one step it rightly stays.
        still = [n for n, p in self.bench.parameters.items() if "lora_A" not in n and "lora_embedding_A" not in n
                 and not (p in states and bool(states[p]["exp_avg_sq"].any()))]
        if still:
            raise TrainingError(f"{len(still)} trained parameters never got a gradient (first: {still[0]}); take them "
                                "out of train.lora.target_modules or modules_to_save, or use another base model")

    def _save_model(self, inputs: TrainInputs) -> tuple[Path, Path | None]:
        bench, model, adapter = self.bench, self.bench.policy.model, None
        if self.section.method == "lora":
            adapter = self.out / "adapter"
            sample = next(bench.micros(bench.course.sft, bench.course.sft.rows[:1], 1))
            model = merge_adapter(model, bench.policy.micro(sample.batch), adapter)
        facts = {"base": inputs.model.path, "revision": inputs.model.revision or "-",
                 "base content": bench.belongs_to["base"], "data content": bench.belongs_to["data"],
                 "template": bench.template.name, "seed": inputs.seed, "steps": self.step,
                 "training tokens": f"{self.done.tokens} ({self.done.trained_tokens} trained)",
                 "replay tokens": self.replayed.tokens,
                 "last validation loss": self.validations[-1][1] if self.validations else "-"}
        settings = json.loads(self.section.model_dump_json(by_alias=True))
        card = card_text(f"{Path(inputs.model.path).name}, fine-tuned", facts, settings)
        folder = self.out / "model"
        save_model_folder(model.to(bench.loaded.dtype), bench.loaded.tokenizer, bench.template, folder, card)
        return folder, adapter


def _sum(micros: list[Micro]) -> Counts:
    total = Counts()
    for micro in micros:
        total = total + micro.counts
    return total
