"""Finds evaluation items that were changed: other numbers and names, typos, words left out or replaced.

Two shares of an item are measured in windows of about twice its length, each weighing a feature by how rare it is among
the items (inverse document frequency, Spärck Jones 1972):

* of its *pairs* of neighbouring words, which survive changes here and there. Digits are left out, so that another
  number changes nothing, and options count apart, so that their order does not either;
* of its *words* without function words, which survive another order and wording of the sentences.

Texts are taken many at a time: a product of sparse matrices (texts × features, features × items) gives the items that
may reach the least share, and only these are looked at in windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sft_core.config.decontaminate import LEAST_PAIRS, LEAST_WORDS
from sft_core.data.curate.decontaminate import How
from sft_core.data.curate.features import Coded, Found, Ints, Vocabulary
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.words import words

LEAST_SHARE: dict[How, float] = {"reworded": LEAST_PAIRS, "paraphrased": LEAST_WORDS}
"""Smaller ones are not told."""
LEAST_FEATURES = 7
"""Pairs, or words, that must be there: a shorter phrase (`the president of the United States`) is everybody's."""
CHUNK_WORDS = 256
"""Of longer texts, items are proposed for pieces of so many words; each begins in the middle of the one before."""
HIDDEN = 0.5
"""Part of the least share that an item's most frequent features may weigh to propose nothing."""
ROUNDING = 1e-6
Floats = NDArray[np.float64]


class Hit(NamedTuple):
    """An item of which a text holds much. `share`: of the weight of its pairs (reworded) or words (paraphrased)."""

    item: int
    how: How
    share: float


class RewordedIndex:
    """Looks for changed evaluation items in texts.

    Args:
        items: their questions are looked for, and these with their options; of answers see `ItemIndex`.
    """

    def __init__(self, items: Sequence[EvalItem]) -> None:
        probes = [(number, parts) for number, item in enumerate(items) for parts in _probes(item)]
        parts = [part for _, several in probes for part in several]
        probe = np.repeat(np.arange(len(probes)), [len(several) for _, several in probes])  # of each part
        self._item = np.array([number for number, _ in probes], dtype=np.int64)
        self._vocabulary = Vocabulary(parts)
        coded = self._vocabulary.coded(parts)
        self._windows = 2 * np.bincount(probe[coded.text], minlength=len(probes)) + 8
        questions = np.array([len(several) == 1 for _, several in probes], dtype=bool)
        self._kinds = [self._kind(how, found, probe[found.text], questions) for how, found in self._features(coded)]

    def _kind(self, how: How, found: Found, probe: Ints, questions: NDArray[np.bool_]) -> _Kind:
        """Words are looked for of the question alone: with options of one word (`Mars`, `Venus`) any list of planets
        would hold them."""
        counted = questions[probe] if how == "paraphrased" else np.ones(len(probe), dtype=bool)
        return _Kind(how, found.key[counted], probe[counted], self._item)

    def find(self, batch: Sequence[Sequence[str]]) -> list[list[Hit]]:
        """What each of these texts (their `words`) holds, every item once for each way, at its largest share."""
        hits: list[dict[tuple[int, How], float]] = [{} for _ in batch]
        if not len(self._item):
            return [[] for _ in batch]
        coded = self._vocabulary.coded(batch)
        for kind, (how, found) in zip(self._kinds, self._features(coded), strict=True):
            known = kind.known(found)
            proposed = kind.proposed(_pieces(known, np.bincount(coded.text, minlength=len(batch))))
            for text, probes in groupby(proposed, key=itemgetter(0)):
                places = _places(known, text)
                for _, probe in probes:
                    item = int(self._item[probe])
                    share = kind.share(places, probe, int(self._windows[probe]))
                    if share > hits[text].get((item, how), 0.0):
                        hits[text][item, how] = share
        return [[Hit(item, how, share) for (item, how), share in sorted(some.items())] for some in hits]

    def _features(self, coded: Coded) -> tuple[tuple[How, Found], ...]:
        return ("reworded", self._vocabulary.pairs(coded)), ("paraphrased", self._vocabulary.telling(coded))


class _Pieces(NamedTuple):
    """Which features stand in which pieces of texts, and the text of each piece."""

    feature: Ints
    piece: Ints
    text: Ints


