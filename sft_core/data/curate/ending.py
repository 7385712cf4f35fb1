"""Does an answer stop before its end? A limit of tokens leaves half a sentence, an open block of code, half a JSON.

Careful rather than complete: lists, code, verse, names and single phrases end without a full stop, and so do scripts
that have none. What remains is prose that ended its earlier sentences and not its last, and what was opened and never
closed.
"""

from __future__ import annotations

import json
import re

LEAST_WORDS = 8
"""Words of a last line that can be half a sentence; fewer are a heading, a name or a signature."""
SIGNS_A_WORD = 2
"""Chinese and Japanese signs that count as a word."""
ENDED = 5
"""Sentences that have ended, from which one that has not was cut off: people leave the last full stop out of short
answers."""
ITEMS_ENDED = 2
"""The same of the items of a list, where all of them have ended."""
_OPEN_WORD = re.compile(
    r"(?:an?|the|and|or|but|of|their|its|his|our|your|my|than|because|if|whose|whereas|although|während|der|die|das"
    r"|eine?n?|und|oder|aber|weil|les?|la|une?|des|du|et|ou|mais|parce|el|l[oa]s|una|y|o|pero|porque|il|gli|e)", re.I)
"""What no sentence ends with."""
_ENDED = re.compile(r"[.!?:;…。！？：；।؟۔|>*_`~=}\])）】」』”’\"'»\d%°€$£+/\\)-]\Z|[^\w\s,]\Z")
_STOPPED = re.compile(r"[.!?。！？।][\"'”’)]?\Z")
_SENTENCE_END = re.compile(r"[^\W\d_]{3}[.!?]['\")\]”’]?\s+[A-ZÀ-ÞА-Я\"“(]|[。！？]")
_ITEM = re.compile(r"\s*(?:[-*+•–—·>#|]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)]\s|[\w /'-]{1,40}:\s)")
_FENCE = re.compile(r"^\s*(?:```|~~~)", re.M)
_CODE_LINE = re.compile(r"[{};=<>]|\w\(|^\s*(?:def|class|import|from|return|if|for|while|else|print|SELECT|FROM|WHERE"
                        r"|INSERT|UPDATE|ORDER|GROUP)\b|^ {4}|^\t|\\|\$|://")
_SIGN = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u0f00-\u0fff]")


def is_truncated(answer: str) -> bool:
    """Whether it ends inside a sentence, a block of code or a JSON text."""
    text = answer.rstrip()
    if not text:
        return False
    if ("```" in text or "~~~" in text) and len(_FENCE.findall(text)) % 2:
        return True
    if text[0] in "{[" and _is_half_json(text):
        return True
    return not _ENDED.search(text) and _ends_inside_a_sentence(text)


def _is_half_json(text: str) -> bool:
    if text[-1] in "}]":
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) or error.msg.startswith("Unterminated string") and '"' in text[1:30]
    except RecursionError:
        return False
    return False


def _ends_inside_a_sentence(text: str) -> bool:
    line = text[text.rfind("\n") + 1 :]
    words = line.split()
    length = len(words) + len(_SIGN.findall(line)) // SIGNS_A_WORD
    if length < LEAST_WORDS or words[-1][0] in "#@" or _CODE_LINE.search(line) or _SPACELESS.search(line):
        return False
    if line.count("(") > line.count(")") or _OPEN_WORD.fullmatch(words[-1]):
        return True
    before = [other.rstrip() for other in text.split("\n")[:-1] if other.strip()]
    if _ITEM.match(line):
        items = [other for other in before if _ITEM.match(other)]
        return len(items) >= ITEMS_ENDED and all(map(_STOPPED.search, items))
    return sum(bool(_STOPPED.search(other)) for other in before) + len(_SENTENCE_END.findall(text)) >= ENDED
