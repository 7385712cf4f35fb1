"""Answers that are drawn instead of decoded greedily: which token comes next.

Every answer has a stream of random numbers of its own, one for each token, so that it is the same whatever is computed
beside it, and however often memory runs out on the way. But for rounding: a batch of another shape has other last
digits, and where a number falls within them of the border between two tokens, the answer goes another way.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from eval_suites.backends.contract import Draw

LIKELIEST = 64
"""Tokens among which the nucleus is looked for first; then eight times as many, until it is among them."""


class Stream:
    """What is left to draw of one answer."""

    def __init__(self, draw: Draw) -> None:
        self.temperature, self.top_p = draw.temperature, draw.top_p
        self._random = random.Random(draw.seed)

    def next(self) -> float:
        """In [0, 1), once for each token."""
        return self._random.random()


def stream_of(draw: Draw | None) -> Stream | None:
    """The stream of an answer that is drawn; None for a greedy one."""
    return Stream(draw) if draw else None


def drawn(logits: Tensor, streams: Sequence[Stream]) -> Tensor:
    """One token for each row.

    Args:
        logits: [rows, vocabulary], finite or -inf.
        streams: of the rows; each gives one number.
    """
    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    shares = (logits.double() / column([one.temperature for one in streams])).softmax(dim=-1)
    if any(one.top_p < 1.0 for one in streams):
        shares = shares.where(shares >= _least(shares, column([one.top_p for one in streams])), 0.0)
    below = shares.cumsum(dim=-1)
    points = column([one.next() for one in streams]) * below[:, -1:]
    return torch.searchsorted(below, points, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def _least(shares: Tensor, top_p: Tensor) -> Tensor:
    """[rows, 1], the probability of the nucleus' last token; 0 where all of the vocabulary is meant."""
    count = LIKELIEST
    while True:
        top = shares.topk(min(count, shares.shape[1]), dim=-1).values
        held = top.cumsum(dim=-1)
        if count >= shares.shape[1] or bool(((held[:, -1:] >= top_p) | (top_p >= 1.0)).all()):
            break
        count *= 8
    last = (held < top_p).sum(dim=-1, keepdim=True).clamp(max=top.shape[1] - 1)
    return top.gather(1, last).where(top_p < 1.0, 0.0)
