"""Attention that keeps packed examples apart, by several ways, and the proof that a given model honours the one used.

One row holds several examples (`Batch.segments`: 1, 2, … per example, 0 for padding; `Batch.positions` restart at 0).

segments  all rows of a micro-batch in one line without padding; attention runs example by example (CPU, any dtype)
varlen    the same line, one kernel: `torch.nn.attention.varlen` (CUDA, half precision)
flash     the same line through the package flash-attn, where it is installed (CUDA, half precision)
mask      padded rows and an explicit boolean mask: everywhere, and quadratic in the row

`mask`: position i sees position j exactly when both belong to the same segment and j ≤ i. Padding sees padding, so
that no row of the mask is empty (a softmax over nothing is NaN), and nobody sees padding. transformers passes a boolean
4-D mask through to the kernel unchanged (`masking_utils._preprocess_mask_arguments`); models with sliding layers take a
dict of masks keyed by layer type instead. The others are registered through transformers' attention interface.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sft_core.errors import ModelError
from sft_core.model.segments import Line, line_of, register

Backend = Literal["segments", "varlen", "flash", "mask"]
Mask = Tensor | dict[str, Tensor] | Line

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
NAMES: dict[Backend, str] = {"segments": "sft_segments", "varlen": "sft_varlen", "flash": "flash_attention_2",
                             "mask": "sdpa"}
"""The backends as transformers knows them."""
PROOF_TOKENS = 12  # per example in the proof; long enough for every layer to mix positions
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


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
    eager = config._attn_implementation == "eager"  # adds its mask to the scores
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    dtype = next(model.parameters()).dtype

    def additive(mask: Tensor) -> Tensor:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min) if eager else mask

    if unknown := kinds - KNOWN_LAYERS:
        raise ModelError(f"{type(model).__name__} has layers of type {sorted(unknown)}; training keeps packed examples "
                         f"apart by a mask, which only {sorted(KNOWN_LAYERS)} layers obey; choose another base model")
    if "sliding_attention" in kinds:
        return {"full_attention": additive(block_causal_mask(segments)),
                "sliding_attention": additive(block_causal_mask(segments, window))}
    return additive(block_causal_mask(segments, None if kinds else window))


def decoder_of(model: nn.Module) -> nn.Module:
    """The transformer without its LM head, with adapters if there are any."""
    inner: Any = model
    decoder: nn.Module = (inner.get_base_model() if hasattr(model, "get_base_model") else inner).get_decoder()
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
    cap = getattr(config, "final_logit_softcapping", None)
    factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return head if cap is None and factor == 1.0 else ScaledHead(head, factor, cap)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The decoder's blocks, first to last; none where they are not kept in a list."""
    lists = [list(m) for m in decoder_of(model).modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=[])


def hidden_of(model: nn.Module, ids: Tensor, positions: Tensor, mask: Mask) -> Tensor:
    """Final hidden states [rows, tokens, hidden]: what the LM head reads. No logits are made."""
    how = mask.arguments() if isinstance(mask, Line) else {"attention_mask": mask}
    out = decoder_of(model)(input_ids=ids, position_ids=positions, use_cache=False, **how)
    hidden: Tensor = out.last_hidden_state
    return hidden


def fastest(device: torch.device, dtype: torch.dtype) -> Backend:
    """What `auto` tries first on this device with matrix products of this type."""
    if device.type == "cpu":
        return "segments"
    return "varlen" if dtype in (torch.bfloat16, torch.float16) else "mask"


def choose_backend(model: Any, asked: Backend | Literal["auto"], device: torch.device, dtype: torch.dtype) -> Backend:
    """Switch the model to the fastest backend that is proved to isolate on it, or to the one asked for.

    Args:
        model: on the device on which it will be trained.
        dtype: of the matrix products.

    Raises:
        ModelError: no backend, or not the one asked for, passes `prove`.
    """
    if asked != "auto":
        _switch(model, asked, device)
        prove(model, asked, dtype)
        return asked
    candidates: tuple[Backend, ...] = (fastest(device, dtype), "mask")
    for backend in dict.fromkeys(candidates):
        _switch(model, backend, device)
        try:
            prove(model, backend, dtype)
        except ModelError:
            if backend == "mask":
                raise
            continue
        return backend
    raise AssertionError("the last backend either passes or raises")


