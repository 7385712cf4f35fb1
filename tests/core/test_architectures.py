"""One contract for architectures: loss and gradients are those of transformers' own model on each example alone.

Every model is made on the spot from a config: 2 layers or so, 64 tokens, random weights. Examples are longer than its
windows and chunks of 16.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from sft_core.config.data import ModelSection
from sft_core.config.train import LoraSection, TrainSection
from sft_core.conversation import Origin
from sft_core.errors import ModelError
from sft_core.model.lora import apply_lora
from sft_core.model.proof import Rows, choose_backend
from sft_core.templates.render import IGNORE, Example
from sft_core.train.objective import Term
from sft_core.train.pack import collate
from sft_core.train.policy import Policy
from sft_core.train.shape import architecture_of

Way = Literal["segments", "mask", "alone"]
NEAR = 1e-5  # relative, in float32
CPU = torch.device("cpu")
LENGTHS = (40, 7, 33, 2, 18)
WINDOW = {"sliding_window": 16}
SLIDING = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
SSM = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}
MLA = {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
       "v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
       "first_k_dense_replace": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.2,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Case(NamedTuple):
    """An architecture: how its packed examples can be kept apart, and its settings besides `SHAPE`."""

    packed: tuple[Way, ...]
    settings: dict[str, Any] = {}
    without: tuple[str, ...] = ()  # settings of SHAPE that its config does not take


LINE: tuple[Way, ...] = ("segments", "mask")
MASK: tuple[Way, ...] = ("mask",)
NEVER: tuple[Way, ...] = ()
CASES = {
    "llama": Case(LINE), "mistral": Case(LINE, WINDOW), "qwen2": Case(LINE, {**SLIDING, "use_sliding_window": True}),
    "qwen3": Case(LINE, {**SLIDING, "use_sliding_window": True}), "gemma": Case(LINE),
    "gemma2": Case(MASK, {**SLIDING, "query_pre_attn_scalar": 8}),  # caps scores
    "gemma3_text": Case(LINE, {**SLIDING, "query_pre_attn_scalar": 8}),
    "gemma3n_text": Case(LINE, {
        **WINDOW, "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0,
        "intermediate_size": [48, 48], "activation_sparsity_pattern": [0.0, 0.0], "altup_num_inputs": 2,
        "laurel_rank": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64}),
    "gemma4_text": Case(LINE, {
        **SLIDING, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "num_kv_shared_layers": 0}),
    "phi": Case(LINE), "phi3": Case(LINE, WINDOW), "gpt2": Case(LINE), "gpt_neox": Case(LINE),
    "gptj": Case(LINE, {"rotary_dim": 8}), "opt": Case(LINE, {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt_neo": Case(LINE, {"attention_types": [[["global", "local"], 1]], "window_size": 16}),
    "falcon": Case(MASK, {}, ("head_dim",)), "bloom": Case(NEVER),
    "mpt": Case(MASK, {"max_seq_len": 128}), "xglm": Case(MASK, {"ffn_dim": 48}),
    "cohere2": Case(LINE, {**SLIDING, "logit_scale": 0.5}), "granite": Case(LINE, {"logits_scaling": 4.0}),
    "olmo2": Case(LINE), "smollm3": Case(LINE), "stablelm": Case(MASK), "nemotron": Case(MASK),
    "starcoder2": Case(LINE, WINDOW),
    "bart": Case(NEVER, {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
                         "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "init_std": 0.2}),
    # mixtures of experts
    "mixtral": Case(LINE, {**LOCAL_MOE, **WINDOW}), "qwen2_moe": Case(LINE, MOE), "qwen3_moe": Case(LINE, MOE),
    "olmoe": Case(LINE, MOE), "phimoe": Case(MASK, {**LOCAL_MOE, **WINDOW}), "granitemoe": Case(LINE, LOCAL_MOE),
    "gpt_oss": Case(MASK, {**LOCAL_MOE, **SLIDING}),  # sinks
    "deepseek_v3": Case(LINE, MLA, ("head_dim",)), "jetmoe": Case(LINE, {"num_local_experts": 4, "kv_channels": 8}),
    "llama4_text": Case(MASK, {**LOCAL_MOE, "attention_chunk_size": 16, "intermediate_size_mlp": 48,
                               "layer_types": ["chunked_attention", "full_attention"]}),
    # a state carried from token to token
    "mamba": Case(NEVER, {"state_size": 8}), "mamba2": Case(NEVER, {
        "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16}),
    "falcon_h1": Case(NEVER, {**SSM, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5}),
    "jamba": Case(NEVER, {**MOE, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
                          "use_mamba_kernels": False, "mamba_d_state": 8, "mamba_dt_rank": 4}),
    "lfm2": Case(NEVER, {"layer_types": ["conv", "full_attention"]}),
    "recurrent_gemma": Case(NEVER, {"num_hidden_layers": 3, "attention_window_size": 16, "lru_width": 32}),
    "qwen3_next": Case(NEVER, {
        **MOE, "shared_expert_intermediate_size": 32, "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}),
    "rwkv": Case(NEVER, {"attention_hidden_size": 32}),
}
LORA = ("llama", "mistral", "gemma2", "gpt2", "mixtral", "qwen3_moe", "mamba", "falcon_h1")
TARGETS = {"gpt2": ("c_attn", "c_proj"), "mamba": ("in_proj", "x_proj"), "falcon_h1": ("q_proj", "v_proj", "in_proj")}


def make_tiny(name: str) -> Any:
    """One of `CASES` with random weights, in float32."""
    case, known = CASES[name], CONFIG_MAPPING[name]
    fields = set(known().to_dict()) | set(known.attribute_map)
    shape = {key: value for key, value in SHAPE.items() if key in fields and key not in case.without}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(known(**{**shape, **case.settings})).float().eval()


def _adapted(model: Any, name: str) -> Any:
    wrapped = apply_lora(model, LoraSection(rank=4, target_modules=TARGETS.get(name, "all-linear")), 0).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in wrapped.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape, generator=noise)
    return wrapped


def _model(name: str, lora: bool) -> Any:
    return _adapted(make_tiny(name), name) if lora else make_tiny(name)


def _example(length: int) -> Example:
    ids = torch.randint(4, 64, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    trained = [token if at % 5 else IGNORE for at, token in enumerate(ids)]
    return Example(ids, [*trained[1:], IGNORE], Origin("s", "f", length))


EXAMPLES = [_example(length) for length in LENGTHS]
PACKED, ALONE = Rows(packed=True, longest=40), Rows(packed=False, longest=40)


def _gradients(model: Any, loss: Tensor) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1)
                      for g, p in zip(found, parameters, strict=True)]).double()


@cache
def _own(name: str, lora: bool) -> tuple[float, Tensor]:
    """Loss and gradients by the unmodified model: each example alone, a masked cross-entropy."""
    model = _model(name, lora)
    loss = torch.zeros(())
    for example in EXAMPLES:
        logits = model(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0]
        loss = loss + F.cross_entropy(logits, torch.tensor(example.targets), ignore_index=IGNORE, reduction="sum")
    return loss.item(), _gradients(model, loss)


def _contract(name: str, way: Way, lora: bool) -> None:
    model = _model(name, lora)
    rows = ALONE if way == "alone" else PACKED
    backend = choose_backend(model, "auto" if way == "alone" else way, CPU, torch.float32, rows)
    policy = Policy(model, backend=backend)
    a, b, c, d, e = EXAMPLES
    laid = [[a], [b], [c], [d], [e]] if way == "alone" else [[a, b], [d, c, e]]
    got = policy(policy.micro(collate(laid, 56, 2)), Term()).loss
    loss, gradients = _own(name, lora)
    assert abs(got.item() - loss) <= NEAR * loss
    apart = _gradients(model, got) - gradients
    assert float(apart.norm()) <= NEAR * float(gradients.norm())


@pytest.mark.parametrize("way", ["segments", "mask", "alone"])
@pytest.mark.parametrize("name", CASES)
def test_an_architecture_is_trained_as_it_is_or_refused(name: str, way: Way) -> None:
    if way == "alone" or way in CASES[name].packed:
        _contract(name, way, lora=False)
        return
    with pytest.raises(ModelError, match=rf"cannot be trained on packed rows: with model.attention: {way} it (lets "
                                         r"examples see|computes something else|cannot be called).* data.pack: false"):
        choose_backend(make_tiny(name), way, CPU, torch.float32, PACKED)


@pytest.mark.parametrize("name", LORA)
def test_adapters_on_an_architecture(name: str) -> None:
    for way in (*CASES[name].packed, "alone"):
        _contract(name, way, lora=True)


@pytest.mark.parametrize("name", CASES)
def test_what_an_architecture_takes_can_be_forecast(name: str, tmp_path: Path) -> None:
    model = make_tiny(name)
    model.config.save_pretrained(tmp_path)
    section = TrainSection.model_validate({"optim": {"lr": 1e-3}})
    found = architecture_of(ModelSection(path=str(tmp_path)), section, None, grown=False)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.hidden == 32
    assert found.head_size <= 512
    assert found.intermediate > 0
