"""Personal data and secrets of conversations: facts, the decision about them, and redaction."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sft_core.config.pii import PiiKind, PiiSection
from sft_core.conversation import Conversation, Why
from sft_core.data.curate.pii.finder import Finder
from sft_core.data.curate.pii.texts import changed, leaves, parts
from sft_core.data.curate.rewrite import Where, rewritten
from sft_core.stopping import check

_PLACEHOLDER = re.compile(r"\[(KEY|IBAN|CARD|ID|EMAIL|PHONE|IP|NAME)_(\d{1,9})\]")


class PiiFacts(NamedTuple):
    """What one conversation holds: six lists of the same length, one entry per hit."""

    kinds: tuple[str, ...]
    turns: tuple[int, ...]  # index of the turn, -1 for tools and variables
    parts: tuple[str, ...]  # content, call 0, call 1, …, tools, variables
    starts: tuple[int, ...]  # characters of that text; of a JSON value with escapes, the whole value
    ends: tuple[int, ...]
    shown: tuple[str, ...]  # the beginning of the value, never the value

    @property
    def counts(self) -> dict[str, int]:
        """Hits per kind, most first."""
        return dict(Counter(self.kinds).most_common())


def facts(conversations: Sequence[Conversation], finder: Finder) -> list[PiiFacts]:
    """One record per conversation, in order.

    Raises:
        ConfigError: names are looked for, and Presidio or its model is not installed.
        Interrupted: a signal asked to stop.
    """
    return [_facts(conversation, finder) for conversation in conversations]


def fault(found: PiiFacts, section: PiiSection) -> tuple[Why, str] | None:
    """Why a conversation goes, with what it holds; None where it stays."""
    if section.action != "drop" or not found.kinds:
        return None
    counts = ", ".join(f"{kind} {number}" for kind, number in found.counts.items())
    return Why.PERSONAL_DATA, f"holds {counts} (first: {found.shown[0]} in {_where(found)})"


def redact(conversation: Conversation, finder: Finder) -> tuple[Conversation, dict[str, int]]:
    """The conversation with placeholders, `[EMAIL_1]`, and the hits that were replaced, per kind. The same value has
    the same number throughout; numbers go on after those of placeholders that are there already.

    Raises:
        ConfigError: names are looked for, and Presidio or its model is not installed.
    """
    placeholders = _Placeholders(conversation)

    def replaced(text: str, key: str) -> str:
        pieces, at = [], 0
        for span in finder.find(text, key):
            pieces += [text[at : span.start], placeholders.of(span.kind, span.value)]
            at = span.end
        return "".join([*pieces, text[at:]])

    def change(text: str, where: Where | None = None) -> str:
        return changed(text, replaced)

    def change_content(text: str, where: Where) -> str:
        return change(text) if where.part == "content" else text  # the name of a tool is an identifier

    before: Conversation | None = None
    while before != conversation:  # what was taken out may bring a number near to the word that names it
        before = conversation
        conversation = rewritten(conversation, change_content, change)
        conversation = conversation._replace(variables=conversation.variables and change(conversation.variables))
    return conversation, dict(placeholders.given.most_common())


class _Placeholders:
    """Numbers of the values of one conversation."""

    def __init__(self, conversation: Conversation) -> None:
        self.given: Counter[str] = Counter()
        self._names: dict[tuple[PiiKind, str], str] = {}
        self._last: Counter[str] = Counter()
        for part in parts(conversation):
            for kind, number in _PLACEHOLDER.findall(part.text):
                self._last[kind] = max(self._last[kind], int(number))

    def of(self, kind: PiiKind, value: str) -> str:
        self.given[kind] += 1
        if (kind, value) not in self._names:
            self._last[kind.upper()] += 1
            self._names[kind, value] = f"[{kind.upper()}_{self._last[kind.upper()]}]"
        return self._names[kind, value]


def total(found: Sequence[PiiFacts]) -> Mapping[str, int]:
    """Hits of all conversations per kind, most first."""
    return dict(Counter(kind for each in found for kind in each.kinds).most_common())


def _facts(conversation: Conversation, finder: Finder) -> PiiFacts:
    check()
    hits = [(span.kind, part.turn, part.name, *leaf.place(span.start, span.end), span.shown)
            for part in parts(conversation) if part.text
            for leaf in leaves(part.text) for span in finder.find(leaf.value, leaf.before)]
    return PiiFacts(*zip(*hits, strict=True)) if hits else _NOTHING


_NOTHING = PiiFacts((), (), (), (), (), ())


def _where(found: PiiFacts) -> str:
    turn, part = found.turns[0], found.parts[0]
    return part if turn < 0 else f"turn {turn + 1}" + (f", {part}" if part != "content" else "")
