"""The words of a text, as comparisons see them."""

from __future__ import annotations

import re

from sft_core.conversation import Conversation

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, case folded."""
    return _WORD.findall(text.casefold())


def texts(conversation: Conversation) -> list[str]:
    """Every text of a conversation's turns, tool calls included."""
    return [
        part for turn in conversation.turns
        for part in (turn.content, *(f"{call.name} {call.arguments}" for call in turn.tool_calls)) if part
    ]
