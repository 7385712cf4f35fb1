"""A whole chat in one text, as data sets and chat templates write it → messages with `role` and `content`.

What a style writes around its turns (marks, stops, Alpaca's opening sentence) is no part of them. A speaker that is
not known is left to whoever reads the messages; a mark that no turn begins or ends with makes the row unreadable, as
else it would be trained as what somebody says.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sft_core.conversation import Why
from sft_core.data.messages import ROLES, Refused

_NAMES = {"instruction": "user", "[inst]": "user", "response": "assistant", "[/inst]": "assistant",
          "function response": "tool"}
"""Speakers of transcripts alone."""
_SYSTEM = re.compile(r"\A<<SYS>>\s*(.*?)\s*<</SYS>>\s*", re.DOTALL)  # Llama 2: inside the first question
_INPUT = re.compile(r"\s*\n### Input:\s*")  # Alpaca: inside a question
_OPENING = r"(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*"
_TOKEN = r"<\|[\w/]+\|>"


class _Style(NamedTuple):
    """How one kind of transcript is written; all are patterns."""

    mark: str
    """In front of a turn; its one group is the speaker."""
    end: str = r"<\|endoftext\|>|</s>"
    """Behind a turn, where anything is."""
    inside: str = r"\Z."
    """What no turn may hold, besides `end`."""
    opening: str = ""
    """In front of the first mark, where anything is."""


_STYLES = (
    _Style(r"(?:\A|\n\n)(Human|Assistant):"),  # hh-rlhf
    _Style(r"### (Human|Assistant|System):"),  # Guanaco
    _Style(r"(?:\A|\n)(USER|ASSISTANT|SYSTEM|FUNCTION RESPONSE):"),  # Glaive, Vicuna
    _Style(r"<\|im_start\|>([^\n<]{1,30})\n", r"<\|im_end\|>|<\|endoftext\|>", _TOKEN),  # ChatML
    _Style(r"<\|start_header_id\|>([^<]{1,30})<\|end_header_id\|>", r"<\|eot_id\|>|<\|eom_id\|>|<\|end_of_text\|>",
           _TOKEN),  # Llama 3
    _Style(r"<start_of_turn>([^\n<]{1,30})\n", r"<end_of_turn>|<eos>", r"<(?:start|end)_of_turn>"),  # Gemma
    _Style(r"<\|(?!end)([a-z_]{1,30})\|>", r"<\|end\|>|</s>|<\|endoftext\|>", _TOKEN),  # Zephyr, Phi
    _Style(r"(?:<s>)?\s*(\[/?INST\])", r"</s>", r"\[/?(?:TOOL_\w+|AVAILABLE_TOOLS)\]|<s>"),  # Llama 2, Mistral
    _Style(r"(?:\A|\n)### (Instruction|Response):", r"</s>|<\|endoftext\|>|### End",
           opening=r"(?:Below is an instruction that describes a task.*\n)?\s*"),  # Alpaca
)


def is_transcript(text: str) -> bool:
    """The text is a whole chat that begins with a question or a system prompt."""
    return _begun(text) is not None


def messages_of(text: str) -> list[dict[str, str]] | None:
    """A chat in one text, cut in front of every speaker; None where it is none.

    Raises:
        Refused: a mark is left inside a turn.
    """
    if (begun := _begun(text)) is None:
        return None
    style, chat = begun
    _, *pieces = re.split(style.mark, chat)
    messages: list[dict[str, str]] = []
    for speaker, piece in zip(pieces[::2], pieces[1::2], strict=True):
        said = re.sub(rf"\s*(?:{style.end})?\s*\Z", "", piece).strip()
        role = _NAMES.get(speaker.lower(), speaker.strip() if speaker in ROLES else speaker.strip().lower())
        if left := re.search(rf"{style.end}|{style.inside}", said):
            raise Refused(Why.UNREADABLE, f"the text of turn {len(messages) + 1} ({role}) holds {left[0]!r}, a mark of "
                                          "the template that wrote it; give the chat as messages (calls as tool_calls)")
        if role == "user" and (system := _SYSTEM.match(said)):
            messages.append({"role": "system", "content": system[1]})
            said = said[system.end():]
        messages.append({"role": role, "content": _INPUT.sub("\n\n", said) if speaker == "Instruction" else said})
    return messages


def _begun(text: str) -> tuple[_Style, str] | None:
    """How a chat is written, and the chat from its first mark on."""
    text = text.strip().replace("\r\n", "\n")
    for style in _STYLES:
        chat = re.sub(rf"\A{_OPENING}{style.opening}", "", text)
        first = re.match(style.mark, chat)
        if first and _NAMES.get(first[1].lower(), ROLES.get(first[1].strip().lower())) in ("user", "system"):
            return style, chat
    return None
