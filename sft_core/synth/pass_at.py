"""The chance that one of k answers to a prompt is right, out of n of which c are."""

from __future__ import annotations

from math import comb


def pass_at(k: int, n: int, c: int) -> float:
    """The unbiased estimate 1 − C(n − c, k) / C(n, k) of Chen et al. 2021, exactly.

    Raises:
        ValueError: k is not in 1 to n, or c not in 0 to n.
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@{k} out of {n} answers of which {c} are right; k is 1 to n, and c 0 to n")
    return 1.0 - comb(n - c, k) / comb(n, k)