@torch.no_grad()
def prove(model: nn.Module, backend: Backend, dtype: torch.dtype | None = None) -> None:
    """Check on the model itself what training relies on; two short forward passes.

    1. The head applied to the hidden states gives the model's own logits: no soft-capping, no scale, no extra layer.
    2. An example in a packed row gives the same hidden states as alone in a row: mask and positions are honoured.
    3. Changing the example in front moves nothing in the one behind, to the last bit.

    Raises:
        ModelError: one of them does not hold, and by how much.
    """
    weight: Any = next(model.parameters())
    low = dtype or weight.dtype
    was_training = model.training
    model.eval()
    try:
        half = low in (torch.bfloat16, torch.float16)
        with torch.autocast(weight.device.type, low if half else torch.bfloat16, enabled=half and low != weight.dtype):
            _prove(model, backend, TOLERANCE[low])
    finally:
        model.train(was_training)


def isolation(model: nn.Module, backend: Backend, segments: Tensor, device: torch.device) -> Mask:
    """What `hidden_of` needs to keep the segments of a batch apart; `segments` is [rows, tokens] on the CPU.

    For every backend but `mask` that is one row without padding: see `flatten` in sft_core/segments.py.
    """
    if backend == "mask":
        return masks_for(model, segments.to(device, non_blocking=True))
    return line_of(segments, device, backend == "segments")


def _switch(model: Any, backend: Backend, device: torch.device) -> None:
    if backend not in get_args(Backend):
        raise ModelError(f"model.attention: {backend!r} is not one of auto, {', '.join(get_args(Backend))}")
    if backend in ("varlen", "flash") and device.type != "cuda":
        raise ModelError(f"model.attention: {backend} needs CUDA and this run is on {device.type}; use auto")
    if backend == "flash" and find_spec("flash_attn") is None:
        raise ModelError("model.attention: flash needs the package flash-attn (pip install flash-attn); or use varlen")
    register()
    # torch's kernel knows no soft-capping of scores and no sinks; transformers would leave them out without a word.
    text = model.config.get_text_config()
    own = backend == "mask" and (getattr(text, "attn_logit_softcapping", None) or not model._supports_sdpa)
    try:
        model.set_attn_implementation("eager" if own else NAMES[backend])
    except (ValueError, ImportError) as error:
        raise ModelError(f"{type(model).__name__} cannot use model.attention: {backend}: {error}; use mask") from error


def _prove(model: Any, backend: Backend, tolerance: float) -> None:
    weight = model.get_input_embeddings().weight
    n, device = PROOF_TOKENS, weight.device
    ids = (torch.arange(3 * n, device=device) * 7919 + 11).remainder(weight.shape[0])[None]
    one = torch.arange(n, device=device)[None]
    pair, single = torch.ones(1, 2 * n, dtype=torch.long), torch.ones(1, n, dtype=torch.long)
    pair[:, n:] = 2
    both, alone = (isolation(model, backend, segments, device) for segments in (pair, single))
    name = type(model).__name__
    try:
        packed = hidden_of(model, ids[:, : 2 * n], torch.cat([one, one], 1), both)[:, n:]
        other = hidden_of(model, ids[:, [*range(2 * n, 3 * n), *range(n, 2 * n)]], torch.cat([one, one], 1), both)
        lonely = hidden_of(model, ids[:, n : 2 * n], one, alone)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{name} cannot run with model.attention: {backend} ({error}); use mask, or choose another "
                         "base model") from error
    if (gap := _gap(packed, lonely)) > tolerance or not torch.equal(packed, other[:, n:]):
        raise ModelError(f"{name} lets packed examples see each other with model.attention: {backend}: an example's "
                         f"hidden states move by {gap:.2g} of their size when another one stands before it in the row; "
                         "choose another base model, or train with data.pack: false")
    logits = head_of(model)(lonely)
    own = model(input_ids=ids[:, n : 2 * n], position_ids=one, use_cache=False, **(
        alone.arguments() if isinstance(alone, Line) else {})).logits
    if (gap := _gap(logits, own)) > tolerance:
        raise ModelError(f"{name} does more after its LM head than this platform knows (its logits differ by {gap:.2g} "
                         "of their size), so the loss would be another one; choose another base model")


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-12))
