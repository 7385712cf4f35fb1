"""Every kind of run on CUDA beside the plain ones of test_walk.py: it learns, is stopped, goes on and ends the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from sft_core.config.train import TrainSection
from sft_core.errors import Interrupted
from sft_core.train import trl_engine
from sft_core.train.inputs import TrainInputs
from sft_core.train.trainer import train
from tests.cuda.ledger import Ledger
from tests.cuda.test_walk import StopAfter

LOW = {"weights": "bfloat16", "optim": {"name": "adamw_8bit", "lr": 3e-3}}
WEIGHED = {"train": 2.0, "replay": 0.5}
RUNS: dict[str, dict[str, Any]] = {
    "mixture of experts": {}, "bfloat16, moments in 8 bits": LOW,
    "dora, dropout, weighed": {"method": "lora", "lora": {"rank": 4, "dora": True, "dropout": 0.5},
                               "average": "example", "lambda_": 0.5, "beta": 0.1, "on": "both"},
}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A mixture of experts."""
    folder = tmp_path_factory.mktemp("mixture")
    torch.manual_seed(0)
    MixtralForCausalLM(MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, num_local_experts=4, initializer_range=0.2, bos_token_id=0,
        eos_token_id=0)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def _ends_the_same(run: Callable[..., Any], inputs: TrainInputs, section: TrainSection, folder: Path) -> None:
    whole = run(inputs, section, folder / "whole")
    with pytest.raises(Interrupted, match="after step"):
        run(inputs, section, folder / "halves", on_events=StopAfter(1), sync_every_s=0.0)
    rest = run(inputs, section, folder / "halves")
    assert rest.resumed_from
    assert (rest.final, rest.validation) == (whole.final, whole.validation)
    ends = [load_file(folder / half / "model" / "model.safetensors") for half in ("whole", "halves")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_the_same(name: str, inputs: Callable[..., TrainInputs], train_section: Callable[..., TrainSection],
                             mixture: Path, tmp_path: Path, device: Ledger) -> None:
    base = {"path": str(mixture)} if "experts" in name else {}
    given = replace(inputs(**base), weights=WEIGHED if "weighed" in name else {})
    _ends_the_same(train, given, train_section(**RUNS[name]), tmp_path)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.parametrize("fields", [{}, {"method": "lora"}])
def test_a_run_by_trl_ends_the_same(fields: Mapping[str, Any], inputs: Callable[..., TrainInputs],
                                    train_section: Callable[..., TrainSection], tmp_path: Path,
                                    device: Ledger) -> None:
    """One after the other in one process, each with the precision that it asks for."""
    _ends_the_same(trl_engine.train, inputs(), train_section(engine="trl", **fields), tmp_path)
