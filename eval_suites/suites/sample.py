"""Which items are asked: the same sample for every model, a larger one holds every smaller one.

The order of the items of a stratum (task, kind) is that of a hash of their ids, so it depends on nothing else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

SEED = "sft-sample-0"
Strata = Mapping[str, Sequence[str]]
"""Stratum → ids of its items."""


def rank(name: str) -> bytes:
    """Where an id or a cluster stands in sampling order."""
    return hashlib.sha256(f"{SEED}:{name}".encode()).digest()


def ordered(ids: Sequence[str]) -> list[str]:
    """The ids in sampling order. A variant of an item (`ID~VARIANT`) comes with the item."""
    return sorted(ids, key=lambda item_id: (rank(item_id.partition("~")[0]), item_id))


def drawn(strata: Strata, limit: int | None) -> dict[str, list[str]]:
    """At most `limit` ids of each stratum, in the order they came."""
    if limit is None:
        return {name: list(ids) for name, ids in strata.items()}
    kept = {name: set(ordered(ids)[:limit]) for name, ids in strata.items()}
    return {name: [one for one in ids if one in kept[name]] for name, ids in strata.items()}


def parts(strata: Strata, looks: int) -> list[set[str]]:
    """The ids asked by the end of each look: equal shares of every stratum, each holding the one before.

    The last one is everything.
    """
    order = {name: ordered(ids) for name, ids in strata.items()}
    return [{one for ids in order.values() for one in ids[:math.ceil(len(ids) * look / looks)]}
            for look in range(1, looks + 1)]
