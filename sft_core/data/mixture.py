"""Train and validation: a split by content, so that more rows move nothing and equal questions stay together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from sft_core.conversation import Conversation


class Split(NamedTuple):
    """Conversations in their old order."""

    train: list[Conversation]
    validation: list[Conversation]


def split(conversations: Sequence[Conversation], validation_share: float, seed: int) -> Split:
    """Hold out about `validation_share` of the conversations.

    The side hangs on the first question alone (folded case and white space): a conversation stays where it is when
    others come or go, and no question of validation occurs in training, whatever its system turn or answer.
    """
    halves = Split([], [])
    for conversation in conversations:
        held_out = _place(conversation, seed) < validation_share
        (halves.validation if held_out else halves.train).append(conversation)
    return halves


def _place(conversation: Conversation, seed: int) -> float:
    """A number in [0, 1) that is the same for equal first questions."""
    question = next(turn.content for turn in conversation.turns if turn.role == "user")
    text = " ".join(question.casefold().split())
    digest = hashlib.sha256(f"{seed}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
