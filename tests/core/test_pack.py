"""Packing: a plan loses nothing and repeats nothing; a batch is the examples, side by side, and marked padding."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft_core.conversation import Origin
from sft_core.errors import DataError
from sft_core.templates.render import IGNORE, Example
from sft_core.train.pack import collate, plan

LENGTHS = st.lists(st.integers(1, 50), max_size=120)


class TestPlan:
    @given(LENGTHS, st.integers(0, 5))
    def test_every_example_exactly_once_and_no_row_too_long(self, lengths, seed):
        rows = plan(lengths, 50, seed)
        assert sorted(at for row in rows for at in row) == list(range(len(lengths)))
        assert all(0 < sum(lengths[at] for at in row) <= 50 for row in rows)

    @given(LENGTHS)
    def test_close_to_the_fewest_rows(self, lengths):
        rows = plan(lengths, 50, 0)
        assert len(rows) <= 11 / 9 * max(math.ceil(sum(lengths) / 50), sum(length > 25 for length in lengths)) + 2

    @given(LENGTHS)
    def test_no_two_rows_could_be_one(self, lengths):
        sums = sorted(sum(lengths[at] for at in row) for row in plan(lengths, 50, 0))
        assert len(sums) < 2 or sums[0] + sums[1] > 50

    def test_seeds(self):
        rng = random.Random(0)
        lengths = [rng.randint(1, 30) for _ in range(200)]
        assert plan(lengths, 50, 1) == plan(lengths, 50, 1)
        assert plan(lengths, 50, 1) != plan(lengths, 50, 2)
        neighbours = [{frozenset(row) for row in plan(lengths, 50, seed)} for seed in (1, 2)]
        assert neighbours[0] != neighbours[1]

    def test_fills_rows(self):
        rng = random.Random(0)
        lengths = [rng.randint(10, 200) for _ in range(2000)]
        assert sum(lengths) / (len(plan(lengths, 512, 0)) * 512) > 0.998

    @pytest.mark.parametrize("wrong", [51, 0, -1])
    def test_an_example_that_does_not_fit(self, wrong):
        said = rf"1 of 3 examples do not fit a row of 50 tokens \(first: #1, {wrong} tokens"
        with pytest.raises(DataError, match=said):
            plan([10, wrong, 50], 50, 0)

    def test_needs_no_torch(self):
        code = "import sys; from sft_core.train.pack import plan; plan([3, 4], 8, 0); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def example(*ids: int) -> Example:
    return Example(list(ids), [*ids[1:], IGNORE], Origin("s", "f", ids[0]))


class TestCollate:
    def test_two_rows(self):
        batch = collate([[example(5, 6, 7), example(8, 9)], [example(4)]], width=6, pad_id=7)
        assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 7], [4, 7, 7, 7, 7, 7]]
        assert batch.targets.tolist() == [[6, 7, IGNORE, 9, IGNORE, IGNORE], [IGNORE] * 6]
        assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0], [0] * 6]
        assert batch.segments.tolist() == [[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0]]
        assert all(tensor.dtype == torch.long for tensor in batch)

    @given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4), st.integers(0, 3))
    def test_every_example_comes_back(self, lengths, spare):
        """Padding is told by its place: ids, targets and padding id are all the same number here."""
        rows = [[Example([3] * n, [3] * n, Origin("s", "f", 1)) for n in row] for row in lengths]
        width = max(map(sum, lengths)) + spare
        batch = collate(rows, width, pad_id=3)
        for at, row in enumerate(lengths):
            for number, length in enumerate(row, 1):
                mine = batch.segments[at] == number
                assert int(mine.sum()) == length
                assert batch.positions[at][mine].tolist() == list(range(length))
                assert batch.targets[at][mine].tolist() == [3] * length
            padding = batch.segments[at] == 0
            assert int(padding.sum()) == width - sum(row)
            assert (batch.targets[at][padding] == IGNORE).all()

    def test_a_row_that_is_too_long(self):
        with pytest.raises(DataError, match="a row of 5 tokens does not fit a width of 4"):
            collate([[example(5, 6, 7), example(8, 9)]], width=4, pad_id=0)
