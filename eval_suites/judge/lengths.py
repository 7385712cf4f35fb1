"""The win rate that a judge would give if both answers were equally long.

Dubois, Galambosi, Liang, Hashimoto 2024, "Length-Controlled AlpacaEval": logistic regression of the preference on
tanh of the standardised difference of lengths, read where the difference is 0. Their term for the difficulty of an
instruction needs many models per question and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_suites.statistics.intervals import Interval

Floats = NDArray[np.float64]
DRAWS = 2_000
STEPS = 30
PRIOR = 1.0
"""Weight of one added tie of equal length, which keeps the fit finite where one model always wins."""
RIDGE = 0.01
"""On the slope: keeps it finite where the longer answer always wins. A stronger one would leave length uncorrected."""


class Controlled(NamedTuple):
    """`rate` in [0, 1] with its bootstrap interval; `slope` > 0 says that the judge likes length."""

    rate: float
    interval: Interval
    slope: float


def length_controlled(worth: Sequence[float], base: Sequence[float], tuned: Sequence[float],
                      clusters: Sequence[str], alpha: float = 0.05) -> Controlled | None:
    """Length-controlled win rate of the tuned model.

    None where the pairs cannot tell it: there are none, all were decided alike, or in none are the lengths within one
    standard deviation of each other, so that length and quality are one.

    Args:
        worth: 0 to 1 per pair.
        base, tuned: lengths of the two answers, in characters.
        clusters: pairs that share one are drawn together.
    """
    gap = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    spread = float(gap.std()) if worth else 0.0
    if len(set(worth)) < 2 or np.abs(gap).min() > spread:
        return None
    x = np.tanh(gap / spread) if spread > 0 else np.zeros_like(gap)
    y = np.asarray(worth, dtype=np.float64)
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    fits = _fit(x, y, np.vstack([np.ones((1, len(y))), drawn[:, member].astype(np.float64)]))
    rates = 1 / (1 + np.exp(-fits[:, 0]))
    low, high = np.quantile(rates[1:], [alpha / 2, 1 - alpha / 2])
    return Controlled(float(rates[0]), Interval(float(rates[0]), float(low), float(high), len(y),
                                                f"bootstrap, {len(names)} clusters"), float(fits[0, 1]))


def _fit(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Intercept and slope per row of weights [draws, pairs], by Newton's method on the penalised likelihood."""
    theta = np.zeros((len(weights), 2))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(theta[:, :1] + theta[:, 1:] * x, -30, 30)))
        rest, w = weights * (y - p), weights * p * (1 - p)
        even = 1 / (1 + np.exp(-theta[:, 0]))
        slope = np.stack([rest.sum(1) + PRIOR * (0.5 - even), (rest * x).sum(1) - RIDGE * theta[:, 1]], axis=1)
        a, b = w.sum(1) + PRIOR * even * (1 - even) + 1e-9, (w * x).sum(1)
        c = (w * x * x).sum(1) + RIDGE
        det = a * c - b * b
        step = np.stack([c * slope[:, 0] - b * slope[:, 1], a * slope[:, 1] - b * slope[:, 0]], axis=1) / det[:, None]
        theta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return theta
