"""Attention that keeps packed examples apart, and the proof that a given model honours it.

One row holds several examples (`Batch.segments`: 1, 2, … per example, 0 for padding; `Batch.positions` restart at 0).
The mask is explicit: position i sees position j exactly when both belong to the same segment and j ≤ i. Padding sees
padding, so that no row of the mask is empty (a softmax over nothing is NaN), and nobody sees padding.
transformers passes a boolean 4-D mask through to the kernel unchanged (`masking_utils._preprocess_mask_arguments`);
models with sliding layers take a dict of masks keyed by layer type instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sft_core.errors import ModelError

Mask = Tensor | dict[str, Tensor]

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
PROOF_TOKENS = 12  # per example in the proof; long enough for every layer to mix positions
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def block_causal_mask(segments: Tensor, window: int | None = None) -> Tensor:
    """True where a position may look.

    Args:
        segments: [rows, tokens] long, 0 for padding.
        window: only the last `window` positions, the own one included, as transformers' sliding layers do.

    Returns:
        [rows, 1, tokens, tokens] bool.
    """
    place = torch.arange(segments.shape[1], device=segments.device)
    distance = place[:, None] - place[None, :]
    allowed = distance >= 0
    if window is not None:
        allowed = allowed & (distance < window)
    return ((segments[:, :, None] == segments[:, None, :]) & allowed).unsqueeze(1)


def masks_for(model: nn.Module, segments: Tensor) -> Mask:
    """The mask, or masks by layer type, in the shape in which this model's decoder wants them.

    Raises:
        ModelError: the model has layers that do not take a mask (linear or chunked attention, state spaces).
    """
    config: Any = model.config
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if unknown := kinds - KNOWN_LAYERS:
        raise ModelError(f"{type(model).__name__} has layers of type {sorted(unknown)}; training keeps packed examples "
                         f"apart by a mask, which only {sorted(KNOWN_LAYERS)} layers obey; choose another base model")
    if "sliding_attention" in kinds:
        return {"full_attention": block_causal_mask(segments),
                "sliding_attention": block_causal_mask(segments, window)}
    return block_causal_mask(segments, None if kinds else window)


def decoder_of(model: nn.Module) -> nn.Module:
    """The transformer without its LM head, with adapters if there are any."""
    inner: Any = model
    decoder: nn.Module = (inner.get_base_model() if hasattr(model, "get_base_model") else inner).get_decoder()
    return decoder


def hidden_of(model: nn.Module, ids: Tensor, positions: Tensor, mask: Mask) -> Tensor:
    """Final hidden states [rows, tokens, hidden]: what the LM head reads. No logits are made."""
    out = decoder_of(model)(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
    hidden: Tensor = out.last_hidden_state
    return hidden


@torch.no_grad()
def prove(model: nn.Module) -> None:
    """Check on the model itself what training relies on; two short forward passes.

    1. The head applied to the hidden states gives the model's own logits: no soft-capping, no scale, no extra layer.
    2. An example in a packed row gives the same hidden states as alone in a row: mask and positions are honoured.

    Raises:
        ModelError: one of the two does not hold, and by how much.
    """
    was_training = model.training
    model.eval()
    try:
        _prove(model)
    finally:
        model.train(was_training)


def _prove(model: Any) -> None:
    weight = model.get_input_embeddings().weight
    vocabulary, device = weight.shape[0], weight.device
    n = PROOF_TOKENS
    ids = (torch.arange(2 * n, device=device) * 7919 + 11).remainder(vocabulary)[None]
    one = torch.arange(n, device=device)[None]
    segments = torch.ones_like(ids)
    segments[:, n:] = 2
    packed = hidden_of(model, ids, torch.cat([one, one], 1), masks_for(model, segments))[:, n:]
    alone = hidden_of(model, ids[:, n:], one, masks_for(model, segments[:, :n]))
    logits = model(input_ids=ids[:, n:], use_cache=False).logits
    own = model.get_output_embeddings()(alone)
    name = type(model).__name__
    if (gap := _gap(own, logits)) > TOLERANCE[weight.dtype]:
        raise ModelError(f"{name} does more after its LM head than the head itself (its logits differ by {gap:.2g} "
                         "of their size: soft-capping or a logit scale), so the loss would be another one; choose "
                         "another base model")
    if (gap := _gap(packed, alone)) > TOLERANCE[weight.dtype]:
        raise ModelError(f"{name} lets packed examples see each other: an example's hidden states move by {gap:.2g} of "
                         "their size when another one stands before it in the row; choose another base model")


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-12))
