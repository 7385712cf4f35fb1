"""How likely each point is to be on the front of the true values, as far as items, and training seeds, tell.

A Bayesian bootstrap (Rubin 1981, Annals of Statistics 9:130) over whole clusters: in each draw every cluster of a suite
has a random weight, the same one for all points, so that pairing is kept; where a point has several training seeds,
they have weights too, the same ones in every suite. The chance is the share of draws in which no other point dominates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_suites.front.points import Objectives, Point
from eval_suites.statistics.intervals import Floats
from eval_suites.statistics.pairing import both_asked
from sft_core.errors import EvalError

DRAWS = 2_000
CELLS = 2_000_000
"""Weights drawn at a time, which bounds the memory."""
SAME = 1e-12
"""Means closer than this are equal: identical results are never better than each other."""


class _Sums(NamedTuple):
    """Of one suite: per cluster and column (a training seed of a point) Σ weight · score, and per cluster Σ weight."""

    value: Floats  # [clusters, columns]
    weight: Floats  # [clusters]


def chances(points: Sequence[Point], what: Objectives, draws: int = DRAWS, seed: int = 0) -> list[float]:
    """Per point, the probability that no other one has at least its alignment with at most its tax, and differs.

    Only items that all points have a score for are counted.

    Raises:
        EvalError: a point has no score in a suite, points were not asked the same, or share no item with a score.
    """
    rng = np.random.default_rng(seed)
    shares = [rng.dirichlet(np.ones(len(point.results)), draws) for point in points]  # [draws, seeds] each
    means = {suite: _means(_sums(points, suite), shares, rng) for suite in what.suites}
    alignment, kept = (np.mean([means[suite] for suite in names], axis=0)
                       for names in (what.alignment, what.capability))
    return [float(1 - _beaten(alignment, kept, at).mean()) for at in range(len(points))]


def _beaten(alignment: Floats, kept: Floats, at: int) -> NDArray[np.bool_]:
    """In which draws another point dominates this one; arrays [draws, points]."""
    gain, saving = alignment - alignment[:, [at]], kept - kept[:, [at]]
    no_worse = (gain >= -SAME) & (saving >= -SAME)
    return np.asarray((no_worse & ((gain > SAME) | (saving > SAME))).any(axis=1))


def _means(sums: _Sums, shares: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Mean score of every point in every draw [draws, points]."""
    draws, clusters = len(shares[0]), len(sums.weight)
    columns = np.concatenate([_drawn(sums, size, rng) for size in _steps(draws, max(1, CELLS // clusters))])
    edges = np.cumsum([0, *(share.shape[1] for share in shares)])
    return np.stack([(columns[:, edges[at]:edges[at + 1]] * share).sum(axis=1) for at, share in enumerate(shares)],
                    axis=1)


def _drawn(sums: _Sums, draws: int, rng: np.random.Generator) -> Floats:
    weights = rng.standard_exponential((draws, len(sums.weight)))
    found: Floats = (weights @ sums.value) / (weights @ sums.weight)[:, None]
    return found


def _steps(draws: int, most: int) -> Iterator[int]:
    for start in range(0, draws, most):
        yield min(most, draws - start)


def _sums(points: Sequence[Point], suite: str) -> _Sums:
    columns = [result for point in points for result in point.of(suite)]
    for other in columns[1:]:
        both_asked(columns[0], other)  # the same, in the same way
    scores = [{i.item_id: i.score for i in result.items if i.score is not None} for result in columns]
    items = [item for item in columns[0].items if all(item.item_id in known for known in scores)]
    if not items:
        raise EvalError(f"{', '.join(point.name for point in points)} have no item of suite {suite} that all have a "
                        "score for; evaluate all with the same items (eval.limit)")
    names, cluster = np.unique([item.cluster for item in items], return_inverse=True)
    weight = np.array([item.weight for item in items])
    value = np.array([[known[item.item_id] for known in scores] for item in items]) * weight[:, None]
    sums = np.zeros((len(names), len(columns)))
    np.add.at(sums, cluster, value)
    return _Sums(sums, np.bincount(cluster, weights=weight).astype(np.float64))
