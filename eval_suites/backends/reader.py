"""Reads parts of inputs and prompts, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from eval_suites.backends.budget import Budget, Smaller
from eval_suites.backends.contract import Prompt
from eval_suites.backends.decode import Begun, Row
from eval_suites.backends.kv import Held, copies, join, separable
from eval_suites.backends.tree import Part, Queue, grow
from sft_core.model.attention import decoder_of, head_of
from sft_core.stopping import check

AT_ONCE = 4
"""Prompts are read in batches of this fraction of the budget, so that they come as room is made for them."""
ENOUGH = {"cpu": 512, "cuda": 8192}
"""Tokens with which a forward pass keeps the device busy, so that less padding pays more than larger batches."""


class Reader:
    """A model as a network, whose final hidden states are read, and a head.

    Args:
        model: a causal LM in evaluation mode, on its device.
        budget: padded tokens of a batch, with those that stand before them.
        pad: id for padding.
    """

    def __init__(self, model: Any, budget: Budget, pad: int) -> None:
        self.model, self.budget, self.pad = model, budget, pad
        self.head: Callable[[Tensor], Tensor] = head_of(model)
        self.network: Any = decoder_of(model)
        self.separable = separable(model.config)
        """Rows of its cache can be cut, padded and joined; else a batch stays together until all of it has ended."""
        self._enough = ENOUGH.get(model.device.type, ENOUGH["cuda"])

    @torch.inference_mode()
    def read(self, parts: Sequence[Part], longest: int | None = None) -> Iterator[tuple[list[Part], Tensor]]:
        """Every part once, behind its parent, depth first, so that keys and values are held for one batch a level.

        Args:
            longest: inputs will be continued by so many tokens, and what their ends hold is kept.

        Yields:
            The ends of inputs in a batch, and its final hidden states [ends, positions, width], padded at the right.
        """
        queue, more, share = Queue(parts, mixed=self.separable), longest or 0, 1 if longest is None else AT_ONCE
        while queue:
            check()
            batch = queue.batch(self.budget.tokens // share, self._enough, more)
            try:
                with self.budget.spending(len(batch), len(batch) * (max(part.end for part in batch) + more)):
                    hidden = self._pass(batch, keep=longest is not None)
            except Smaller:
                continue
            queue.done(batch)
            if ends := [at for at, part in enumerate(batch) if part.row is not None]:
                yield [batch[at] for at in ends], hidden[ends]
            del hidden
            yield from self.read([child for part in batch for child in part.children], longest)
            for part in batch:
                part.held = None

    def _pass(self, batch: Sequence[Part], *, keep: bool) -> Tensor:
        """Final hidden states of a batch. What stands before its parts is padded at the left, they are at the right.

        Args:
            keep: hold keys and values of all parts, not only of those that are continued.
        """
        width, behind, device = max(p.size for p in batch), max(p.start for p in batch), self.model.device
        keep = keep or any(part.children for part in batch)
        ids = torch.tensor([[*p.ids[p.start:p.end], *[self.pad] * (width - p.size)] for p in batch], device=device)
        more: dict[str, Any] = {"past_key_values": DynamicCache()} if keep and self.separable else {}
        if behind:
            more["past_key_values"] = self._joined([part.parent.held for part in batch if part.parent], width)
            starts = torch.tensor([[part.start] for part in batch], device=device)
            more["position_ids"] = starts + torch.arange(width, device=device)
            if any(part.start < behind for part in batch):
                more["attention_mask"] = (torch.arange(behind + width, device=device) >= behind - starts).long()
        out = self.network(input_ids=ids, use_cache=keep or bool(behind), **more)
        for row, part in enumerate(batch if keep else ()):
            part.held = Held(out.past_key_values, row, behind - part.start, behind + part.size)
        return out.last_hidden_state  # type: ignore[no-any-return]

    def _joined(self, held: Sequence[Held], room: int) -> Any:
        return join(held, room) if self.separable else copies(held[0].cache, len(held))

    def begun(self, asked: Sequence[Prompt], numbers: Sequence[int]) -> Iterator[Begun]:
        """The prompts with these numbers, read to be continued."""
        return self._as_tree(asked, numbers) if self.separable else self._whole(asked, numbers)

    def _as_tree(self, asked: Sequence[Prompt], numbers: Sequence[int]) -> Iterator[Begun]:
        """Prompts read as a tree, a few at a time: those that wait hold memory."""
        order = sorted(numbers, key=lambda number: (asked[number].ids, number))
        rows = [asked[number].ids for number in order]
        longest = max((asked[number].longest for number in order), default=0)
        for ends, hidden in self.read(grow(rows, [len(ids) - 1 for ids in rows]), longest):
            last = torch.stack([hidden[at, part.size - 1] for at, part in enumerate(ends)])
            begun = [order[number] for part in ends if (number := part.row) is not None]
            yield Begun([Row.of(number, asked[number], part.held)
                         for number, part in zip(begun, ends, strict=True)], last)

    @torch.inference_mode()
    def _whole(self, asked: Sequence[Prompt], numbers: Sequence[int]) -> Iterator[Begun]:
        """Whole prompts, padded at the left, where the model carries a state: its code knows how to pass padding."""
        left = sorted(numbers, key=lambda number: (-len(asked[number].ids), -asked[number].longest, number))
        while left:
            first = asked[left[0]]
            batch = left[:max(1, self.budget.tokens // (len(first.ids) + first.longest))]
            width, device = len(first.ids), self.model.device
            pads = [width - len(asked[number].ids) for number in batch]
            ids = torch.tensor([[self.pad] * pad + list(asked[number].ids)
                                for pad, number in zip(pads, batch, strict=True)], device=device)
            mask = torch.arange(width, device=device) >= torch.tensor(pads, device=device)[:, None]
            try:
                with self.budget.spending(len(batch), len(batch) * (width + first.longest)):
                    out = self.network(input_ids=ids, attention_mask=mask.long(), use_cache=True,
                                        position_ids=(mask.cumsum(1) - 1).clamp(min=0))
            except Smaller:
                continue
            left = left[len(batch):]
            yield Begun([Row.of(number, asked[number], Held(out.past_key_values, at, pad, width))
                         for at, (pad, number) in enumerate(zip(pads, batch, strict=True))],
                        out.last_hidden_state[:, -1])
