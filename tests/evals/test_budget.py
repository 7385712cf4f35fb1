"""Batches by memory: what is free, what the user says, and what is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from eval_suites.asking.run import evaluate
from eval_suites.backends import budget
from eval_suites.backends.budget import LEAST, MOST, Budget, Smaller, fitting
from eval_suites.results import read_results
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from sft_core.errors import EvalError

GIB = 2**30


@pytest.fixture(scope="module")
def model() -> Any:
    return LlamaForCausalLM(LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=4, head_dim=16,
                                        num_attention_heads=4, num_key_value_heads=2, vocab_size=32))


def test_a_batch_is_what_free_memory_holds(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 layers of 32 wide keys and values, twice, and 16 × 64 + 4 × 128 numbers on the way: 8,192 bytes a token."""
    free = iter((0, GIB // 8, GIB // 4, 100 * GIB, 100 * GIB))
    monkeypatch.setattr(budget, "free_bytes", lambda _: next(free))
    assert [fitting(model) for _ in range(4)] == [LEAST, 4096, 8192, MOST["cpu"]]
    assert Budget(model, None).tokens == MOST["cpu"]
    assert Budget(model, 77).tokens == 77


def test_only_a_lack_of_memory_halves(model: Any) -> None:
    held = Budget(model, 1000)
    with pytest.raises(RuntimeError, match="shapes"), held.spending(4, 800):
        raise RuntimeError("shapes do not match")
    with pytest.raises(Smaller), held.spending(4, 800):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
    assert held.tokens == 400
    with pytest.raises(EvalError, match="one input of 90 tokens does not fit"), held.spending(1, 90):
        raise MemoryError


@pytest.mark.parametrize("asked", [None, 700])
def test_results_say_it_and_do_not_hang_on_it(model_folder: Path, tmp_path: Path, asked: int | None) -> None:
    section = EvalSection(suites=("perplexity_prose",), limit=2, batch_tokens=asked)
    found, = (evaluate(ModelSection(path=str(model_folder)), section.suites, section=one, template=None, mirror=None,
                       out=tmp_path)["perplexity_prose"] for one in [section])
    assert found.batch_tokens == (asked or found.batch_tokens) >= 700
    again = read_results(tmp_path, "perplexity_prose")
    assert again.batch_tokens == found.batch_tokens
    other = section.model_copy(update={"batch_tokens": 900})
    kept = evaluate(ModelSection(path=str(model_folder)), section.suites, section=other, template=None, mirror=None,
                    out=tmp_path)["perplexity_prose"]
    assert kept.batch_tokens == found.batch_tokens  # found, not measured again
