"""What HTML leaves behind in a text that is not about HTML: entities, `<br>` and `<p>`."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from html.entities import html5

from sft_core.data.curate.code import holds_code

_LEFTOVER = re.compile(r"&(?:#\d{2,7}|#[xX][0-9a-fA-F]{2,6}|[A-Za-z][A-Za-z0-9]{1,30});|<br\s*/?>|</?p>", re.I)
_ENTITY = re.compile(r"&(?:amp;){0,9}(#\d{2,7}|#[xX][0-9a-fA-F]{2,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_BREAK = re.compile(r"[ \t]{0,99}<br\s*/?>[ \t]{0,99}\n?", re.I)
_FIRST = re.compile(r"\A\s{0,99}<p>\s*|\s{0,99}</p>\s{0,99}\Z", re.I)
_PARAGRAPH = re.compile(r"\s{0,99}</p>\s{0,99}<p>\s{0,99}|\s{0,99}</?p>\s{0,99}", re.I)
_OTHER = re.compile(
    r"`"  # code
    r"|<(?!(?:br|p|think|thinking|thought|reasoning|answer)\s*/?>)[A-Za-z][\w:-]*(?:\s[^<>]*)?/?>"  # other elements
    r"|</(?!(?:p|think|thinking|thought|reasoning|answer)>)[A-Za-z][\w:-]*>|<!(?:--|DOCTYPE)", re.I)
_ABOUT = re.compile(
    r"\b(?:\w{0,40}(?:html|xml)\w{0,40}|css|svg|jsx|php|javascript|typescript|markup|markdown|latex|rss|sgml|doctype"
    r"|web ?(?:pages?|sites?|forms?)|entit(?:y|ies)|tags?|escap(?:e|es|ed|ing)|un?escape[ds]?|encod(?:e|es|ed|ing|ings)"
    r"|decod(?:e|es|ed|ing)|ampersands?|line ?breaks?|non-?breaking|(?:source )?code|scripts?|browsers?|urls?"
    r"|query strings?|snippets?|syntax|pars(?:e|er|ing)|regex\w*)\b"
    r"|\b(?:us(?:e|ing)|with|inserts?|puts?|adds?|types?|the|an?) <(?:br|p)\b", re.I)
_ONE = r"&(?:#\d{2,7}|#x[0-9a-f]{2,6}|[a-z][a-z0-9]{1,30});"
_SPOKEN_OF = re.compile(
    rf"([\"'/|])(?:{_ONE}){{1,40}}\1"  # a string, or what sed replaces
    r"|&(?:amp;){1,9}(?!amp;)(?:#\d{2,7}|#x[0-9a-f]{2,6}|[a-z][a-z0-9]{1,30});"  # an entity that was escaped itself
    rf"|(?<![^\s(]){_ONE} (?:is|are|was|means?|stands?|becomes?|instead|turns?|renders?|shows?|appears?|=|->|→)(?!\w)"
    r"|(?<!\S)&(?:quot|apos|#0?39|#x27|#34|#x22);(?!\S)"  # a quotation mark that touches nothing
    r"|\b(?:as|into|to|by|with|literal(?:ly)?|the|an?|writ(?:e|ten)|types?|us(?:e|es|ing)|gets?|got|see|shows?|prints?"
    r"|outputs?|returns?|of|like|from|says?|has|have|contains?|replaces?|signs?|characters?|symbols?)"
    rf" {_ONE}(?: (?:in|and|or|instead|characters?|signs?|symbols?|for|to|with|when|not)\b|[.,;:?!)\n]|\s{{0,9}}\Z)",
    re.I)
_PLAIN = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"))


def has_leftover(text: str) -> bool:
    """Whether something in it may be left over from HTML."""
    return ("&" in text or "<" in text) and bool(_LEFTOVER.search(text))


def is_about_markup(texts: Sequence[str]) -> bool:
    """Whether texts that belong together teach markup, hold other markup than what is taken for left over, or code.

    Also where only the undone entities show it (`&lt;b&gt;`), where a break stands in a row of a table, and where
    entities are spoken of: between quotes, escaped themselves, beside the plain sign. In doubt it is so: an entity too
    many can be read, code that lost one is wrong.
    """
    return any(map(_is_about_markup, texts))


def without_leftovers(text: str) -> str:
    """Entities as the characters they mean (`&nbsp;` as a space), `<br>` as a line feed, `<p>` as an empty line.

    An ampersand that was escaped twice is one as well. What is no entity of HTML 5 stays, and so does what names no
    character.
    """
    if not has_leftover(text):
        return text
    text = _ENTITY.sub(_character, text)
    return _PARAGRAPH.sub("\n\n", _FIRST.sub("", _BREAK.sub("\n", text)))


def _is_about_markup(text: str) -> bool:
    if _ABOUT.search(text) or _breaks_a_cell(text) or _SPOKEN_OF.search(text) or _has_both(text):
        return True
    meant = html.unescape(text)
    return _OTHER.search(meant) is not None or holds_code(meant) or holds_code(_ENTITY.sub("x", text))


def _has_both(text: str) -> bool:
    """Whether a sign stands there plain and as its entity: a text that was escaped has no plain ones."""
    if not any(entity in text for _, entity in _PLAIN):
        return False
    rest = _LEFTOVER.sub("", text)
    return any(entity in text and sign in rest for sign, entity in _PLAIN)


def _breaks_a_cell(text: str) -> bool:
    return "|" in text and any("|" in line and _BREAK.search(line) for line in text.split("\n"))


def _character(found: re.Match[str]) -> str:
    name = found[1]
    meant = html.unescape(f"&{name};") if name.startswith("#") else html5.get(f"{name};", found[0])
    return found[0] if meant in ("", "\ufffd") else meant.replace("\xa0", " ")
