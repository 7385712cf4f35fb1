"""Texts that lose much where none of those asked did: what they may cost on the scale `log`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from eval_suites.statistics.bootstrap import cluster_sums
from eval_suites.statistics.evidence import unseen
from eval_suites.statistics.pairing import Pairs
from eval_suites.verdict.outcome import SuiteVerdict

LOST = 0.35
"""Nats per byte that texts of a kind which is not among those asked are taken to lose: 42 % of perplexity."""


def hidden(groups: float, alpha: float) -> float:
    """Points that texts of a kind which is not among `groups` of them may cost.

    A share of 1 − (alpha / 2)^(1 / groups) may not be among them. Scores of 0 to 1 end somewhere; what a text loses
    has no end but that of a model that knows nothing, so that a bound needs an assumption (`LOST`).
    """
    return 100 * LOST * unseen(alpha, groups)


def reach(pairs: Pairs, tax: float, kind: str, scale: str, alpha: float) -> float:
    """The tax in points, such texts included; −∞ on other scales, and where no text changed: the same computation."""
    if scale != "log" or kind != "capability" or pairs.base == pairs.tuned:
        return -math.inf
    return tax + hidden(_groups(pairs), alpha)


def with_hidden(suite: SuiteVerdict, pairs: Pairs, alpha: float) -> SuiteVerdict:
    """`no_worse` is not claimed where such texts would take the tax above the margin; where they only take it beyond
    the interval a note says so."""
    seen, groups = suite.points or 0.0, _groups(pairs)
    most = reach(pairs, seen, suite.kind, suite.scale, alpha)
    if most <= suite.high:
        return suite
    note = (f"{100 * unseen(alpha, groups):.1f} % of such texts may be of a kind that is not among these "
            f"{suite.pairs}: if those lose {LOST:g} nats per byte each, the tax is up to {most:.1f} points")
    if suite.outcome != "no_worse" or most <= suite.margin:
        return replace(suite, notes=(note, *suite.notes))
    room = suite.margin - (seen + suite.high) / 2  # what more texts show may be a standard error worse
    more = _texts(room, alpha) * suite.pairs / groups - suite.pairs if room > 0 else None
    return replace(suite, outcome="undecided", more_items=None if more is None else max(math.ceil(more), 1),
                   notes=(*suite.notes, f"{note}, so that it is not called no worse"))


def _texts(points: float, alpha: float) -> float:
    """Texts of equal length of which the hidden ones cost no more than this."""
    return math.log(alpha / 2) / math.log1p(-min(points / (100 * LOST), 0.99))


def _groups(pairs: Pairs) -> float:
    return cluster_sums(np.asarray(pairs.base), pairs.clusters, pairs.weights).effective
