"""True shares behind a scorer that errs, for a model that nobody has labelled.

Labelled answers of other models say how often the scorer takes an answer of one class for one of another. A new model
writes otherwise, so its error rates are not theirs but about as far from them as they are from one another: each is
foretold with Student's prediction interval for one further observation of the logit (k models, k − 1 degrees of
freedom; compare Higgins, Thompson and Spiegelhalter 2009, JRSS A 172:137, section 3.3). Errors drawn so count as much
as they make likely what was scored; with each the true shares have the posterior that the scored answers leave them, by
data augmentation (Tanner and Wong 1987, JASA 82:528) from the shares of the greatest likelihood on (Saerens, Latinne
and Decaestecker 2002, Neural Computation 14:21; where they lie inside they are Rogan and Gladen's of 1978, American
Journal of Epidemiology 107:71). The prior weighs as much as Jeffreys' (half an answer a class), divided as the labelled
models' answers are: a class that is rare in all of them and hard to tell is not taken for common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from eval_suites.statistics.intervals import Floats, Interval

UNLIKE = "no labelled model is scored like this"
METHOD = "scorer's errors as they differ between labelled models"
DRAWS = 4_000
CLIMBS = 50
"""Steps to the greatest likelihood, from where the draws of the shares begin: near is enough."""
STEPS = 40
"""Steps of the augmentation."""
FEWEST_MODELS = 3
PRIOR = 0.5
"""Answers a class that the prior weighs."""
STRICTEST = 500
"""Errors are held against what was scored as if of at most so many answers: labelled models have no more, and a model
of thousands that never refuses is not impossible for that."""
FEWEST_DRAWS = 20
"""Effective number of draws below which they do not explain what was scored."""
WIDEST = 0.5
"""An interval of more than this width says nothing."""


class Shares(NamedTuple):
    """Draws of the true shares of the classes: `values` (draws × classes), each row with its weight."""

    values: Floats
    weights: Floats


def true_shares(said: Sequence[float], n: float, labelled: Sequence[Floats], seed: int = 0) -> Shares | None:
    """The true shares of a model's answers behind the shares as scored.

    Args:
        said: share of the answers that the scorer gave each class.
        n: how many answers, or the effective number of clustered or weighted ones.
        labelled: of each labelled model, counts [class by people, class by the scorer], classes in the order of `said`.
        seed: of the draws; the shares of two models are independent under different seeds.

    Returns:
        None without answers, or of fewer than three labelled models, which cannot show how much models differ.

    Raises:
        ValueError: the shares do not add up to 1, or a table has other classes.
    """
    classes, seen = len(said), np.maximum(np.asarray(said, float), 0.0)
    if any(np.shape(table) != (classes, classes) for table in labelled):
        raise ValueError(f"the labelled tables are no tables of {classes} classes")
    if n <= 0 or len(labelled) < FEWEST_MODELS:
        return None
    if abs(seen.sum() - 1.0) > 1e-6:
        raise ValueError(f"{list(said)} are no shares that add up to 1")
    rng = np.random.default_rng(seed)
    errors = np.stack([_row([table[true] for table in labelled], rng) for true in range(classes)], axis=1)
    people = np.sum(labelled, axis=(0, 2)) + PRIOR
    prior = PRIOR * classes * people / people.sum()
    counts = _whole(seen, max(round(n), 1))
    true = _start(seen, errors)
    for _ in range(CLIMBS):
        true *= np.einsum("dts,ds->dt", errors, seen / _mixed(true, errors))
    unlike = np.sum(special.rel_entr(seen, _mixed(true, errors)), axis=1)
    for _ in range(STEPS):
        of_said = true[:, :, None] * errors / _mixed(true, errors)[:, None, :]
        answers = sum(rng.multinomial(count, _shares(of_said[:, :, said])) for said, count in enumerate(counts))
        true = _shares(rng.standard_gamma(answers + prior))
    return Shares(true, np.exp(-min(n, STRICTEST) * unlike) * _told_apart(errors))


def summed(values: Floats, weights: Floats, items: int, alpha: float, ends: tuple[float, float] = (0.0, 1.0)
           ) -> Interval:
    """Median and interval of weighted draws; no estimate where the interval is too wide to say anything, or where
    hardly a draw could have led to what was scored.

    Args:
        values, weights: one per draw.
        items: how many items stand behind it.
        alpha: error probability of the interval.
        ends: the least and the greatest that is possible.
    """
    if not _explained(weights):
        return Interval(None, *ends, items, UNLIKE)
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    at = np.searchsorted(reached, np.array([alpha / 2, 0.5, 1 - alpha / 2]) * reached[-1])
    low, middle, high = (float(value) for value in values[order][np.minimum(at, len(values) - 1)])
    if high - low > WIDEST:
        return Interval(None, *ends, items, f"anything from {100 * low:.0f} to {100 * high:.0f} % would fit")
    return Interval(middle, low, high, items, METHOD)


def rise(base: Shares, tuned: Shares, items: int, alpha: float) -> Interval:
    """Rise of the share of the first class between two models, each with errors of its own; in [−1, 1]."""
    if not (_explained(base.weights) and _explained(tuned.weights)):
        return Interval(None, -1.0, 1.0, items, UNLIKE)
    rng = np.random.default_rng(0)
    before, after = (rng.choice(side.values[:, 0], len(side.values), p=side.weights / side.weights.sum())
                     for side in (base, tuned))
    return summed(after - before, np.ones(len(before)), items, alpha, (-1.0, 1.0))


def _explained(weights: Floats) -> bool:
    """Whether enough draws could have led to what was scored."""
    return bool(weights.sum() ** 2 > FEWEST_DRAWS * np.sum(weights**2))


def _row(counts: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Draws of how a further model's answers of one true class are scored (draws × classes): the share of the first
    class, of the second among the rest, and so on, each foretold from the models' counts of this true class."""
    left, parts = np.ones(DRAWS), []
    for at in range(len(counts[0]) - 1):
        hits = np.array([row[at] for row in counts], float)
        others = np.array([row[at + 1:].sum() for row in counts], float)
        logits = np.log((hits + 0.5) / (others + 0.5))
        sampled = 1 / np.sum(1 / (1 / (hits + 0.5) + 1 / (others + 0.5)))  # variance of the mean if models were alike
        spread = np.sqrt(max(logits.var(ddof=1) * (1 + 1 / len(logits)), sampled))
        share = special.expit(logits.mean() + spread * rng.standard_t(len(logits) - 1, DRAWS))
        parts.append(left * share)
        left = left * (1 - share)
    return np.stack([*parts, left], axis=1)


