"""Attention over a line of segments without padding between them: on the CPU by small dense products, on CUDA varlen.

On the CPU in half precision, segments of similar length are gathered into one batch. They are padded at the right only,
where causal attention never looks, so no mask per segment is needed. Longer segments, and all in float32, go one by one
through torch's own kernel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from sft_core.model.sending import sent

LONG = {torch.bfloat16: 768, torch.float16: 768, torch.float64: 768}
"""Longest segment for which grouped products are faster than torch's kernel (`python -m bench.kernels`); in float32
they never are."""
SPARE = 1.25
"""A group's longest segment is at most this times its shortest: padding costs at most so much squared."""
GROUP_TOKENS = 4096
"""Padded tokens in one group; bounds the memory that one group takes."""
KNOWN = {"dropout", "scaling", "sliding_window", "is_causal", "line", "position_ids", "use_cache", "cache_position",
         "output_attentions", "output_hidden_states", "return_dict", "past_key_values", "logits_to_keep"}
"""Arguments of an attention call that are honoured or change nothing here; any other one that is set is refused."""
UNHEARD = "the model does not hand arguments through to its attention"


class Group(NamedTuple):
    """Segments that are computed together."""

    at: Tensor  # [segments × longest] places in the line; padding repeats the segment's last token
    real: Tensor  # [segments × longest] bool, False for padding
    segments: int
    longest: int


# Both hold tensors: compiled layers are made anew for each content of a list, and given up after a few.


class Line(NamedTuple):
    """How a line of tokens is divided, for attention by hand."""

    lengths: Tensor  # [segments], on the CPU

    def arguments(self) -> dict[str, Any]:
        """What a decoder is called with so that its attention finds the line."""
        return {"attention_mask": None, "line": self}


class Ends(NamedTuple):
    """How a line of tokens is divided, for a kernel."""

    ends: Tensor  # [segments + 1] int32 on the device: 0 and the ends of the segments, in tokens
    longest: int  # tokens

    def arguments(self) -> dict[str, Any]:
        """What a decoder is called with so that its attention finds the line, by transformers' own names."""
        return {"attention_mask": None, "cu_seq_lens_q": self.ends, "cu_seq_lens_k": self.ends,
                "max_length_q": self.longest, "max_length_k": self.longest}


def register() -> None:
    """Make both ways known to transformers; asked again, nothing happens.

    Without a function that makes masks for them transformers makes none; with one it would look at the positions first,
    and the host wait for the device (`masking_utils.find_packed_sequence_indices`).
    """
    AttentionInterface.register("sft_segments", segment_attention)
    AttentionInterface.register("sft_varlen", varlen_attention)


def line_of(segments: Tensor, device: torch.device, by_hand: bool) -> Line | Ends:
    """The line of one row of segment numbers [1, tokens] without padding, on the CPU."""
    _, counts = torch.unique_consecutive(segments.reshape(-1), return_counts=True)
    if by_hand:
        return Line(counts)
    return Ends(sent(F.pad(counts.cumsum(0), (1, 0)).int(), device), int(counts.max()))


def flatten(segments: Tensor) -> tuple[Tensor, Tensor]:
    """Places of all tokens but padding in [rows × tokens], and their segment numbers in one line [1, kept]."""
    rows = torch.arange(segments.shape[0])[:, None] * (segments.max() + 1)
    flat = segments.reshape(-1)
    places = torch.nonzero(flat > 0).squeeze(1)
    return places, (segments + rows).reshape(-1)[places][None]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its shapes change with every batch
def segment_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                      **call: Any) -> tuple[Tensor, None]:
    """transformers' attention function for a line on the CPU.

    Args:
        query: [1, heads, tokens, head size]; key and value with as many or fewer heads.

    Returns:
        [1, tokens, heads, head size] and None.

    Raises:
        NotImplementedError: the model asks for something that is not done here (soft-capping, sinks, a bias).
    """
    _refuse_more(call, attention_mask)
    line = call.get("line")
    if not isinstance(line, Line):
        raise NotImplementedError(UNHEARD)
    lengths = tuple(line.lengths.tolist())
    device = query.device.type
    if torch.is_autocast_enabled(device):  # as for torch's own kernel; rotary positions leave float32 behind
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    dropout = (call.get("dropout") or 0.0) if module.training else 0.0
    limit = 0 if dropout else LONG.get(query.dtype, 0)
    shape = _Shape(call.get("scaling") or query.shape[-1] ** -0.5, call.get("sliding_window"),
                   query.shape[1] // key.shape[1], dropout, limit)
    short = any(length <= limit for length in lengths)
    with torch.autocast(device, enabled=False):
        out = _Grouped.apply(query[0], key[0], value[0], lengths, shape) if short else None  # type: ignore[no-untyped-call]
    parts = _one_by_one(query, key, value, lengths, shape)
    if parts:
        out = _join(out, parts, query.shape[2])
    assert out is not None, "a line has at least one segment"
    return out.transpose(0, 1).contiguous()[None], None


def varlen_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                     **call: Any) -> tuple[Tensor, None]:
    """transformers' attention function for a line on CUDA; shapes as in `segment_attention`.

    Raises:
        NotImplementedError: see `segment_attention`; dropout is not done here either.
    """
    from torch.nn.attention.varlen import varlen_attn

    _refuse_more(call, attention_mask)
    ends, longest = call.get("cu_seq_lens_q"), call.get("max_length_q")
    if ends is None or longest is None:
        raise NotImplementedError(UNHEARD)
    if (call.get("dropout") or 0.0) and module.training:
        raise NotImplementedError("attention dropout")
    device = query.device.type
    if torch.is_autocast_enabled(device):
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    window = call.get("sliding_window")
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=call.get("scaling"),
                      window_size=(-1 if window is None else window - 1, 0), enable_gqa=q.shape[1] != k.shape[1])
    assert isinstance(out, Tensor), "the kernel returns more than the output only on request"
    return out[None], None