class _Kind:
    """Features of one kind in all probes, with their weights: what proposes a probe for a text, and how much is there.

    Args:
        key, probe: a feature and the probe that has it; the same may come again.
        item: of every probe.
    """

    def __init__(self, how: How, key: Ints, probe: Ints, item: Ints) -> None:
        self._keys, feature = np.unique(key, return_inverse=True)
        probe, feature = _different(probe, feature)
        owners = np.bincount(_different(item[probe], feature)[1], minlength=len(self._keys))
        items = len(np.unique(item))
        self._weight = np.log1p(items / np.maximum(owners, 1))
        self._features, self._ends = feature, np.cumsum(np.bincount(probe, minlength=len(item)))
        self._total = np.bincount(probe, self._weight[feature], len(item))
        self._least = LEAST_SHARE[how]
        self._propose(feature, probe, owners)

    def _propose(self, feature: Ints, probe: Ints, owners: Ints) -> None:
        """What a text must have to be looked at for a probe. Of every probe the most frequent features are left out
        while they weigh less than part of the least share: what reaches that has others of them."""
        order = np.lexsort((-owners[feature], probe))
        feature, probe = feature[order], probe[order]
        weight = self._weight[feature]
        sums = np.cumsum(weight)
        before = np.concatenate([[0.0], sums])[self._ends - np.diff(self._ends, prepend=0)]
        hidden = sums - before[probe] <= HIDDEN * self._least * self._total[probe]
        count = len(self._total)
        self._need = self._least * self._total - np.bincount(probe[hidden], weight[hidden], count) - ROUNDING
        self._needed = LEAST_FEATURES - np.bincount(probe[hidden], minlength=count)
        told = weight + 1j  # one product sums weights and counts features
        self._matrix = sparse.csr_array((told[~hidden], (feature[~hidden], probe[~hidden])),
                                        shape=(len(self._keys), count))

    def known(self, found: Found) -> Found:
        """Those that probes have, by their numbers here."""
        number = np.minimum(np.searchsorted(self._keys, found.key), max(len(self._keys) - 1, 0))
        there = self._keys[number] == found.key if len(self._keys) else np.zeros(len(number), dtype=bool)
        return Found(number[there], found.text[there], found.place[there])

    def proposed(self, pieces: _Pieces) -> list[tuple[int, int]]:
        """(text, probe) that may reach the least share: all that do in a text of one piece, or where the window is no
        longer than half a piece."""
        one = np.ones(len(pieces.feature), dtype=bool)  # as truth values the same feature twice is one
        there = sparse.csr_array((one, (pieces.piece, pieces.feature)), shape=(len(pieces.text), len(self._keys)))
        score = there.astype(np.float64) @ self._matrix
        good = (score.data.real >= self._need[score.indices]) & (score.data.imag >= self._needed[score.indices])
        rows = np.repeat(pieces.text, np.diff(score.indptr))[good]
        return sorted(set(zip(rows.tolist(), score.indices[good].tolist(), strict=True)))

    def share(self, places: Mapping[int, Sequence[int]], probe: int, window: int) -> float:
        """The largest share of the probe's weight within so many words of a text; 0 where it is less than the least, or
        few features. `places`: of every feature in the text."""
        wanted = self._features[self._ends[probe - 1] if probe else 0 : self._ends[probe]]
        there = [key for key in wanted.tolist() if key in places]
        weights = dict(zip(there, self._weight[there].tolist(), strict=True))
        least = self._least * float(self._total[probe])
        if len(there) < LEAST_FEATURES or sum(weights.values()) < least:
            return 0.0
        most = _most(sorted((place, key) for key in there for place in places[key]), weights, window)
        return most / float(self._total[probe]) if most >= least else 0.0


def _probes(item: EvalItem) -> Iterator[list[list[str]]]:
    """What is looked for of an item, each in parts that stand apart."""
    question = words(item.text)
    yield [question]
    if item.choices:
        yield [question, *map(words, item.choices)]


def _pieces(known: Found, lengths: Ints) -> _Pieces:
    half = CHUNK_WORDS // 2
    several = np.maximum(-(-lengths // half) - 1, 1)
    first = np.cumsum(several) - several
    at = known.place // half
    last = np.minimum(at, several[known.text] - 1) + first[known.text]
    twice = (at > 0) & (at < several[known.text])  # all but the halves at both ends
    return _Pieces(np.concatenate([known.key, known.key[twice]]), np.concatenate([last, last[twice] - 1]),
                   np.repeat(np.arange(len(lengths)), several))


def _different(first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Every pair of numbers once, in their order."""
    most = int(second.max(initial=0)) + 1
    return np.divmod(np.unique(first * most + second), most)


def _places(known: Found, text: int) -> Mapping[int, list[int]]:
    """Every feature of one text → where it stands."""
    start, end = np.searchsorted(known.text, [text, text + 1])
    found: dict[int, list[int]] = {}
    for key, place in zip(known.key[start:end].tolist(), known.place[start:end].tolist(), strict=True):
        found.setdefault(key, []).append(place)
    return found


def _most(found: Sequence[tuple[int, int]], weights: Mapping[int, float], window: int) -> float:
    """The largest weight of different features, given as (place, feature), within the window, 0 where they are few."""
    counts: Counter[int] = Counter()
    first, now, most = 0, 0.0, 0.0
    for place, key in found:
        now += 0.0 if counts[key] else weights[key]
        counts[key] += 1
        while place - found[first][0] >= window:
            gone = found[first][1]
            counts[gone] -= 1
            if not counts[gone]:
                now -= weights[gone]
                del counts[gone]
            first += 1
        if len(counts) >= LEAST_FEATURES:
            most = max(most, now)
    return most
