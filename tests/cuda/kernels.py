"""What CUDA has kernels for and a CPU has not, as references: slow, in float32, and as strict as CUDA.

torch's flash kernels of variable length stand where the kernels themselves would, so that all of
`torch.nn.attention.varlen` above them is the real thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

HEAD = 8
"""What the size of a head must be a multiple of."""


@contextmanager
def cuda_kernels() -> Iterator[None]:
    """Within it they run on the CPU, but for `STAND_INS`, whose names the CPU has taken."""
    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl("_flash_attention_forward", _forward, "CPU")
        library.impl("_flash_attention_backward", _backward, "CPU")
        library.impl("addmm.dtype_out", _addmm, "CPU")
        yield
    finally:
        library._destroy()


def _addmm(x: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype, *, out: Tensor) -> Tensor:
    """A product of halves that is not rounded before it is added up."""
    return out.copy_(torch.addmm(x.to(dtype), a.to(dtype), b.to(dtype)))


def _histc(x: Tensor, *args: Any, **how: Any) -> Tensor:
    """Of whole numbers, too."""
    return torch.histc(x.double(), *args, **how).to(x.dtype)


STAND_INS: dict[str, Callable[..., Any]] = {"histc": _histc}


def _forward(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, *more: Any, **how: Any) -> tuple[Tensor, ...]:
    ends_k, longest, longest_k, dropout, _, _ = more
    _check(query, key, value, ends, longest)
    _check(query, key, value, ends_k, longest_k)
    window = _window(query, **how)
    if dropout:
        raise NotImplementedError("the reference drops nothing")
    out = torch.empty_like(query)
    for part in _segments(ends):
        q, k, v = _heads_first(query, key, value, part)
        out[part] = (_weights(q, k, window) @ v).transpose(0, 1).to(out.dtype)
    nothing = query.new_zeros(2, dtype=torch.uint64)
    return (out, query.new_zeros(query.shape[1], query.shape[0], dtype=torch.float32), nothing, nothing.clone(),
            query.new_zeros(0))


def _backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *more: Any, **how: Any) -> tuple[Tensor, ...]:
    _out, _lse, ends, _ends_k, longest, *_ = more
    _check(query, key, value, ends, longest)
    window = _window(query, **how)
    grads = [torch.empty_like(x) for x in (query, key, value)]
    for part in _segments(ends):
        q, k, v = _heads_first(query, key, value, part)
        wanted = grad[part].transpose(0, 1).float()
        weights = _weights(q, k, window)
        slopes = wanted @ v.mT
        scores = weights * (slopes - (slopes * weights).sum(-1, keepdim=True)) * window.scale
        for total, one in zip(grads, (scores @ k, scores.mT @ q, weights.mT @ wanted), strict=True):
            shared = one.view(total.shape[1], -1, *one.shape[1:]).sum(1)  # query heads of one key head
            total[part] = shared.transpose(0, 1).to(total.dtype)
    return tuple(grads)


class _Window(NamedTuple):
    scale: float
    left: int | None  # tokens that a position may look back; negative or None: all
    right: int | None  # and ahead


def _window(query: Tensor, scale: float | None = None, window_size_left: int | None = None,
            window_size_right: int | None = None, **more: Any) -> _Window:
    if any(value is not None for value in more.values()):
        raise NotImplementedError(f"the reference knows nothing of {', '.join(more)}")
    return _Window(scale or query.shape[-1] ** -0.5, window_size_left, window_size_right)


def _segments(ends: Tensor) -> Iterator[slice]:
    places = ends.tolist()
    return (slice(begin, end) for begin, end in zip(places, places[1:], strict=False))


def _heads_first(query: Tensor, key: Tensor, value: Tensor, part: slice) -> tuple[Tensor, ...]:
    """[query heads, tokens, head size] of one segment, in float32."""
    shared = query.shape[1] // key.shape[1]
    q, k, v = (x[part].transpose(0, 1).float() for x in (query, key, value))
    return q, k.repeat_interleave(shared, 0), v.repeat_interleave(shared, 0)


def _weights(query: Tensor, key: Tensor, window: _Window) -> Tensor:
    """[heads, tokens, tokens]"""
    place = torch.arange(query.shape[1])
    distance = place[:, None] - place
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if window.right is not None and window.right >= 0:
        hidden |= distance < -window.right
    if window.left is not None and window.left >= 0:
        hidden |= distance > window.left
    scores = (query @ key.mT * window.scale).masked_fill(hidden, -torch.inf)
    return torch.softmax(scores, -1)


def _check(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int) -> None:
    """Raises RuntimeError with what CUDA's kernel says."""
    for x in (query, key, value):
        if x.dtype not in (torch.float16, torch.bfloat16):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        if x.stride(-1) != 1:
            raise RuntimeError("Input tensor must have contiguous last dimension")
    if query.shape[-1] % HEAD or query.shape[1] % key.shape[1]:
        raise RuntimeError("head_size should be a multiple of 8, and heads of queries one of those of keys")
    if ends.dtype != torch.int32 or not ends.is_contiguous():
        raise RuntimeError("cu_seqlens must be contiguous and have dtype int32")
    lengths = ends.diff()
    # The kernel computes no more than `longest` of each segment and reads where `ends` leads it, without a word.
    if int(ends[0]) or int(ends[-1]) != query.shape[0] or int(lengths.max()) != longest or int(lengths.min()) < 1:
        raise RuntimeError(f"segments {ends.tolist()} of {query.shape[0]} tokens, the longest said to have {longest}")

