"""How much of a group of examples is wanted in an epoch → how often each of them is used in it.

The examples stand in one line, in an order of their own that hangs on their content. Epochs are laid along that line
one behind the other, and around it again: an example is used as often as an epoch reaches its middle. So an epoch is
exact to half an example at either end, no example is used a second time before all were used once, and other examples
that come or go move nothing but the ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]


def places(ids: Iterable[Sequence[int]], seed: int) -> NDArray[np.uint64]:
    """Where each example stands in the line: a number that hangs on its tokens and the seed alone."""
    salt = (seed % 2**64).to_bytes(8, "big")
    found = [hashlib.blake2b(np.asarray(one, dtype=np.int32).tobytes(), digest_size=8, salt=salt).digest()
             for one in ids]
    return np.frombuffer(b"".join(found), dtype=">u8").astype(np.uint64)


def line_up(order: NDArray[np.uint64], sizes: Whole) -> Whole:
    """Twice the distance of every example's middle from the beginning of the line, in what sizes count."""
    line = np.lexsort((np.arange(len(order)), order))
    middles = np.empty(len(order), dtype=np.int64)
    middles[line] = 2 * np.cumsum(sizes[line]) - sizes[line]
    return middles


def times(middles: Whole, whole: int, before: int, until: int) -> Whole:
    """How often each example is used by an epoch that reaches from `before` to `until` along the line.

    Args:
        middles: as `line_up` says.
        whole: size of all examples together.
    """
    return _reached(middles, whole, until) - _reached(middles, whole, before)


def _reached(middles: Whole, whole: int, until: int) -> Whole:
    """How many k >= 0 there are with middle + k * whole < until, doubled all of them."""
    return np.maximum(0, -((middles - 2 * until) // (2 * whole)))


def parts_of(size: int, shares: NDArray[np.float64]) -> Whole:
    """A whole number shared out into whole numbers, each less than one from its share (largest remainders)."""
    exact = size * shares
    parts = np.floor(exact).astype(np.int64)
    rest = np.lexsort((np.arange(len(shares)), parts - exact))
    parts[rest[:size - int(parts.sum())]] += 1
    return parts
