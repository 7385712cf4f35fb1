"""Train and validation: a split by content, so that more rows move nothing and what is alike stays together."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from sft_core.conversation import Conversation, Turn


class Place(NamedTuple):
    """Where the first question that is trained (folded case and white space) puts a conversation; equal for equal
    questions."""

    rank: int  # of the questions of a cluster, the one with the lowest speaks for all; below 2^63
    at: float  # in [0, 1): below the share that is held out, it is


def place(conversation: Conversation, seed: int) -> Place:
    """Of one conversation, whatever others there are."""
    questions = [turn.content for turn in takewhile(_is_context, conversation.turns) if turn.role == "user"]
    return place_of_text(questions[-1], seed)


def place_of_text(question: str, seed: int) -> Place:
    """Of a conversation whose first trained answer is to this question."""
    text = " ".join(question.casefold().split()).encode("utf-8", "surrogatepass")
    at = hashlib.sha256(f"{seed}\0".encode() + text).digest()
    rank = hashlib.blake2b(text, digest_size=8).digest()
    return Place(int.from_bytes(rank, "big") >> 1, int.from_bytes(at[:8], "big") / 2**64)


def _is_context(turn: Turn) -> bool:
    return turn.role != "assistant" or turn.masked


def held_out(places: Sequence[Place], share: float, clusters: Iterable[Hashable] | None = None) -> list[bool]:
    """Whether each is held out, about `share` of all; all of one cluster, and all clusters that share a question, are
    on one side. A conversation stays where it is when others come or go, and no question of validation is trained,
    whatever its system turn or answer.

    One member speaks for its cluster, that with the lowest rank, which is content and nothing else. So a cluster of n
    that one more row joins moves with a chance of 2 · share · (1 - share) / (n + 1): the newcomer has to speak for it,
    and to stand on the other side. Two clusters that a new row joins to one have to come to one side. Nothing else
    moves anything.
    """
    if clusters is None:
        return [one.at < share for one in places]
    speaker = {one.rank: one.rank for one in places}

    def find(rank: int) -> int:
        while speaker[rank] != rank:
            speaker[rank] = rank = speaker[speaker[rank]]
        return rank

    first: dict[Hashable, int] = {}
    for one, cluster in zip(places, clusters, strict=True):
        low, high = sorted((find(one.rank), find(first.setdefault(cluster, one.rank))))
        speaker[high] = low
    at = {one.rank: one.at for one in places}
    return [at[find(one.rank)] < share for one in places]
