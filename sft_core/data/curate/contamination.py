"""Which evaluation items rows hold (facts, measured once), and what follows from it (thresholds over facts)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

from sft_core.config.decontaminate import DecontaminateSection
from sft_core.conversation import Conversation, Why
from sft_core.data.curate.decontaminate import Find, How, ItemIndex
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.reworded import RewordedIndex
from sft_core.data.curate.words import texts, words
from sft_core.stopping import check

BATCH_WORDS = 100_000
"""Words that are looked at together: enough for the products of matrices to be cheap, few enough to be small."""
_SAID: Mapping[How, str] = {
    "verbatim": "holds item {id} of {suite}",
    "answer": "holds the answer of item {id} of {suite}",
    "reworded": "holds item {id} of {suite} reworded: {share:.0%} of its word pairs",
    "paraphrased": "holds item {id} of {suite} paraphrased: {share:.0%} of its words",
}


class Contamination(NamedTuple):
    """The items that one row holds, at the least shares that are measured; four columns of equal length."""

    suites: tuple[str, ...]
    ids: tuple[str, ...]
    hows: tuple[How, ...]
    shares: tuple[float, ...]

    def finds(self) -> Iterator[Find]:
        """The columns, item by item."""
        return map(Find, self.suites, self.ids, self.hows, self.shares)


class ItemFinder:
    """Looks for items word for word and, unless `reworded` is false, changed."""

    def __init__(self, items: Sequence[EvalItem], *, reworded: bool = True) -> None:
        self.items = items
        self._verbatim = ItemIndex(items)
        self._reworded = RewordedIndex(items if reworded else ())

    def find(self, batch: Sequence[Sequence[str]]) -> list[list[Find]]:
        """What each of these texts (their `words`) holds; an item may come in several ways."""
        changed = self._reworded.find(batch)
        return [[*(self._found(item, how, 1.0) for item, how in self._verbatim.occurrences(some)),
                 *(self._found(*hit) for hit in hits)] for some, hits in zip(batch, changed, strict=True)]

    def _found(self, item: int, how: How, share: float) -> Find:
        return Find(self.items[item].suite, self.items[item].id, how, share)


def facts(conversations: Sequence[Conversation], finder: ItemFinder) -> list[Contamination]:
    """Per conversation what its texts hold, each turn and call by itself."""
    return facts_of_texts([texts(conversation) for conversation in conversations], finder)


def facts_of_texts(rows: Sequence[Sequence[str]], finder: ItemFinder) -> list[Contamination]:
    """Per row what its texts hold; a document is a row of one text."""
    found: list[dict[tuple[str, str, How], float]] = [{} for _ in rows]
    for batch in _batches(rows):
        check()
        for (row, _), finds in zip(batch, finder.find([some for _, some in batch]), strict=True):
            for suite, item, how, share in finds:
                found[row][suite, item, how] = max(share, found[row].get((suite, item, how), 0.0))
    return [_columns(one) for one in found]


def fault(found: Contamination, section: DecontaminateSection) -> tuple[Why, str] | None:
    """Why a row goes, or None: its surest find among those that are to be dropped."""
    gone = [find for find in counted(found, section) if _wish(find.how, section) == "drop"]
    if not gone:
        return None
    surest = min(gone, key=lambda find: (get_args(How).index(find.how), -find.share))
    return Why.CONTAMINATED, _SAID[surest.how].format(**surest._asdict())


def counted(found: Contamination, section: DecontaminateSection) -> list[Find]:
    """The finds that reach their thresholds and are not switched off; what a kept row holds of them is trained on."""
    least: Mapping[How, float] = {
        "verbatim": 0.0, "answer": 0.0, "reworded": section.pairs, "paraphrased": section.words}
    return [find for find in found.finds() if find.share >= least[find.how] and _wish(find.how, section) != "off"]


def _wish(how: How, section: DecontaminateSection) -> str:
    return section.verbatim if how in ("verbatim", "answer") else section.reworded


def _batches(rows: Sequence[Sequence[str]]) -> Iterator[list[tuple[int, list[str]]]]:
    """(row, words) of all texts, in lists of about `BATCH_WORDS` words."""
    batch: list[tuple[int, list[str]]] = []
    held = 0
    for row, several in enumerate(rows):
        for text in several:
            batch.append((row, words(text)))
            held += len(batch[-1][1])
        if held >= BATCH_WORDS:
            yield batch
            batch, held = [], 0
    yield batch


def _columns(found: Mapping[tuple[str, str, How], float]) -> Contamination:
    rows = [(*key, share) for key, share in sorted(found.items())]
    return Contamination(*zip(*rows, strict=True)) if rows else Contamination((), (), (), ())
