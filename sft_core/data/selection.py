"""Few rows out of many (`data.select`), and beside them always a random draw of the same size from the same sources:
selectors are often no better.

Distances only shrink while rows are chosen, so a row's old distance bounds its new one, and is computed anew only when
the row comes to the top (lazy greedy, Minoux 1978). The choice is that of the plain algorithm, whose rows · chosen
distances are the most that it can take; where most rows are far from most others it takes few of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from sft_core.config.selection import SelectSection
from sft_core.conversation import Conversation
from sft_core.data.curate.words import texts, words
from sft_core.errors import DataError
from sft_core.stopping import check

LOOKED_AT = 2000
"""Rows at most that the numbers of a selection are measured on: a sample by content."""
PAIRS = 4_000_000
"""Distances at most that are measured for one of them."""
PERMUTATIONS = 128
BLOCK = 1 << 16
"""Rows whose distances are computed at once, so that memory is bounded."""

Reals = NDArray[np.float64]
Indices = NDArray[np.int64]


class Space(Protocol):
    """Where rows lie, so that distances between them can be told."""

    def distances(self, row: int, others: Indices) -> Reals:
        """[others]: of a row to some others, from 0 (equal) up."""


class Signatures(NamedTuple):
    """MinHash signatures [rows, permutations]; a distance is an estimate of the Jaccard distance of their sets, to
    about 1 / (2 · sqrt(permutations))."""

    of: NDArray[np.uint32]

    def distances(self, row: int, others: Indices) -> Reals:
        """[others]: share of the permutations in which they differ."""
        return np.asarray((self.of[others] != self.of[row]).mean(axis=1), dtype=np.float64)


class Embeddings(NamedTuple):
    """Vectors [rows, dimensions] of length 1; a distance is 1 - cosine."""

    of: NDArray[np.float32]

    def distances(self, row: int, others: Indices) -> Reals:
        """[others]: 0 to 2."""
        return np.maximum(0.0, 1.0 - np.asarray(self.of[others] @ self.of[row], dtype=np.float64))


class Candidates(NamedTuple):
    """What is known of the rows, one entry each."""

    places: NDArray[np.uint64]  # numbers that hang on their content alone: they settle ties, and draw at random
    sources: Sequence[str]
    words: Indices
    scores: Mapping[str, Reals]  # by name; nan: this row has none, and comes last
    space: Space | None = None


class Makeup(NamedTuple):
    """What a choice of rows is like. None is not measured, as there are no distances or no scores."""

    rows: int
    median: Mapping[str, float | None]  # of each score
    words: float | None  # mean
    radius: float | None  # largest distance of a row, of all that there were, to the nearest chosen one
    distance: float | None  # mean distance of all rows to the nearest chosen one
    similarity: float | None  # 1 - mean distance between two chosen rows


class Selection(NamedTuple):
    """Which rows are chosen, and which a random draw would have: indices, rising."""

    chosen: Indices
    random: Indices
    chosen_is: Makeup
    random_is: Makeup

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain data for JSON."""
        return {"selected": self.chosen_is._asdict(), "random": self.random_is._asdict()}


def signatures(conversations: Iterable[Conversation]) -> Signatures:
    """Of the sets of their single words: of word n-grams nearly all rows are equally far from each other."""
    found = []
    for conversation in conversations:
        check()
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update(list({word for text in texts(conversation) for word in words(text)}))
        found.append(np.array(sketch.digest(), dtype=np.uint32))
    return Signatures(np.array(found, dtype=np.uint32).reshape(len(found), PERMUTATIONS))


