"""Finds evaluation items in training text: training on a question makes its score worthless."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sft_core.conversation import Origin, Rejected, Why
from sft_core.data.curate.words import words
from sft_core.stopping import check

GRAM_WORDS = 13
"""Length of a shared run of words that counts as contamination (Brown et al. 2020, appendix C)."""
LEAST_WORDS = 5
"""Shorter items are not looked for: they are everyday phrases."""


class EvalItem(NamedTuple):
    """One question of an evaluation suite."""

    suite: str
    id: str
    text: str


class _Place(NamedTuple):
    item: int
    at: int  # word of the item


class ItemIndex:
    """Looks for evaluation items in texts.

    An item of fewer than 13 words counts when it occurs whole, a longer one when 13 of its words occur in a row.
    Both begin with five words in a row, which one table finds; the rest is compared word by word.
    """

    def __init__(self, items: Sequence[EvalItem]) -> None:
        self._items = items
        self._words = [words(item.text) for item in items]
        self._places: dict[tuple[str, ...], list[_Place]] = {}
        for item, found in enumerate(self._words):
            for at in range(max(len(found) - GRAM_WORDS, 0) + 1 if len(found) >= LEAST_WORDS else 0):
                self._places.setdefault(tuple(found[at : at + LEAST_WORDS]), []).append(_Place(item, at))

    def find(self, text: str) -> EvalItem | None:
        """The first item that the text holds, in the order of the text."""
        return next(self.find_all(text), None)

    def find_all(self, text: str) -> Iterator[EvalItem]:
        """Every item that the text holds, in the order of the text; an item may come several times."""
        check()
        found = words(text) if self._places else []
        for start in range(len(found) - LEAST_WORDS + 1):
            for place in self._places.get(tuple(found[start : start + LEAST_WORDS]), ()):
                run = self._words[place.item][place.at : place.at + GRAM_WORDS]
                if found[start : start + len(run)] == run:
                    yield self._items[place.item]


def ids_by_suite(items: Iterable[EvalItem]) -> dict[str, list[str]]:
    """Ids of these items per suite, each once, sorted."""
    found: dict[str, set[str]] = {}
    for item in items:
        found.setdefault(item.suite, set()).add(item.id)
    return {suite: sorted(found[suite]) for suite in sorted(found)}


def contaminated(item: EvalItem, origin: Origin) -> Rejected:
    """A row that goes because it holds an item; the reason names suite and id."""
    return Rejected(Why.CONTAMINATED, f"holds item {item.id} of {item.suite}", origin)
