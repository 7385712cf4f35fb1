"""The course of a run: which examples meet in which row of which step, known whole before the first step.

It depends on lengths, mixture and seed only, so a resumed run finds the same course and needs no sampler state beyond
its step, and the totals that the counters must reach at the end are known at the start. Rows of all epochs stand in one
line and are cut into steps; only the last step may be smaller.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sft_core.config.train import TrainSection
from sft_core.data.mix.plan import Mixture
from sft_core.templates.render import IGNORE, Example
from sft_core.train.pack import plan

Row = tuple[int, ...]  # indices of the examples in one row
POOL = 50  # steps whose rows are sorted by length together, when rows are not packed


@dataclass(frozen=True)
class Counts:
    """Rows and tokens; padding is no token."""

    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.rows + other.rows, self.tokens + other.tokens, self.trained_tokens + other.trained_tokens)


@dataclass(frozen=True)
class Weighing:
    """What a trained token counts for in the mean."""

    by_source: Mapping[str, float] = field(default_factory=dict)  # 1 for a source that is not named
    by_example: bool = False  # every example counts the same, however many trained tokens it has


@dataclass(frozen=True)
class Stream:
    """One line of rows over a set of examples, cut into steps."""

    examples: Sequence[Example]
    steps: tuple[tuple[Row, ...], ...]
    weighing: Weighing = Weighing()

    def step(self, step: int) -> tuple[Row, ...]:
        """The rows of step `step` (0-based)."""
        return self.steps[step]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows in order."""
        return tuple(row for step in self.steps for row in step)

    @cached_property
    def tokens(self) -> list[int]:
        """Tokens of every example."""
        return [len(e.input_ids) for e in self.examples]

    @cached_property
    def trained(self) -> list[int]:
        """Trained tokens of every example."""
        return [len(e.targets) - e.targets.count(IGNORE) for e in self.examples]

    @cached_property
    def weights(self) -> list[float] | None:
        """Weight of every example's trained tokens; None when all are 1."""
        sources = {name: weight for name, weight in self.weighing.by_source.items() if weight != 1.0}
        if not sources and not self.weighing.by_example:
            return None
        weights = [sources.get(e.origin.source, 1.0) for e in self.examples]
        if self.weighing.by_example:
            weights = [weight / max(1, trained) for weight, trained in zip(weights, self.trained, strict=True)]
        return weights

    def totals(self, steps: int | None = None) -> Counts:
        """What the first `steps` steps amount to; by default all."""
        return sum((self.counts(rows) for rows in self.steps[:steps]), Counts())

    def used(self, steps: int | None = None) -> set[int]:
        """Examples that the first `steps` steps use at all; by default all steps."""
        return {i for rows in self.steps[:steps] for row in rows for i in row}

    def used_by_source(self, steps: int | None = None) -> dict[str, int]:
        """How many examples of each source the first `steps` steps use at all; by default all steps."""
        return dict(sorted(Counter(self.examples[i].origin.source for i in self.used(steps)).items()))

    def counts(self, rows: Sequence[Row]) -> Counts:
        """What some rows amount to."""
        used = [i for row in rows for i in row]
        return Counts(len(rows), sum(self.tokens[i] for i in used), sum(self.trained[i] for i in used))

    def weight(self, rows: Sequence[Row]) -> float:
        """Sum of the weights of all trained tokens of some rows: what their loss is divided by."""
        weights = self.weights
        if weights is None:
            return float(self.counts(rows).trained_tokens)
        return math.fsum(weights[i] * self.trained[i] for row in rows for i in row)

    def micros(self, rows: Sequence[Row], section: TrainSection) -> list[tuple[Row, ...]]:
        """Rows in forward passes: `micro_rows` each, or as many as have `micro_tokens` tokens."""
        if section.micro_tokens is None:
            return [tuple(rows[at : at + section.micro_rows]) for at in range(0, len(rows), section.micro_rows)]
        return list(_cut(rows, [sum(self.tokens[i] for i in row) for row in rows], section.micro_tokens))


