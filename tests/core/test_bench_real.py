"""The bench of the genuine model: its arithmetic, on a model that is made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn
from transformers import LlamaForCausalLM

from bench import real
from bench.train_data import SHAPES, write_model


def test_products_of_a_step_are_six_per_weight_and_token(tmp_path: Path) -> None:
    write_model(tmp_path / "model", SHAPES["nano"])
    training = real.Training(tmp_path / "model", tmp_path, quick=True)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    body = sum(m.weight.numel() for m in model.model.modules() if isinstance(m, nn.Linear))
    found = training._flop({"tokens": 100, "trained_tokens": 40})
    assert found == 6 * (100 * body + 40 * model.lm_head.weight.numel())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_both_engines_take_about_the_same_tokens(method: str, tmp_path: Path) -> None:
    write_model(tmp_path / "model", SHAPES["nano"])
    training = real.Training(tmp_path / "model", tmp_path, quick=True)
    for engine in ("native", "trl"):
        for way in real.WAYS[engine, method]:
            spec = training.spec(engine, method, way)
            tokens = spec.rows_per_step * (real.ROW_TOKENS if way.pack else 93)
            assert abs(tokens - real.BATCH_TOKENS[method]) < 0.3 * real.BATCH_TOKENS[method]
            assert spec.rows_per_step % spec.micro_rows == 0
        assert real.BEST[engine, method] in real.WAYS[engine, method]


def test_without_the_model_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere is not there: `make real` fetches it"):
        real.main(["--model", str(tmp_path / "nowhere")])
