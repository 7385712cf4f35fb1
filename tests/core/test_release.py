"""Whoever has worked with a model on a GPU holds none of its memory afterwards: children are to train there."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from eval_suites.asking.again import floors
from eval_suites.asking.run import evaluate
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from sft_core.config.train import TrainSection
from sft_core.train.inputs import TrainInputs
from sft_core.train.reference import with_reference
from sft_core.train.trainer import train
from sft_core.train.trl_engine import train as train_by_trl

Section = Callable[..., TrainSection]
SUITES = EvalSection(suites=("tiny_mmlu",), limit=2, batch_tokens=400, floor_items=2)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As if a GPU were in use: models that are still there whenever torch is to give its memory back."""
    gc.collect()
    before = {id(one) for one in gc.get_objects() if isinstance(one, LlamaForCausalLM)}
    counts: list[int] = []

    def count() -> None:
        models = [one for one in gc.get_objects() if isinstance(one, LlamaForCausalLM)]
        counts.append(sum(id(one) not in before for one in models))

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", count)
    return counts


def test_an_evaluation_and_its_floor(left: list[int], tmp_path: Path) -> None:
    model = ModelSection(path="tiny", device="cpu")
    found = evaluate(model, ["tiny_mmlu"], section=SUITES, template=None, mirror=None, out=tmp_path)
    assert left == [0]
    floors(model, found, SUITES, None, None)
    assert left == [0] * 4, "each of three rounds"


def test_training_and_the_kept_base(left: list[int], train_inputs: TrainInputs, train_section: Section,
                                    tmp_path: Path) -> None:
    train(train_inputs, train_section(epochs=0.5), tmp_path / "own")
    assert left == [0]
    with_reference(train_inputs, train_section(beta=0.5, on="both", kl={"beta": 0.5, "on": "both",
                                                                        "reference": "cache"}), tmp_path / "kept")
    assert left == [0, 0]


def test_training_by_trl(left: list[int], train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    train_by_trl(train_inputs, train_section(engine="trl", epochs=0.5), tmp_path / "trl")
    assert left == [0]
