"""All kinds of personal data and secrets in one text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from sft_core.config.pii import PiiKind, PiiSection
from sft_core.data.curate.pii.contacts import emails, ips
from sft_core.data.curate.pii.ids import ids
from sft_core.data.curate.pii.keys import keys
from sft_core.data.curate.pii.names import names
from sft_core.data.curate.pii.numbers import cards, ibans
from sft_core.data.curate.pii.phones import phones
from sft_core.data.curate.pii.span import Span, apart

_FEWEST_DIGITS: Mapping[PiiKind, int] = {"iban": 8, "card": 14, "id": 4, "phone": 7, "ip": 4}
"""Of a number of this kind. Most texts hold fewer digits, and counting them costs a tenth of looking for numbers."""
_RUN = re.compile(r"(?:[0-9][ ().\-/\u2011]{0,3}){7}")
_RUNS = frozenset({"card", "phone"})
"""Kinds whose digits stand together."""
_BY_KIND: Mapping[PiiKind, Callable[[str], Iterator[Span]]] = {
    "key": keys, "iban": ibans, "card": cards, "id": ids, "email": emails, "phone": phones, "ip": ips,
}


class Finder:
    """Looks for the kinds of one section; holds nothing but what the section says, and can be sent to workers."""

    def __init__(self, section: PiiSection) -> None:
        model = section.names_model
        self._names_model = model if "name" in section.kinds else ""
        self._kinds = [kind for kind in section.kinds if kind != "name"]
        self._allow = [re.compile(pattern, re.IGNORECASE) for pattern in section.allow]

    def find(self, text: str, before: str = "") -> list[Span]:
        """What the text holds, without overlap, in the order of the text. `before`: what stands before it and may say
        what a number is, such as the key of a JSON value.

        Raises:
            ConfigError: names are looked for, and Presidio or its model is not installed.
        """
        whole = before + text
        spans = [Span(span.kind, span.start - len(before), span.end - len(before), span.value)
                 for span in self._all(whole) if span.start >= len(before) and not self._may_stay(span)]
        return apart(spans) if len(spans) > 1 else spans

    def _all(self, text: str) -> Iterator[Span]:
        digits = sum(map(text.count, "0123456789"))
        run = digits >= 7 and _RUN.search(text) is not None
        for kind in self._kinds:
            if digits >= _FEWEST_DIGITS.get(kind, 0) and (run or kind not in _RUNS):
                yield from _BY_KIND[kind](text)
        if self._names_model:
            yield from names(text, self._names_model)

    def _may_stay(self, span: Span) -> bool:
        return any(pattern.fullmatch(span.value) for pattern in self._allow)
