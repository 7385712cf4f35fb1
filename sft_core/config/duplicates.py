"""Which rows are the same, and which of them stays."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sft_core.config.section import Section

Compared = Literal["conversations", "prompts"]
Preference = Literal["first", "longest", "newest"]


class DuplicatesSection(Section):
    exact: bool = True
    """Drop what is equal after folding case and white space."""
    near: bool = True
    """Drop near duplicates: MinHash over word n-grams proposes pairs, their exact similarity decides. A row goes that
    is like one that stays, so of a chain of rows every second may stay. Neither system turns nor the schemas of tools
    are compared: many rows share them."""
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Jaccard similarity of the sets of word n-grams from which two count as near duplicates."""
    words: Annotated[int, Field(ge=1, le=20)] = 3
    """Words of an n-gram."""
    compared: Annotated[tuple[Compared, ...], Field(min_length=1)] = ("conversations",)
    """What is compared, across all sources and files: whole `conversations`, their `prompts` (all that stands in front
    of the first answer), or both, one after the other."""
    keep: Preference = "first"
    """Which of several stays: the `first` in the order of the sources, the `longest`, or the `newest` by the sources'
    `date`; where that decides nothing, the first."""
    prefer: tuple[str, ...] = ()
    """Names of sources whose rows stay before those of others, the most preferred first; goes before `keep`."""
