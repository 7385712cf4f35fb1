"""Items of the published suites, planted and looked for in data of other origin: what is found, rightly and wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval_suites.asking.questions import eval_items
from sft_core.config.decontaminate import DecontaminateSection
from sft_core.data.curate.contamination import ItemFinder, counted, facts_of_texts
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.recall import recalls

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SECTION = DecontaminateSection()


def present(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"needs {DATA / name}")
    return DATA / name


def items_of(suite: str, folder: str, scratch: Path) -> list[EvalItem]:
    present(folder)
    return eval_items([suite], mirror=None, include_path=None, scratch=scratch, data_path=DATA)


@pytest.mark.parametrize(("suite", "folder", "left_out", "words"), [
    ("bfcl", "bfcl", 0.85, 0.85), ("xstest", "xstest", 0.45, 0.3), ("mt_bench", "fastchat", 0.85, 0.85)])
def test_planted_items_are_found(suite, folder, left_out, words, tmp_path):
    """Questions of XSTest have nine words; the twentieth part of the letters leaves few of them."""
    finder = ItemFinder(items_of(suite, folder, tmp_path))
    found = {one.change: one.found / one.planted for one in recalls(finder, [], SECTION, 0)}
    assert found["as it is"] > 0.96
    assert found["every eighth word left out"] > left_out
    assert found["other words, sentences turned"] > words


@pytest.mark.parametrize(("suite", "folder", "most"), [
    ("bfcl", "bfcl", 0.001), ("xstest", "xstest", 0.0005), ("advbench", "harmful_prompts", 0.0005)])
def test_other_data_holds_next_to_none(suite, folder, most, tmp_path):
    rows = [[str(row["instruction"]), str(row["output"])]
            for row in json.loads(present("alpaca_subset/dolly_3k.json").read_text(encoding="utf-8"))]
    finder = ItemFinder(items_of(suite, folder, tmp_path))
    assert sum(bool(counted(one, SECTION)) for one in facts_of_texts(rows, finder)) <= most * len(rows)


def test_instructions(tmp_path):
    """IFEval's prompts, which lm-eval takes from the hub."""
    rows = [json.loads(line) for line in present("ifeval/input_data.jsonl").read_text(encoding="utf-8").splitlines()]
    finder = ItemFinder([EvalItem("ifeval", str(row["key"]), row["prompt"]) for row in rows])
    found = {one.change: one.found / one.planted for one in recalls(finder, [], SECTION, 0)}
    assert {change: share for change, share in found.items() if share < 0.95} == {}
