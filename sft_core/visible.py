"""Texts of others where a terminal, a log or a page would obey them: what has no form of its own gets one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

LONGEST = 20_000
"""Characters of one piece of text on a terminal; the whole of it is in the files."""
_OBEYED = re.compile("["
                     "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line break: colours, moves, bells
                     "\u00ad\u061c\u180e\u200b\u200e\u200f\u2060-\u206f\ufeff\ufff9-\ufffb"  # no width, or a direction
                     "\u2028-\u202e"  # breaks of lines, and directions that show a text in another order
                     "\ud800-\udfff\U000e0000-\U000e007f"  # halves of characters, which no stream takes, and tags
                     "]")
_HALVES = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"(ppl )?[-+−<>≤≥~≈]?\d(?!.*[^\W\d_]{5})|[-–]?$")
"""A cell that is read by its digits, or holds nothing: it begins with a number, and no words follow."""
_HASH = re.compile(r"(?=.*[a-f])[0-9a-f]{8,}")
_PICTURES, _DELETE = 0x2400, 0x7F
"""Unicode has a picture of each control character of ASCII, ␛ for one."""


def visible(text: str) -> str:
    """The text with control characters, directions and characters without width in a form that can be seen, e.g. `␛`
    and `<U+202E>`; tabs and line breaks stay, and so do letters of every script."""
    return text if text.isascii() and text.isprintable() else _OBEYED.sub(_shown, text)


def whole(text: str) -> str:
    """The text with U+FFFD for each half of a UTF-16 pair: JSON can hold one, as `\\ud800`, and no file and no stream
    takes it."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def shortened(text: str, longest: int = LONGEST) -> str:
    """`visible`, and of a longer text its beginning and how long it is."""
    if len(text) <= longest:
        return visible(text)
    return f"{visible(text[:longest])}… ({len(text):,} characters)"


def numbered(text: str) -> str:
    """Text of JSON in which such characters stand as `\\u202e`, which means the same."""
    return _OBEYED.sub(lambda found: json.dumps(found[0])[1:-1], text)


def are_numbers(cells: Iterable[str]) -> bool:
    """Whether a column of a table is read by its digits, and so stands on the right; words and hashes do not."""
    return all(_NUMBER.match(cell) and not _HASH.fullmatch(cell) for cell in cells)


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < ord(" "):
        return chr(_PICTURES + code)
    return "␡" if code == _DELETE else f"<U+{code:04X}>"
