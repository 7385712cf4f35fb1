"""A base at the floor has nothing to lose, one at the top nothing to win; chance comes from the number of choices."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval_suites.asking.opened import ChatItems
from eval_suites.backends.generate import Answer
from eval_suites.results import SuiteResult, read_results, write_results
from eval_suites.suites.chat_item import BadRow, chat_item
from eval_suites.suites.items import read_items
from eval_suites.suites.suite import suite
from eval_suites.verdict.power import Terms, foreseen
from eval_suites.verdict.room import room
from eval_suites.verdict.verdict import compare
from sft_core.config.evaluate import EvalSection, GateSection

Make = Callable[..., SuiteResult]
GATE = GateSection(max_tax=1.0)


def choices(result: SuiteResult, chance: float | None) -> SuiteResult:
    return replace(result, items=tuple(item._replace(chance=chance) for item in result.items))


def test_a_base_that_can_do_nothing_has_nothing_to_lose(make_result: Make) -> None:
    """It said that about 119 more items would settle it."""
    nothing = make_result([0.0] * 40)
    verdict = compare({"facts": nothing}, {"facts": nothing}, GATE)
    said = "the base scores 0.0 and guessing gives 0.0: it has nothing to lose here"
    assert verdict.suites[0].said == f"undecided: {said}"
    assert (verdict.gate, said in verdict.reason, "more items" in verdict.reason) == ("undecided", True, False)
    assert foreseen(nothing, Terms(GATE)) == f"facts: {said}"
    proved = compare(*({"facts": make_result([0.0] * 2000)} for _ in range(2)), GATE)
    assert (proved.gate, proved.suites[0].outcome, proved.suites[0].notes) == ("pass", "no_worse", (said,))


def test_chance_is_a_floor_and_a_loss_below_it_is_still_one(make_result: Make) -> None:
    quarter = choices(make_result([1.0] * 12 + [0.0] * 28), 0.25)
    assert room(quarter, 0.05) == "the base scores 30.0 and guessing gives 25.0: it has nothing to lose here"
    assert room(choices(quarter, 0.0), 0.05) == ""
    assert room(choices(make_result([1.0] * 24 + [0.0] * 16), 0.25), 0.05) == ""
    able, broken = choices(make_result([1.0] * 400 + [0.0] * 1200), 0.25), make_result([0.0] * 1600)
    worse = compare({"facts": able}, {"facts": broken}, GATE)
    assert (worse.gate, worse.suites[0].outcome) == ("fail", "worse")


def test_a_top_score_leaves_nothing_to_win(make_result: Make) -> None:
    top = make_result([1.0] * 30, suite="format", kind="alignment")
    assert compare({"format": top}, {"format": top}, GATE).suites[0].said == (
        "not proved: the base scores 100.0: nothing is left to win here")
    assert room(make_result([1.0] * 30), 0.05) == ""


def test_chance_is_one_over_the_choices_and_is_kept(make_result: Make, tmp_path: Path) -> None:
    items = read_items(suite("robustness"))
    assert {item.chance for item in items if item.kind == "letter"} <= {1 / n for n in range(2, 9)}
    assert {item.chance for item in items if item.kind != "letter"} == {0.0}
    kept = choices(make_result([1.0, 0.0]), 0.2)
    write_results(tmp_path, kept)
    assert read_results(tmp_path, kept.suite).chance == pytest.approx(0.2)


def test_chance_under_a_scorer_of_ones_own_is_said_or_unknown(make_result: Make, tmp_path: Path) -> None:
    """Each item says it, or nobody knows whether its base had something to lose."""
    unknown = choices(make_result([1.0] * 12 + [0.0] * 28), None)
    write_results(tmp_path, unknown)
    assert read_results(tmp_path, unknown.suite).chance is None
    assert room(unknown, 0.05) == ""
    told = compare({"facts": unknown}, {"facts": unknown}, GATE).suites[0].notes
    assert "what guessing scores is not known" in told[0]
    assert room(choices(make_result([0.0] * 40), None), 0.05).endswith("gives 0.0: it has nothing to lose here")


def test_the_chance_of_an_item_under_ones_own_scorer_is_what_its_row_says(tmp_path: Path) -> None:
    row = {"id": "a", "kind": "letter", "cluster": "a", "messages": [{"role": "user", "content": "A or B?"}],
           "expect": {"options": {"A": "x", "B": "y"}, "answer": "A"}}
    for name, scorer in (("plain", None), ("own", "own.py:check")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "b", "chance": 0.1}))
        (tmp_path / f"{name}.yaml").write_text(json.dumps({
            "about": "Mine.", "kind": "capability", "engine": "generate", "items": f"{name}.jsonl",
            "max_new_tokens": 8} | ({"scorer": scorer} if scorer else {})))
    (tmp_path / "own.py").write_text("from eval_suites.scorers.base import Score\n"
                                     "def check(expect, answer): return Score(1.0, {}, '')\n")

    class Silent:
        def answers(self, items: Any, longest: int) -> Any:
            return ((place, Answer("A", True)) for place in range(len(items)))

    def chances(name: str) -> list[float | None]:
        subject: Any = SimpleNamespace(answerer=Silent())
        path = str(tmp_path / f"{name}.yaml")
        taken = ChatItems(suite(path), subject, EvalSection(suites=(path,))).take({"a", "b"})
        return [item.chance for item in taken.items]

    assert (chances("plain"), chances("own")) == ([0.5, 0.1], [None, 0.1])
    with pytest.raises(BadRow, match="chance is 1; it is the score that guessing gives"):
        chat_item({**row, "chance": 1})
