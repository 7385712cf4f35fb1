"""The split: stable, seeded, without equal questions on both sides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st


def test_share_and_order(split, chat):
    rows = [chat(f"u: question {i}", "a: x", line=i) for i in range(4000)]
    halves = split(rows, 0.1, seed=0)
    assert len(halves.train) + len(halves.validation) == 4000
    assert 0.08 < len(halves.validation) / 4000 < 0.12
    assert sorted(halves.train, key=lambda c: c.origin.line) == halves.train
    assert split(rows, 0.1, seed=0) == halves
    assert split(rows, 0.1, seed=1).validation != halves.validation
    assert split(rows, 0.0, seed=0).validation == []


@given(st.lists(st.text(), min_size=1, max_size=40), st.integers(0, 39))
def test_other_rows_move_nothing(split, chat, texts, cut):
    rows = [chat(f"u: {text}", "a: x", line=at) for at, text in enumerate(texts)]
    whole, part = split(rows, 0.5, 3), split(rows[:cut], 0.5, 3)
    assert part.validation == [c for c in whole.validation if c.origin.line < cut]


def test_equal_questions_stay_together(split, chat):
    for number in range(200):
        rows = [chat(f"u: Question  {number}", "a: x"), chat("s: be kind", f"u: question {number}", "a: y"),
                chat(f"u: QUESTION {number} ", "a: z", "u: more", "a: w")]
        assert [] in split(rows, 0.5, seed=0)


def test_near_duplicates_stay_together(split, chat):
    rows = [chat(f"u: question {number}, wording {wording}", "a: x", line=number + 1)
            for wording in range(3) for number in range(1000)]
    clusters = [row.origin.line for row in rows]
    halves = split(rows, 0.3, 0, clusters)
    lines = [{row.origin.line for row in half} for half in halves]
    assert not lines[0] & lines[1]
    assert 0.25 < len(lines[1]) / 1000 < 0.35, "large clusters are held out as often as single rows"
    alone = split(rows, 0.3, 0)
    assert {r.origin.line for r in alone.train} & {r.origin.line for r in alone.validation}
    assert split(rows, 0.3, 0, range(len(rows))) == alone


def test_clusters_that_share_a_question_are_one(split, chat):
    for number in range(100):
        rows = [chat(f"u: {number} {text}", "a: x") for text in ("one", "two", "two", "three", "three", "four")]
        halves = split(rows, 0.5, 0, "aabbcc")
        assert [] in halves


def test_a_row_that_joins_a_cluster_rarely_moves_it(split, chat):
    rows = [chat(f"u: {number} {wording}", "a: x", line=number) for number in range(2000) for wording in range(4)]
    fewer = [row for row in rows if not row.turns[0].content.endswith(" 3")]
    before, after = (split(some, 0.02, 0, [row.origin.line for row in some]) for some in (fewer, rows))
    moved = {r.origin.line for r in before.train} & {r.origin.line for r in after.validation}
    moved |= {r.origin.line for r in before.validation} & {r.origin.line for r in after.train}
    assert 2 <= len(moved) <= 50  # 2 * 0.02 * 0.98 / 4 of 2000 are 20


def test_order_is_nothing(split, chat):
    rows = [chat(f"u: {number} {wording}", "a: x", line=number * 3 + wording) for number in range(200)
            for wording in range(3)]
    clusters = [row.origin.line // 3 for row in rows]
    there, back = split(rows, 0.4, 1, clusters), split(rows[::-1], 0.4, 1, clusters[::-1])
    assert back.validation[::-1] == there.validation
