"""Counts that must add up, and shares that are missing rather than zero."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import get_args

import pytest

from sft_core.config.quality import Flaw
from sft_core.conversation import Why
from sft_core.data.ledger import POLICY, Ledger, SourceCount, Split, Totals
from sft_core.errors import DataError

GOOD = SourceCount("a", ("alpaca",), read=10, rejected={"unreadable": 2, "near_duplicate": 1}, kept=7, train=6,
                   validation=1, examples=8, tokens=100, trained_tokens=40, stops_trained=7)
SPLITS: dict[Split, Totals] = {"train": Totals(7, 90, 35), "validation": Totals(1, 10, 5), "replay": Totals(8, 100, 40)}


@pytest.mark.parametrize("wrong", [{"read": 11}, {"kept": 8}, {"train": 7}, {"rejected": {}}])
def test_counts_that_do_not_add_up(wrong):
    Ledger((GOOD,), (GOOD,), SPLITS)
    for ledger in ((replace(GOOD, **wrong),), (GOOD,)), ((GOOD,), (replace(GOOD, **wrong),)):
        with pytest.raises(DataError, match="do not add up"):
            Ledger(*ledger, SPLITS)


@pytest.mark.parametrize("wrong", [{"examples": 9}, {"tokens": 99}, {"trained_tokens": 41}])
def test_what_training_reads_is_what_the_sources_gave(wrong):
    for ledger in ((replace(GOOD, **wrong),), (GOOD,)), ((GOOD,), (replace(GOOD, **wrong),)):
        with pytest.raises(DataError, match="the sources amount to"):
            Ledger(*ledger, SPLITS)


def test_a_cut_answer_is_an_error():
    with pytest.raises(DataError, match="1 answers of a were cut"):
        Ledger((replace(GOOD, answers_cut=1),))


def test_totals():
    other = SourceCount("b", ("messages",), read=3, rejected={"unreadable": 1, "contaminated": 2}, kept=0, train=0,
                        validation=0)
    ledger = Ledger((GOOD, other), (replace(GOOD, source="r"),), SPLITS)
    assert (ledger.read, ledger.unusable) == (13, 3)
    plan = {key: value for key, value in ledger.to_dict().items() if key.startswith(("train_", "valid", "replay_"))}
    assert plan == {"train_examples": 7, "train_tokens": 90, "train_trained_tokens": 35, "validation_examples": 1,
                    "validation_tokens": 10, "validation_trained_tokens": 5, "replay_examples": 8,
                    "replay_tokens": 100, "replay_trained_tokens": 40}
    assert list(ledger.reasons().items()) == [("unreadable", 3), ("contaminated", 2), ("near_duplicate", 1)]
    assert GOOD.trained_share == 0.4
    assert other.trained_share is None
    assert json.loads(json.dumps(ledger.to_dict()))["sources"][1]["trained_share"] is None
    assert [(row["source"], row["use"]) for row in ledger.table()] == [("a", "train"), ("b", "train"), ("r", "replay")]
    assert ledger.table()[0]["rejected"] == "unreadable 2, near_duplicate 1"
    shown = {field.name for field in fields(SourceCount)} - {"formats", "turns_dropped"}
    assert shown <= set(ledger.table()[0])


def test_what_is_left_out_on_purpose_is_no_fault_of_the_data():
    flaws = {Why(flaw) for flaw in get_args(Flaw)}
    assert {Why.EXACT_DUPLICATE, Why.NEAR_DUPLICATE, Why.CONTAMINATED, Why.TOO_LONG, Why.BAD_ANSWER,
            Why.SCORE, Why.NOT_SELECTED, Why.PERSONAL_DATA} | flaws == POLICY
