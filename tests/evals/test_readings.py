"""Readings beside the score keep the order that their names promise, for every answer and in every mean."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_suites.report.readings import readings
from eval_suites.report.tables import report
from eval_suites.results import OF, SuiteResult, mean_metric
from eval_suites.scorers.base import MILDER, STRICTER
from eval_suites.scorers.registry import SCORERS, score
from eval_suites.verdict.verdict import compare
from sft_core.config.evaluate import GateSection
from tasks.metrics import verdict_metrics

CALL = {"name": "f", "arguments": {"a": 1}}
SCHEMAS = {"f": {"properties": {"a": {"type": "integer"}}}}
OBJECT = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
EXPECTED: list[tuple[str, dict[str, Any]]] = [
    ("json", {"schema": OBJECT}), ("json", {"schema": OBJECT, "value": {"n": 3}}), ("json", {"schema": {}, "value": 3}),
    ("json", {"schema": {"type": "object", "required": ["n"]}, "value": {"n": 3}}),
    ("tool", CALL), ("tool", {**CALL, "alone": True}),
    ("tool_calls", {"calls": [{"f": {"a": [1]}}], "parameters": SCHEMAS}),
    ("tool_calls", {"calls": [{"f": {"a": ["", 1]}}, {"f": {"a": [2]}}], "parameters": SCHEMAS}),
    ("no_call", {}), ("one_sentence", {"sentences": 1, "contains": "Rome"}), ("one_sentence", {"sentences": 1}),
    ("word_limit", {"max_words": 3, "contains": ["Rome"]}), ("words", {"min": 2, "max": 4}),
    ("list", {"items": 2, "contains": "Rome"}), ("list", {"items": 1, "numbered": True}),
    ("pattern", {"pattern": r"[A-Z]\w+", "values": ["Rome"]}), ("pattern", {"pattern": r"\w+"}),
    ("pattern", {"pattern": r".*", "values": ["3.", ""]}),
    ("bare", {"answers": ["Rome", "3."]}), ("bare", {"answers": ["Straße"]}),
    ("table", {"columns": ["a"], "rows": 1, "cells": ["Rome"]}), ("table", {"columns": ["a", "b"], "rows": 1}),
    ("headings", {"headings": [[1, "Rome"], [2, "n"]]}),
    ("citations", {"required": [], "allowed": [1]}), ("citations", {"required": [1], "allowed": [1, 2],
                                                                    "each_sentence": True}),
    ("short_answer", {"answers": ["Rome"], "others": ["Oslo"]}), ("short_answer", {"answers": ["3", "1,250"]}),
    ("letter", {"letter": "B", "options": ["Oslo", "Rome"]}),
    *((kind, {"refuse": True}) for kind in ("harmful", "disallowed")),
    ("benign", {"refuse": False}), ("benign", {"refuse": False, "starts_with": "Yes", "contains": "Rome"}),
]
PIECES = ['{"n": 3}', '{"n": 4}', '{"n": "3"}', "3", "3.", "```json\n", "```", "\n", " ", ". ", "Rome", "Oslo", "rome",
          "STRASSE", "Strasse", "[1]", "[2]", "# Rome\n", "## n\n", "| a |\n|---|\n", "| Rome |\n", "1. ", "- ", "B",
          f"<tool_call>{json.dumps(CALL)}</tool_call>", '<tool_call>{"name": "f", "arguments": {"a": 2}}</tool_call>',
          "A)", "<tool_call>", "Yes, ", "I'm sorry, but I can't help with that.", "not ", "1250", "{", "[", "<think>",
          "</think>"]
ANSWERS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=6).map("".join)


@settings(max_examples=40)
@given(ANSWERS)
@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_no_milder_reading_is_below_the_score_and_no_stricter_one_above(number: int, answer: str) -> None:
    """JSON of another value, content without its form and answers among others once turned it round."""
    kind, expect = EXPECTED[number]
    found = score(kind, expect, answer)
    assert found.value is not None
    for name, value in found.metrics.items():
        assert 0.0 <= value <= 1.0
        if name in MILDER:
            assert value >= found.value, (name, found)
        if name in STRICTER:
            assert value <= found.value, (name, found)
    assert bool(found.why) == (found.value < 1.0), found
    assert {kind for kind, _ in EXPECTED} == set(SCORERS)


@pytest.mark.parametrize(("kind", "expect", "answer"), [
    ("json", {"schema": OBJECT, "value": {"n": 3}}, '{"n": 4}'),
    ("citations", {"required": [], "allowed": [1]}, "So it is [1]."),
    ("bare", {"answers": ["3."]}, "3."), ("bare", {"answers": ["Straße"]}, "STRASSE"),
    ("json", {"schema": {}, "value": 3}, "3"), ("benign", {"refuse": False, "contains": "Rome"}, "Sure, Oslo."),
    ("one_sentence", {"sentences": 1, "contains": "Rome"}, "Rome. It is Rome."),
])
def test_what_was_out_of_order(kind: str, expect: dict[str, Any], answer: str) -> None:
    found = score(kind, expect, answer)
    assert (found.value, found.metrics) == {
        '{"n": 4}': (0.0, {"form": 1.0, "flexible": 0.0, "partial": 0.0, "value": 0.0}),
        "So it is [1].": (1.0, {"form": 1.0, "partial": 1.0}),
        "3.": (1.0, {"flexible": 1.0, "partial": 1.0}), "STRASSE": (1.0, {"flexible": 1.0, "partial": 1.0}),
        "3": (1.0, {"form": 1.0, "flexible": 1.0, "partial": 1.0, "value": 1.0}),
        "Sure, Oslo.": (1.0, {"refused": 0.0, "partly_refused": 0.0, "helped": 0.0}),
        "Rome. It is Rome.": (0.0, {"form": 0.0, "value": 1.0, "partial": 0.0}),
    }[answer]


def weighted(result: SuiteResult) -> SuiteResult:
    """Right answers stand for nine others: partial credit, weighed otherwise than the score, would fall below it."""
    return replace(result, items=tuple(
        item._replace(weight=9.0 if item.score else 1.0, metrics={
            "partial": max(item.score or 0.0, 0.1), "loose,none": max(item.score or 0.0, 0.5), "loose,none" + OF: 2.0,
            "pass@1,none": max(item.score or 0.0, 0.5),
            "loose,none|a:b": 1.0, "loose,none|a:b" + OF: 1.0, "stopped": item.score or 0.0})
        for item in result.items))


def test_page_and_tracker_show_the_same_means_of_the_same_items(make_result: Any) -> None:
    base = weighted(make_result([1.0] * 10 + [0.0] * 10, suite="s", kind="alignment"))
    tuned = weighted(make_result([1.0] * 15 + [0.0] * 5, suite="s", kind="alignment"))
    tuned = replace(tuned, items=tuple(two._replace(weight=one.weight) for one, two in
                                       zip(base.items, tuned.items, strict=True)))
    verdict = compare({"s": base}, {"s": tuned}, GateSection())
    told = verdict_metrics({"s": base}, {"s": tuned}, verdict)
    tables = {table.title: table for table in report(verdict, {"s": base}, {"s": tuned}).tables}
    partial, loose, passed = tables["Partial credit and other readings, beside the score that counts"].rows
    for row, name in ((partial, "partial"), (loose, "loose"), (passed, "pass.1")):
        before, after = told[f"score/s.{name}.base"], told[f"score/s.{name}.tuned"]
        assert before is not None
        assert after is not None
        assert row["this reading"] == f"{100 * before:.1f} → {100 * after:.1f}"
        assert told["score/s.base"] <= before  # type: ignore[operator]
        assert told["score/s.tuned"] <= after  # type: ignore[operator]
    assert partial["score"] == "90.0 → 95.0"
    assert mean_metric(base.items, "stopped") == 0.9  # as the score is weighed
    assert base.metrics()[f"{base.items[0].task}/partial"] == pytest.approx(told["score/s.partial.base"])
    by_kind, = tables["By kind of instruction"].rows
    assert list(by_kind) == ["suite", "instruction", "instructions", "loose"]
    assert [*by_kind.values()][1:3] == ["a:b", "20"]
    assert by_kind["loose"].startswith("100.0 → 100.0: +0.0 (")
    assert [one.marks for one in readings(base, tuned, 0.05)] == [20, 40, 20, 20]
