"""Attention that keeps examples apart, by several ways. `sft_core/model/proof.py` proves that a model honours one.

One row holds one or several examples (`Batch.segments`: 1, 2, … per example, 0 for padding; `Batch.positions` restart
at 0).

segments  all rows of a micro-batch in one line without padding; attention runs example by example (CPU, any dtype)
varlen    the same line, one kernel: `torch.nn.attention.varlen` (CUDA, half precision)
flash     the same line through the package flash-attn, where it is installed (CUDA, half precision)
mask      padded rows; an explicit boolean mask where a row holds several examples: everywhere, and quadratic in the row

`mask`: position i sees position j exactly when both belong to the same segment and j ≤ i. Padding sees padding, so
that no row of the mask is empty (a softmax over nothing is NaN), and nobody sees padding. transformers passes a boolean
4-D mask through to the kernel unchanged (`masking_utils._preprocess_mask_arguments`); models with sliding or chunked
layers take a dict of masks keyed by layer type instead. Where every row holds one example the model is called as it is
called anywhere, with ids alone: padding is at the right, where a causal model never looks. So models that carry a state
from token to token (Mamba and its kin), which no mask can stop, are trained one example a row. The other ways are
registered through transformers' attention interface.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_core.errors import ModelError
from sft_core.model.segments import Ends, Line, line_of, register
from sft_core.model.sending import sent

Backend = Literal["segments", "varlen", "flash", "mask"]
Mask = Tensor | dict[str, Tensor] | Line | Ends | None
"""None: nothing to keep apart, every row holds one example."""

NAMES: dict[Backend, str] = {"segments": "sft_segments", "varlen": "sft_varlen", "flash": "flash_attention_2",
                             "mask": "sdpa"}
"""The backends as transformers knows them."""
HALF_ONLY: tuple[Backend, ...] = ("varlen", "flash")
"""Those whose kernel refuses float32; CUDA only."""
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
FACTORS = ("logit_scale", "lm_head_multiplier")
"""What configs call the cap of the logits and factors on them."""
LAYERS = ("num_hidden_layers", "decoder_layers")
"""What configs call the number of blocks; the first is the encoder's where there is the second (Bart)."""

def block_causal_mask(segments: Tensor, window: int | None = None, chunk: int | None = None) -> Tensor:
    """True where a position may look.

    Args:
        segments: [rows, tokens] long, 0 for padding.
        window: only the last `window` positions, the own one included, as transformers' sliding layers do.
        chunk: only positions of the same `chunk`, counted from the segment's first token, as its chunked layers do.

    Returns:
        [rows, 1, tokens, tokens] bool.
    """
    place = torch.arange(segments.shape[1], device=segments.device)
    distance = place[:, None] - place[None, :]
    same = segments[:, :, None] == segments[:, None, :]
    allowed = same & (distance >= 0)
    if window is not None:
        allowed = allowed & (distance < window)
    if chunk is not None:
        number = (place - same.int().argmax(-1)) // chunk
        allowed = allowed & (number[:, :, None] == number[:, None, :])
    return allowed.unsqueeze(1)


def masks_for(model: nn.Module, segments: Tensor) -> Tensor | dict[str, Tensor]:
    """The mask, or masks by layer type, in the shape in which this model's decoder wants them."""
    config: Any = model.config
    eager = config._attn_implementation == "eager"  # adds its mask to the scores
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window, chunk = getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None)
    dtype = next(model.parameters()).dtype

    def additive(mask: Tensor) -> Tensor:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min) if eager else mask

    reach = {"sliding_attention": (window, None), "chunked_attention": (None, chunk)}
    if local := kinds & reach.keys():
        return {"full_attention": additive(block_causal_mask(segments)),
                **{kind: additive(block_causal_mask(segments, *reach[kind])) for kind in local}}
    return additive(block_causal_mask(segments, None if kinds else window))


def decoder_of(model: nn.Module) -> nn.Module:
    """The transformer without its LM head, with adapters if there are any."""
    inner: Any = model
    whole = inner.get_base_model() if hasattr(model, "get_base_model") else inner
    decoder: nn.Module = whole.get_decoder()
    if decoder is whole or not isinstance(decoder, PreTrainedModel):  # Llama 4 names itself, ModernBERT its head
        decoder = next((child for child in whole.children() if isinstance(child, PreTrainedModel)), whole)
    return decoder


