"""How likely each point is to be on the front of the true values, as far as items, and training seeds, tell.

A Bayesian bootstrap (Rubin 1981, Annals of Statistics 9:130) over whole clusters: in each draw every cluster of a suite
has a random weight, the same one for all points, so that pairing is kept; where a point has several training seeds,
they have weights too, the same ones in every suite. The chance is the share of draws in which no other point dominates.

What was seen of many points scatters more than the truth, and where the truth is a curve, chance alone lets points beat
each other that do not. So from three points on they are pulled together, and on to the line that they lie along, as far
as chance explains their distances (empirical Bayes for two dimensions, Efron and Morris 1972, Biometrika 59:335). A
point far from the others, as of a diverged trial, says nothing of how theirs scatter and is left where it was seen.
`python -m bench.front` shows what that does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_suites.front.points import Objectives, Point
from eval_suites.statistics.intervals import Floats
from eval_suites.statistics.pairing import both_asked

DRAWS = 2_000
CELLS = 2_000_000
"""Weights drawn at a time, which bounds the memory."""
SAME = 1e-7
"""Means closer than this are equal: identical results are never better than each other."""
FAR = 5.0
"""Distance from the median of the points, in standard deviations by the median absolute deviation and by chance, beyond
which a point is none of the others' kind."""
FLAT = 1e-6
"""Least variance of chance in one direction against the other's, which keeps rounding below `SAME`."""


class _Sums(NamedTuple):
    """Of one suite, per cluster and column (a training seed of a point), over the items that this has a score for."""

    value: Floats  # Σ weight · score [clusters, columns]
    weight: Floats  # Σ weight [clusters, columns]


def chances(both: Floats) -> list[float]:
    """Per point, the probability that no other one has at least its alignment with at most its tax, and differs.

    Args:
        both: see `drawn`.
    """
    return [float(1 - _beaten(both, at).mean()) for at in range(both.shape[1])]


def drawn(points: Sequence[Point], what: Objectives, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Draws of the true mean alignment and capability of all points, in shares [draws, points, 2].

    Each is measured by the items that it has a score for. Only of few points could all have a score for the same ones.

    Raises:
        EvalError: a point has no score in a suite, or points were not asked the same.
    """
    rng = np.random.default_rng(seed)
    shares = [rng.dirichlet(np.ones(len(point.results)), draws) for point in points]  # [draws, seeds] each
    means = {suite: _means(_sums(points, suite), shares, rng) for suite in what.suites}
    both = np.stack([np.mean([means[suite] for suite in names], axis=0)
                     for names in (what.alignment, what.capability)], axis=-1)
    near = _near(both)
    both[:, near] = both[:, near].mean(axis=1, keepdims=True) + _pulled(both[:, near], rng)
    return both


def _near(both: Floats) -> NDArray[np.bool_]:
    """Which points lie among the others in both objectives [points]; more than half of them do in each."""
    seen = both.mean(axis=0)
    distance = np.abs(seen - np.median(seen, axis=0))
    spread = distance / (1.4826 * np.median(distance, axis=0) + both.std(axis=0).mean(axis=0) + SAME)
    return np.asarray((spread <= FAR).all(axis=1))


def _pulled(both: Floats, rng: np.random.Generator) -> Floats:
    """Draws of the true means [draws, points, objectives], less the mean of all points, out of draws of what was seen.

    What was seen is the truth and chance. The truth of each point is normal about the mean of all, with the variance
    that is left of what was seen without chance; at least one point's worth of chance is left, as few points do not
    show that there is nothing. Given what was seen it is seen · G + (ξ − (ξ + chance) · G) for ξ drawn from the truth's
    distribution and G its share of all variance (Matheron's rule, Wilson et al. 2021, JMLR 22:105), which leaves
    differences without chance, as of points with equal answers, as they are.
    """
    draws, points, two = both.shape
    centred: Floats = both - both.mean(axis=1, keepdims=True)
    seen = centred.mean(axis=0)
    chance = centred - seen
    noise = np.einsum("dpi,dpj->ij", chance, chance) / (draws * max(points - 1, 1))
    if points < 3 or not noise.any():
        return centred
    size, axes = np.linalg.eigh(noise)
    size = np.maximum(size, FLAT * size.max())
    to_unit, back = (axes * size**power @ axes.T for power in (-0.5, 0.5))
    own, turn = np.linalg.eigh(to_unit @ (seen.T @ seen / (points - 1) - noise) @ to_unit)
    root = back @ turn * np.sqrt(np.maximum(own, 1 / points))
    truth = np.kron(np.eye(points), root @ root.T)
    flat = chance.reshape(draws, -1)
    gain = np.linalg.solve(truth + flat.T @ flat / draws, truth)
    drawn = rng.standard_normal(both.shape) @ root.T
    moved = drawn.reshape(draws, -1) - (drawn.reshape(draws, -1) + flat) @ gain
    found: Floats = (seen.reshape(-1) @ gain + moved).reshape(draws, points, two)
    return found


def _beaten(both: Floats, at: int) -> NDArray[np.bool_]:
    """In which draws another point dominates this one; means [draws, points, objectives]."""
    gain, saving = np.moveaxis(both - both[:, [at]], -1, 0)
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
    found: Floats = (weights @ sums.value) / (weights @ sums.weight)
    return found


def _steps(draws: int, most: int) -> Iterator[int]:
    for start in range(0, draws, most):
        yield min(most, draws - start)


def _sums(points: Sequence[Point], suite: str) -> _Sums:
    columns = [result for point in points for result in point.of(suite)]
    for other in columns[1:]:
        both_asked(columns[0], other)  # the same, in the same way
    scored = [(item.cluster, column, item.weight, item.score) for column, result in enumerate(columns)
              for item in result.items if item.score is not None]
    clusters, column, weight, score = (np.array(row) for row in zip(*scored, strict=True))
    names, cluster = np.unique(clusters, return_inverse=True)
    sums = _Sums(*(np.zeros((len(names), len(columns))) for _ in range(2)))
    np.add.at(sums.value, (cluster, column), weight * score)
    np.add.at(sums.weight, (cluster, column), weight)
    return sums
