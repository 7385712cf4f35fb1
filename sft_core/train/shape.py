"""The shape of a model with its adapters, from its config alone: nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.errors import ModelError
from sft_core.model.attention import decoder_of, layers_of, own_attention
from sft_core.model.held import low_weights
from sft_core.model.load import first_line, load_config
from sft_core.model.lora import apply_lora, new_token_modules
from sft_core.model.parts import divisible, front
from sft_core.model.proof import RAISED
from sft_core.model.reach import freeze, idle_modules
from sft_core.train.optim import hidden_matrices

FLOAT = 4
"""Bytes of a weight, a gradient and a moment: Adam has two for each parameter, Muon one."""
SMALL = 4096
"""Numbers of a tensor below which bitsandbytes keeps moments in float32."""


@dataclass(frozen=True)
class Architecture:
    """The shape of a model with its adapters."""

    parameters: int
    trained: int  # of these; what text does not reach is not
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int  # width of the MLP; of all active experts together
    vocabulary: int
    head_trained: bool  # the LM head has a gradient
    stored: int  # bytes of its weights in the model folder
    eager: bool = False  # scores are soft-capped or kernels unknown: `mask` then keeps all attention weights
    adapted: int = 0  # linear layers with adapters
    muon: int = 0  # of the trained parameters, those that Muon moves
    muon_largest: int = 0  # parameters of the largest matrix among them
    low: int = 0  # weights of the base that may be held in less than float32 (`sft_core/model/held.py`)
    held: int = FLOAT  # bytes of each of these in the model folder
    four: int = 0  # those of these that 4 bits take: of the layers
    small: int = 0  # of the trained parameters, those in tensors of less than SMALL numbers
    largest: int = 0  # numbers of the largest trained tensor
    begins: int = 0  # weights of the base that each of several processes loads before any is shared out

    @property
    def head(self) -> int:
        """Weights of the LM head."""
        return self.vocabulary * self.hidden


def architecture_of(section: ModelSection, train: TrainSection, mirror: Path | None, grown: bool) -> Architecture:
    """The shape of the base with the adapters that it is to get; nothing is loaded but its config.

    Args:
        grown: the template adds tokens, so adapters bring embedding and head with them.

    Raises:
        ModelError: there is no such model, its config cannot be read, or the adapters do not fit.
    """
    config = load_config(section, mirror)
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=section.trust_remote_code)
    except RAISED as error:
        raise ModelError(f"no model can be made of the config of {section.path}: {first_line(error)}; choose another "
                         "base model") from error
    text, adapted = config.get_text_config(), 0
    reached = {*decoder_of(model).parameters(), *model.get_output_embeddings().parameters()}
    idle = frozenset(name for name, p in model.named_parameters() if p not in reached)
    freeze(model, idle)
    held = low_weights(model, experts=True)
    begins = _begins(model, section, train)
    ends = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    four = {m.weight for m in model.modules() if isinstance(m, nn.Linear)} - ends
    heads = _widest(text, "num_attention_heads") or 1  # state spaces have none
    matrices = [p.numel() for p in hidden_matrices(layers_of(model))] if train.optim.name == "muon" else []
    # `auto` may come out as float32, and is forecast as that.
    low = getattr(config, "dtype", None) or torch.float32
    stored = (low.itemsize if train.save_dtype == "base" else FLOAT) * sum(p.numel() for p in model.parameters())
    head_trained = True
    if train.method == "lora":
        model = apply_lora(model, train.lora, 0, new_token_modules(model) if grown else (),
                           idle_modules(model, idle))
        adapted = sum(hasattr(module, "lora_A") for module in model.modules())
        head_trained = any(p.requires_grad for p in model.get_output_embeddings().parameters())
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    return Architecture(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(trained),
        hidden=text.hidden_size, layers=text.num_hidden_layers, heads=heads,
        kv_heads=_widest(text, "num_key_value_heads") or heads,
        head_size=_widest(text, "head_dim") or text.hidden_size // heads,
        intermediate=_intermediate(text), vocabulary=text.vocab_size, head_trained=head_trained,
        stored=stored, eager=own_attention(model) == "eager", adapted=adapted, muon=sum(matrices),
        muon_largest=max(matrices, default=0), low=sum(p.numel() for p in held), held=low.itemsize,
        four=sum(p.numel() for p in four), small=sum(n for n in trained if n < SMALL), largest=max(trained, default=0),
        begins=begins)


def _begins(model: Any, section: ModelSection, train: TrainSection) -> int:
    whole = section.trust_remote_code or train.lora.dora or not divisible(model)
    return sum(p.numel() for p in (model.parameters() if whole else front(model)))


def _intermediate(text: Any) -> int:
    """Width of the MLP, of all experts that a token goes through where there are several."""
    if experts := _widest(text, "num_experts_per_tok"):
        return experts * (_widest(text, "moe_intermediate_size") or _widest(text, "intermediate_size") or 0)
    named = (_widest(text, name) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    return next((size for size in named if size), 4 * int(text.hidden_size))


def _widest(text: Any, name: str) -> int | None:
    """A number of the config; the largest where it differs by layer, None where there is none."""
    layers = text.per_layer_config if text.is_heterogeneous else (text,)
    found = [getattr(layer, name, None) for layer in layers]
    return max((int(n) for one in found for n in (one if isinstance(one, list | tuple) else [one]) if n), default=None)
