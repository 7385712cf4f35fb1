"""The proof, on the loaded model, that training computes what the model itself computes, and that examples stay apart.

1. Apart: no gradient flows from an example to the input of another one, or to padding. This is exact in every
   precision, since what a mask hides has a weight of exactly 0; and it does not ask whether values move by rounding
   when other tokens stand beside them, as they do where experts are computed together.
2. The same: the hidden states of an example among others are those of the model's own forward pass on it alone, called
   with ids and nothing else; on an example that outgrows every window and chunk that the data can outgrow.
3. The head applied to hidden states gives the model's own logits: no soft-capping, no scale, no extra layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sft_core.errors import ModelError
from sft_core.model.attention import (
    HALF_ONLY,
    NAMES,
    Backend,
    decoder_of,
    fastest,
    head_of,
    hidden_of,
    isolation,
    own_attention,
    switch,
)
from sft_core.model.held import HALVES, AsFloat32, in_4_bits
from sft_core.model.load import first_line, positions_of
from sft_core.model.segments import flatten

PROOF_TOKENS = 12  # of the example in front, and of the one behind beyond the longest window; every layer mixes them
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
HEAD_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Of the same hidden states, so that nothing but the last product is rounded; a cap may change logits by as little as
1e-4 of their size."""
STRAYS = 2
"""Of the last PROOF_TOKENS positions so many may differ: where two experts score alike, rounding picks another one."""
RAISED = (AttributeError, TypeError, ValueError, LookupError, AssertionError, ImportError, RuntimeError)
"""What architectures have been seen to raise when they are called in a way that they do not know."""


class Rows(NamedTuple):
    """The rows that a model is to be trained on."""

    packed: bool  # several examples in one
    longest: int  # tokens of the longest example there may be


def choose_backend(model: Any, asked: Backend | Literal["auto"], device: torch.device, dtype: torch.dtype,
                   rows: Rows) -> Backend:
    """Switch the model to the fastest backend that is proved on it, or to the one asked for.

    Args:
        model: on the device on which it will be trained.
        dtype: of the matrix products.

    Raises:
        ModelError: no backend, or not the one asked for, passes the proof above, and by how much.
    """
    _check_head(model)
    ways: tuple[Backend, ...] = (fastest(device, dtype), "mask") if asked == "auto" else (asked,)
    faults: dict[Backend, str] = {}
    for backend in dict.fromkeys(ways):
        switch(model, backend, device)
        if not (fault := _fault(model, backend, dtype, rows)):
            return backend
        faults[backend] = fault
    kind = "packed rows" if rows.packed else "one example a row"
    remedies = ["use model.attention: auto"] * (asked not in ("auto", "mask")) + ["set data.pack: false"] * rows.packed
    raise ModelError(f"{type(model).__name__} cannot be trained on {kind}: "
                     + "; ".join(f"with model.attention: {way} it {fault}" for way, fault in faults.items())
                     + ". " + ", or ".join([*remedies, "choose another base model"]).capitalize())


def _check_head(model: Any) -> None:
    """Raises ModelError when the model makes other logits of its hidden states than `head_of` does."""
    name = type(model).__name__
    ids = some_ids(model, PROOF_TOKENS)[None]
    try:
        with torch.no_grad(), evaluating(model), attending(model, own_attention(model)), AsFloat32():
            hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
            gap = _gap(head_of(model)(hidden)[0], model(input_ids=ids, use_cache=False).logits[0])
    except torch.OutOfMemoryError:
        raise
    except RAISED as error:
        raise ModelError(f"{name} cannot be called with token ids alone ({_said(error)}); choose another base "
                         "model") from error
    if gap > HEAD_TOLERANCE[torch.bfloat16 if in_4_bits(model) else _stored(model)]:
        raise ModelError(f"{name} does more after its LM head than this platform knows (its logits differ by {gap:.2g} "
                         "of their size), so the loss would be another one; choose another base model")


def _fault(model: Any, backend: Backend, dtype: torch.dtype, rows: Rows) -> str:
    """What is wrong with this backend on this model, said of the model; nothing when it is proved."""
    try:
        if backend in HALF_ONLY:
            _call_as_in_training(model, backend, dtype, rows)
        with evaluating(model):
            return _not_apart(model, backend, dtype, rows) or _not_the_same(model, backend, dtype, rows)
    except torch.OutOfMemoryError:
        raise
    except RAISED as error:
        return f"cannot be called ({_said(error)})"


@torch.no_grad()
def _call_as_in_training(model: Any, backend: Backend, dtype: torch.dtype, rows: Rows) -> None:
    """Only then does a model ask its attention for the dropout of its config, which not every kernel has."""
    was_training, device = model.training, model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _products_in(model, dtype):
        try:
            _among_others(model.train(), backend, rows, PROOF_TOKENS)
        finally:
            model.train(was_training)


