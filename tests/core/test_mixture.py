"""The split: stable, seeded, without equal questions on both sides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sft_core.data.mixture import split


def test_share_and_order(chat):
    rows = [chat(f"u: question {i}", "a: x", line=i) for i in range(4000)]
    halves = split(rows, 0.1, seed=0)
    assert len(halves.train) + len(halves.validation) == 4000
    assert 0.08 < len(halves.validation) / 4000 < 0.12
    assert sorted(halves.train, key=lambda c: c.origin.line) == halves.train
    assert split(rows, 0.1, seed=0) == halves
    assert split(rows, 0.1, seed=1).validation != halves.validation
    assert split(rows, 0.0, seed=0).validation == []


@given(st.lists(st.text(), min_size=1, max_size=40), st.integers(0, 39))
def test_other_rows_move_nothing(chat, texts, cut):
    rows = [chat(f"u: {text}", "a: x", line=at) for at, text in enumerate(texts)]
    whole, part = split(rows, 0.5, 3), split(rows[:cut], 0.5, 3)
    assert part.validation == [c for c in whole.validation if c.origin.line < cut]


def test_equal_questions_stay_together(chat):
    for number in range(200):
        rows = [chat(f"u: Question  {number}", "a: x"), chat("s: be kind", f"u: question {number}", "a: y"),
                chat(f"u: QUESTION {number} ", "a: z", "u: more", "a: w")]
        assert [] in split(rows, 0.5, seed=0)
