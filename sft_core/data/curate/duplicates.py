"""Exact and near duplicates among any number of rows: which go, and for which that stays.

Rows are taken in the order of preference. One goes when a row that stays is as similar as the threshold says; what went
draws nothing out. So the result hangs on the rows and their order alone.

Near duplicates: rows that share a band of their MinHash signatures are candidates (Leskovec, Rajaraman, Ullman, Mining
of Massive Datasets, 3.3-3.4); the similarity that decides is that of the sets themselves. Bands are looked through one
at a time, so that memory holds the signatures of a band and not an index of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft_core.data.curate.sketch import PERMUTATIONS, Sketches, read_sketches
from sft_core.data.workers import InProcess, Workers
from sft_core.stopping import check

RECALL = 0.999
"""Least probability that two rows exactly at the threshold become candidates."""
_SURE = 6.0
"""Standard deviations below the threshold at which two signatures are not worth a comparison of their sets."""
_MANY = 32
"""Candidates from which on their signatures are compared first."""
_MANY_ALIKE = 300
"""Rows of one band from which on they are one cluster without a comparison of each pair."""


class Twins(NamedTuple):
    """Of n rows."""

    of: NDArray[np.int64]  # [n], the row that stays in this one's place; -1 for those that stay
    similarity: NDArray[np.float64]  # [n], Jaccard similarity to it; NaN for those that stay


class Gathered:
    """The sketches of several shards as if they were one.

    Args:
        files: where they were read from, if they were; another process then reads them itself.
    """

    def __init__(self, shards: Sequence[Sketches], files: Sequence[Path] = ()) -> None:
        self._shards = shards
        self._files = files
        self._starts = np.cumsum([0, *(len(shard.keys) for shard in shards)])
        self.rows = int(self._starts[-1])

    def __reduce__(self) -> tuple[object, ...]:
        return (gathered, (self._files,)) if self._files else (Gathered, (self._shards,))

    def keys(self) -> NDArray[np.bytes_]:
        """[rows], see `Sketches`."""
        return np.concatenate([shard.keys for shard in self._shards]) if self._shards else np.zeros(0, "V16")

    def letters(self) -> NDArray[np.int64]:
        """[rows], see `Sketches`."""
        return np.concatenate([np.zeros(0, np.int64), *(shard.letters for shard in self._shards)])

    def empty(self) -> NDArray[np.bool_]:
        """[rows], rows without a word."""
        return np.concatenate([np.zeros(0, np.bool_), *(shard.empty() for shard in self._shards)])

    def band(self, at: int, width: int) -> NDArray[np.uint64]:
        """[rows], a hash of the signature's values `at` to `at + width`."""
        factors = np.random.default_rng(at).integers(1, 2**63, width, np.uint64) * np.uint64(2) + np.uint64(1)
        parts = [(shard.signatures[:, at:at + width].astype(np.uint64) * factors).sum(1, dtype=np.uint64)
                 for shard in self._shards]
        return np.concatenate([np.zeros(0, np.uint64), *parts])

    def signatures(self, rows: Sequence[int]) -> NDArray[np.uint32]:
        """[len(rows), PERMUTATIONS]."""
        return np.stack([shard.signatures[row] for shard, row in map(self._place, rows)])

    def shingles(self, row: int) -> NDArray[np.uint64]:
        """The set of a row's shingles, sorted."""
        shard, at = self._place(row)
        return shard.of(at)

    def _place(self, row: int) -> tuple[Sketches, int]:
        shard = int(np.searchsorted(self._starts, row, "right")) - 1
        return self._shards[shard], row - int(self._starts[shard])


def gathered(files: Sequence[Path]) -> Gathered:
    """The sketches of these files, mapped into memory."""
    return Gathered([read_sketches(file) for file in files], files)


def exact(keys: NDArray[np.bytes_], order: NDArray[np.int64]) -> Twins:
    """Rows with the key of a preferred one.

    Args:
        keys: [n].
        order: [n], the rows from the most preferred on.
    """
    twins = _none(len(keys))
    if not len(order):
        return twins
    halves = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2)[order]
    by_key = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal ones the preferred is the first
    alike = np.r_[False, (halves[by_key][1:] == halves[by_key][:-1]).all(1)]
    group = np.cumsum(~alike) - 1
    firsts = order[by_key[~alike]]
    gone = order[by_key[alike]]
    twins.of[gone] = firsts[group[alike]]
    twins.similarity[gone] = 1.0
    return twins