@dataclass(frozen=True)
class Course:
    """The whole run."""

    sft: Stream
    replay: Stream | None
    steps: int

    @property
    def streams(self) -> Mapping[str, Stream]:
        """By the name that the KL and what is kept of the base know them by; validation is none of them."""
        return {"train": self.sft} | ({} if self.replay is None else {"replay": self.replay})

    def digest(self) -> str:
        """Hash of all rows of all steps: equal for equal courses."""
        rows = (self.sft.steps, self.replay.steps if self.replay else ())
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Packing:
    """How rows are filled."""

    max_tokens: int
    pack: bool
    seed: int

    def rows(self, examples: Sequence[Example], stream: str, epoch: int, group: int = 1) -> list[Row]:
        """All examples once, in rows of at most `max_tokens` tokens, in the shuffled order of this epoch.

        Rows of one example are sorted by length within pools of POOL · `group` rows, and the `group`s of similar length
        shuffled again: what meets in a step needs little padding.
        """
        order = random.Random(f"{stream}/{self.seed}/{epoch}")
        lengths = [len(e.input_ids) for e in examples]
        if self.pack:
            rows = [tuple(row) for row in plan(lengths, self.max_tokens, order.getrandbits(31))]
            order.shuffle(rows)
            return rows
        places = list(range(len(lengths)))
        order.shuffle(places)
        groups = []
        for at in range(0, len(places), POOL * group):
            pool = sorted(places[at : at + POOL * group], key=lambda i: lengths[i])
            groups += [pool[start : start + group] for start in range(0, len(pool), group)]
        order.shuffle(groups)
        return [(i,) for part in groups for i in part]

    def epochs(self, examples: Sequence[Example], stream: str) -> Iterator[Row]:
        """Rows without end, epoch after epoch."""
        epoch = 0
        while examples:
            yield from self.rows(examples, stream, epoch)
            epoch += 1


def lay_out(examples: Sequence[Example], replay: Sequence[Example], section: TrainSection, packing: Packing,
            weights: Mapping[str, float] | None = None, mixture: Mixture | None = None) -> Course:
    """The course of a run.

    A fraction of an epoch takes that share of the epoch's rows, rounded up. Replay gives every step
    ceil(tokens_per_step / max_tokens) rows and starts over as often as needed; no replay examples, no replay.

    Args:
        weights: loss weight by source, 1 for those not named.
        mixture: which of the examples an epoch has, and how often; without one it has each once.
    """

    def of_epoch(epoch: int) -> list[Row]:
        if mixture is None:
            return packing.rows(examples, "sft", epoch, section.rows_per_step)
        drawn = mixture.drawn(epoch)
        rows = packing.rows([examples[i] for i in drawn], "sft", epoch, section.rows_per_step)
        return [tuple(drawn[i] for i in row) for row in rows]

    whole, part = divmod(section.epochs, 1.0)
    rows: list[Row] = []
    for epoch in range(int(whole)):
        rows += of_epoch(epoch)
    if part > 0:
        last = of_epoch(int(whole))
        rows += last[: math.ceil(round(part * len(last), 6))]
    sft = Stream(examples, cut(rows, examples, section), Weighing(weights or {}, section.average == "example"))
    if not replay:
        return Course(sft, None, len(sft.steps))
    per_step = math.ceil(section.replay.tokens_per_step / packing.max_tokens)
    endless = packing.epochs(replay, "replay")
    steps = tuple(tuple(next(endless) for _ in range(per_step)) for _ in sft.steps)
    return Course(sft, Stream(replay, steps, Weighing(weights or {})), len(steps))


def cut(rows: Sequence[Row], examples: Sequence[Example], section: TrainSection) -> tuple[tuple[Row, ...], ...]:
    """Rows in optimiser steps."""
    if section.tokens_per_step is None:
        size = section.rows_per_step
        return tuple(tuple(rows[at : at + size]) for at in range(0, len(rows), size))
    steps: list[tuple[Row, ...]] = []
    open_rows: list[Row] = []
    tokens = 0
    for row in rows:
        open_rows.append(row)
        tokens += sum(len(examples[i].input_ids) for i in row)
        if tokens >= section.tokens_per_step:
            steps.append(tuple(open_rows))
            open_rows, tokens = [], 0
    return (*steps, tuple(open_rows)) if open_rows else tuple(steps)


def _cut(rows: Iterable[Row], sizes: Iterable[int], most: int) -> Iterator[tuple[Row, ...]]:
    part: list[Row] = []
    filled = 0
    for row, size in zip(rows, sizes, strict=True):
        if part and filled + size > most:
            yield tuple(part)
            part, filled = [], 0
        part.append(row)
        filled += size
    if part:
        yield tuple(part)
