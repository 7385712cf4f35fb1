"""Clusters and weights of which an interval cannot be relied on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eval_suites.statistics.bootstrap import FEW, Sums, cluster_sums
from eval_suites.statistics.evidence import telling, unseen
from eval_suites.statistics.intervals import Floats, t_of
from eval_suites.statistics.pairing import Pairs

FAINT = 0.05
"""Error probability of the share that was not seen, as of an interval of 95 %."""
ONE_WAY = 0.1
"""Changes are nearly all to one side where the other has at most this share of them."""
LEANS = 0.4
"""Mostly to one side, where some items change by themselves, besides those that change with their cluster."""
UNEVEN = 1 / 3
"""A few clusters hold most items where all together count for less than this share of them."""
HEAVY = 1 / 2
"""A few items weigh most where all together count for less than this share of them."""
ENOUGH = 50
"""So many items of equal weight show how often heavy ones change."""
ALIKE = 1 / 2
"""Share of a cluster's items that may change together where none of those asked did."""


def rough(pairs: Pairs) -> Iterator[str]:
    """What a note says of few clusters, or of changes to one side where a few clusters or items hold most of the
    weight, or where clusters that change as one may not be among those asked.

    In simulations of losses alone "no worse" was then wrong in 5 to 40 % where it should be in 2.5: of the few heavy
    clusters none may have changed, and the light ones do not tell; and where items change by themselves in every
    cluster, nothing seen tells of one in twenty that loses half of its items at once (`bench/statistics.py`).
    """
    clusters, items = len(set(pairs.clusters)), len(pairs.ids)
    if not clusters:
        return
    change = np.asarray(pairs.tuned) - np.asarray(pairs.base)
    sums = cluster_sums(change, pairs.clusters, pairs.weights)
    effective = sums.effective
    if clusters == 1:
        yield f"its items ({items}) make one cluster, which tells nothing about others"
    elif effective < FEW:
        uneven = f" that count as {effective:.1f}, as a few hold most of them" * (effective < clusters - 0.05)
        yield (f"its {items} items make {clusters} clusters{uneven}, too few to know how much clusters differ: the "
               "interval is a rough one")
    elif not change.any():
        return
    elif clusters < items and effective < UNEVEN * clusters and _lean(change) <= ONE_WAY:
        yield (f"its changes are nearly all to one side, and its {clusters} clusters count as {effective:.1f}, as a "
               "few hold most of its items: if those change as one, the bound on the other side is too near")
    elif clusters == items and effective < min(HEAVY * items, ENOUGH) and _lean(change) <= ONE_WAY and _seldom(change):
        yield (f"its changes are nearly all to one side, and its {items} items count as {effective:.1f}, as a few "
               "weigh most: if those change more often than was seen, the bound on that side is too near")
    elif clusters < items and _lean(change) <= LEANS and _hides(change, pairs, sums):
        yield (f"its changes are mostly to one side, and of its clusters up to {100 * unseen(FAINT, effective):.1f} "
               f"% may be of a kind that is not among these {clusters}: if items of those change as one, the bound on "
               "that side is too near")


def _hides(change: Floats, pairs: Pairs, sums: Sums) -> bool:
    """Whether clusters that were not seen could move the mean by more than its interval holds; that of answers that are
    right or wrong is the wider the fewer clusters changed."""
    if not _seldom(change):
        return False
    size = float(np.abs(change[change != 0]).mean())
    whole = np.isin(pairs.base + pairs.tuned, (0.0, 1.0)).all()
    known = min(sums.df, max(telling(change, pairs.clusters, sums) - 1.0, 1.0)) if whole else sums.df
    return bool(unseen(FAINT, sums.effective) * ALIKE * size > t_of(FAINT, known) * sums.error)


def _seldom(change: Floats) -> bool:
    """At most half of the items changed; of more there is little left that could."""
    return bool(np.count_nonzero(change) <= len(change) / 2)


def _lean(change: Floats) -> float:
    """Share of the changes to the rarer side."""
    gained, lost = np.count_nonzero(change > 0), np.count_nonzero(change < 0)
    return min(gained, lost) / (gained + lost)
