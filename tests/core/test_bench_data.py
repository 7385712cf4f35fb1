"""The bench of the work on data at its tiniest: every number has its meaning."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import data, data_child
from bench.data import GOALS, Bench, Plan, Where, by_change, slope, table
from bench.data_rows import rows_of, write_rows
from sft_core.data.curate.recall import Recall
from sft_core.data.shards import rows_in

NANO = Plan({"one": 60, "two": 120}, 60, 100, 30, 4, ("gsm8k",))
STEPS = {"read", "normalise", "quality", "sketch_prompts", "sketch_conversations", "personal", "curate", "prepare"}


class TestRows:
    def test_the_same_rows_for_the_same_seed_and_others_for_another(self) -> None:
        assert list(rows_of(50, 1)) == list(rows_of(50, 1)) != list(rows_of(50, 2))

    def test_lengths_are_alpacas_and_duplicates_are_planted(self) -> None:
        rows = [f"{row['instruction']} {row['output']}" for row in rows_of(4_000, 0)]
        assert 55 < sum(len(row.split()) for row in rows) / len(rows) < 64
        assert 0.01 < sum(times - 1 for times in Counter(rows).values()) / len(rows) < 0.03
        assert 0.005 < sum("@" in row for row in rows) / len(rows) < 0.015


def test_duplicates_are_those_that_were_planted(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 600, 0)
    (tmp_path / "items.json").write_text("[]")
    files = {"files": [str(tmp_path / "rows.jsonl")], "items": str(tmp_path / "items.json"), "workers": 1}
    assert data_child.step(str(tmp_path / "curation"), **files)["name"] == "read"
    shards = next((tmp_path / "curation" / "read").glob("*/"))
    assert rows_in(shards) == 600
    found = data_child.dedup(str(shards), str(tmp_path / "dedup"), 1)
    assert 12 < found["gone"] < 35  # 30 planted, of which the shortest are below the threshold
    assert found["peak_gb"] > 0.05
    against = data_child.against(str(shards), 300)
    assert against["rows"] == 300
    assert abs(against["gone"]["ours"] - against["gone"]["datasketch"]) < 10
    assert against["ratio"] == against["seconds"]["datasketch"] / against["seconds"]["ours"]


def test_every_goal_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(what: str, **arguments: Any) -> dict[str, Any]:
        assert json.loads(json.dumps(arguments)) == arguments  # as it travels
        return data_child.DO[what](**arguments)

    monkeypatch.setattr(data, "run", here)
    (tmp_path / "work").mkdir()
    bench = Bench(Where(tmp_path / "work", tmp_path / "nothing here"), NANO, 1)
    for part in (bench.decontamination, bench.personal, bench.alpaca, bench.sizes):
        part()
    assert set(bench.details["steps"]["two"]) >= STEPS
    assert all(each["rows_per_s"] > 0 and each["peak_gb"] > 0.05 for each in bench.details["steps"]["two"].values())
    assert bench.keys["decontamination_recall"]["as it is"] == 1.0
    assert bench.keys["decontamination_false_positive_rate"] == 0.0
    assert min(bench.keys["pii_f1"].values()) > 0.95
    assert bench.keys["curate_alpaca_s"] is None
    renamed = {key.replace("_one_", "_100k_").replace("_two_", "_1m_"): value for key, value in bench.keys.items()}
    assert {*renamed, "first_step_vs_tokenizer"} >= set(GOALS)
    assert "scaling_exponent" in table(bench.keys)


def test_a_measurement_in_a_process_of_its_own_tells_why_it_failed() -> None:
    with pytest.raises(SystemExit, match="KeyError: 'nothing'"):
        data_child.run("nothing")


def test_the_exponent_is_that_of_the_powers() -> None:
    assert slope({10: 3.0, 100: 30.0, 1_000: 300.0}) == pytest.approx(1.0)
    assert slope({10: 1.0, 1_000: 1e4}) == pytest.approx(2.0)


def test_recall_is_of_all_suites_together() -> None:
    assert by_change([Recall("a", "x", 3, 3, 0), Recall("b", "x", 1, 0, 0), Recall("b", "y", 2, 1, 0)]
                     ) == {"x": 0.75, "y": 0.5}
