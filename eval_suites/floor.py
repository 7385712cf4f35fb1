"""The A/A floor: how far a model's scores differ from its own when it is asked again."""

from __future__ import annotations

from typing import NamedTuple


class Floor(NamedTuple):
    """Items of one suite asked again: under the same settings nothing may change; another batch size may round
    differently."""

    suite: str
    items: int  # asked again
    same: int  # of these, changed their score under the same settings; must be 0
    batch: int  # of these, changed their score under another batch size
    worst: float  # largest change of a score
