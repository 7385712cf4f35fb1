"""The words of a text, as comparisons see them, and the texts of a conversation."""

from __future__ import annotations

import json
import re

from sft_core.conversation import Conversation, ToolCall, Turn
from sft_core.templates.thoughts import TAGS, thought_of

_SPELLED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Thai, Lao, Burmese and Khmer: no space between words, and vowels that are no letters to `\\w`."""
_WORD = re.compile(r"\w+")
_OPENS = {opens[0] for opens, _ in TAGS}
_PIECE = re.compile(rf"[\w{_SPELLED}]+")
_SPACELESS = re.compile(
    rf"(?P<two>[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+)|(?P<four>[{_SPELLED}]+)")
_SIGNS = {"two": 2, "four": 4}
"""Two signs of Chinese or Japanese say about as much as a word; of a script that is spelled it takes four."""
_ALIKE = str.maketrans(
    "аеорсухіјѕһԁԛԝӏАВЕКМНОРСТХУІЈЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧοανριυκχ",
    "aeopcyxijshdqwlABEKMHOPCTXYIJSABEZHIKMNOPTYXoavpiukx")
"""Letters of Cyrillic and Greek that look like Latin ones."""
_OTHER = "".join(map(chr, _ALIKE))
_MEETS = re.compile(rf"[A-Za-z][{_OTHER}]|[{_OTHER}][A-Za-z]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, case folded; where a script writes no spaces, overlapping pieces. In
    words of Latin letters those of Cyrillic and Greek that look like them are taken for them."""
    if text.isascii():
        return _WORD.findall(text.casefold())
    if _MEETS.search(text):
        text = _WORD.sub(_as_latin, text)
    if _SPACELESS.search(text):
        return _PIECE.findall(_SPACELESS.sub(_pieces, text).casefold())
    return _WORD.findall(text.casefold())


def texts(conversation: Conversation) -> list[str]:
    """Every text of a conversation's turns, tool calls included."""
    return [
        part for turn in conversation.turns
        for part in (turn.content, *map(_spoken, turn.tool_calls)) if part
    ]


def answer_of(turn: Turn) -> str:
    """What an answer says behind its thought, without space around it; the thought may have been opened by a prompt."""
    text = turn.content.strip()
    thought = thought_of(text, TAGS[0]) if text[:1] in _OPENS or TAGS[0][1] in text else None
    return thought.answer.strip() if thought else text


def _as_latin(word: re.Match[str]) -> str:
    return word[0].translate(_ALIKE) if _MEETS.search(word[0]) else word[0]


def _pieces(run: re.Match[str]) -> str:
    signs, size = run.group(), _SIGNS[str(run.lastgroup)]
    return f" {' '.join(signs[at : at + size] for at in range(max(len(signs) - size, 0) + 1))} "


def _spoken(call: ToolCall) -> str:
    """A call as text; what JSON escapes, line ends for one, would stick to the words."""
    arguments = call.arguments
    if "\\" in arguments:
        arguments = _STRING.sub(lambda found: f'"{json.loads(found.group(), strict=False)}"', arguments)
    return f"{call.name} {arguments}"
