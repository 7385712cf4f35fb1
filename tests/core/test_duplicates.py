"""Exact and near duplicates: which go, which stay, and for which."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_core.conversation import Conversation, Origin, Turn
from sft_core.data.curate import duplicates
from sft_core.data.curate.duplicates import Gathered, gathered
from sft_core.data.curate.sketch import read_sketches, sketch, write_sketches
from sft_core.data.curate.words import texts, words
from sft_core.data.workers import Workers, processes

WORDS = " ".join(f"word{i}" for i in range(60))


def exact(rows: Sequence[Conversation], compared: Any = "conversations") -> list[tuple[int, int]]:
    """(row that goes, row that stays)."""
    twins = duplicates.exact(sketch(rows, 3, compared).keys, np.arange(len(rows)))
    return [(row, int(twins.of[row])) for row in range(len(rows)) if twins.of[row] >= 0]


def near(rows: Sequence[Conversation], threshold: float, shards: int = 1, length: int = 3
         ) -> list[tuple[int, int, float]]:
    """(row that goes, row that stays, similarity)."""
    cut = [part.tolist() for part in np.array_split(np.arange(len(rows)), shards)]
    found = Gathered([sketch([rows[at] for at in part], length) for part in cut])
    twins = duplicates.near(found, np.arange(len(rows)), np.ones(len(rows), bool), threshold)
    return [(row, int(twins.of[row]), round(float(twins.similarity[row]), 3)) for row in range(len(rows))
            if twins.of[row] >= 0]


def shingles(conversation: Conversation, length: int = 3) -> frozenset[str]:
    """Word n-grams; fewer words are one, none are none."""
    found = [word for text in texts(conversation) for word in words(text)]
    if len(found) < length:
        return frozenset([" ".join(found)] if found else ())
    return frozenset(map(" ".join, zip(*(found[at:] for at in range(length)), strict=False)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def test_nothing_has_no_duplicates(chat):
    assert not exact([])
    assert not near([], 0.9)
    assert not near([chat("u: hi", "a: yo")], 0.9)


class TestExact:
    def test_case_and_white_space_are_folded_and_the_first_stays(self, chat):
        assert exact([chat("u: Hi  there", "a: Yo"), chat("u: hi\nTHERE ", "a: yo"), chat("u: hi there", "a: yo!"),
                      chat("u: HI there", "a: yo")]) == [(1, 0), (3, 0)]

    @pytest.mark.parametrize("other", [
        ("u: hi", "a: yo", "u: hi", "a: yo"), ("s: hi", "u: hi", "a: yo"), ("u: hi yo", "a: yo"), ("u: hi", "c: yo {}"),
    ])
    def test_the_whole_conversation_counts(self, chat, other):
        assert not exact([chat("u: hi", "a: yo"), chat(*other)])

    def test_tools_count(self, chat):
        assert not exact([chat("u: hi", "a: yo"), chat("u: hi", "a: yo", tools=[{"name": "f"}])])

    def test_what_is_trained_counts(self, chat):
        trained = chat("u: hi", "a: yo", "u: and", "a: no")
        context = trained._replace(turns=(trained.turns[0], trained.turns[1]._replace(masked=True), *trained.turns[2:]))
        assert not exact([trained, context])

    def test_prompts_alone(self, chat):
        rows = [chat("u: hi", "a: yo"), chat("u: HI", "a: quite another answer"), chat("s: x", "u: hi", "a: yo")]
        assert exact(rows, "prompts") == [(1, 0)]
        assert not exact(rows)

    def test_the_preferred_one_stays(self, chat):
        rows = [chat("u: hi", "a: yo")] * 3
        twins = duplicates.exact(sketch(rows, 3).keys, np.array([2, 0, 1]))
        assert twins.of.tolist() == [2, 2, -1]


class TestNear:
    def test_one_word_of_many_changed(self, chat):
        first = chat(f"u: {WORDS}", "a: yes indeed my friend")
        close = chat(f"u: {WORDS.replace('word30', 'other')}", "a: yes indeed my friend")
        rows = [first, close, chat(f"u: {WORDS[::-1]}", "a: no")]
        # 64 words make 62 shingles; one changed word changes three of them on both sides: 59 / 65.
        assert near(rows, 0.9) == [(1, 0, 0.908)]
        assert near(rows, 0.92) == []
        assert near(rows, 0.9, length=5) == []  # 60 shingles, five of which change: 55 / 65
        assert near(rows, 0.84, length=5) == [(1, 0, 0.846)]

    def test_only_kept_ones_draw_others_out(self, chat):
        """A chain a ~ b ~ c with a unlike c: b goes, c stays, because b is not there any more."""
        said = [f"w{i}" for i in range(40)]
        assert near([chat(f"u: {' '.join(said[at : at + 36])}", "a: x") for at in (0, 2, 4)], 0.8) == [(1, 0, 0.842)]

    def test_signs_without_words_are_not_alike(self, chat):
        assert not near([chat("u: 🙂", "a: 🙃"), chat("u: ?", "a: !")], 0.5)

    def test_rows_that_are_gone_draw_nothing_out(self, chat):
        rows = [chat(f"u: {WORDS}", "a: x")] * 2
        found = Gathered([sketch(rows, 3)])
        twins = duplicates.near(found, np.arange(2), np.array([False, True]), 0.9)
        assert twins.of.tolist() == [-1, -1]

    @given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join), max_size=12),
           st.sampled_from([0.3, 0.5, 0.9, 1.0]), st.integers(1, 3), st.integers(1, 3))
    def test_as_comparing_all_pairs(self, chat, said, threshold, shards, length):
        rows = [chat(f"u: {text}", "a: z", line=at) for at, text in enumerate(said)]
        kept: list[int] = []
        expected = []
        for at, row in enumerate(rows):
            alike = ((other, jaccard(shingles(row, length), shingles(rows[other], length))) for other in kept)
            twin = next(((other, value) for other, value in alike if value >= threshold), None)
            if twin is None:
                kept.append(at)
            else:
                expected.append((at, twin[0], round(twin[1], 3)))
        assert near(rows, threshold, shards, length) == expected

    @pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
    def test_bands_find_what_they_must(self, threshold):
        width = duplicates.band_width(threshold)
        assert 1 - (1 - threshold**width) ** (128 // width) >= 0.998

    @pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95])
    def test_planted_pairs_at_the_threshold_are_found_and_no_others(self, chat, threshold):
        """200 texts, each with one that is as like as the threshold asks or a little more, and one a little less."""
        rng, rows, wanted = random.Random(7), [], []
        for number in range(200):
            text = [f"{number}x{at}" for at in range(100)]
            for least in (threshold, threshold - 0.05):
                changed = next(text[:100 - cut] + [f"{number}y{len(wanted)}x{at}" for at in range(cut)]
                               for cut in range(99, -1, -1) if (98 - cut) / (98 + cut) >= least)
                wanted.append(least == threshold)
                rows.append((text, changed))
        first = [chat(f"u: {' '.join(text)}", "a: ") for text, _ in rows[::2]]
        others = [chat(f"u: {' '.join(changed)}", "a: ") for _, changed in rows]
        order = rng.sample(range(len(others)), len(others))
        found = {row - len(first) for row, other, _ in near(first + [others[at] for at in order], threshold)
                 if other < len(first)}
        hits = sum(wanted[order[at]] for at in found)
        assert hits >= 199  # of 200: each is missed with a probability of at most 0.001
        assert len(found) == hits  # the similarity that decides is exact

    def test_signatures_of_many_candidates_are_looked_at_first(self, chat, monkeypatch):
        """With and without this look the result is the same."""
        said = [f"w{i}" for i in range(30)]
        rng = random.Random(1)
        rows = [chat("u: " + " ".join(said[:24] + [rng.choice(said) for _ in range(2)]), "a: x") for _ in range(120)]
        as_it_is = near(rows, 0.95)
        monkeypatch.setattr(duplicates, "_MANY", 10**9)
        assert as_it_is == near(rows, 0.95)
        assert len(as_it_is) > 3


def test_sketches_come_back_from_the_disk(tmp_path, chat):
    rows = [chat(f"u: {WORDS}", "a: x"), chat("u: ?", "a: !"), chat("u: half a pair \ud800", "a: y")]
    for some in (rows, []):
        made = sketch(some, 3)
        write_sketches(tmp_path / "s.arrow", made)
        for written, read in zip(made, read_sketches(tmp_path / "s.arrow"), strict=True):
            assert np.array_equal(written, read)


def test_a_shard_says_nothing_of_its_neighbours(chat):
    rows = [chat(f"u: question {n} about {n * n}", f"a: {WORDS[:n * 9]}") for n in range(30)]
    whole, halves = sketch(rows, 3), [sketch(rows[:11], 3), sketch(rows[11:], 3)]
    for name in ("keys", "letters", "signatures", "shingles"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(half, name) for half in halves]))


class TestClusters:
    def of(self, rows: Sequence[Conversation], threshold: float) -> list[int]:
        found = Gathered([sketch(rows[:2], 3), sketch(rows[2:], 3)])
        return duplicates.clusters(found, np.ones(len(rows), bool), threshold).tolist()

    def test_what_others_lie_between_is_one_cluster(self, chat):
        """A chain a ~ b ~ c with a unlike c, and one that is alone."""
        said = [f"w{i}" for i in range(40)]
        rows = [chat(f"u: {' '.join(said[at : at + 36])}", "a: x") for at in (0, 2, 4)] + [chat("u: hi there", "a: yo")]
        assert self.of(rows, 0.8) == [0, 0, 0, -1]
        assert self.of(rows, 0.99) == [-1] * 4

    @pytest.mark.parametrize("limit", [300, 1])
    def test_many_of_one_band_are_compared_or_taken_together(self, chat, monkeypatch, limit):
        monkeypatch.setattr(duplicates, "_MANY_ALIKE", limit)
        rows = [chat(f"u: {WORDS} {n}", "a: x") for n in range(5)] + [chat(f"u: something else {n}", "a: y")
                                                                     for n in range(3)]
        assert self.of(rows, 0.8) == [0] * 5 + [-1] * 3

    @given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=10),
           st.sampled_from([0.5, 0.9]))
    def test_as_comparing_all_pairs(self, chat, said, threshold):
        rows = [chat(f"u: {text}", "a: z") for text in said]
        first = list(range(len(rows)))
        for _ in rows:
            for a in range(len(rows)):
                for b in range(len(rows)):
                    if jaccard(shingles(rows[a]), shingles(rows[b])) >= threshold:
                        first[a] = first[b] = min(first[a], first[b])
        assert self.of(rows, threshold) == [one if first.count(one) > 1 else -1 for one in first]


class TestSeveralProcesses:
    @pytest.fixture(scope="class")
    def files(self, tmp_path_factory):
        """Sketches of three shards whose rows have likes within them and across."""
        folder = tmp_path_factory.mktemp("sketches")
        rng = random.Random(3)
        said = [" ".join(rng.choices(WORDS.split(), k=rng.randint(20, 40))) for _ in range(60)]
        rows = [Conversation((Turn("assistant", f"{text}{' more' * copy}"),), Origin("a", "b", copy))
                for copy in range(3) for text in said]
        rng.shuffle(rows)
        for at in range(3):
            write_sketches(folder / f"{at}.arrow", sketch(rows[at * 60:at * 60 + 60], 3))
        return sorted(folder.iterdir())

    def join(self, files, workers: Workers | None) -> tuple[Any, ...]:
        found = gathered(files)
        args = found, np.arange(found.rows), np.ones(found.rows, bool), 0.8
        return *duplicates.near(*args, workers), duplicates.clusters(found, args[2], 0.8, workers)

    def test_the_join_is_the_same(self, files):
        here = self.join(files, None)
        assert (here[0] >= 0).sum() > 60
        assert (here[2] >= 0).sum() > 120
        with processes(2) as workers:
            for ours, theirs in zip(here, self.join(files, workers), strict=True):
                np.testing.assert_array_equal(ours, theirs)

    def test_sketches_travel_as_the_files_that_they_are_in(self, files):
        found = gathered(files)
        travelling = pickle.dumps(found)
        assert len(travelling) < 2_000
        np.testing.assert_array_equal(pickle.loads(travelling).band(8, 8), found.band(8, 8))
        alone = Gathered([read_sketches(file) for file in files])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(alone)).keys(), found.keys())
