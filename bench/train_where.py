"""Where the time of a step goes: operations of torch.profiler, told apart by the shapes that they work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.train_data import Shape

Operation = Sequence[Any]  # name, shapes of its inputs, seconds of its own
TILE = 32_768  # of the vocabulary, in which TRL's fused head works
PARTS = ("attention", "projections", "MLP", "head", "embedding", "optimizer", "other operations", "Python")


def part_of(name: str, shapes: Sequence[Any], shape: Shape) -> str:
    """The part of the model that an operation belongs to.

    The vocabulary (or a tile of it) is a dimension of the head and of nothing else but the embedding's look-up; the
    intermediate width is one of the MLP only; products of what is left are the projections around attention.
    Elementwise work on plain hidden states (norms, rotary positions, residuals) stays with `other operations`.
    """
    sizes = {n for one in shapes for n in (one if isinstance(one, list) else ()) if isinstance(n, int)}
    if any(word in name for word in ("adam", "_foreach", "Optimizer")):
        return "optimizer"
    if "embedding" in name:
        return "embedding"
    if sizes & {shape.vocabulary, TILE, shape.vocabulary % TILE} or "LogProb" in name:
        return "head"
    if "scaled_dot_product" in name or "attention" in name or "softmax" in name:
        return "attention"
    if shape.width * 8 // 3 // 32 * 32 in sizes:
        return "MLP"
    return "projections" if any(word in name for word in ("mm", "linear", "mkldnn")) else "other operations"


def parts(operations: Sequence[Operation], shape: Shape, seconds: float) -> dict[str, float]:
    """Seconds per part; `Python` is what is left of the wall clock, interpreter and dispatch outside operations."""
    found: Counter[str] = Counter(dict.fromkeys(PARTS, 0.0))
    for name, shapes, took in operations:
        found[part_of(name, shapes, shape)] += took
    found["Python"] = max(0.0, seconds - sum(found.values()))
    return {name: found[name] for name in PARTS}


def top(operations: Sequence[Operation], count: int = 12) -> list[tuple[str, float]]:
    """The operations with the most time of their own, shapes added up."""
    found: Counter[str] = Counter()
    for name, _, took in operations:
        found[name] += took
    return found.most_common(count)
