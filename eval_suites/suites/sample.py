"""Which items are asked: the same part and sample for every model, a larger sample holds every smaller one.

The order of the items of a stratum (task, kind) is that of a hash of their ids, so it depends on nothing else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

from sft_core.config.evaluate import Limit
from sft_core.errors import EvalError

SEED = "sft-sample-0"
Strata = Mapping[str, Sequence[str]]
"""Stratum → ids of its items."""


def rank(name: str) -> bytes:
    """Where an id or a cluster stands in sampling order."""
    return hashlib.sha256(f"{SEED}:{name}".encode()).digest()


def ordered(ids: Sequence[str]) -> list[str]:
    """The ids in sampling order. A variant of an item (`ID~VARIANT`) comes with the item."""
    return sorted(ids, key=lambda item_id: (rank(item_id.partition("~")[0]), item_id))


def of_part(suite: str, strata: Strata, clusters: Mapping[str, str], limit: Limit) -> dict[str, list[str]]:
    """The ids of each stratum that are in the part `limit.part`, in the order they came; a stratum that has none there
    is left out. Both parts together are everything, and no cluster is in both.

    Args:
        clusters: id → its cluster.

    Raises:
        EvalError: the suite has too few clusters to be parted.
    """
    if not limit.held_back:
        return {name: list(ids) for name, ids in strata.items()}
    held = _held_back(strata, clusters, limit.held_back)
    asked = {name: [one for one in ids if (clusters[one] in held) == (limit.part == "held_back")]
             for name, ids in strata.items()}
    if not any(asked.values()):
        raise EvalError(
            f"suite {suite} has no items in its part {limit.part}: of its {len(set(clusters.values()))} clusters, "
            f"which are never divided, a share of {limit.held_back:g} (eval.held_back, or search.confirm) is "
            f"{len(held)}; hold back another share, or leave the suite out")
    return {name: ids for name, ids in asked.items() if ids}


def _held_back(strata: Strata, clusters: Mapping[str, str], share: float) -> set[str]:
    """Systematic sampling (Cochran, Sampling Techniques, 1977, ch. 8) of the clusters, those that are in the same
    strata together: the share of all of them, and of each stratum, is kept to within a cluster or so. The suite's name
    is no part of it: the same items under another protocol (`gsm8k`, `gsm8k@chat`) are parted in the same way."""
    found: dict[str, list[str]] = {}
    for name, ids in strata.items():
        for cluster in dict.fromkeys(clusters[one] for one in ids):
            found.setdefault(cluster, []).append(name)
    order = sorted(found, key=lambda one: (rank(str(sorted(found[one]))), rank(one)))
    return {one for place, one in enumerate(order) if int((place + 1) * share) > int(place * share)}


def quotas(sizes: Mapping[str, int], limit: Limit) -> dict[str, int]:
    """How many items of each stratum are asked. A total goes round the strata in their sampling order, an item each
    time, until it is spent or a stratum has no more; so a larger total takes no item from any stratum. A share is one
    of what each stratum then has, rounded up."""
    return {name: math.ceil(limit.share * many) for name, many in _most(sizes, limit).items()}


def _most(sizes: Mapping[str, int], limit: Limit) -> dict[str, int]:
    if limit.total is None:
        return {name: size if limit.per_task is None else min(size, limit.per_task) for name, size in sizes.items()}
    found, left = dict.fromkeys(sizes, 0), limit.total
    while left > 0 and (open_ := [name for name in sorted(sizes, key=rank) if found[name] < sizes[name]]):
        for name in open_[:left]:
            found[name] += 1
        left -= len(open_)
    return found


def drawn(strata: Strata, limit: Limit) -> dict[str, list[str]]:
    """The ids of each stratum that are asked, in the order they came; a stratum that is not asked is left out."""
    asked = quotas({name: len(ids) for name, ids in strata.items()}, limit)
    kept = {name: set(ordered(ids)[:asked[name]]) for name, ids in strata.items() if asked[name]}
    return {name: [one for one in strata[name] if one in some] for name, some in kept.items()}


def parts(strata: Strata, looks: int) -> list[set[str]]:
    """The ids asked by the end of each look: equal shares of every stratum, each holding the one before.

    The last one is everything.
    """
    order = {name: ordered(ids) for name, ids in strata.items()}
    return [{one for ids in order.values() for one in ids[:math.ceil(len(ids) * look / looks)]}
            for look in range(1, looks + 1)]
