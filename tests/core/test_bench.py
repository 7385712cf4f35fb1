"""The training bench at its tiniest: both engines step on the same rows, and every number has its meaning."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from bench import gpu, rounding, train, train_child
from bench.train_data import SHAPES, lengths, write_model, write_prepared
from bench.train_spec import Spec
from bench.train_where import PARTS, part_of, parts
from sft_core.config.train import TrainSection
from sft_core.data.examples import load_examples
from sft_core.templates.render import IGNORE
from sft_core.tiny.paths import BASE_FOLDER

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


def test_the_script_for_an_accelerator_goes_through_all_that_fails(tmp_path: Path) -> None:
    """With memory that runs out in one variant, and with TRL's version not to be had."""
    names = ["full sft", "full by trl", "full by trl, liger", "full + replay", "lora sft", "lora by trl",
             "lora + kl exact"]
    told = gpu.main(["--smoke", "--json", str(tmp_path / "gpu.json"), "--only", *names])
    assert told == json.loads((tmp_path / "gpu.json").read_text())
    rows = told["variants"]
    assert rows.keys() == set(names)
    assert rows["full by trl, liger"].keys() in ({"left_out"}, rows["full sft"].keys())
    assert "TrainingError: no memory left in step 1" in rows["full + replay"]["error"]
    measured = {name for name, row in rows.items() if row.get("tokens_per_s", 0) > 0}
    assert measured >= set(names) - {"full by trl, liger", "full + replay"}
    assert told["step_ratios"].keys() == measured - {"full sft", "lora sft"}, "against our plain one of the same method"
    assert told["setup"]["trl"] is None
    assert rows["full by trl"]["loss"] == pytest.approx(rows["full sft"]["loss"], abs=1e-4)


def test_what_a_budget_has_no_time_for_is_left_out_and_the_rest_is_written(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    told = gpu.main(["--smoke", "--json", str(file), "--only", "full sft", "full + kl exact", "--budget-s", "0.1"])
    assert json.loads(file.read_text()) == told
    assert told["variants"]["full sft"]["tokens_per_s"] > 0, "the first one always is"
    assert "of the budget" in told["variants"]["full + kl exact"]["left_out"]


def test_flops_of_a_step_are_those_of_the_formula() -> None:
    """6 N T, of Llama's own count of weights, when attention is left out and every token is trained."""
    spec = Spec("native", Path(), Path(), Path(), 512, 512, True, True, 1, 1)
    short, long = (gpu.work(NANO, spec, tokens, tokens) for tokens in (1_000.0, 2_000.0))
    assert long.needed == pytest.approx(2 * short.needed)
    assert short.needed == short.with_head_everywhere
    weights = sum(p.numel() for n, p in _llama(NANO).named_parameters() if "norm" not in n)
    drawn = lengths(20_000, seed=0)
    squares = 1_000.0 * sum(n * n for n in drawn) / sum(drawn)
    assert short.needed - 6 * NANO.layers * NANO.width * squares == pytest.approx(6 * weights * 1_000.0)
    exact = gpu.work(NANO, replace(spec, kl="exact"), 1_000.0, 1_000.0)
    assert exact.needed == pytest.approx(short.needed * 8 / 6)


def _llama(shape: Any) -> Any:
    config = LlamaConfig(vocab_size=shape.vocabulary, hidden_size=shape.width, num_hidden_layers=shape.layers,
                         intermediate_size=shape.width * 8 // 3 // 32 * 32, tie_word_embeddings=True,
                         num_attention_heads=shape.width // shape.head)
    return LlamaForCausalLM(config)


def test_every_form_of_the_weights_is_written_and_counted(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {number}.", "output": f"It is {number}."} for number in range(16)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    shutil.copytree(BASE_FOLDER, tmp_path / "base")
    weights = {name: weight.bfloat16() for name, weight in load_file(BASE_FOLDER / "model.safetensors").items()}
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    forms = rounding.Forms(tmp_path / "base")
    section = TrainSection.model_validate({"rows_per_step": 2, "optim": {"lr": 1e-4}})
    stored = rounding.fine_tune(forms, str(tmp_path / "rows.json"), section, max_tokens=128).stored
    assert list(stored.tried) == ["bfloat16, nearest", "bfloat16, stochastic", "float32"]
    nearest, stochastic, whole = forms.seen
    assert nearest["bytes"] == stochastic["bytes"] < whole["bytes"]
    assert nearest["weights_changed"] < stochastic["weights_changed"] < whole["weights_changed"] <= 1
