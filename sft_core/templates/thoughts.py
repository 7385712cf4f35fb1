"""Thoughts of reasoning models: the tags around them, and how an answer goes on behind a prompt that opens one."""

from __future__ import annotations

import re
from typing import NamedTuple

from sft_core.conversation import Turn

Tags = tuple[str, str]
TAGS: tuple[Tags, ...] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Opening and closing of a thought, in the families that write it into the text of the answer."""

_SHUT = re.compile("|".join(rf"{re.escape(closes)}\s*\Z" for _, closes in TAGS))
EMPTY = re.compile("|".join(rf"\s*{re.escape(opens)}(\s*){re.escape(closes)}" for opens, closes in TAGS))
ANY_TAG = re.compile("|".join(re.escape(tag) for pair in TAGS for tag in pair))


ENDED = "\ue0f4"
"""Put behind words, to see where a template writes them."""
HIDDEN = "\ue0f2\n\ue0f3"
"""Stands for what is thought while an answer is cut out: words that are nowhere else, which escaping would change."""
SWITCH = re.compile(r"/(?:no_?)?think\b")
"""Turns thinking on or off in what system and user say; some templates obey it, and take it out."""


class Thought(NamedTuple):
    """A text that holds a thought, cut: up to the thought, between its tags, behind it. `tags` are its tags."""

    tags: Tags
    thinking: str
    answer: str


def thought_of(content: str, opened: Tags | None = None) -> Thought | None:
    """The thought that a content begins with.

    Args:
        opened: tags whose opening the prompt writes, so that the content may go on with the thought and close it.
    """
    text = content.lstrip()
    for tags in TAGS:
        if text.startswith(tags[0]) and tags[1] in text:
            thinking, _, answer = text.removeprefix(tags[0]).partition(tags[1])
            return Thought(tags, thinking, answer)
    if opened and opened[1] in content and not ANY_TAG.search(before := content.partition(opened[1])[0]):
        return Thought(opened, before, content.partition(opened[1])[2])
    return None


def thinks(turn: Turn, opened: Tags | None = None) -> bool:
    """An answer with a thought that says something."""
    thought = thought_of(turn.content, opened) if turn.role == "assistant" else None
    return thought is not None and bool(thought.thinking.strip())


def without(content: str, opened: Tags | None) -> str | None:
    """The content without the thoughts that it begins with; None where another tag is left, which may be a thought or
    be spoken of."""
    while thought := thought_of(content, opened):
        content, opened = thought.answer.lstrip(), None
    return None if ANY_TAG.search(content) else content


def hidden(turn: Turn, opened: Tags | None) -> tuple[Turn, str]:
    """The turn with HIDDEN for the words of its thought, and these: a short one stands in tags and calls as well."""
    thought = thought_of(turn.content, opened)
    if not thought or not (words := thought.thinking.strip()):
        return turn, ""
    behind = thought.tags[1] + thought.answer
    before = turn.content.removesuffix(behind).removesuffix(thought.thinking)
    return turn._replace(content=before + thought.thinking.replace(words, HIDDEN) + behind), words


def visible(content: str, opened: Tags | None = None) -> str:
    """The content without its thought."""
    found = thought_of(content, opened)
    return found.answer if found else content


def closes_thought(prompt: str) -> bool:
    """The prompt ends in an empty thought, or in the end of one: the answer must have none."""
    return bool(_SHUT.search(prompt))


def begun_in(prompt: str) -> Tags | None:
    """The tags of the thought that a prompt ends in the beginning of."""
    return next((tags for tags in TAGS if prompt.rstrip().endswith(tags[0])), None)


def opened_in(opening: str) -> tuple[int, Tags] | None:
    """Where the opening of an answer begins a thought, and the tags."""
    found = [(at, tags) for tags in TAGS if (at := opening.rfind(tags[0])) >= 0]
    return max(found) if found else None


def continued(block: str, written: str, content: str, tags: Tags, closing: str) -> str | None:
    """The answer behind a prompt that ends in `block`, where the template writes `written` without that block.

    Args:
        block: from the opening tag to the end of the prompt: an open thought, or an empty one.
        written: the answer as the template writes it in that place, with its stop.
        content: the turn's content.
        closing: what the template writes between a thought and its answer.

    Returns:
        The continuation: the thought of the content when the prompt has opened one, its end when the content has none;
        behind an empty thought what is written without the end of one.
        None when the prompt has closed the thought and the answer has one of its own.
    """
    opens, closes = tags
    thought, ended = thought_of(content, tags), written.lstrip()
    closed = ended.startswith(closes)
    if closes in block:
        if thought_of(content) or written.startswith(opens):
            return None
        if not closed:
            return written
        return ended.removeprefix(closes).removeprefix(block.rpartition(closes)[2])
    heading, begins, _ = written.partition(opens)
    if begins and (not heading or thought and thought.thinking.strip() not in heading):
        return _filled(written[len(heading):], thought.thinking if thought else "")[len(opens):].lstrip()
    if not thought:
        return written if closed else closing + written
    return _thinking(thought, block) + _closed(thought, ended.removeprefix(closes) if closed else written)


def restored(written: str, turn: Turn, opened: Tags | None, begun: Tags | None,
             around: tuple[str, str] = ("", "")) -> str:
    """The answer with the thought that its content begins with, where the template left the thought out.

    Args:
        opened: tags whose opening prompts of this template write, so that contents may go on with a thought.
        begun: tags of the thought that the prompt of this turn begins; it is ended where nothing in the answer does so.
        around: what the template writes before and behind a thought elsewhere; empty where it is not known.
    """
    thought = thought_of(turn.content, opened)
    if thought and not thought.thinking.strip():
        thought = None
    if begun:
        return _gone_on(written, turn, thought, begun, around[1])
    if not thought or tells(written, thought, turn):
        return written
    if (filled := _filled(written, thought.thinking)) != written:
        return filled
    if all(around) and not ANY_TAG.search(written.partition(thought.answer.strip())[0]):
        return around[0] + thought.thinking.strip() + around[1] + written
    if not written.lstrip().startswith(thought.answer.strip()):
        return written
    return thought.tags[0] + thought.thinking + _closed(thought, written)


def _gone_on(written: str, turn: Turn, thought: Thought | None, begun: Tags, closing: str) -> str:
    """The answer behind a prompt that begins its thought."""
    if written.lstrip().startswith(begun[0]):
        written = written.lstrip()[len(begun[0]):].lstrip()
    told = thought and tells(written, thought, turn)
    if begun[1] in written:
        return written if told or not thought else thought.thinking.strip() + written
    closing = closing or f"\n{begun[1]}\n\n"
    return closing + written if not thought else thought.thinking.strip() + closing + written if not told else written


def tells(written: str, thought: Thought, turn: Turn) -> bool:
    """The thought is in what is written of its turn, besides what answer and calls say in the same words."""
    words = thought.thinking.strip()
    rest = "\0".join([thought.answer, *(text for call in turn.tool_calls for text in call)])
    return written.count(words) > rest.count(words) if words else True


def _filled(written: str, thinking: str) -> str:
    """The answer with the thought in the empty one that it begins with; as it is where it begins with none."""
    found = EMPTY.match(written)
    if not found or not thinking.strip():
        return written
    start, end = next(span for span in found.regs[1:] if span != (-1, -1))
    middle = (start + end) // 2  # the white space behind the opening and that before the end
    return written[:middle] + thinking.strip() + written[middle:]


def _thinking(thought: Thought, block: str) -> str:
    return thought.thinking.lstrip() if block[-1:].isspace() else thought.thinking


def _closed(thought: Thought, written: str) -> str:
    """The closing tag and the answer, with the white space that the content has between them."""
    gap = thought.answer[: len(thought.answer) - len(thought.answer.lstrip())]
    return thought.tags[1] + ("" if written[:1].isspace() else gap) + written
