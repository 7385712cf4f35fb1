"""Characters that nobody sees and no text needs: which of them go, and which a script or an emoji is written with."""

from __future__ import annotations

import re

# Python's `re` knows no scripts. Letters from Hebrew to Mongolian and their later blocks are joined, split or turned by
# invisible characters; those of Latin, Greek, Cyrillic and East Asia are not.
_JOINED = "\u0590-\u1cff\ua800-\ua8ff\ua980-\ua9ff\uaa00-\uaadf\uabc0-\uabff\ufb1d-\ufdff\ufe70-\ufefe" \
          "\U00010800-\U00011fff\U0001e900-\U0001eeff"
_EMOJI = "\u200d\u20e3\u2190-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff"
_SPACELESS = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaa7f"
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff]")
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202c\u2066-\u2069"
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e"
                        "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
_GOES = "|".join((
    r"\x1b\[[0-9;?]*[A-Za-z]",  # colours and moves of a terminal, with what follows the escape
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]",
    r"[\u00ad\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb]",
    r"[\u202d\u202e]",  # they show letters in another order than they are read in
    rf"(?<![{_JOINED}])[\u200c\u180e]",
    rf"(?<![{_JOINED}{_EMOJI}])\u200d|\u200d(?![{_JOINED}{_EMOJI}])(?<![{_JOINED}]\u200d)",
    rf"(?<![{_SPACELESS}])\u200b(?![{_SPACELESS}])",
    # Letters of tags are the end of a flag such as Scotland's, and elsewhere a way to hide a message.
    r"(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]+",
))
_UNSEEN = re.compile(_GOES)
_UNSEEN_LEFT_TO_RIGHT = re.compile(f"{_GOES}|[{_DIRECTIONS}]")
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SUSPECT = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


def is_plain(text: str) -> bool:
    """Whether it is ASCII without control characters; most texts are, and there is nothing to put right in them."""
    return text.isascii() and not _SUSPECT.search(text)


def without_unseen(text: str) -> str:
    """The text without control characters but tabs and ends of lines, without colours of a terminal, and without
    characters of no width.

    Joiners stay behind letters of scripts that are written with them and inside emoji, spaces of no width where words
    are written without spaces, and marks of direction in texts that hold letters written from right to left.
    """
    if not _INVISIBLE.search(text):
        return text
    return (_UNSEEN if _RIGHT_TO_LEFT.search(text) else _UNSEEN_LEFT_TO_RIGHT).sub("", text)


def with_line_feeds(text: str) -> str:
    """The text with a line feed for every CRLF, CR, vertical tab, form feed, NEL, U+2028 and U+2029."""
    return _LINE_END.sub("\n", text)