def _start(seen: Floats, errors: Floats) -> Floats:
    """Where the iteration begins (draws × classes): the shares that solve the equations, those below 0 taken away and
    all moved a little to the middle, as a share of 0 would stay 0."""
    solved = np.maximum(np.einsum("dst,s->dt", np.linalg.pinv(errors), seen), 0.0)
    return np.asarray(0.99 * solved / solved.sum(axis=1, keepdims=True) + 0.01 / len(seen))


def _whole(shares: Floats, n: int) -> NDArray[np.int64]:
    """Whole counts that add up to n, as near to n × shares as can be."""
    upto = np.rint(n * np.concatenate([[0.0], np.cumsum(shares / shares.sum())]))
    return np.asarray(np.diff(upto), np.int64)


def _shares(values: Floats) -> Floats:
    """Each row divided by its sum; none is quite zero."""
    above = np.maximum(values, 1e-100)
    return np.asarray(above / above.sum(axis=1, keepdims=True))


def _mixed(true: Floats, errors: Floats) -> Floats:
    """Shares as scored that true shares (draws × classes) lead to under these errors; never quite zero."""
    return np.asarray(np.maximum(np.einsum("dt,dts->ds", true, errors), 1e-12))


def _told_apart(errors: Floats) -> Floats:
    """1 for draws in which the scorer's first class grows rarer from each true class to the next, else 0: one that says
    refusal of partial refusals more often than of refusals would be no scorer."""
    return np.asarray(np.all(np.diff(errors[:, :, 0], axis=1) < 0, axis=1), float)