def _not_apart(model: Any, backend: Backend, dtype: torch.dtype, rows: Rows) -> str:
    made: list[Tensor] = []

    def follow(_module: Any, _arguments: Any, out: Tensor) -> Tensor:
        made.append(out.detach().requires_grad_())
        return made[-1].clone()  # some write into it

    hook = model.get_input_embeddings().register_forward_hook(follow)
    try:
        with torch.enable_grad(), _products_in(model, dtype):
            hidden, owner = _among_others(model, backend, rows, PROOF_TOKENS)
    finally:
        hook.remove()
    slope = torch.cos(torch.arange(hidden.numel(), device=hidden.device)).view_as(hidden).to(hidden.dtype)
    for example in (1, 2):
        mine = owner == example
        grads = torch.autograd.grad((hidden * slope)[mine].sum(), made, retain_graph=True)
        found = torch.stack([g.reshape(len(owner), -1).abs().amax(1) for g in grads]).amax(0)
        if not bool((found[~mine] == 0).all()):
            share = float(found[~mine].max() / found[mine].max())
            return (f"lets examples see each other or padding: a gradient of {share:.2g} of an example's own comes "
                    "from there, where there must be none (layers that carry a state from token to token, and those "
                    "that look ahead, obey no mask)")
    return ""


@torch.no_grad()
def _not_the_same(model: Any, backend: Backend, dtype: torch.dtype, rows: Rows) -> str:
    behind = reach(model.config.get_text_config(), rows.longest)
    tokens = min(behind + PROOF_TOKENS, positions_of(model.config) or behind + PROOF_TOKENS)
    full = not in_4_bits(model) and backend != "flash"
    # varlen knows half precision only. `segments` is told by the model just as it is, in float32 too.
    way: Backend = "segments" if backend == "varlen" and full else backend
    ids = some_ids(model, tokens)[None]
    with AsFloat32() if full else _products_in(model, dtype):
        with attending(model, own_attention(model)):
            alone = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state[0, -PROOF_TOKENS:]
        with attending(model, own_attention(model) if way == "mask" else NAMES[way]):
            hidden, owner = _among_others(model, way, rows, tokens)
    gap = _gap(hidden[owner == 2][-PROOF_TOKENS:], alone)
    where = f" behind its first {behind} tokens (the longest window or chunk)" if behind else ""
    return "" if gap <= TOLERANCE[_stored(model) if full else dtype] else (
        f"computes something else than by itself: hidden states of an example{where} differ by {gap:.2g} of their "
        "size, so its windows or its positions are not honoured")


def _among_others(model: Any, backend: Backend, rows: Rows, tokens: int) -> tuple[Tensor, Tensor]:
    """Hidden states [n, hidden] of a batch of two examples, laid out as training lays them out, and whose each one is:
    1 for the example in front, 2 for the one of `tokens` tokens behind it, 0 for padding."""
    if rows.packed:
        owner = torch.tensor([[1] * PROOF_TOKENS + [2] * tokens])
        segments = owner
    else:
        owner = torch.tensor([[1] * PROOF_TOKENS + [0] * tokens, [2] * (PROOF_TOKENS + tokens)])
        owner[1, tokens:] = 0
        segments = (owner > 0).long()
    positions = torch.arange(owner.shape[1]) - PROOF_TOKENS * (owner == 2) * rows.packed
    # Padded with an id that has an embedding, as a workbench does.
    ids = some_ids(model, 1).cpu().expand_as(owner).clone()
    ids[owner == 1] = some_ids(model, PROOF_TOKENS, start=tokens).cpu()
    ids[owner == 2] = some_ids(model, tokens).cpu()
    positions = positions * (owner > 0)
    if backend != "mask":
        places, segments = flatten(segments)
        ids, positions, owner = (x.reshape(-1)[places][None] for x in (ids, positions, owner))
    device = model.get_input_embeddings().weight.device
    hidden = hidden_of(model, ids.to(device), positions.to(device), isolation(model, backend, segments, device))
    return hidden.reshape(-1, hidden.shape[-1]), owner.reshape(-1).to(device)


def some_ids(model: Any, tokens: int, start: int = 0) -> Tensor:
    """Some token ids, [tokens]."""
    weight = model.get_input_embeddings().weight
    return (torch.arange(start, start + tokens, device=weight.device) * 7919 + 11).remainder(weight.shape[0])


def reach(config: Any, longest: int) -> int:
    """The longest window or chunk of the model that an example of `longest` tokens outgrows, 0 when there is none."""
    found = [value for name, value in config.to_dict().items() if type(value) is int
             and ("window" in name or "chunk" in name or name == "index_topk")]
    return max((value for value in found if value < longest), default=0)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def attending(model: Any, name: str) -> Iterator[None]:
    """The model with the attention that transformers knows by this name."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _products_in(model: Any, dtype: torch.dtype) -> torch.autocast:
    half = dtype in HALVES
    return torch.autocast(model.device.type, dtype if half else torch.bfloat16, enabled=half)


def _stored(model: Any) -> torch.dtype:
    """The dtype of the weights as `AsFloat32` reads them."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return torch.float32 if dtype in HALVES else dtype


def _gap(a: Tensor, b: Tensor) -> float:
    """How far `a` is from `b` at its places [n, any], in units of b's largest number there; all but STRAYS of them."""
    apart = (a.double() - b.double()).abs().amax(1) / b.double().abs().amax(1).clamp_min(1e-12)
    return float(apart.nan_to_num(torch.inf).sort().values[-1 - STRAYS])


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
