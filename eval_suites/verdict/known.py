"""What a comparison is told beside the results: how its two sides are called, and what else is known of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from eval_suites.statistics.floor import Floor
from eval_suites.verdict.outcome import Check


class Names(NamedTuple):
    """What the two models are called; of a fine-tune and its base as here."""

    base: str = "base"
    tuned: str = "tuned"

    @property
    def apart(self) -> Names:
        """Equal names are told apart by a number."""
        return Names(f"{self.base} (1)", f"{self.tuned} (2)") if self.base == self.tuned else self

    @property
    def the_base(self) -> str:
        """Within a sentence."""
        return "the base" if self.base == Names().base else self.base

    @property
    def the_tuned(self) -> str:
        """Within a sentence."""
        return "the tuned model" if self.tuned == Names().tuned else self.tuned

    @property
    def gain(self) -> str:
        """The difference in which more is better."""
        return f"{self.tuned} − {self.base}"

    @property
    def loss(self) -> str:
        """The difference in which more is worse."""
        return f"{self.base} − {self.tuned}"


class Known(NamedTuple):
    """`contaminated`: suite → ids of items that were found in the training data. `floors`: suite → how far the base
    differs from itself. `checks`: conditions beside the scores; one that did not pass fails the gate."""

    contaminated: Mapping[str, Collection[str]] | None = None
    floors: Mapping[str, Floor] | None = None
    checks: Sequence[Check] = ()
    names: Names = Names()


NOTHING_KNOWN = Known()
