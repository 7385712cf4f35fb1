"""What an assistant says in its own voice: without its thinking, without quotations, code, letters and verse.

"I can't help you" refuses only when the assistant says it of itself and to the user. In a story's dialogue, in a
letter it was asked to write, or in a string literal it is content.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import NamedTuple

SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
BULLET = re.compile(r"^\s*(?:\d+[.)]|[-*•–])\s+", re.M)
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning|analysis|scratchpad)>.*?(?:</\1>|\Z)", re.S | re.I)
_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.I)
_CHANNEL = re.compile(r"\A.*<\|channel\|>final<\|message\|>|\A\s*(?:analysis|thoughts?)\s*:.*?^final(?: answer)?\s*:",
                      re.S | re.M | re.I)
_SPECIAL = re.compile(r"<\|[^|>\n]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.S)
_ANSWER_FIELD = re.compile(
    r'\A(?:```(?:json)?\s*)?\{\s*"(?:response|answer|reply|message)"\s*:\s*'
    r'("(?:[^"\\]|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4})*")\s*\}(?:\s*```)?\Z')
"""JSON of one field; an `error` or a `story` is content."""
_QUOTE = re.compile(r'"[^"\n]+"')
_QUOTED_WORDS = 3  # shorter quotations are names and terms
_SALUTATION = re.compile(r"^(?:my )?dear(?:est)? (?!user|customer|friend|reader)[^\n]{1,50},?\s*$"
                         r"|^my dearest,?\s*$|^to whom it may concern\b", re.M | re.I)
_SIGN_OFF = re.compile(r"^(?:(?:best|kind|warm)(?: regards| wishes)?|regards|sincerely|yours\b[^\n]{0,20}|cheers"
                       r"|love|thanks"
                       r"|respectfully|take care),[ \t]*\n+[^\n]{1,40}\s*\Z", re.M | re.I)
_WORDING = re.compile(r"\b(?:write|rewrite|rephrase|phrase|word|translat\w+|say|quote|sentence|polite\w*)\b", re.I)
_CURLY = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u00b4": "'", "\u201c": '"', "\u201d": '"',
                        "\u00a0": " ", "\u2011": "-"})
DEGENERATE = 8.0
"""zlib makes prose about 2 times smaller and word salad in a loop more than this; Radford et al. 2022 (Whisper,
section 4.5) detect repetition loops in the same way, with 2.4 for single utterances."""


class Speech(NamedTuple):
    """An answer taken apart.

    `text` is the visible answer without markup, `sentences` what the assistant says itself, in order; `produced` is
    the number of words in what it set apart: code, quotations, letters, verse. `items` counts list items and
    `list_intro` is what announces the first list: the two sentences before it.
    """

    text: str
    sentences: list[str]
    produced: int
    items: int
    list_intro: str


def visible(answer: str) -> str:
    """The answer without thinking, control tokens and typographic quotation marks. A thought that was never closed
    takes the rest with it: no answer came."""
    text = _CHANNEL.sub("", answer)
    text = _THOUGHT.sub("", text)
    text = _THOUGHT_END.split(text)[-1]  # some templates open the thought in the prompt
    return _SPECIAL.sub(" ", text).translate(_CURLY).strip()


def unwrapped(text: str) -> str:
    """What a visible answer says where it is JSON around nothing but the answer; else the text."""
    found = _ANSWER_FIELD.match(text)
    return str(json.loads(found[1], strict=False)).translate(_CURLY).strip() if found else text


def says_nothing(text: str) -> str:
    """Why a visible answer says nothing at all, or an empty string."""
    if not text:
        return "empty answer"
    if not re.search(r"\w", text):
        return "no word in the answer"
    raw = text.encode()
    return "the answer repeats itself" if len(raw) > 150 and len(raw) / len(zlib.compress(raw)) > DEGENERATE else ""


def speech(text: str, prompt: str = "") -> Speech:
    """Take a visible answer apart."""
    own, produced = _own_voice(text, prompt)
    plain = _unmarked(own)
    first = BULLET.search(plain)
    intro = "\n".join(plain[:first.start()].rstrip().rsplit("\n\n", 2)[-2:]) if first else ""
    return Speech(_unmarked(text), [s for s in SENTENCE.split(BULLET.sub("", plain)) if s.strip()], produced,
                  len(BULLET.findall(plain)), " ".join(SENTENCE.split(intro)[-2:]))


def _own_voice(text: str, prompt: str) -> tuple[str, int]:
    if text.startswith("{") or (_QUOTE.fullmatch(text) and _WORDING.search(prompt)):
        return "", len(text.split())
    words = len(text.split())
    own = _FENCE.sub("\n", text)
    letter = _SALUTATION.search(own)
    if letter or _SIGN_OFF.search(own):
        own = own[:letter.start()] if letter else ""
    own = "\n\n".join(p for p in re.split(r"\n\s*\n", own) if not _verse(p))
    if not _QUOTE.fullmatch(own):
        own = _QUOTE.sub(lambda m: '"…"' if len(m[0].split()) >= _QUOTED_WORDS else m[0], own)
    return own, words - len(own.split())


def _verse(paragraph: str) -> bool:
    """Three or more short lines, no list, and most of them do not end a sentence."""
    lines = paragraph.strip().splitlines()
    short = all(len(line) < 60 and not BULLET.match(line) for line in lines)
    return len(lines) >= 3 and short and sum(line.rstrip()[-1:] in ".!?:" for line in lines) < len(lines) / 2


def _unmarked(text: str) -> str:
    """Without markdown's emphasis, headings and quotation bars."""
    text = re.sub(r"\*\*|__|`", "", text)
    text = re.sub(r"(?<!\w)[*_](?=\S)([^*_\n]+)(?<=\S)[*_](?!\w)", r"\1", text)
    return re.sub(r"^[ \t]*(?:#+|>+)[ \t]*", "", text, flags=re.M)
