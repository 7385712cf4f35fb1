"""Counts that must add up, and shares that are missing rather than zero."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sft_core.conversation import Why
from sft_core.errors import DataError
from sft_core.ledger import POLICY, Ledger, SourceCount

GOOD = SourceCount("a", ("alpaca",), read=10, rejected={"unreadable": 2, "near_duplicate": 1}, kept=7, train=6,
                   validation=1, tokens=100, trained_tokens=40, stops_trained=7)


@pytest.mark.parametrize("wrong", [{"read": 11}, {"kept": 8}, {"train": 7}, {"rejected": {}}])
def test_counts_that_do_not_add_up(wrong):
    Ledger((GOOD,))
    for ledger in ((replace(GOOD, **wrong),), ()), ((GOOD,), (replace(GOOD, **wrong),)):
        with pytest.raises(DataError, match="do not add up"):
            Ledger(*ledger)


def test_a_cut_answer_is_an_error():
    with pytest.raises(DataError, match="1 answers of a were cut"):
        Ledger((replace(GOOD, answers_cut=1),))


def test_totals():
    other = SourceCount("b", ("messages",), read=3, rejected={"unreadable": 1, "contaminated": 2}, kept=0, train=0,
                        validation=0)
    ledger = Ledger((GOOD, other), (replace(GOOD, source="r"),))
    assert (ledger.read, ledger.unusable, ledger.trained_tokens, ledger.replay_tokens) == (13, 3, 40, 100)
    assert list(ledger.reasons().items()) == [("unreadable", 3), ("contaminated", 2), ("near_duplicate", 1)]
    assert GOOD.trained_share == 0.4
    assert other.trained_share is None
    assert json.loads(json.dumps(ledger.to_dict()))["sources"][1]["trained_share"] is None
    assert [(row["source"], row["use"]) for row in ledger.table()] == [("a", "train"), ("b", "train"), ("r", "replay")]
    assert ledger.table()[0]["rejected"] == "unreadable 2, near_duplicate 1"


def test_what_is_left_out_on_purpose_is_no_fault_of_the_data():
    assert {Why.EXACT_DUPLICATE, Why.NEAR_DUPLICATE, Why.CONTAMINATED, Why.TOO_LONG} == POLICY
