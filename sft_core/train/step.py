"""One optimiser step, on one process or several.

    L = SFT + λ · LM(replay) + β · KL

The counts of all micro-batches of all processes are known from the course before the first forward pass, so each sum
is divided by the count of the whole step and gradients add up: the size of micro-batches and the number of processes
change memory and speed but not the result. One wait for the device per step: sums, counts and gradient norm are read
together, and a step that is not finite is never applied. While the device computes, the host lays out the next forward
pass, the first one of the next step included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sft_core.config.train import TrainSection
from sft_core.errors import TrainingError
from sft_core.model.sending import sent
from sft_core.templates.render import IGNORE
from sft_core.train import pulse
from sft_core.train.course import Counts, Row, Stream
from sft_core.train.objective import Term
from sft_core.train.optim import learning_rate, set_rate
from sft_core.train.policy import Micro
from sft_core.train.shortage import told_when_short
from sft_core.train.workbench import Collated, Workbench

NAMED_ROWS = 6  # origins told in an error
UNREACHED = "to have finished reduction in the prior iteration"  # how DDP says that a parameter had no gradient


@dataclass(frozen=True)
class Losses:
    """Terms of one step, means in nats; None where a term is not computed."""

    loss: float  # what was minimised
    sft: float
    replay: float | None
    kl: float | None

    def told(self) -> dict[str, float]:
        """What is shown of a step: the loss, and its terms where it has several."""
        terms = {"sft": self.sft, "replay": self.replay, "kl": self.kl}
        there = {name: value for name, value in terms.items() if value is not None}
        return {"loss": self.loss, **(there if len(there) > 1 else {})}


class Taken(NamedTuple):
    """What a step did."""

    losses: Losses
    rate: float
    grad_norm: float
    counts: Counts  # of all processes
    replay_counts: Counts
    seconds: float
    stop: bool  # some process was asked to stop
    save: bool  # some process wants a checkpoint


class _Part(NamedTuple):
    """One forward pass of this process; a process that has no rows left takes one without targets."""

    stream: Stream
    rows: tuple[Row, ...]
    idle: bool
    term: Term
    is_replay: bool


class _Laid(NamedTuple):
    """A forward pass of which everything is on its way to the device."""

    step: int
    counts: Counts
    micro: Micro


class _Sums(NamedTuple):
    """What a step adds up over forward passes and processes. On the device it is one tensor in this order, so that it
    takes one reduction and, together with the gradient norm, one wait."""

    sft: float  # nats, weighted
    replay: float  # nats, weighted
    kl: float  # nats
    rows: float
    tokens: float
    trained_tokens: float
    replay_rows: float
    replay_tokens: float
    replay_trained_tokens: float
    stop: float  # processes that were asked to stop
    save: float  # processes that want a checkpoint

    @property
    def counts(self) -> Counts:
        """Of the training rows."""
        return Counts(round(self.rows), round(self.tokens), round(self.trained_tokens))

    @property
    def replay_counts(self) -> Counts:
        """Of the replay rows."""
        return Counts(round(self.replay_rows), round(self.replay_tokens), round(self.replay_trained_tokens))


class Stepper:
    """Takes steps on a workbench."""

    def __init__(self, bench: Workbench, section: TrainSection) -> None:
        self.bench, self.section = bench, section
        self._seen: list[tuple[_Part, Tensor]] = []  # the forward passes of this step with their losses
        self._ahead: _Laid | None = None  # the first forward pass of the next step
        self._rank, self._processes = bench.accelerator.process_index, bench.accelerator.num_processes

    def take(self, step: int, stop: bool = False, save: bool = False) -> Taken:
        """Step `step` (0-based): gradients of all its rows, clipping, one update.

        Args:
            stop, save: this process was asked to stop, wants a checkpoint; told to all.

        Raises:
            TrainingError: no trained token, a loss or gradient that is not finite (the step is not applied), no memory
                left, or a parameter without gradient (among several processes).
        """
        began = time.monotonic()
        bench, section = self.bench, self.section
        rate = learning_rate(section.optim, step, bench.course.steps)
        set_rate(bench.optimizer, section.optim, rate, step)
        with self._telling(step):
            sums, norm = self._gradients(step, stop, save)
            told = [sums, norm.reshape(1).to(sums), bench.unreached.sizes(sums)]
            self._lay_ahead(step + 1)
            numbers = torch.cat(told).tolist()
            read, grad_norm = _Sums(*numbers[: len(sums)]), numbers[len(sums)]
            losses = self._losses(step, read)
            if not all(map(math.isfinite, (losses.loss, grad_norm))):
                raise TrainingError(self._not_finite(step, losses, grad_norm, rate))
            bench.unreached.look(numbers[len(sums) + 1 :])
            bench.optimizer.step()
            bench.optimizer.zero_grad(set_to_none=True)
        return Taken(losses, rate, grad_norm, read.counts, read.replay_counts, time.monotonic() - began,
                     read.stop > 0, read.save > 0)

    @torch.no_grad()
    def validation_loss(self, stop: Any = None) -> float | None:
        """Nats per trained token over the held-out rows; None when `stop` (falsy until a signal came) asks to stop,
        which only a process that is alone may heed."""
        with told_when_short(self.bench.inputs, self.section, lambda: "in a validation"):
            nats, tokens = self._validated(stop)
        return None if stop else nats / tokens

    def _validated(self, stop: Any) -> tuple[float, float]:
        """Nats and trained tokens of all processes."""
        bench, stream = self.bench, self.bench.validation
        nll = torch.zeros(1, dtype=torch.float64, device=bench.policy.device)
        tokens = 0
        bench.forward.eval()
        for rows in stream.steps:
            if stop:
                break
            for part in self._shared(stream, rows, Term(), False):
                pulse.at("in a validation, collating its rows")
                micro = self._collated(part)
                pulse.at("in a validation")
                nll += bench.forward(self._sent(micro, part), part.term).nll
                tokens += micro.counts.trained_tokens
        bench.forward.train()
        known = sent(torch.tensor([tokens], dtype=nll.dtype), nll.device)
        nats, count = bench.accelerator.reduce(torch.cat([nll, known]), "sum").tolist()
        return nats, count

    # Gradients

    def _gradients(self, step: int, stop: bool, save: bool) -> tuple[Tensor, Tensor]:
        """Gradients of the whole step, clipped. Returns `_Sums` as a tensor on the device, and the gradient norm before
        clipping."""
        bench = self.bench
        parts = list(self._parts(step))
        self._seen.clear()
        terms = torch.zeros(3, dtype=torch.float64, device=bench.policy.device)
        done, replayed = Counts(), Counts()
        ahead, self._ahead = self._ahead, None
        for at, part in enumerate(parts):
            place = f"in step {step + 1}, pass {at + 1} of {len(parts)}"
            pulse.at(f"{place}, collating its rows")
            laid = ahead if ahead is not None and (ahead.step, 0) == (step, at) else self._laid(step, part)
            pulse.at(place)
            last = at + 1 == len(parts)
            with nullcontext() if last else bench.accelerator.no_sync(bench.forward):
                found = bench.forward(laid.micro, part.term)
                bench.accelerator.backward(found.loss)
            self._seen.append((part, found.loss.detach()))
            nll = found.nll.detach()
            none = torch.zeros_like(nll)
            by_stream = (none, nll) if part.is_replay else (nll, none)
            terms += torch.stack([*by_stream, found.kl.detach()])
            if part.is_replay:
                replayed = replayed + laid.counts
            else:
                done = done + laid.counts
        pulse.at(f"at the end of step {step + 1}")
        # What the host knows goes over in one piece, not once per forward pass.
        known = torch.tensor([*astuple(done), *astuple(replayed), stop, save], dtype=terms.dtype)
        sums = torch.cat([terms, sent(known, terms.device)])
        sums = bench.accelerator.reduce(sums, "sum")
        norm = nn.utils.clip_grad_norm_(list(bench.parameters.values()), self.section.optim.max_grad_norm)
        return sums, norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _parts(self, step: int) -> Iterator[_Part]:
        """This process's forward passes, the same number on every process."""
        course, kl, section = self.bench.course, self.section.kl, self.section
        on_sft, on_replay = "train" in kl.streams, "replay" in kl.streams
        rows = course.sft.step(step)
        replay = course.replay.step(step) if course.replay is not None else ()
        trained, replayed = self._trained(step)
        if not self._has_loss(step):
            raise TrainingError(f"step {step + 1} has no {'replay' if trained else 'trained'} token, so it has no "
                                f"loss. Rows: {origins(course.sft, rows)}. Look at their masks with `sft data show`")
        # DDP and FSDP take the mean over processes; ours is a sum.
        beta = self._processes * kl.beta / max(1, trained * on_sft + replayed * on_replay)
        yield from self._shared(course.sft, rows, Term(self._processes / course.sft.weight(rows), beta * on_sft,
                                                       None, section.label_smoothing, kl.direction), False)
        if course.replay is not None:
            weight = self._processes * section.replay.lambda_ / course.replay.weight(replay)
            term = Term(weight, beta * on_replay, None, 0.0, kl.direction)
            yield from self._shared(course.replay, replay, term, True)

    def _trained(self, step: int) -> tuple[int, int]:
        """Trained tokens of a step in the training rows, and in the replay rows."""
        course = self.bench.course
        replayed = course.replay.counts(course.replay.step(step)).trained_tokens if course.replay is not None else 0
        return course.sft.counts(course.sft.step(step)).trained_tokens, replayed

    def _has_loss(self, step: int) -> bool:
        trained, replayed = self._trained(step)
        replay = self.bench.course.replay
        return trained > 0 and (replayed > 0 or replay is None or not replay.step(step))

    def _shared(self, stream: Stream, rows: tuple[Row, ...], term: Term, is_replay: bool) -> Iterator[_Part]:
        """Every process takes every n-th row; who has fewer passes fills up with idle ones."""
        shares = [stream.micros(rows[rank :: self._processes], self.section) for rank in range(self._processes)]
        mine = shares[self._rank]
        for at in range(max(map(len, shares))):
            idle = at >= len(mine)
            yield _Part(stream, rows[:1] if idle else mine[at], idle, term, is_replay)

    def _collated(self, part: _Part) -> Collated:
        found = self.bench.micro(part.stream, part.rows)
        if not part.idle:
            return found
        nothing = found.batch._replace(targets=torch.full_like(found.batch.targets, IGNORE))
        # Nothing of the kept base, which is not the same as no kept base: then the model would be asked for it.
        kept = None if found.kept is None else found.kept[:0]
        return Collated(nothing, Counts(), part.rows, kept=kept)

    def _laid(self, step: int, part: _Part) -> _Laid:
        found = self._collated(part)
        return _Laid(step, found.counts, self._sent(found, part))

    def _lay_ahead(self, step: int) -> None:
        """The first forward pass of that step, if it can be taken: why it cannot is told when it is its turn."""
        if step < self.bench.course.steps and self._has_loss(step):
            self._ahead = self._laid(step, next(self._parts(step)))

    def _sent(self, found: Collated, part: _Part) -> Micro:
        return self.bench.policy.micro(found.batch, found.weights, found.kept if part.term.kl else None)

    # What is told

    def _losses(self, step: int, read: _Sums) -> Losses:
        course, section = self.bench.course, self.section
        sft = read.sft / course.sft.weight(course.sft.step(step))
        replay = None if course.replay is None else read.replay / course.replay.weight(course.replay.step(step))
        kl = None
        loss = sft + section.replay.lambda_ * (replay or 0.0)
        if section.kl.streams:
            looked_at = [course.streams[name] for name in section.kl.streams]
            tokens = sum(stream.counts(stream.step(step)).trained_tokens for stream in looked_at)
            kl = read.kl / tokens
            loss += section.kl.beta * kl
        return Losses(loss, sft, replay, kl)

    def _not_finite(self, step: int, losses: Losses, grad_norm: float, rate: float) -> str:
        bad = [part for part, loss in self._seen if not part.idle and not bool(loss.isfinite())]
        told = "; ".join(f"{'replay' if part.is_replay else 'training'} rows {origins(part.stream, part.rows)}"
                         for part in bad or [part for part, _ in self._seen if not part.is_replay])
        return (f"step {step + 1}: loss {losses.loss:g}, gradient norm {grad_norm:g}; the step was not applied, the "
                f"last checkpoint is good. {'Not finite in' if bad else 'The step had'} {told}. Look at these rows, or "
                f"lower train.optim.lr (it was {rate:g} in this step)")

    @contextmanager
    def _telling(self, step: int) -> Iterator[None]:
        """Errors of torch that a step may meet, in our words."""
        try:
            with told_when_short(self.bench.inputs, self.section, lambda: self._width(step)):
                yield
        except RuntimeError as error:
            if UNREACHED not in str(error):
                raise
            raise TrainingError(
                f"a trained parameter got no gradient in step {step}, and several processes cannot go on without; take "
                "it out of train.lora.target_modules or modules_to_save (with train.processes: 1 the end of the run "
                "names it), or use another base model") from error

    def _width(self, step: int) -> str:
        stream = self.bench.course.sft
        rows = stream.step(step)
        width = max(sum(stream.tokens[i] for i in row) for row in rows)
        return (f"in step {step + 1} ({len(rows)} rows of at most {width} tokens, train.micro_rows "
                f"{self.section.micro_rows}, micro_tokens {self.section.micro_tokens})")


def origins(stream: Stream, rows: tuple[Row, ...]) -> str:
    """Where the examples of some rows come from, the first few."""
    told = [str(stream.examples[i].origin) for row in rows for i in row]
    more = f" and {len(told) - NAMED_ROWS} more" if len(told) > NAMED_ROWS else ""
    return ", ".join(told[:NAMED_ROWS]) + more
