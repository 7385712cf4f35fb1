"""Proof, on the loaded model, of how it may be asked: whatever is done to be fast must give the numbers of the model
called with one input's ids alone.

Kept beginnings, padding and rows that come and go are no more than that where all that a model remembers are keys and
values by position, and where its code honours the positions and the mask that it is told. Not all do: some forget their
state when several tokens come at once, some count positions by themselves, some do more to a state than their head.
What is proved is taken; what is not is done the slow way, and said once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from eval_suites.backends import alone
from eval_suites.backends.contract import Prompt, Stops
from eval_suites.backends.decode import Decoder, Row
from eval_suites.backends.reader import Reader
from eval_suites.backends.tree import Part
from sft_core.errors import EvalError
from sft_core.model.held import HALVES, AsFloat32, in_4_bits
from sft_core.model.load import first_line
from sft_core.model.proof import RAISED, some_ids
from sft_core.model.room import is_short

Reading = Literal["shared", "whole", "alone"]
"""Beginnings computed once · whole inputs side by side, padded · one at a time through the model's own forward."""

log = logging.getLogger("sft")
BEGINS, ENDS = (8, 8, 5), (3, 5, 4)
"""Tokens of the beginning and the rest of each input; the first two begin alike."""
SIZE = max(BEGINS) + max(ENDS)
TAIL = 3
"""Positions at the end of each whose logits are compared; one more than tokens are generated."""
LIKELIEST, BARRED = 64, -1e4
"""Tokens whose log-probabilities are compared, and below what a token is barred and its number means nothing."""
NEAR = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Largest difference of log-probabilities, in units of the largest logit if that is more than 1. Models compute states
in float32 whatever they are held in; weights in half precision are read as float32 here where that can be."""


class Proof:
    """A few inputs, and what the model itself says of them.

    Args:
        reader: the model.
        behind: further tokens of the beginning that two of them share, the longest window that inputs outgrow.

    Raises:
        EvalError: the model cannot be called with token ids alone.
    """

    def __init__(self, reader: Reader, behind: int) -> None:
        self._reader, model, self._name = reader, reader.model, type(reader.model).__name__
        begins = [some_ids(model, count + (behind if count == max(BEGINS) else 0), count).tolist() for count in BEGINS]
        self._rows = [(*begin, *some_ids(model, count, 1000 * count).tolist())
                      for begin, count in zip(begins, ENDS, strict=True)]
        self._shared = [len(begin) for begin in begins]
        self._exact = not in_4_bits(model)
        try:
            self._own = self._alone()
        except RAISED:  # a kernel for half precision alone
            self._exact = False
            self._own = self._alone()

    def _alone(self) -> list[Tensor]:
        model = self._reader.model
        try:
            with self._exactly():
                return [alone.logits(model, row)[-TAIL:] for row in self._rows]
        except RAISED as error:
            if self._exact:
                raise
            raise EvalError(f"{self._name} cannot be called with token ids alone ({_said(error)}); evaluate "
                            "a causal language model") from error

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        """In float32 at least, where the model can be read so."""
        model = self._reader.model
        with ExitStack() as stack:
            if self._exact:
                stack.enter_context(torch.autocast(model.device.type, enabled=False))
                if model.dtype in HALVES:
                    stack.enter_context(AsFloat32())
            yield

    @cached_property
    def reading(self) -> Reading:
        """The fastest way to read that is proved."""
        if not self._shared_fault:
            return "shared"
        if not self._fault(lambda: self._read(self._whole_parts())):
            _tell(f"{self._name}: a beginning that prompts share is computed anew for each, since one that is kept "
                  "does not give the model's own numbers", self._shared_fault)
            return "whole"
        _tell(f"{self._name}: prompts are read one by one, since no faster way gives the model's own numbers",
              self._shared_fault)
        return "alone"

    @cached_property
    def continues(self) -> bool:
        """Whether answers may be made side by side, of rows of which some leave."""
        fault = (self._shared_fault if self._reader.separable else "") or self._fault(self._decode)
        if fault:
            _tell(f"{self._name}: answers are made one by one by the model's own `generate`, since rows that are "
                  "continued together do not give the model's own numbers", fault)
        return not fault

    @cached_property
    def _shared_fault(self) -> str:
        """What is wrong with kept beginnings, or with padding at either side; '' where nothing is."""
        first, second = (Part(self._rows[at], 0, self._shared[at], None) for at in (0, 2))
        for at, parent in enumerate((first, first, second)):
            parent.children.append(Part(self._rows[at], parent.end, len(self._rows[at]), parent, at))
        # Where rows are cut and joined, beginnings of two lengths have been padded with each other already.
        whole = [] if self._reader.separable else self._whole_parts()
        return self._fault(lambda: self._read([first, second, *whole]))

    def _whole_parts(self) -> list[Part]:
        return [Part(row, 0, len(row), None, at) for at, row in enumerate(self._rows)]

    def _read(self, parts: Sequence[Part]) -> Iterator[tuple[Tensor, Tensor]]:
        for ends, hidden in self._reader.read(parts):
            for at, part in enumerate(ends):
                assert part.row is not None
                yield self._reader.head(hidden[at, part.size - TAIL:part.size]), self._own[part.row]

    def _decode(self) -> Iterator[tuple[Tensor, Tensor]]:
        more, decoder = TAIL - 1, Decoder(self._reader, Stops(frozenset()))
        prompts = [Prompt(row[:-more], more) for row in self._rows]
        begun = list(self._reader.begun(prompts, range(len(prompts))))
        for one in begun:
            yield from self._told(one.rows, one.hidden, 0)
        together = [[row for one in begun for row in one.rows]] if self._reader.separable else [
            one.rows for one in begun]
        for rows in together:
            cache = decoder.gathered(rows)
            for step in range(more):
                for row in rows:
                    row.said.append(self._rows[row.number][step - more])
                yield from self._told(rows, decoder.step(rows, cache), step + 1)
                if len(rows) > 1 and step + 1 < more:
                    rows = rows[1:]
                    cache = decoder.gathered(rows)

    def _told(self, rows: Sequence[Row], hidden: Tensor, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        for row, found in zip(rows, self._reader.head(hidden), strict=True):
            yield found[None], self._own[row.number][step][None]

    @torch.inference_mode()
    def _fault(self, compute: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> str:
        near = NEAR[self._reader.model.dtype if not self._exact else torch.float32]
        try:
            with self._exactly():
                gap = max(_gap(found, own) for found, own in compute())
        except RAISED as error:
            if isinstance(error, RuntimeError) and is_short(error):
                raise
            return _said(error)
        return "" if gap <= near else f"log-probabilities differ by {gap:.2g} of the largest logit"


def _gap(found: Tensor, own: Tensor) -> float:
    """Of two tables of logits [positions, vocabulary]; where both are not finite they are alike."""
    wide = torch.promote_types(own.dtype, torch.float32)
    best = own.to(wide).topk(min(LIKELIEST, own.shape[-1]))
    one, other = (x.to(wide).log_softmax(-1).gather(-1, best.indices) for x in (found, own))
    barred = other < BARRED
    size = best.values.masked_fill(barred, 0.0).abs().amax(-1, keepdim=True).clamp_min(1.0)
    gap = ((one - other).abs() / size).masked_fill(barred | (one.isnan() & other.isnan()), 0.0)
    return float(gap.nan_to_num(torch.inf).max())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


_told: set[str] = set()


def _tell(what: str, fault: str) -> None:
    """Once in a process, whichever fault was found first."""
    if what not in _told:
        log.warning("%s (%s)", what, fault)
    _told.add(what)
