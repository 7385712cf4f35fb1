"""The suite `everyday`: one right end among four that differ, and every kind in it."""

import json
from collections import Counter
from pathlib import Path

import eval_suites.suites
from eval_suites.suites.suite import suite

ROWS = Path(eval_suites.suites.__file__).parent / "lm_tasks" / "everyday" / "everyday.jsonl"


def test_every_question_has_four_ends_and_is_asked_once() -> None:
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == suite("everyday").published_items
    assert all(len(set(row["choices"])) == 4 and 0 <= row["answer"] < 4 for row in rows)
    assert len({row["question"] for row in rows}) == len(rows)


def test_no_place_is_right_much_more_often_than_another() -> None:
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    places = Counter(row["answer"] for row in rows)
    assert min(places[at] for at in range(4)) > len(rows) / 6
