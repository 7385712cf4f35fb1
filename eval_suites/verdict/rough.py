"""Clusters of which an interval cannot be relied on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eval_suites.statistics.bootstrap import FEW, cluster_sums
from eval_suites.statistics.pairing import Pairs

ONE_WAY = 0.1
"""Changes are nearly all to one side where the other has at most this share of them."""
MANY = 30
"""So many clusters that changed show how alike their changes are."""


def rough(pairs: Pairs) -> Iterator[str]:
    """What a note says of few clusters, or of changes to one side that lie in few of them.

    In simulations of losses alone in 15 to 100 effective clusters "no worse" was wrong in 3 to 6 % where it should be
    in 2.5 (12 % where a few clusters held most items): how alike items of a cluster change is seen from few of them.
    """
    clusters, items = len(set(pairs.clusters)), len(pairs.ids)
    if not clusters:
        return
    effective = cluster_sums(np.asarray(pairs.base), pairs.clusters, pairs.weights).effective
    change = np.asarray(pairs.tuned) - np.asarray(pairs.base)
    changed = len(set(np.asarray(pairs.clusters)[change != 0]))
    if clusters == 1:
        yield f"its items ({items}) make one cluster, which tells nothing about others"
    elif effective < FEW:
        uneven = f" that count as {effective:.1f}, as a few hold most of them" * (effective < clusters - 0.05)
        yield (f"its {items} items make {clusters} clusters{uneven}, too few to know how much clusters differ: the "
               "interval is a rough one")
    elif clusters < items and 0 < changed < MANY and _lean(change) <= ONE_WAY:
        yield (f"its changes are nearly all to one side and lie in {changed} of {clusters} clusters: how alike items "
               "of a cluster change is little known, and the bound on the other side may be too near")


def _lean(change: np.ndarray) -> float:
    """Share of the changes to the rarer side."""
    gained, lost = np.count_nonzero(change > 0), np.count_nonzero(change < 0)
    return min(gained, lost) / (gained + lost)
