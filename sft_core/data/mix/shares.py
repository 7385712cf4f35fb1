"""What is there and what is asked for → the share of every group of examples in the mixture.

A group is what has one source and equal labels. Sources get their shares first; limits on labels then move as little as
they can: of all mixtures that keep every share and limit, the one that is nearest in Kullback-Leibler divergence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from sft_core.config.mixture import MixtureSection, SourceMixSection
from sft_core.errors import DataError

SWEEPS = 2000
NEAR = 1e-10
"""Largest distance of a share from its limit that counts as none."""
_SLACK = 1e-7  # of the linear programme: HiGHS' own tolerance

Reals = NDArray[np.float64]


class Limit(NamedTuple):
    """How much of the mixture some of the groups have together."""

    name: str  # as the configuration calls it
    members: NDArray[np.bool_]  # [groups]
    least: float
    most: float

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.name} is to have {self.least:.1%}"
        ends = [f"at least {self.least:.1%}"] * (self.least > 0) + [f"at most {self.most:.1%}"] * (self.most < 1)
        return f"{self.name} is to have {' and '.join(ends)}"


def source_shares(sizes: Mapping[str, float], sources: Mapping[str, SourceMixSection], mixture: MixtureSection
                  ) -> dict[str, float]:
    """The share of every source, 1 together.

    Args:
        sizes: what each source amounts to, `epochs` included; 0 where nothing of it is left.
        sources: what the configuration says of each.

    Raises:
        DataError: shares that cannot be met.
    """
    given = {name: one.share for name, one in sources.items() if one.share is not None}
    empty = [name for name, share in given.items() if share and not sizes[name]]
    if empty:
        raise DataError(f"the source {empty[0]} has data.sources.share {given[empty[0]]:g} and no training example; "
                        "give it rows, or take its share out")
    said, free = sum(given.values()), [name for name in sizes if name not in given]
    if not free:
        if not said:
            raise DataError("every source has data.sources.share 0; give one of them more")
        return {name: share / said for name, share in given.items()}
    if said > 1 or (said == 1 and any(sizes[name] for name in free)):
        raise DataError(f"the shares of {', '.join(given)} are {said:g} together, and {', '.join(free)} without one "
                        "get what is left of 1: give smaller shares, or every source one")
    capped = {name: min(sizes[name], mixture.cap or sizes[name]) for name in free}
    largest = max(capped.values())
    if not largest and said < 1:
        raise DataError(f"the shares of {', '.join(given)} are {said:g} together, and what is left of 1 falls to "
                        f"{', '.join(free)}, of which no training example is left; give every source a share")
    weights = {name: (size / largest) ** (1 / mixture.temperature) if size else 0.0 for name, size in capped.items()}
    per_weight = (1 - said) / sum(weights.values()) if largest else 0.0
    return given | {name: weight * per_weight for name, weight in weights.items()}


def within(shares: Reals, limits: Sequence[Limit]) -> Reals:
    """The shares that keep all limits and are nearest to those given; both sum to 1, and nothing comes from 0.

    Every limit in turn is met by changing the odds of its groups, and what an earlier turn did too much is taken back
    (Bregman 1967; iterative proportional fitting, with bounds).

    Args:
        shares: [groups].

    Raises:
        DataError: no mixture keeps all of them; says which, and what can be reached.
    """
    _check(shares, limits)
    moved = np.zeros(len(limits))  # log-odds, by limit
    for _ in range(SWEEPS):
        off = 0.0
        for at, limit in enumerate(limits):
            now = float(shares[limit.members].sum())
            off = max(off, limit.least - now, now - limit.most)
            change = min(max(-moved[at], _odds(limit.least) - _odds(now)), _odds(limit.most) - _odds(now))
            moved[at] += change
            shares = np.where(limit.members, shares * np.exp(change), shares)
            shares = shares / shares.sum()
        if off <= NEAR:
            break
    return shares


def _odds(share: float) -> float:
    """Logarithm of the odds, in bounds that leave differences of them finite."""
    return float(np.log(max(share, 1e-15)) - np.log(max(1 - share, 1e-15)))


def _check(shares: Reals, limits: Sequence[Limit]) -> None:
    if _reachable(shares, limits, np.zeros(len(shares))) is not None:
        return
    told = []
    for at, limit in enumerate(limits):
        others, ours = [*limits[:at], *limits[at + 1:]], limit.members.astype(float)
        least, most = _reachable(shares, others, ours), _reachable(shares, others, -ours)
        if least is not None and most is not None:
            told.append(f"{limit}, and beside the others it can have {least:.1%} to {-most:.1%}")
    which = "; ".join(told or map(str, limits))
    raise DataError(f"data.mixture: these shares and limits cannot be met together: {which}; loosen one of them, "
                    "or add rows")


def _reachable(shares: Reals, limits: Sequence[Limit], costs: Reals) -> float | None:
    """The least cost of a mixture within the limits, None where there is none."""
    sides = [sign * limit.members for limit in limits for sign in (1.0, -1.0)]
    ends = [end for limit in limits for end in (limit.most + _SLACK, _SLACK - limit.least)]
    found = linprog(costs, A_ub=np.array(sides) if sides else None, b_ub=ends or None,
                    A_eq=np.ones((1, len(shares))), b_eq=[1.0], bounds=[(0, 1 if share else 0) for share in shares])
    return float(found.fun) if found.status == 0 else None
