"""The mixture: how often each example is used in an epoch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sft_core.config.provenance import Kind
from sft_core.config.section import Positive, Section, Share


class LimitSection(Section):
    """How much of the mixture one label may have, or has to have."""

    share: Share | None = None
    """Exactly this share of the mixture."""
    least: Share | None = None
    """At least this share."""
    most: Share | None = None
    """At most this share, e.g. `{en: {most: 0.8}}`."""

    @model_validator(mode="after")
    def _says_something(self) -> LimitSection:
        if (self.share is None) == (self.least is None and self.most is None):
            raise ValueError("give share, or least, most or both")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least ({self.least:g}) is above most ({self.most:g})")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest share that this allows."""
        if self.share is not None:
            return self.share, self.share
        return self.least or 0.0, 1.0 if self.most is None else self.most


class SourceMixSection(Section):
    """What one source is in the mixture."""

    share: Annotated[float, Field(ge=0.0)] | None = None
    """Share of the mixture. Where every source has one, they are divided by their sum, so that only their proportions
    count; where some have none, these divide what the others leave of 1. `weight` is another thing: of the loss."""
    epochs: Annotated[float, Field(gt=0.0)] = 1.0
    """How often its examples are used in an epoch: the source counts as so many times as large. 2 uses each twice, 0.5
    half of them."""


class MixtureSection(Section):
    """How sources and labels share an epoch. An example is used a whole number of times in it, which hangs on its
    content and the seed: other rows that come or go move only what lies at the edge of a share."""

    by: Literal["tokens", "rows"] = "tokens"
    """What shares, `cap` and `size` count: trained tokens, or examples."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Sources without a share count by their size to the power 1 / temperature: 1 by size, more makes them more
    equal (T5, Raffel et al. 2020, section 3.5.2)."""
    cap: Positive | None = None
    """A source without a share counts as no larger than this, and without a `size` gives no more to an epoch:
    examples-proportional mixing with a maximum (FLAN, Wei et al. 2021, with 3000 rows)."""
    size: Positive | None = None
    """Size of an epoch. By default as much as there is: the largest epoch in which no example is used more often than
    `epochs` of its source says."""
    most_repeats: Annotated[float, Field(ge=1.0)] = 4.0
    """An epoch of a given `size` may use an example so often, and stops the run when it would have to more often. Up to
    four repetitions are nearly worth new text (Muennighoff et al. 2023)."""
    draw: Literal["resampled", "fixed"] = "resampled"
    """Which examples of a source that is used in part: in every epoch those that come next, so that each is used once
    before one is used again, or the same in all epochs."""
    languages: dict[str, LimitSection] = Field(default_factory=dict)
    """Limits on languages, e.g. `{en: {most: 0.8}, de: {least: 0.1}}`."""
    tasks: dict[str, LimitSection] = Field(default_factory=dict)
    """Limits on tasks, as `task` of the sources names them."""
    kinds: dict[Kind, LimitSection] = Field(default_factory=dict)
    """Limits on who wrote it, e.g. `{synthetic: {most: 0.3}}`."""

    @property
    def limits(self) -> dict[str, dict[str, LimitSection]]:
        """Limits by the name of the label: `language`, `task`, `kind`; only those that are given."""
        kinds: dict[str, LimitSection] = {kind: limit for kind, limit in self.kinds.items()}
        given = {"language": self.languages, "task": self.tasks, "kind": kinds}
        return {name: limits for name, limits in given.items() if limits}
