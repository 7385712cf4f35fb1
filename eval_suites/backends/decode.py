"""Decoding of rows that come and go: one that has ended makes room for the next that waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from eval_suites.backends.budget import Budget, Smaller
from eval_suites.backends.contract import NOT_FINITE, Generation, Prompt, Stops
from eval_suites.backends.draw import Stream, drawn, stream_of
from eval_suites.backends.kv import ROOM, Held, join
from sft_core.stopping import check

LOOK_EVERY = 8
"""Tokens between two looks at stops that are text; what was generated beyond one is cut off."""
SPARSE = 0.75
"""Ended rows leave once no more than this share is alive."""


@dataclass(eq=False, slots=True)
class Row:
    """A prompt that was read: its keys and values, and what was said since. `number` is the prompt's place."""

    number: int
    longest: int
    held: Held
    stream: Stream | None = None  # of an answer that is drawn
    said: list[int] = field(default_factory=list)
    ended: bool = False

    @classmethod
    def of(cls, number: int, prompt: Prompt, held: Held) -> Row:
        """A prompt that was read just now."""
        return cls(number, prompt.longest, held, stream_of(prompt.draw))

    @property
    def full(self) -> int:
        """Positions that it takes at the most."""
        return self.held.end - self.held.begin + self.longest - len(self.said)


@dataclass(eq=False, slots=True)
class Begun:
    """Prompts that were read together, and the final hidden state of each one's last token [rows, width]."""

    rows: list[Row]
    hidden: Tensor


Begin = Callable[[Sequence[int]], Iterator[Begun]]
"""Reads the prompts with these numbers, batch by batch, when it is asked for the next."""


class Network(Protocol):
    """What a decoder needs of a model."""

    network: Any
    """The transformer without its head."""
    head: Callable[[Tensor], Tensor]
    budget: Budget
    """Padded tokens of all rows together, room for answers included."""
    separable: bool
    """Rows can be joined to others; else a batch stays together until all of it has ended."""


class Decoder:
    """A model that continues rows.

    Args:
        model: the model, see `reader.py`.
        stops: what ends an answer.
    """

    def __init__(self, model: Network, stops: Stops) -> None:
        self._network, self._head, self._stops = model.network, model.head, stops
        self._budget, self._separable = model.budget, model.separable

    @torch.inference_mode()
    def run(self, numbers: Sequence[int], begin: Begin) -> Iterator[tuple[int, Generation]]:
        """(number, answer) of every prompt, as soon as it has ended."""
        coming = begin(numbers)
        waiting, rows = next(coming, None), list[Row]()
        cache: Any = None
        while rows or waiting:
            check()
            while waiting and self._fits(rows, waiting.rows):
                yield from self._said(waiting.rows, waiting.hidden)
                rows, cache = rows + waiting.rows, None
                waiting = next(coming, None)
            alive = [row for row in rows if not row.ended]
            if cache is None or len(alive) <= SPARSE * len(rows):
                rows, cache = alive, None
            if not rows:
                continue
            try:
                with self._budget.spending(len(rows), len(rows) * max(row.full for row in rows)):
                    cache = cache or self.gathered(rows)
                    hidden = self.step(rows, cache)
            except Smaller:
                again = begin([row.number for row in rows if not row.ended])
                coming = chain(again, [waiting] if waiting else [], coming)
                waiting, rows, cache = next(coming, None), [], None
                continue
            yield from self._said(rows, hidden)

    def _fits(self, rows: Sequence[Row], more: Sequence[Row]) -> bool:
        alive = [row for row in rows if not row.ended]
        if not alive:
            return True
        both = [*alive, *more]
        return self._separable and len(both) * max(row.full for row in both) <= self._budget.tokens

    def gathered(self, rows: Sequence[Row]) -> Any:
        """One cache of these rows, which from now on are held by it."""
        if self._separable:
            cache = join([row.held for row in rows], min(ROOM, max(row.longest - len(row.said) for row in rows)))
        else:
            cache = rows[0].held.cache
            cache.reorder_cache(torch.tensor([row.held.row for row in rows], device=self._network.device))
        width = max(row.held.end for row in rows) if not self._separable else max(
            row.held.end - row.held.begin for row in rows)
        for at, row in enumerate(rows):
            row.held = Held(cache, at, width - (row.held.end - row.held.begin), width)
        return cache

    def step(self, rows: Sequence[Row], cache: Any) -> Tensor:
        """Read every row's last token; the final hidden states [rows, width]."""
        device, width = self._network.device, rows[0].held.end + 1
        ids = torch.tensor([row.said[-1:] for row in rows], device=device)
        begins = torch.tensor([[row.held.begin] for row in rows], device=device)
        padded = any(row.held.begin for row in rows)
        mask = (torch.arange(width, device=device) >= begins).long() if padded else None
        out = self._network(input_ids=ids, attention_mask=mask, position_ids=width - 1 - begins, past_key_values=cache,
                            use_cache=True)
        for row in rows:
            row.held = row.held._replace(end=width)
        return out.last_hidden_state[:, -1]  # type: ignore[no-any-return]

    def _said(self, rows: Sequence[Row], hidden: Tensor) -> Iterator[tuple[int, Generation]]:
        """One more token of each row, and the answers that end with it."""
        logits = self._head(hidden)
        highest, chosen = logits.max(dim=-1)  # NaN if any is: -inf alone only bars a token
        if some := [(at, row.stream) for at, row in enumerate(rows) if row.stream and not row.ended]:
            places = [at for at, _ in some]
            chosen[places] = drawn(logits[places], [stream for _, stream in some])
        for row, token, good in zip(rows, chosen.tolist(), highest.isfinite().tolist(), strict=True):
            if row.ended:
                continue
            if found := ended(row.said, token if good else None, row.longest, self._stops):
                row.ended = True
                yield row.number, found


def ended(said: list[int], token: int | None, longest: int, stops: Stops) -> Generation | None:
    """Take one more token, None where logits are not finite; the answer, if it ends with it."""
    if token is None:
        return Generation(tuple(said), False, NOT_FINITE)
    if token in stops.ids:
        return Generation(tuple(said), True)
    said.append(token)
    full = len(said) >= longest
    if stops.done is not None and (full or len(said) % LOOK_EVERY == 0) and stops.done(said):
        first = next(n for n in range(max(len(said) - LOOK_EVERY, 0) + 1, len(said) + 1) if stops.done(said[:n]))
        return Generation(tuple(said[:first]), True)
    return Generation(tuple(said), False) if full else None
