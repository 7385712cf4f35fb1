"""Thoughts of reasoning models: the tags around them, and how an answer goes on behind a prompt that opens one."""

from __future__ import annotations

import re
from typing import NamedTuple

from sft_core.conversation import Turn

TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Opening and closing of a thought, in the families that write it into the text of the answer."""

_SHUT = re.compile("|".join(rf"{re.escape(opens)}\s*{re.escape(closes)}\s*\Z" for opens, closes in TAGS))
ANY_TAG = re.compile("|".join(re.escape(tag) for pair in TAGS for tag in pair))


class Thought(NamedTuple):
    """A text that holds a thought, cut: up to the thought, between its tags, behind it. `tags` are its tags."""

    tags: tuple[str, str]
    thinking: str
    answer: str


def thought_of(content: str) -> Thought | None:
    """The thought that a content begins with. The opening tag may be missing: some prompts end in it."""
    for tags in TAGS:
        if tags[1] in content:
            thinking, _, answer = content.partition(tags[1])
            return Thought(tags, thinking.partition(tags[0])[2] or thinking.replace(tags[0], ""), answer)
    return None


def thinks(turn: Turn) -> bool:
    """An answer with a thought that says something."""
    thought = thought_of(turn.content) if turn.role == "assistant" else None
    return thought is not None and bool(thought.thinking.strip())


def visible(content: str) -> str:
    """The content without its thought."""
    found = thought_of(content)
    return found.answer if found else content


def closes_thought(prompt: str) -> bool:
    """The prompt ends in an empty thought: the answer must have none."""
    return bool(_SHUT.search(prompt))


def opened_in(opening: str) -> tuple[int, tuple[str, str]] | None:
    """Where the opening of an answer begins a thought, and the tags."""
    found = [(at, tags) for tags in TAGS if (at := opening.rfind(tags[0])) >= 0]
    return max(found) if found else None


def continued(block: str, written: str, content: str, tags: tuple[str, str]) -> str | None:
    """The answer behind a prompt that ends in `block`, where the template writes `written` without that block.

    Args:
        block: from the opening tag to the end of the prompt: an open thought, or an empty one.
        written: the answer as the template writes it in that place, with its stop.
        content: the turn's content.

    Returns:
        The continuation: the thought of the content when the prompt has opened one, its end when the content has none;
        behind an empty thought what is written without the end of one.
        None when the prompt has closed the thought and the answer has one of its own.
    """
    opens, closes = tags
    thought = thought_of(content)
    if closes in block:
        if thought or written.startswith(opens):
            return None
        if not (ended := written.lstrip()).startswith(closes):
            return written
        return ended.removeprefix(closes).removeprefix(block.rpartition(closes)[2])
    if written.startswith(opens):
        return written[len(opens):].lstrip()
    if not thought:
        return f"\n{closes}\n\n{written}"
    return _thinking(thought, block) + _closed(thought, written)


def restored(written: str, content: str) -> str:
    """The answer with the thought that its content begins with, where the template left the thought out."""
    thought = thought_of(content)
    if not thought or thought.thinking.strip() in written or not written.lstrip().startswith(thought.answer.strip()):
        return written
    return thought.tags[0] + thought.thinking + _closed(thought, written)


def _thinking(thought: Thought, block: str) -> str:
    return thought.thinking.lstrip() if block[-1:].isspace() else thought.thinking


def _closed(thought: Thought, written: str) -> str:
    """The closing tag and the answer, with the white space that the content has between them."""
    gap = thought.answer[: len(thought.answer) - len(thought.answer.lstrip())]
    return thought.tags[1] + ("" if written[:1].isspace() else gap) + written