class ScaledHead(nn.Module):
    """An LM head whose logits are scaled and soft-capped before the softmax, as the model itself does."""

    def __init__(self, head: nn.Module, factor: float, cap: float | None) -> None:
        super().__init__()
        self.head, self.factor, self.cap = head, factor, cap

    def forward(self, hidden: Tensor) -> Tensor:
        """[m, hidden] → [m, vocabulary]."""
        logits: Tensor = self.head(hidden) * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def head_of(model: Any) -> nn.Module:
    """The LM head with what the model does to its logits (Gemma caps, Granite divides, Cohere multiplies)."""
    head: nn.Module = model.get_output_embeddings()
    config = model.config.get_text_config()
    cap = next((cap for name in CAPS if (cap := getattr(config, name, None))), None)
    factor = 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    for name in FACTORS:
        factor *= getattr(config, name, None) or 1.0
    return head if cap is None and factor == 1.0 else ScaledHead(head, factor, cap)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The decoder's blocks, first to last; none where they are not kept in a list.

    They are the outermost list as long as the config says, since towers for pictures and sound hold lists, too, and
    longer ones; the longest list where the config says nothing that fits.
    """
    decoder: Any = decoder_of(model)
    lists = [(name.count("."), list(m)) for name, m in decoder.named_modules() if isinstance(m, nn.ModuleList)]
    config = decoder.config.get_text_config()
    known = {getattr(config, name, None) for name in LAYERS}
    own = [one for one in lists if len(one[1]) in known]
    if own:
        return min(own, key=lambda one: one[0])[1]
    return max((layers for _, layers in lists), key=len, default=[])


def hidden_of(model: nn.Module, ids: Tensor, positions: Tensor, mask: Mask) -> Tensor:
    """Final hidden states [rows, tokens, hidden]: what the LM head reads. No logits are made."""
    how: dict[str, Any] = {}
    if mask is not None:
        how = mask.arguments() if isinstance(mask, Line | Ends) else {"attention_mask": mask}
        how["position_ids"] = positions
    hidden: Tensor = decoder_of(model)(input_ids=ids, use_cache=False, **how).last_hidden_state
    return hidden


def fastest(device: torch.device, dtype: torch.dtype) -> Backend:
    """What `auto` tries first on this device with matrix products of this type."""
    if device.type == "cpu":
        return "segments"
    return "varlen" if dtype in (torch.bfloat16, torch.float16) else "mask"


def isolation(model: nn.Module, backend: Backend, segments: Tensor, device: torch.device) -> Mask:
    """What `hidden_of` needs to keep the segments of a batch apart; `segments` is [rows, tokens] on the CPU.

    For every backend but `mask` that is one row without padding: see `flatten` in sft_core/segments.py.
    """
    if backend != "mask":
        return line_of(segments, device, backend == "segments")
    return masks_for(model, sent(segments, device)) if int(segments.max()) > 1 else None


def own_attention(model: Any) -> str:
    """The attention with which the model computes what it was made to: torch's kernel, or its own where that lacks
    something.

    torch's kernel knows no soft-capping of scores and no sinks; transformers would leave them out without a word.
    """
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped or not model._supports_sdpa else "sdpa"


def switch(model: Any, backend: Backend, device: torch.device) -> None:
    """Let the model attend by this backend.

    Raises:
        ModelError: it cannot, or not on this device.
    """
    if backend not in get_args(Backend):
        raise ModelError(f"model.attention: {backend!r} is not one of auto, {', '.join(get_args(Backend))}")
    if backend in HALF_ONLY and device.type != "cuda":
        raise ModelError(f"model.attention: {backend} needs CUDA and this run is on {device.type}; use auto")
    if backend == "flash" and find_spec("flash_attn") is None:
        raise ModelError("model.attention: flash needs the package flash-attn (pip install flash-attn); or use varlen")
    register()
    try:
        model.set_attn_implementation(own_attention(model) if backend == "mask" else NAMES[backend])
    except (ValueError, ImportError) as error:
        raise ModelError(f"{type(model).__name__} cannot use model.attention: {backend}: {error}; use mask") from error