def select(rows: Candidates, section: SelectSection) -> Selection:
    """Choose; deterministic, and the same in whatever order the rows come.

    Raises:
        DataError: there is no score of that name, or no row has it; `diverse` without distances.
    """
    said = _scores(rows, section)
    scores = np.nan_to_num(said if section.prefer == "high" else -said, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    wanted = min(len(rows.places), section.n or max(1, round((section.share or 0.0) * len(rows.places))))
    line = np.lexsort((rows.places, -scores))  # the best first
    if section.diverse:
        if rows.space is None:
            raise DataError("data.select.diverse needs distances, and these rows have neither signatures nor "
                            "embeddings; this is a bug, please report it")
        weights = np.empty(len(line))
        weights[line] = np.linspace(1.0, 0.0, len(line), endpoint=False)
        chosen = _spread_out(rows.space, line, weights, wanted)
    else:
        chosen = line[:wanted]
    chosen = np.sort(chosen)
    random = _matched(rows, chosen)
    return Selection(chosen, random, *(_makeup(rows, one) for one in (chosen, random)))


def _scores(rows: Candidates, section: SelectSection) -> Reals:
    known = {**rows.scores, "length": rows.words.astype(np.float64),
             "random": -_shuffled(rows.places).astype(np.float64)}
    if section.by not in known:
        raise DataError(f"data.select.by {section.by} is no score of these rows; there are {', '.join(sorted(known))}")
    if np.isnan(known[section.by]).all():
        raise DataError(f"no row has the score {section.by} that data.select.by names; choose by another one")
    return known[section.by]


def _spread_out(space: Space, line: Indices, weights: Reals, wanted: int) -> Indices:
    """The first of the line, then always the row with the largest weight · distance to the nearest chosen one."""
    chosen = np.empty(wanted, dtype=np.int64)
    chosen[0] = line[0]
    first = np.concatenate([np.empty(0), *(
        space.distances(int(line[0]), line[at : at + BLOCK]) for at in range(1, len(line), BLOCK))])
    # (- what it may be worth at most, place in line, its distance to the nearest chosen one, how many it was asked of)
    heap = [(-worth, at, distance, 1) for at, (worth, distance) in enumerate(
        zip((weights[line[1:]] * first).tolist(), first.tolist(), strict=True), start=1)]
    heapq.heapify(heap)
    for count in range(1, wanted):
        check()
        while True:
            _, at, distance, seen = heap[0]
            if seen == count:
                heapq.heappop(heap)
                break
            row = int(line[at])
            distance = min(distance, float(space.distances(row, chosen[seen:count]).min()))
            heapq.heapreplace(heap, (-float(weights[row]) * distance, at, distance, count))
        chosen[count] = line[at]
    return chosen


def _matched(rows: Candidates, chosen: Indices) -> Indices:
    """As many rows of every source as are chosen of it, by chance."""
    sources = np.asarray(rows.sources, dtype=object).astype(str)
    shuffled = np.argsort(_shuffled(rows.places), kind="stable")
    picked = [shuffled[sources[shuffled] == name][:count]
              for name, count in zip(*np.unique(sources[chosen], return_counts=True), strict=True)]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *picked]))


def _shuffled(places: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Other numbers that hang on the same content: what settles ties must not draw as well."""
    mixed = places * np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two numbers become one
    return mixed ^ (mixed >> np.uint64(32))


def _makeup(rows: Candidates, chosen: Indices) -> Makeup:
    known = {name: one[chosen][np.isfinite(one[chosen])] for name, one in rows.scores.items()}
    median = {name: float(np.median(one)) if len(one) else None for name, one in known.items()}
    found = Makeup(len(chosen), median, float(rows.words[chosen].mean()), None, None, None)
    if rows.space is None:
        return found
    sample = np.argsort(rows.places, kind="stable")[:min(LOOKED_AT, 1 + PAIRS // len(chosen))]
    nearest = np.array([rows.space.distances(int(row), chosen).min() for row in sample])
    few = chosen[np.argsort(rows.places[chosen], kind="stable")[:LOOKED_AT]]
    apart = sum(float(rows.space.distances(int(row), few).sum()) for row in few)
    pairs = len(few) * (len(few) - 1)
    return found._replace(radius=float(nearest.max()), distance=float(nearest.mean()),
                          similarity=1.0 - apart / pairs if pairs else None)
