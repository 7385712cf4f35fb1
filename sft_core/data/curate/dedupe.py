"""Exact and near duplicates; deterministic, the first one stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rensa import RMinHash, RMinHashLSH

from sft_core.conversation import Conversation, Rejected, Why
from sft_core.data.curate.words import texts, words
from sft_core.stopping import check

SHINGLE_WORDS = 3
PERMUTATIONS = 128
RECALL = 0.999
"""Least probability that two conversations exactly at the threshold become candidates."""


class Curated(NamedTuple):
    """What stays, in its old order, and what goes."""

    kept: list[Conversation]
    rejected: list[Rejected]


def exact(conversations: Sequence[Conversation]) -> Curated:
    """Drop conversations that are equal after folding case and white space: roles, texts, calls, tools, and which
    answers are trained."""
    first: dict[tuple[str, ...], Conversation] = {}
    curated = Curated([], [])
    for conversation in conversations:
        key = _folded(conversation)
        if key in first:
            detail = f"same as {first[key].origin}"
            curated.rejected.append(Rejected(Why.EXACT_DUPLICATE, detail, conversation.origin))
        else:
            first[key] = conversation
            curated.kept.append(conversation)
    return curated


def near(conversations: Sequence[Conversation], threshold: float) -> Curated:
    """Drop conversations whose sets of word 3-grams have a Jaccard similarity of at least `threshold` to a kept one.

    MinHash and locality-sensitive hashing (Leskovec et al., Mining of Massive Datasets, 3.3-3.4) only propose
    pairs; the similarity that decides is exact. Only sketches are kept: a candidate is cut into shingles again.
    """
    index = RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=bands(threshold))
    curated = Curated([], [])
    for at, conversation in enumerate(conversations):
        check()
        mine = shingles(conversation)
        if not mine:
            curated.kept.append(conversation)
            continue
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update(list(mine))
        alike = ((jaccard(mine, shingles(conversations[key])), key) for key in sorted(index.query(sketch)))
        twin = next(((similarity, key) for similarity, key in alike if similarity >= threshold), None)
        if twin is None:
            index.insert(at, sketch)
            curated.kept.append(conversation)
        else:
            detail = f"{twin[0]:.2f} like {conversations[twin[1]].origin}"
            curated.rejected.append(Rejected(Why.NEAR_DUPLICATE, detail, conversation.origin))
    return curated


def shingles(conversation: Conversation) -> frozenset[str]:
    """Word 3-grams of all texts together; fewer words are one shingle, none (signs only) are none."""
    found = [word for text in texts(conversation) for word in words(text)]
    if len(found) < SHINGLE_WORDS:
        return frozenset([" ".join(found)] if found else ())
    return frozenset(map(" ".join, zip(*(found[at:] for at in range(SHINGLE_WORDS)), strict=False)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over size of the union; both are non-empty."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def bands(threshold: float) -> int:
    """Fewest LSH bands (longest rows r) that still find a pair at the threshold: 1 - (1 - t^r)^(n/r) >= RECALL."""
    rows = [r for r in (64, 32, 16, 8, 4, 2) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL]
    return PERMUTATIONS // (rows[0] if rows else 1)


def _folded(conversation: Conversation) -> tuple[str, ...]:
    def fold(text: str) -> str:
        return " ".join(text.casefold().split())

    parts = [fold(conversation.tools or ""), conversation.variables or ""]
    for turn in conversation.turns:
        parts += [turn.role, str(turn.masked), fold(turn.content),
                  *(fold(f"{call.name} {call.arguments}") for call in turn.tool_calls)]
    return tuple(parts)
