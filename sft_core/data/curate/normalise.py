"""Puts the texts of a conversation right before anything is measured on them; what changes is counted by kind and can
be read.

Letters keep their form: curly quotes, full-width letters and ligatures stay as they are written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from typing import Literal, NamedTuple

import ftfy
from ftfy.badness import is_bad

from sft_core.config.normalise import Normalisation
from sft_core.conversation import Conversation
from sft_core.data.curate.characters import is_plain, with_line_feeds, without_unseen
from sft_core.data.curate.markup import has_leftover, is_about_markup, without_leftovers
from sft_core.data.curate.rewrite import Where, rewritten
from sft_core.visible import visible

AROUND = 24
"""Characters shown in front of the first place that changed."""
SHOWN = 80
"""Characters shown of a changed text."""
ROUNDS = 8
"""A repair can uncover another: an entity that means a character without width. Two rounds are the rule."""
_ENCODING = ftfy.TextFixerConfig(
    unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False,
    uncurl_quotes=False, fix_line_breaks=False, remove_control_chars=False, normalization=None, explain=False)
_ABOUT_CHARACTERS = re.compile(
    r"mojibake|unicode|utf-?(?:8|16|32)\b|latin-?1\b|iso.?8859|windows.?125\d|\bcp.?125\d|code ?p(?:age|oint)"
    r"|character (?:set|encoding)|charset|zero.width|soft hyphen|byte order mark|\bNF[CDK]", re.I)
_IN_JSON = re.compile(r"\\[ub]")


class Change(NamedTuple):
    """One text that was put right. Snippets show the first place that changed."""

    kind: Normalisation | Literal["kept"]  # kept: nothing would be left of the text, so it stays as it was
    where: str  # "turn 2 (assistant)"
    before: str
    after: str


class Normalised(NamedTuple):
    """A conversation put right, the same object where nothing was to be done, and what changed."""

    conversation: Conversation
    changes: tuple[Change, ...]


def normalise(conversation: Conversation, kinds: Collection[Normalisation]) -> Normalised:
    """Put right what `kinds` names; doing it again changes nothing.

    Encodings, invisible characters and normal forms stay as they are in conversations about such things, and HTML in
    conversations about markup or with code. Results of tools, arguments of calls and schemas are read by programs:
    their line ends and entities stay, and JSON stays JSON.
    """
    if not any(map(_is_suspicious, _texts(conversation))):
        return Normalised(conversation, ())
    changes: dict[Change, None] = {}
    for _ in range(ROUNDS):
        before = conversation
        for kind in _REPAIRS:  # html last: whether a text is about markup is asked of its repaired form
            if kind in kinds:
                conversation, found = _put_right(conversation, kind)
                changes |= dict.fromkeys(found)
        if conversation is before:
            break
    return Normalised(conversation, tuple(changes))


def _is_suspicious(text: str) -> bool:
    """Cheap, and true of every text that may change."""
    return not is_plain(text) or has_leftover(text) or bool(_IN_JSON.search(text))


def _texts(conversation: Conversation) -> Iterator[str]:
    for turn in conversation.turns:
        yield turn.content
        for call in turn.tool_calls:
            yield from call
    if conversation.tools:
        yield conversation.tools


def _put_right(conversation: Conversation, kind: Normalisation) -> Normalised:
    repair, changes = _REPAIRS[kind], []

    def change(text: str, where: Where) -> str:
        read_by_programs = where.role == "tool" or where.part != "content"
        new = text if read_by_programs and kind in _FOR_PEOPLE else repair(text)
        if new == text:
            return text
        lost = not new.strip()
        changes.append(Change("kept" if lost else kind, str(where), *_snippets(text, new)))
        return text if lost else new

    after = rewritten(conversation, change)
    return Normalised(conversation, ()) if changes and _is_about(kind, conversation) else \
        Normalised(after, tuple(changes))


def _is_about(kind: Normalisation, conversation: Conversation) -> bool:
    """Whether the conversation is about what would be put right."""
    contents = [turn.content for turn in conversation.turns]
    if kind == "html":
        return is_about_markup(contents)
    return kind != "line_ends" and any(_ABOUT_CHARACTERS.search(text) for text in contents)


def _encoded(text: str) -> str:
    return ftfy.fix_text(text, _ENCODING) if is_bad(text) else text


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_REPAIRS: dict[Normalisation, Callable[[str], str]] = {
    "encoding": _encoded, "line_ends": with_line_feeds, "control": without_unseen, "unicode": _composed,
    "html": without_leftovers,
}
_FOR_PEOPLE = ("line_ends", "html")
"""Repairs of texts that people read."""


def _snippets(before: str, after: str) -> tuple[str, str]:
    """Both around the first place where they differ, in a form in which everything can be seen."""
    same, end = 0, min(len(before), len(after))
    while same < end:  # binary search: the longest common beginning
        middle = (same + end + 1) // 2
        same, end = (middle, end) if before[:middle] == after[:middle] else (same, middle - 1)
    start = max(same - AROUND, 0)
    return visible(before[start : start + SHOWN]), visible(after[start : start + SHOWN])
