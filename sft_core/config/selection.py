"""The selection: few rows out of many, the best or the most different ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sft_core.config.section import Positive, Section


class SelectSection(Section):
    n: Positive | None = None
    """Select this many rows; all, where there are no more."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Select this share of the rows."""
    sources: tuple[str, ...] = ()
    """Choose among the rows of these sources, by their names; those of others all stay, and are not counted in `n` and
    `share`. By default of all. Rows of held-out tasks are never chosen among, nor those that cannot be trained, e.g.
    because they are longer than `data.max_tokens`."""
    by: Literal["quality", "length", "random", "perplexity", "ifd", "judge"] = "quality"
    """What a row is chosen by: `quality`, `length` (words), `random`, or a score that `data.scores` measures."""
    prefer: Literal["high", "low"] = "high"
    """Which end of the score is the better one. By `ifd` the high end is what the paper chooses, among rows up to 1."""
    diverse: bool = False
    """Choose rows that are far from those chosen before, too: always the one whose distance, times its rank by the
    score, is the largest (k-center greedy, Sener and Savarese 2018). Distances are estimated Jaccard distances of the
    rows' words, or with `embed` cosines."""
    embed: str | None = None
    """Folder of a sentence encoder whose embeddings measure distances (mean pooling), read without network. One of
    23 M parameters reads some 25 rows of Alpaca length a second on a CPU core; words take 20 thousand."""

    @model_validator(mode="after")
    def _one_size(self) -> SelectSection:
        if (self.n is None) == (self.share is None):
            raise ValueError("give either n or share")
        if self.embed is not None and not self.diverse:
            raise ValueError("embed measures distances, which only diverse: true asks for; set it, or take embed out")
        return self
