"""The training bench at its tiniest: both engines step on the same rows, and every number has its meaning."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from bench import train, train_child
from bench.train_data import SHAPES, lengths, write_model, write_prepared
from bench.train_spec import Spec
from bench.train_where import PARTS, part_of, parts
from sft_core.prepare import load_examples
from sft_core.render import IGNORE

NANO = SHAPES["nano"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    write_model(root / "model", NANO)
    write_prepared(root / "prepared", 60, NANO.vocabulary, seed=0)
    return root


def _serve(spec: Spec, orders: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a child process of this configuration answers to these orders, in this process."""
    answers = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["child", spec.to_json()])
    monkeypatch.setattr(sys, "stdin", io.StringIO(orders))
    monkeypatch.setattr(sys, "stdout", answers)
    train_child.main()
    return [json.loads(line) for line in answers.getvalue().splitlines()]


@pytest.mark.parametrize("pack", [True, False])
def test_both_engines_make_the_same_steps(pack: bool, folder: Path, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {}
    for engine in ("native", "trl"):
        spec = Spec(engine, folder / "model", folder / "prepared", tmp_path / engine, 512, 1024, pack, False, 2, 1)
        (tmp_path / engine).mkdir()
        _, first, second = _serve(spec, "run 1 0\nrun 2 0\nquit\n", monkeypatch)
        assert (len(first["steps"]), len(second["steps"])) == (1, 2)
        assert second["peak_bytes"] > 1e7
        steps[engine] = first["steps"] + second["steps"]
    for ours, its in zip(steps["native"], steps["trl"], strict=True):
        assert ours["loss"] == pytest.approx(its["loss"], abs=1e-5)
        assert (ours["tokens"], ours["trained_tokens"]) == (its["tokens"], its["trained_tokens"])
        assert min(ours["seconds"], its["seconds"]) > 0
    assert len({step["loss"] for step in steps["native"]}) == 3, "a step is to be another one than the step before"


def test_the_chats_have_alpacas_lengths_and_half_of_their_tokens_are_trained(folder: Path) -> None:
    drawn = sorted(lengths(20_000, seed=3))
    quantiles = [drawn[len(drawn) * share // 100] for share in (25, 50, 75, 99)]
    assert quantiles == pytest.approx([51, 77, 117, 318], rel=0.05)
    examples = load_examples(folder / "prepared" / "train.parquet")
    share = mean(sum(t != IGNORE for t in e.targets) / len(e.targets) for e in examples)
    assert share == pytest.approx(0.5, abs=0.05)
    assert all(t in (IGNORE, e.input_ids[i + 1]) for e in examples for i, t in enumerate(e.targets[:-1]))


def test_a_step_is_taken_apart_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec("native", folder / "model", folder / "prepared", tmp_path / "out", 512, 512, True, False, 1, 1)
    (tmp_path / "out").mkdir()
    answer = _serve(spec, "profile 1 0\nquit\n", monkeypatch)[1]
    found = parts(answer["profile"], NANO, answer["steps"][0]["seconds"])
    assert tuple(found) == PARTS
    assert all(found[part] > 0 for part in ("attention", "projections", "MLP", "head", "optimizer"))
    assert part_of("aten::mm", [[100, NANO.width], [NANO.width, NANO.vocabulary]], NANO) == "head"
    assert part_of("aten::mm", [[100, NANO.width], [NANO.width, NANO.width]], NANO) == "projections"


def test_packing_and_the_table(tmp_path: Path) -> None:
    bench = train.Bench(tmp_path, 1, train.QUICK._replace(packed_examples=2_000))
    bench.packing()
    assert bench.keys["pack_fill"] is not None
    assert 0.99 <= bench.keys["pack_fill"] <= 1.0
    names = ("speed_vs_trl_8k", "speed_vs_trl_49k", "rss_vs_trl_49k", "kl_exact_step_ratio", "replay_step_ratio",
             "first_step_vs_tokenizer")
    found = {**bench.keys, **dict.fromkeys(names, 1.25), "kl_cached_step_ratio": None,
             "details": {"where_8k": {}, "where_49k": {}}}
    lines = train.table(found).splitlines()
    assert len(lines) == 9
    assert any(line.startswith("kl_cached_step_ratio") and " - " in line for line in lines)
