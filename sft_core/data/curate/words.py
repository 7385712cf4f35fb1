"""The words of a text, as comparisons see them, and the texts of a conversation."""

from __future__ import annotations

import re

from sft_core.conversation import Conversation, Turn
from sft_core.templates.thoughts import TAGS, thought_of

_WORD = re.compile(r"\w+")
_OPENS = {opens[0] for opens, _ in TAGS}


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, case folded."""
    return _WORD.findall(text.casefold())


def texts(conversation: Conversation) -> list[str]:
    """Every text of a conversation's turns, tool calls included."""
    return [
        part for turn in conversation.turns
        for part in (turn.content, *(f"{call.name} {call.arguments}" for call in turn.tool_calls)) if part
    ]


def answer_of(turn: Turn) -> str:
    """What an answer says behind its thought, without space around it; the thought may have been opened by a prompt."""
    text = turn.content.strip()
    thought = thought_of(text, TAGS[0]) if text[:1] in _OPENS or TAGS[0][1] in text else None
    return thought.answer.strip() if thought else text
