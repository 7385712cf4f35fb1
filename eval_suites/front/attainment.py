"""What the front as a whole reaches, as far as items tell: empirical attainment.

A pair of values is attained where a point has at least that alignment at no more than that tax. The share of draws of
the true means in which it is attained is its attainment (Grunert da Fonseca, Fonseca and Hall 2001, LNCS 1993:213; with
the draws of `chances.py` in place of an optimiser's runs). Unlike the chance of one point it does not hang on which of
several alike is the better one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from eval_suites.statistics.intervals import Floats

LEVELS = (0.95, 0.5, 0.05)
STEPS = 100
"""Alignments at which the surface is given."""

Surface = tuple[tuple[float, float], ...]


def attained(both: Floats, base: int, of: Sequence[int], levels: Sequence[float] = LEVELS) -> Mapping[str, Surface]:
    """Level in percent → its surface: alignment, rising, and the least tax that is attained with it in that share of
    the draws, both in points of 100. Alignments that are not attained so often are left out.

    Args:
        both: draws of the true means [draws, points, objectives], see `chances.drawn`.
        base: which point tax is counted from.
        of: the points that count.
        levels: shares of the draws.
    """
    alignment, tax = 100 * both[:, of, 0], 100 * (both[:, [base], 1] - both[:, of, 1])
    steps = np.linspace(alignment.min(), alignment.max(), STEPS)
    least = np.sort([np.where(alignment >= step, tax, np.inf).min(axis=1) for step in steps], axis=1)
    return {f"{100 * level:g}": tuple(
        (float(step), float(at)) for step, at in zip(steps, least[:, math.ceil(level * len(both)) - 1], strict=True)
        if np.isfinite(at)) for level in levels}
