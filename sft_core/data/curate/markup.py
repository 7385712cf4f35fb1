"""What HTML leaves behind in a text that is not about HTML: entities, `<br>` and `<p>`."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from html.entities import html5

_LEFTOVER = re.compile(r"&(?:#\d{2,7}|#[xX][0-9a-fA-F]{2,6}|[A-Za-z][A-Za-z0-9]{1,30});|<br\s*/?>|</?p>", re.I)
_ENTITY = re.compile(r"&(#\d{2,7}|#[xX][0-9a-fA-F]{2,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_BREAK = re.compile(r"[ \t]{0,99}<br\s*/?>[ \t]{0,99}\n?", re.I)
_FIRST = re.compile(r"\A\s{0,99}<p>\s*|\s{0,99}</p>\s{0,99}\Z", re.I)
_PARAGRAPH = re.compile(r"\s{0,99}</p>\s{0,99}<p>\s{0,99}|\s{0,99}</?p>\s{0,99}", re.I)
_OTHER = re.compile(
    r"`"  # code
    r"|<(?!(?:br|p|think|thinking|thought|reasoning|answer)\s*/?>)[A-Za-z][\w:-]*(?:\s[^<>]*)?/?>"  # other elements
    r"|</(?!(?:p|think|thinking|thought|reasoning|answer)>)[A-Za-z][\w:-]*>|<!(?:--|DOCTYPE)", re.I)
_ABOUT = re.compile(
    r"\b(?:[xsd]?html\d?|xml|css|svg|jsx|php|javascript|typescript|markup|markdown|latex|rss|sgml|doctype"
    r"|web ?(?:pages?|sites?|forms?)|entit(?:y|ies)|tags?|escap(?:e|es|ed|ing)|un?escape[ds]?|encod(?:e|es|ed|ing|ings)"
    r"|decod(?:e|es|ed|ing)|ampersands?|line ?breaks?|non-?breaking|(?:source )?code|scripts?|browsers?|urls?"
    r"|query strings?|snippets?|syntax|pars(?:e|er|ing)|regex\w*)\b"
    r"|\b(?:us(?:e|ing)|with|inserts?|puts?|adds?|types?|the|an?) <(?:br|p)\b", re.I)


def has_leftover(text: str) -> bool:
    """Whether something in it may be left over from HTML."""
    return ("&" in text or "<" in text) and bool(_LEFTOVER.search(text))


def is_about_markup(texts: Sequence[str]) -> bool:
    """Whether texts that belong together teach markup, hold other markup than what is taken for left over, or code.

    Also where only the undone entities show it (`&lt;b&gt;`), and where a break stands in a row of a table.
    """
    return any(_ABOUT.search(text) or _OTHER.search(html.unescape(text)) or _breaks_a_cell(text) for text in texts)


def without_leftovers(text: str) -> str:
    """Entities as the characters they mean (`&nbsp;` as a space), `<br>` as a line feed, `<p>` as an empty line.

    What is no entity of HTML 5 stays, and so does what names no character.
    """
    if not has_leftover(text):
        return text
    text = _ENTITY.sub(_character, text)
    return _PARAGRAPH.sub("\n\n", _FIRST.sub("", _BREAK.sub("\n", text)))


def _breaks_a_cell(text: str) -> bool:
    return "|" in text and any("|" in line and _BREAK.search(line) for line in text.split("\n"))


def _character(found: re.Match[str]) -> str:
    name = found[1]
    meant = html.unescape(found[0]) if name.startswith("#") else html5.get(f"{name};", found[0])
    return found[0] if meant in ("", "\ufffd") else meant.replace("\xa0", " ")
