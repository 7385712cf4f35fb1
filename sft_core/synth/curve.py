"""How a pool grows, round by round, and when that stops paying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sft_core.synth.filters import triples


class Round(NamedTuple):
    """One round. `instructions` and `instances` count what became of each by reason, '' for what came in."""

    number: int
    requests: int
    unanswered: int
    instructions: Mapping[str, int]
    instances: Mapping[str, int]
    repetition: float | None
    """Mean over what was proposed of the highest ROUGE-L to the pool; None where nothing was."""
    novelty: float | None
    """Share of the different word triples of the new rows that were in no row before; None without new rows."""

    @property
    def proposed(self) -> int:
        """Instructions."""
        return sum(self.instructions.values())

    @property
    def rows(self) -> int:
        """That came in."""
        return self.instances.get("", 0)

    @property
    def gain(self) -> float:
        """New rows for each instruction proposed."""
        return self.rows / self.proposed if self.proposed else 0.0

    def pays(self, min_yield: float, min_novelty: float) -> bool:
        """Whether rounds like it are worth their price."""
        return self.rows > 0 and self.gain >= min_yield and (self.novelty or 0.0) >= min_novelty


class Triples:
    """The word triples of all rows so far."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._known = {one for text in texts for one in triples(text)}

    def novelty(self, texts: Iterable[str]) -> float | None:
        """Share of these rows' triples that are new; they are known from now on."""
        found = {one for text in texts for one in triples(text)}
        if not found:
            return None
        new = len(found - self._known) / len(found)
        self._known |= found
        return new


def why_it_ends(rounds: Sequence[Round], min_yield: float, min_novelty: float, patience: int) -> str:
    """A sentence where the last `patience` rounds did not pay, else ''."""
    last = rounds[-patience:]
    if len(last) < patience or any(one.pays(min_yield, min_novelty) for one in last):
        return ""
    gains = ", ".join(f"{one.gain:.3f}" for one in last)
    new = ", ".join("none" if one.novelty is None else f"{one.novelty:.2f}" for one in last)
    return (f"it stopped paying: in the last {patience} rounds {gains} new rows came of an instruction, and {new} of "
            f"their word triples were new (self_instruct.min_yield {min_yield:g}, min_novelty {min_novelty:g})")
