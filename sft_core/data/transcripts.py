"""A whole chat in one text, as data sets and chat templates write it → messages with `role` and `content`.

What a style writes around its turns (marks, stops, Alpaca's opening sentence) is no part of them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ROLES = {"human": "user", "user": "user", "instruction": "user", "[inst]": "user", "system": "system",
          "assistant": "assistant", "model": "assistant", "response": "assistant", "[/inst]": "assistant",
          "function response": "tool", "tool": "tool", "ipython": "tool"}
_SYSTEM = re.compile(r"\A<<SYS>>\s*(.*?)\s*<</SYS>>\s*", re.DOTALL)  # Llama 2: inside the first question
_INPUT = re.compile(r"\s*\n### Input:\s*")  # Alpaca: inside a question


class _Style(NamedTuple):
    """How one kind of transcript is written; all are patterns."""

    mark: str
    """In front of a turn; its one group is the speaker."""
    end: str = r"<\|endoftext\|>|</s>"
    """Behind a turn, where anything is."""
    opening: str = ""
    """In front of the first mark, where anything is."""


_STYLES = (
    _Style(r"(?:\A|\n\n)(Human|Assistant):"),  # hh-rlhf
    _Style(r"### (Human|Assistant|System):"),  # Guanaco
    _Style(r"(?:\A|\n)(USER|ASSISTANT|SYSTEM|FUNCTION RESPONSE):"),  # Glaive, Vicuna
    _Style(r"<\|im_start\|>(system|user|assistant|tool)\n", r"<\|im_end\|>|<\|endoftext\|>"),  # ChatML
    _Style(r"<\|start_header_id\|>(system|user|assistant|ipython)<\|end_header_id\|>",
           r"<\|eot_id\|>|<\|eom_id\|>|<\|end_of_text\|>", r"<\|begin_of_text\|>"),  # Llama 3
    _Style(r"<start_of_turn>(user|model)\n", r"<end_of_turn>|<eos>", r"<bos>"),  # Gemma
    _Style(r"<\|(system|user|assistant)\|>", r"<\|end\|>|</s>|<\|endoftext\|>", r"<s>"),  # Zephyr, Phi
    _Style(r"(?:<s>)?\s*(\[/?INST\])", r"</s>"),  # Llama 2, Mistral
    _Style(r"(?:\A|\n)### (Instruction|Response):", r"</s>|<\|endoftext\|>|### End",
           r"Below is an instruction that describes a task.*\n"),  # Alpaca
)


def is_transcript(text: str) -> bool:
    """The text is a whole chat that begins with a question or a system prompt."""
    return _style_of(text) is not None


def messages_of(text: str) -> list[dict[str, str]]:
    """A chat in one text, cut in front of every speaker; `text` must be one (`is_transcript`)."""
    style = _style_of(text)
    assert style is not None
    _, *pieces = re.split(style.mark, _without_opening(text, style))
    messages: list[dict[str, str]] = []
    for speaker, piece in zip(pieces[::2], pieces[1::2], strict=True):
        said = re.sub(rf"\s*(?:{style.end})?\s*\Z", "", piece).strip()
        role = _ROLES[speaker.lower()]
        if role == "user" and (system := _SYSTEM.match(said)):
            messages.append({"role": "system", "content": system[1]})
            said = said[system.end():]
        messages.append({"role": role, "content": _INPUT.sub("\n\n", said) if speaker == "Instruction" else said})
    return messages


def _style_of(text: str) -> _Style | None:
    for style in _STYLES:
        first = re.match(style.mark, _without_opening(text, style))
        if first and _ROLES[first[1].lower()] in ("user", "system"):
            return style
    return None


def _without_opening(text: str, style: _Style) -> str:
    return re.sub(rf"\A(?:{style.opening})\s*", "", text.strip()) if style.opening else text.strip()
