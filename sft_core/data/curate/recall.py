"""What decontamination finds on the data and suites at hand: its recall for every change, and its false finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from random import Random
from typing import NamedTuple

from sft_core.config.decontaminate import DecontaminateSection
from sft_core.data.curate.changes import CHANGES
from sft_core.data.curate.contamination import Contamination, ItemFinder, counted, facts_of_texts
from sft_core.data.curate.decontaminate import Find
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.words import texts
from sft_core.data.shards import read_shard, shards_of
from sft_core.data.workers import InProcess, Workers
from sft_core.stopping import check

LOOKED_AT = 2_000
"""Rows of the data that decoys are looked for in."""
SHARDS = 4
"""Shards that rows are taken from."""
PHRASE_WORDS = 6
"""Length of the phrases that decoys are made of."""
AT_ONCE = 250
"""Texts that one process searches at a time."""
SEED = 0
"""Of what is planted and drawn for a report."""
CONTEXT_LETTERS = 2_000
"""The longest text that an item is planted beside."""


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


class Recall(NamedTuple):
    """How many items of a suite were found after one change. `verbatim`: of them, by their words in a row alone."""

    suite: str
    change: str
    planted: int
    found: int
    verbatim: int

    @property
    def interval(self) -> Interval:
        """Of the share that is found."""
        return exact_interval(self.found, self.planted)


class FalseFinds(NamedTuple):
    """Rows of the data in which items were found, and in which decoys were; see `false_finds`."""

    rows: int
    with_items: int
    with_decoys: int

    @property
    def interval(self) -> Interval:
        """Of the share of rows with decoys."""
        return exact_interval(self.with_decoys, self.rows)


def recalls(finder: ItemFinder, rows: Sequence[Sequence[str]], section: DecontaminateSection, seed: int,
            workers: Workers | None = None) -> list[Recall]:
    """Plant up to `section.recall_items` items of every suite under every change, and count those that are found.

    The sample is of all items: those too short to be looked for count as missed. A change that leaves an item as it was
    (there is no number in it) plants nothing.

    Args:
        finder: of the suites' items.
        rows: texts of some of the data's rows, among which items are planted.
        section: its thresholds count; what to do with finds does not.
        seed: of samples and changes.
        workers: who searches; by default this process.
    """
    told = section.model_copy(update={"verbatim": "report", "reworded": "report"})
    context = [text[:CONTEXT_LETTERS] for texts in rows for text in texts]
    planted = []
    for suite, items in _by_suite(finder.items).items():
        check()
        rng = Random(f"{seed} {suite}")
        drawn = rng.sample(items, min(len(items), section.recall_items))
        planted += [(suite, change, _planted(change, drawn, rng, context)) for change in CHANGES]
    found = iter(_searched(finder, [[text] for *_, several in planted for _, text in several], workers))
    return [_recall(suite, change, [(item, counted(next(found), told)) for item, _ in several])
            for suite, change, several in planted if several]


def false_finds(finder: ItemFinder, rows: Sequence[Sequence[str]], section: DecontaminateSection, seed: int,
                workers: Workers | None = None) -> FalseFinds:
    """How often something is found that cannot be there.

    Nobody knows which of the rows really hold an item, so the items are exchanged: decoys, as many and as long, are put
    together from phrases of six words of different items of the same suite. No row holds a decoy, so whatever finds one
    is deceived by phrases that are everybody's. Decoys have the suite's wording but no subject of their own, and a row
    about an item's subject finds them less often than it finds an innocent item; so the share of rows with decoys is a
    low estimate, and the share of rows with items, real finds included, bounds it from above.
    """
    told = section.model_copy(update={"verbatim": "report", "reworded": "report"})
    rng = Random(f"{seed} rows")
    sample = rng.sample(list(rows), min(len(rows), LOOKED_AT))
    decoys = ItemFinder([decoy for items in _by_suite(finder.items).values() for decoy in _decoys(items, rng)])
    there, deceived = (sum(bool(counted(one, told)) for one in _searched(which, sample, workers))
                       for which in (finder, decoys))
    return FalseFinds(len(sample), there, deceived)


def measure(finder: ItemFinder, folders: Sequence[Path], section: DecontaminateSection, workers: Workers
            ) -> dict[str, object]:
    """Both, as plain data for JSON, among rows of the shards in these folders."""
    shards = [shard for folder in folders for shard in shards_of(folder)]
    some = Random(SEED).sample(shards, min(len(shards), SHARDS))
    rows = [texts(one) for shard in sorted(some) for one in read_shard(shard)]
    found = recalls(finder, rows, section, SEED, workers)
    false = false_finds(finder, rows, section, SEED, workers)
    return {"recalls": [{**one._asdict(), **one.interval._asdict()} for one in found],
            "false": {**false._asdict(), **false.interval._asdict()}}


def exact_interval(hits: int, of: int, level: float = 0.95) -> Interval:
    """Clopper and Pearson 1934; all of [0, 1] where nothing was tried."""
    from scipy.stats import beta  # of a curation that is there nothing is measured, and half a second spared

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, of - hits)) if hits < of else 1.0
    return Interval(low, high)


def _by_suite(items: Sequence[EvalItem]) -> Mapping[str, list[EvalItem]]:
    ordered = sorted(items, key=lambda item: item.suite)
    return {suite: list(several) for suite, several in groupby(ordered, key=lambda item: item.suite)}


def _planted(change: str, items: Sequence[EvalItem], rng: Random, context: Sequence[str]) -> list[tuple[EvalItem, str]]:
    changed = [(item, CHANGES[change](item, rng, context)) for item in items]
    return [(item, text) for item, text in changed
            if text is not None and (text != item.text or change == next(iter(CHANGES)))]


def _searched(finder: ItemFinder, rows: Sequence[Sequence[str]], workers: Workers | None) -> list[Contamination]:
    parts = [rows[at:at + AT_ONCE] for at in range(0, len(rows), AT_ONCE)]
    return list(chain.from_iterable((workers or InProcess()).map(partial(facts_of_texts, finder=finder), parts)))


def _recall(suite: str, change: str, planted: Sequence[tuple[EvalItem, Sequence[Find]]]) -> Recall:
    """`planted`: items with what was found where they stand."""
    mine = [[find for find in finds if _is(find, item)] for item, finds in planted]
    in_a_row = [[find for find in finds if find.how in ("verbatim", "answer")] for finds in mine]
    return Recall(suite, change, len(planted), sum(map(bool, mine)), sum(map(bool, in_a_row)))


def _is(find: Find, item: EvalItem) -> bool:
    return (find.suite, find.id) == (item.suite, item.id)


def _decoys(items: Sequence[EvalItem], rng: Random) -> list[EvalItem]:
    """As many as there are items, each of phrases of different ones, with options of others again."""
    phrases = [" ".join(found[at : at + PHRASE_WORDS]) for item in items
               for found in [item.text.split()] for at in range(0, len(found), PHRASE_WORDS)]
    options = [option for item in items for option in item.choices]
    return [EvalItem(item.suite, item.id, " ".join(_some(phrases, -(-len(item.text.split()) // PHRASE_WORDS), rng)),
                     choices=tuple(_some(options, len(item.choices), rng))) for item in items]


def _some(texts: Sequence[str], count: int, rng: Random) -> list[str]:
    return rng.sample(texts, min(count, len(texts)))
