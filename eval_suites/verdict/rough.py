"""Clusters of which an interval cannot be relied on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eval_suites.statistics.bootstrap import FEW, cluster_sums
from eval_suites.statistics.pairing import Pairs

ONE_WAY = 0.1
"""Changes are nearly all to one side where the other has at most this share of them."""
UNEVEN = 1 / 3
"""A few clusters hold most items where all together count for less than this share of them."""


def rough(pairs: Pairs) -> Iterator[str]:
    """What a note says of few clusters, or of changes to one side where a few clusters hold most items.

    In simulations of losses alone "no worse" was then wrong in 5 to 20 % where it should be in 2.5, if items of a
    cluster change all together: of the few heavy clusters none may have changed, and the light ones do not tell. With
    clusters of other sizes it was in 1 to 4.5 % (`bench/statistics.py`).
    """
    clusters, items = len(set(pairs.clusters)), len(pairs.ids)
    if not clusters:
        return
    effective = cluster_sums(np.asarray(pairs.base), pairs.clusters, pairs.weights).effective
    change = np.asarray(pairs.tuned) - np.asarray(pairs.base)
    if clusters == 1:
        yield f"its items ({items}) make one cluster, which tells nothing about others"
    elif effective < FEW:
        uneven = f" that count as {effective:.1f}, as a few hold most of them" * (effective < clusters - 0.05)
        yield (f"its {items} items make {clusters} clusters{uneven}, too few to know how much clusters differ: the "
               "interval is a rough one")
    elif clusters < items and effective < UNEVEN * clusters and change.any() and _lean(change) <= ONE_WAY:
        yield (f"its changes are nearly all to one side, and its {clusters} clusters count as {effective:.1f}, as a "
               "few hold most of its items: if those change as one, the bound on the other side is too near")


def _lean(change: np.ndarray) -> float:
    """Share of the changes to the rarer side."""
    gained, lost = np.count_nonzero(change > 0), np.count_nonzero(change < 0)
    return min(gained, lost) / (gained + lost)