def near(found: Gathered, order: NDArray[np.int64], alive: NDArray[np.bool_], threshold: float,
         workers: Workers | None = None) -> Twins:
    """Rows whose set of shingles has a Jaccard similarity of at least `threshold` to that of a preferred row that
    stays; of several such the most preferred one is named.

    Args:
        order: [n], the rows from the most preferred on.
        alive: [n], rows that take part. Rows without a word are like nothing.
        workers: who looks through the bands; None: this process.
    """
    twins = _none(found.rows)
    rows, groups = _together(found, alive & ~found.empty(), threshold, workers)
    several, begins = np.unique(rows, return_index=True)
    mine = dict(zip(several.tolist(), np.split(groups, begins[1:]), strict=True)) if len(rows) else {}
    place = np.empty(found.rows, np.int64)
    place[order] = np.arange(found.rows)
    staying: dict[int, list[int]] = {}
    sets: dict[int, NDArray[np.uint64]] = {}
    for row in sorted(mine, key=place.__getitem__):
        check()
        numbers = mine[row].tolist()
        candidates = sorted({other for number in numbers for other in staying.get(number, ())}, key=place.__getitem__)
        sets[row] = found.shingles(row)
        for other in _worth_it(found, row, candidates, threshold):
            if (similarity := jaccard(sets[row], sets[other])) >= threshold:
                twins.of[row], twins.similarity[row] = other, similarity
                del sets[row]
                break
        else:
            for number in numbers:
                staying.setdefault(number, []).append(row)
    return twins


def clusters(found: Gathered, alive: NDArray[np.bool_], threshold: float, workers: Workers | None = None
             ) -> NDArray[np.int64]:
    """[n], the first row of the cluster that a row is in, -1 where it is alone: rows as similar as `threshold` are in
    one cluster, and so are those that others lie between. Where very many share a band they are one cluster without a
    comparison: to keep more together than must be does no harm.
    """
    leader = np.arange(found.rows)

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = row = int(leader[leader[row]])
        return row

    rows, groups = _together(found, alive & ~found.empty(), threshold, workers)
    by_group = np.argsort(groups, kind="stable")
    _, begins = np.unique(groups[by_group], return_index=True)
    for members in np.split(rows[by_group], begins[1:]):
        check()
        for at, row in enumerate(members.tolist()):
            others = members[:at].tolist() if len(members) <= _MANY_ALIKE else members[:min(at, 1)].tolist()
            for other in others:
                a, b = find(row), find(other)
                if a != b and (len(members) > _MANY_ALIKE
                               or jaccard(found.shingles(row), found.shingles(other)) >= threshold):
                    leader[max(a, b)] = min(a, b)
    first = np.array([find(row) for row in range(found.rows)], np.int64)
    size = np.bincount(first, minlength=found.rows)
    return np.where(size[first] > 1, first, -1) if found.rows else first


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Size of the intersection over size of the union of two sorted sets, which are non-empty."""
    both = np.concatenate([a, b])
    both.sort()
    shared = int((both[1:] == both[:-1]).sum())
    return shared / (len(a) + len(b) - shared)


def band_width(threshold: float) -> int:
    """Values of a band: the widest with 1 - (1 - t^r)^(n/r) >= RECALL at the threshold t."""
    return next((width for width in (64, 32, 16, 8, 4, 2)
                 if 1 - (1 - threshold**width) ** (PERMUTATIONS // width) >= RECALL), 1)


def _none(rows: int) -> Twins:
    return Twins(np.full(rows, -1, np.int64), np.full(rows, np.nan))


def _together(found: Gathered, alive: NDArray[np.bool_], threshold: float, workers: Workers | None
              ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, group) for each group of rows that share a band, sorted by row."""
    width = band_width(threshold)
    job = partial(_of_band, found=found, width=width, members=np.flatnonzero(alive))
    rows, groups, last = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for some, numbered in (workers or InProcess()).map(job, range(0, PERMUTATIONS, width)):
        rows.append(some)
        groups.append(numbered + last)
        last += int(numbered[-1]) + 1 if len(numbered) else 0
    all_rows, all_groups = np.concatenate(rows), np.concatenate(groups)
    by_row = np.argsort(all_rows, kind="stable")
    return all_rows[by_row], all_groups[by_row]


def _of_band(at: int, *, found: Gathered, width: int, members: NDArray[np.int64]
             ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Members that share a band with another one, and the number of their group."""
    values = found.band(at, width)[members]
    by_value = np.argsort(values, kind="stable")
    same = values[by_value][1:] == values[by_value][:-1]
    after, before = np.r_[np.zeros(1, np.bool_), same], np.r_[same, np.zeros(1, np.bool_)]
    shared = (after | before)[:len(members)]
    return members[by_value[shared]], (np.cumsum(~after[:len(members)] & shared) - 1)[shared]


def _worth_it(found: Gathered, row: int, candidates: list[int], threshold: float) -> Iterable[int]:
    """Candidates without those whose signatures say that they are nowhere near. The share of equal values of two
    signatures estimates the similarity with a deviation of sqrt(t (1 - t) / PERMUTATIONS)."""
    if len(candidates) < _MANY:
        return candidates
    agree = (found.signatures(candidates) == found.signatures([row])).mean(1)
    least = threshold - _SURE * np.sqrt(threshold * (1 - threshold) / PERMUTATIONS)
    return [other for other, share in zip(candidates, agree, strict=True) if share >= least]