class _Shape(NamedTuple):
    scale: float
    window: int | None
    shared: int  # query heads per key head
    dropout: float
    limit: int  # longest segment for the grouped products


class _Grouped(torch.autograd.Function):
    """Softmax attention of all segments up to `shape.limit` tokens, group by group; places of longer ones stay zero."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], shape: _Shape) -> Tensor:
        out = torch.zeros_like(query)
        saved = []
        ctx.groups = _groups(lengths, shape.limit)
        ctx.shape = shape
        for group in ctx.groups:
            q = _gather(query, group)
            k, v = (_gather(x, group) for x in (key, value))
            if shape.shared > 1:
                k, v = (x.repeat_interleave(shape.shared, 0) for x in (k, v))
            bias = _bias(shape.limit, shape.window, q.dtype)[:, : group.longest, : group.longest]
            weights = torch.softmax(torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=shape.scale), -1)
            found = torch.bmm(weights, v.flatten(0, 1)).view_as(q)
            out[:, group.at[group.real]] = found.flatten(1, 2)[:, group.real]
            saved += [q, k, v, weights]
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        shape: _Shape = ctx.shape
        heads, tokens, size = grad.shape
        grads = [grad.new_zeros(h, tokens, size) for h in (heads, heads // shape.shared, heads // shape.shared)]
        for group, (q, k, v, weights) in zip(ctx.groups, zip(*[saved] * 4, strict=True), strict=True):
            wanted = _gather(grad, group)
            wanted = wanted.masked_fill_(~group.real.view(1, group.segments, group.longest, 1), 0.0).flatten(0, 1)
            q3, k3, v3 = (x.flatten(0, 1) for x in (q, k, v))
            to_v = torch.bmm(weights.mT, wanted)
            scores = torch._softmax_backward_data(torch.bmm(wanted, v3.mT), weights, -1, weights.dtype)
            found = (torch.bmm(scores, k3).mul_(shape.scale), torch.bmm(scores.mT, q3).mul_(shape.scale), to_v)
            places = group.at[group.real]
            for total, one in zip(grads, found, strict=True):
                one = one.view(-1, group.segments * group.longest, size)
                if len(one) > len(total):
                    one = one.view(len(total), -1, *one.shape[1:]).sum(1)
                total[:, places] = one[:, group.real]
        return (*grads, None, None)


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...],
                shape: _Shape) -> list[tuple[int, Tensor]]:
    """Segments above `shape.limit` through torch's kernel: where each begins, and [heads, tokens, head size]."""
    if all(length <= shape.limit for length in lengths):
        return []
    parts = []
    begin = 0
    pieces = zip(*(torch.split(x, list(lengths), 2) for x in (query, key, value)), strict=True)
    for length, (q, k, v) in zip(lengths, pieces, strict=True):
        if length > shape.limit:
            banded = shape.window is not None and length > shape.window
            mask = _bias.__wrapped__(length, shape.window, q.dtype)[0].to(q.device) if banded else None
            parts.append((begin, F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=shape.dropout, is_causal=mask is None, scale=shape.scale,
                enable_gqa=shape.shared > 1)[0]))
        begin += length
    return parts


def _join(short: Tensor | None, parts: list[tuple[int, Tensor]], tokens: int) -> Tensor:
    """The whole line [heads, tokens, head size] from what the two ways found."""
    pieces, done = [], 0
    for begin, part in parts:
        if short is not None and begin > done:
            pieces.append(short[:, done:begin])
        pieces.append(part)
        done = begin + part.shape[1]
    if short is not None and done < tokens:
        pieces.append(short[:, done:])
    return torch.cat(pieces, 1)


def _refuse_more(call: dict[str, Any], attention_mask: Tensor | None) -> None:
    other = sorted(k for k, v in call.items() if v is not None and k not in KNOWN and not k.startswith(("cu_", "max_")))
    if attention_mask is not None or other:
        raise NotImplementedError(f"attention with {', '.join(other) or 'a mask'}")


def _gather(x: Tensor, group: Group) -> Tensor:
    return x.index_select(1, group.at).view(x.shape[0], group.segments, group.longest, x.shape[-1])


@lru_cache(maxsize=64)
def _groups(lengths: tuple[int, ...], limit: int) -> tuple[Group, ...]:
    """Segments of at most `limit` tokens, similar lengths together."""
    begins = [0]
    for length in lengths:
        begins.append(begins[-1] + length)
    order = sorted((i for i, length in enumerate(lengths) if length <= limit), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    for i in order:
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and longest <= SPARE * lengths[i] and longest * (len(groups[-1]) + 1) <= GROUP_TOKENS:
            groups[-1].append(i)
        else:
            groups.append([i])
    return tuple(_group([(begins[i], lengths[i]) for i in members]) for members in groups)


def _group(segments: list[tuple[int, int]]) -> Group:
    longest = segments[0][1]
    place = torch.arange(longest)
    begins, lengths = (torch.tensor(column)[:, None] for column in zip(*segments, strict=True))
    at = begins + torch.minimum(place, lengths - 1)
    return Group(at.reshape(-1), (place < lengths).reshape(-1), len(segments), longest)


@lru_cache(maxsize=8)
def _bias(tokens: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """[1, tokens, tokens]: 0 where a position may look, −∞ elsewhere."""
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None, :]
    allowed = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    return torch.zeros(1, tokens, tokens, dtype=dtype).masked_fill_(~allowed, -torch.inf)
