"""What is compared: points, and the objectives that they are compared by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

from eval_suites.results import ItemResult, SuiteResult
from sft_core.errors import EvalError

Role = Literal["", "base", "default"]


class Objectives(NamedTuple):
    """Suites whose mean score is to be high, and suites whose mean score is not to fall. One may be in both."""

    alignment: tuple[str, ...]
    capability: tuple[str, ...]

    @property
    def suites(self) -> tuple[str, ...]:
        """Every one once."""
        return tuple(dict.fromkeys((*self.alignment, *self.capability)))


class Terms(NamedTuple):
    """What a proof is held to."""

    alpha: float = 0.05
    """Chance of any false claim among all claims of a front."""
    tolerance: float = 1.0
    """Points below which a difference matters to nobody."""


@dataclass(frozen=True)
class Point:
    """One model, or the models of one configuration under several training seeds.

    `results`: one mapping per training seed, suite → result; a score that is not finite counts as missing. `role`:
    `base` has tax 0 by definition, `default` is the configuration's own values. One that is not `feasible` is beyond a
    limit of the search: no part of any front.
    """

    name: str
    results: tuple[Mapping[str, SuiteResult], ...] = field(repr=False)
    role: Role = ""
    feasible: bool = True

    def __post_init__(self) -> None:
        results = tuple({suite: _finite(result) for suite, result in found.items()} for found in self.results)
        object.__setattr__(self, "results", results)

    def of(self, suite: str) -> list[SuiteResult]:
        """Its results in this suite, one per training seed.

        Raises:
            EvalError: a seed has none, or too few of its items have a score.
        """
        lacks = [at for at, found in enumerate(self.results) if suite not in found or found[suite].score is None]
        if lacks or not self.results:
            raise EvalError(f"{self.name} has no score in suite {suite} (training seed #{lacks[0] if lacks else 0}): "
                            "it was not evaluated there, or too few answers could be scored (eval.min_scored); leave "
                            "the point out of the front or evaluate it again")
        return [found[suite] for found in self.results]

    def averaged(self, suite: str) -> SuiteResult:
        """Mean over its seeds, item by item; an item without a score under one of them has none.

        Raises:
            EvalError: as for `of`.
        """
        if suite not in self._averaged:
            first, *others = self.of(suite)
            self._averaged[suite] = first if not others else _mean(first, others)
        return self._averaged[suite]

    @cached_property
    def _averaged(self) -> dict[str, SuiteResult]:
        return {}


def _finite(result: SuiteResult) -> SuiteResult:
    """Without the scores of a model that answered with no number, which are missing."""
    if all(item.score is None or math.isfinite(item.score) for item in result.items):
        return result
    return replace(result, items=tuple(item if item.score is None or math.isfinite(item.score) else
                                       item._replace(score=None) for item in result.items))


def _mean(first: SuiteResult, others: Iterable[SuiteResult]) -> SuiteResult:
    found = [{item.item_id: item.score for item in other.items} for other in others]

    def mean(item: ItemResult) -> ItemResult:
        scores = [item.score, *(scores.get(item.item_id) for scores in found)]
        known = [score for score in scores if score is not None]
        return item._replace(score=sum(known) / len(known) if len(known) == len(scores) else None)

    # `of` has held every seed to `min_scored`; what they have in common may be less, and is counted as missing
    return replace(first, items=tuple(mean(item) for item in first.items), min_scored=0.0)
