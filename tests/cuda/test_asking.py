"""An evaluation on CUDA, walked on the CPU: it finds what the CPU finds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from eval_suites.asking.run import ChatFormat, evaluate
from eval_suites.backends.contract import Continuation, Prompt, Stops
from eval_suites.backends.local import Local
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from tests.cuda.pseudo import pseudo_cuda

JINJA = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def _with_a_state() -> Any:
    """A model that carries a state from token to token, so that its rows cannot be joined to others."""
    torch.manual_seed(0)
    return Lfm2ForCausalLM(Lfm2Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, layer_types=["conv", "full_attention"]))


@pytest.mark.parametrize("state", [False, True])
def test_beginnings_are_shared_on_the_device(state: bool, make_llama: Callable[..., Any]) -> None:
    """Ends of several lengths behind one beginning, in batches that are padded at both ends."""
    draw = random.Random(0)
    begun = [tuple(draw.choices(range(4, 64), k=count)) for count in (24, 40)]
    texts = [begun[n % 2] + tuple(draw.choices(range(4, 64), k=draw.randint(2, 9))) for n in range(12)]

    def found(model: Any) -> tuple[dict[int, Any], dict[int, Any]]:
        local = Local(model, 400)
        proof = local._proof(64)
        assert (proof.reading, proof.continues) == ("shared", True), "the fast ways, proved"
        said = dict(local.generate([Prompt(text, 12) for text in texts], Stops(frozenset({0}))))
        return dict(local.likelihoods([Continuation(text, end) for text in texts for end in ((5,), (9, 9))])), said

    make = _with_a_state if state else make_llama
    ours, said = found(make().eval())
    with pseudo_cuda() as device:
        theirs, also = found(make().to("cuda").eval())
        assert "local.py:_scored" not in device.waits, "a batch of likelihoods is read at once, not one by one"
    assert also == said
    assert {place: one.logprob for place, one in theirs.items()} == pytest.approx(
        {place: one.logprob for place, one in ours.items()}, abs=1e-4)


def test_an_evaluation_finds_what_the_cpu_finds(tmp_path: Path) -> None:
    section = EvalSection(suites=("tiny_gsm8k", "tiny_mmlu", "refusal", "perplexity_prose"), limit=4, max_new_tokens=6,
                          batch_tokens=1024)

    def found(out: str) -> dict[str, list[tuple[float | None, str]]]:
        results = evaluate(ModelSection(path="tiny", precision="bfloat16"), section.suites, section=section,
                           template=ChatFormat(JINJA, ("<|im_end|>",)), mirror=None, out=tmp_path / out)
        assert all(out in result.backend for result in results.values())
        return {name: [(item.score, item.answer) for item in result.items] for name, result in results.items()}

    ours = found("cpu")
    with pseudo_cuda() as device:
        theirs = found("cuda")
        assert "local.py:_scored" not in device.waits, "a batch of likelihoods is read at once, not one by one"
    assert theirs == ours
