"""The course of a run: which examples meet in which row of which step, known whole before the first step.

It depends on lengths and seed only, so a resumed run finds the same course and needs no sampler state beyond its step,
and the totals that the counters must reach at the end are known at the start. Rows of all epochs stand in one line and
are cut into steps; only the last step may hold fewer rows.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sft_core.config.train import TrainSection
from sft_core.pack import plan
from sft_core.render import IGNORE, Example

Row = tuple[int, ...]  # indices of the examples in one row


@dataclass(frozen=True)
class Counts:
    """Rows and tokens; padding is no token."""

    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.rows + other.rows, self.tokens + other.tokens, self.trained_tokens + other.trained_tokens)


@dataclass(frozen=True)
class Stream:
    """One line of rows over a set of examples, so many of them in each step."""

    examples: Sequence[Example]
    rows: tuple[Row, ...]
    per_step: int

    def step(self, step: int) -> tuple[Row, ...]:
        """The rows of step `step` (0-based)."""
        return self.rows[step * self.per_step : (step + 1) * self.per_step]

    def totals(self) -> Counts:
        """What the whole line amounts to."""
        tokens = [len(e.input_ids) for e in self.examples]
        trained = [sum(t != IGNORE for t in e.targets) for e in self.examples]
        used = [i for row in self.rows for i in row]
        return Counts(len(self.rows), sum(tokens[i] for i in used), sum(trained[i] for i in used))


@dataclass(frozen=True)
class Course:
    """The whole run."""

    sft: Stream
    replay: Stream | None
    steps: int

    def digest(self) -> str:
        """Hash of all rows of all steps: equal for equal courses."""
        rows = (self.sft.rows, self.replay.rows if self.replay else ())
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Packing:
    """How rows are filled."""

    max_tokens: int
    pack: bool
    seed: int

    def rows(self, examples: Sequence[Example], stream: str, epoch: int) -> list[Row]:
        """All examples once, in rows of at most `max_tokens` tokens, in the shuffled order of this epoch."""
        order = random.Random(f"{stream}/{self.seed}/{epoch}")
        lengths = [len(e.input_ids) for e in examples]
        if self.pack:
            rows = [tuple(row) for row in plan(lengths, self.max_tokens, order.getrandbits(31))]
        else:
            rows = [(i,) for i in range(len(lengths))]
        order.shuffle(rows)
        return rows

    def epochs(self, examples: Sequence[Example], stream: str) -> Iterator[Row]:
        """Rows without end, epoch after epoch."""
        epoch = 0
        while examples:
            yield from self.rows(examples, stream, epoch)
            epoch += 1


def lay_out(examples: Sequence[Example], replay: Sequence[Example], section: TrainSection, packing: Packing) -> Course:
    """The course of a run.

    A fraction of an epoch takes that share of the epoch's rows, rounded up. Replay gives every step
    ceil(tokens_per_step / max_tokens) rows and starts over as often as needed; no replay examples, no replay.
    """
    whole, part = divmod(section.epochs, 1.0)
    rows: list[Row] = []
    for epoch in range(int(whole)):
        rows += packing.rows(examples, "sft", epoch)
    if part > 0:
        last = packing.rows(examples, "sft", int(whole))
        rows += last[: math.ceil(round(part * len(last), 6))]
    steps = math.ceil(len(rows) / section.rows_per_step)
    sft = Stream(examples, tuple(rows), section.rows_per_step)
    if not replay:
        return Course(sft, None, steps)
    per_step = math.ceil(section.replay.tokens_per_step / packing.max_tokens)
    endless = packing.epochs(replay, "replay")
    line = tuple(next(endless) for _ in range(steps * per_step))
    return Course(sft, Stream(replay, line, per_step), steps)
