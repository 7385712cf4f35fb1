"""What is found in a text, and which of two that overlap counts."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple, get_args

from sft_core.config.pii import PiiKind

ORDER: tuple[PiiKind, ...] = get_args(PiiKind)
"""The kinds, the most specific first."""
_SHOWN: dict[PiiKind, int] = {"email": 2, "key": 4, "name": 1}


class Span(NamedTuple):
    """A value found in a text, at `text[start:end]`."""

    kind: PiiKind
    start: int
    end: int
    value: str  # in the form that is compared: two writings of one number are one value

    @property
    def shown(self) -> str:
        """Enough to tell what it is, too little to use it."""
        begin = self.value[: _SHOWN.get(self.kind, 2)]
        return f"{begin}…@…" if self.kind == "email" else f"{begin}…"


def apart(spans: Iterable[Span]) -> list[Span]:
    """Those that do not overlap, in the order of the text: of two that do the longer one stays, then the more specific
    one. A name, which a model guessed, gives way to all others."""
    taken: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.kind == "name", each.start - each.end, ORDER.index(each.kind))):
        at = bisect(taken, span.start, key=attrgetter("start"))
        if (at == 0 or taken[at - 1].end <= span.start) and (at == len(taken) or span.end <= taken[at].start):
            taken.insert(at, span)
    return taken


def digits(text: str) -> str:
    """The digits alone."""
    return "".join(filter(str.isdigit, text))
