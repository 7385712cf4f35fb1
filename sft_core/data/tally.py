"""What becomes of a source on its way to examples, counted along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from sft_core.conversation import Rejected
from sft_core.templates.render import IGNORE, Example


@dataclass
class Tally:
    """What became of a source so far; fields as of `SourceCount`."""

    rejected: Counter[str] = field(default_factory=Counter)
    first: Rejected | None = None  # that was left out here
    train: int = 0
    validation: int = 0
    train_examples: int = 0
    held_out: int = 0
    truncated: int = 0
    turns_dropped: int = 0
    split: int = 0
    escaped: int = 0
    thoughts: int = 0
    repaired: int = 0
    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    stops_trained: int = 0

    def reject(self, rejected: Rejected) -> None:
        """Count a row that is left out."""
        self.rejected[str(rejected.why)] += 1
        self.first = self.first or rejected

    def add(self, examples: Iterable[Example], stop_ids: Collection[int]) -> None:
        """Count examples."""
        for example in examples:
            self.examples += 1
            self.tokens += len(example.input_ids)
            self.trained_tokens += len(example.targets) - example.targets.count(IGNORE)
            self.stops_trained += sum(map(example.targets.count, set(stop_ids)))

    def merge(self, other: Tally) -> None:
        """Count what became of further rows."""
        self.rejected += other.rejected
        self.first = self.first or other.first
        for name, count in other.counts().items():
            setattr(self, name, getattr(self, name) + count)

    def counts(self) -> dict[str, Any]:
        """As arguments of `SourceCount`."""
        return {name: value for name, value in vars(self).items() if name not in ("rejected", "first")}
