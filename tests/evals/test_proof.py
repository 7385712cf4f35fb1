"""Whatever a model remembers, and however its code does it: the numbers are those of the model itself."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.functional import softmax
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from eval_suites.backends import proof
from eval_suites.backends.contract import Continuation, Generation, Prompt, Stops
from eval_suites.backends.local import Local
from sft_core.errors import EvalError

SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.4, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": None}
DECODER = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "init_std": 0.4}


class Case(NamedTuple):
    """An architecture: how it may be read, whether rows are continued together, and its settings besides SHAPE."""

    reading: proof.Reading
    continues: bool
    settings: dict[str, Any]


CASES = {
    "qwen2": Case("shared", True, {}),
    "gpt_oss": Case("shared", True, {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8,
                                     "sliding_window": 16}),
    "falcon_h1": Case("shared", True, {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1,
                                       "mamba_chunk_size": 16, "mamba_d_ssm": 64}),
    # forgets its state when several tokens come at once
    "jamba": Case("whole", True, {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
                                  "use_mamba_kernels": False, "mamba_d_state": 8, "mamba_dt_rank": 4}),
    # its cache cannot be cut
    "minimax": Case("whole", False, {"layer_types": ["linear_attention", "full_attention"], "block_size": 16,
                                     "num_local_experts": 2, "head_dim": 8}),
    # caches of another name
    "mamba2": Case("whole", False, {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16}),
    "recurrent_gemma": Case("whole", False, {"num_hidden_layers": 3, "attention_window_size": 16, "lru_width": 32}),
    # counts positions by itself
    "bart": Case("whole", False, DECODER),
    # more than a head behind the last states
    "modernbert-decoder": Case("alone", False, {"head_dim": 8}),
}


def make(name: str) -> Any:
    known = CONFIG_MAPPING[name]
    fields = {**{key: value for key, value in SHAPE.items() if key in {*known().to_dict(), *known.attribute_map}},
              **CASES[name].settings}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(known(**fields), experts_implementation="eager").double().eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def ids(draw: random.Random, count: int) -> tuple[int, ...]:
    return tuple(draw.choices(range(3, 64), k=count))


def asked() -> list[Continuation]:
    draw = random.Random(0)
    shots = ids(draw, 60)
    found = [Continuation(shots + ids(draw, 17 + n), ids(draw, 1 + n % 3)) for n in range(4)]
    return found + [Continuation(ids(draw, n), ids(draw, 2)) for n in (1, 30)]


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_numbers_are_the_models_own(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, case = make(name), CASES[name]
    proof._told.clear()
    local = Local(model, 2000)
    found = dict(local.likelihoods(asked()))
    for place, (context, continuation) in enumerate(asked()):
        logprobs = model(torch.tensor([context + continuation[:-1]])).logits[0].log_softmax(-1)[-len(continuation):]
        want = sum(float(logprobs[i, token]) for i, token in enumerate(continuation))
        assert found[place].logprob == pytest.approx(want, abs=1e-4 if name == "falcon_h1" else 1e-6)
    prompts = [Prompt(one.context, 1 + place * 3) for place, one in enumerate(asked())]
    end = next(iter(local.generate(prompts[-1:], Stops(frozenset()))))[1].ids[4]
    said = dict(local.generate(prompts, Stops(frozenset({end}))))
    for place, (begin, longest, _) in enumerate(prompts):
        row = model.generate(torch.tensor([begin]), do_sample=False, max_new_tokens=longest, eos_token_id=end)
        want = tuple(row[0, len(begin):].tolist())
        assert said[place] == Generation(want[:-1] if want[-1] == end else want, want[-1] == end)
    (made,) = {(one.reading, one.continues) for one in local._proofs.values()}
    assert made == (case.reading, case.continues)
    assert sum(record.name == "sft" for record in caplog.records) == (case.reading != "shared") + (not case.continues)


def test_a_fault_that_shows_behind_a_window_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows of a model that forgets them when it reads behind kept keys."""
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=24)).double().eval()
    inner = model.model.forward

    def forward(**call: Any) -> Any:
        model.config.sliding_window = None if call.get("past_key_values") is not None else 24
        found = inner(**call)
        model.config.sliding_window = 24
        return found

    monkeypatch.setattr(model.model, "forward", forward)
    local = Local(model, 2000)
    assert [local._proof(longest).reading for longest in (24, 60)] == ["shared", "whole"]


def test_half_precision_is_proved_as_float32() -> None:
    """What is off by less than bfloat16 rounds, here a thousandth of the logits, is found all the same."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).bfloat16().eval()
    assert Local(model, 2000)._proof(20).reading == "shared"
    inner = model.model.forward

    def forward(**call: Any) -> Any:
        found = inner(**call)
        if call.get("past_key_values") is not None:
            found.last_hidden_state = found.last_hidden_state * 1.001
        return found

    model.model.forward = forward
    assert Local(model, 2000)._proof(20).reading == "whole"


def test_what_is_no_causal_model_is_refused() -> None:
    class Deaf(LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, **_: Any) -> Any:
            raise ValueError("You have to specify pixel_values")

    model = Deaf(LlamaConfig(**SHAPE)).eval()
    with pytest.raises(EvalError, match=r"Deaf cannot be called with token ids alone \(ValueError: You have to specify "
                                        r"pixel_values\); evaluate a causal language model"):
        list(Local(model, 2000).likelihoods(asked()))


def test_gaps_of_logits_that_bar_tokens() -> None:
    """Padding rows of a vocabulary are barred with the least number there is, which no difference may hide behind."""
    own = torch.tensor([[3.0, 2.0, torch.finfo(torch.float32).min, -torch.inf]])
    assert proof._gap(own, own) == 0.0
    assert proof._gap(own + torch.tensor([1.0, 0.0, 0.0, 0.0]), own) > 0.1
    assert proof._gap(own * torch.nan, own) == torch.inf
    assert proof._gap(own * torch.nan, own * torch.nan) == 0.0
    assert softmax(own, -1)[0, 2] == 0
