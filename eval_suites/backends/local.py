"""The backend `transformers`: a loaded causal LM, batched by tokens.

Inputs that begin alike share the computing of their beginning (`tree.py`), requests with the same input are computed
once (the four letters behind one MMLU question), and logits exist only where a continuation is. Generation
(`decode.py`): rows that have ended leave, and waiting ones take their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from eval_suites.backends.budget import Budget, Smaller
from eval_suites.backends.contract import Continuation, Generation, Likelihood, Prompt, Stops
from eval_suites.backends.decode import Begun, Decoder, Row
from eval_suites.backends.kv import Held, copies, join, separable
from eval_suites.backends.tree import Part, Queue, grow
from sft_core.errors import EvalError
from sft_core.model.attention import decoder_of, head_of
from sft_core.model.load import position_table
from sft_core.stopping import check

LOGITS = 1 << 25
"""Logits held at once, 128 MiB in float32: 262 positions of a vocabulary of 128,000."""
AT_ONCE = 4
"""Prompts are read in batches of this fraction of the budget, so that they come as room is made for them."""
NO_WINDOW = 1 << 30
ENOUGH = {"cpu": 512, "cuda": 8192}
"""Tokens with which a forward pass keeps the device busy, so that less padding pays more than larger batches."""


class _Input(NamedTuple):
    """One input of the model, and what is asked of its last positions: (place of the request, its continuation)."""

    ids: tuple[int, ...]
    wanted: list[tuple[int, tuple[int, ...]]]

    @property
    def tail(self) -> int:
        """Positions at the end whose logits are needed."""
        return max(len(continuation) for _, continuation in self.wanted)


class Local:
    """A causal LM in this process.

    Args:
        model: from transformers, in evaluation mode, on its device.
        batch_tokens: padded tokens of a batch, with those that stand before them, halved when memory runs out; None:
            what free memory holds.
        pad: id for padding; it is masked, so any will do.
    """

    def __init__(self, model: Any, batch_tokens: int | None, pad: int = 0) -> None:
        self._model, self._budget, self._pad = model, Budget(model, batch_tokens), pad
        self._head, self._network = head_of(model), decoder_of(model)
        self._separable = separable(model.config)
        self._enough = ENOUGH.get(model.device.type, ENOUGH["cuda"])

    @property
    def name(self) -> str:
        """Engine, version, device and precision."""
        dtype = str(self._model.dtype).removeprefix("torch.")
        return f"transformers {version('transformers')}, {self._model.device.type}, {dtype}"

    @property
    def window(self) -> int:
        """The model's positions; no bound where it has none."""
        return getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or NO_WINDOW

    @property
    def batch_tokens(self) -> int:
        """As they are by now."""
        return self._budget.tokens

    def likelihoods(self, asked: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        """Log-probabilities of the continuations, batch by batch."""
        inputs = _inputs(asked, self.window)
        parts = grow([one.ids for one in inputs], [len(one.ids) - one.tail for one in inputs])
        for ends, hidden in self._read_all(parts):
            yield from self._scored([inputs[number] for part in ends if (number := part.row) is not None], hidden,
                                    [part.size for part in ends])

    def generate(self, asked: Sequence[Prompt], stops: Stops) -> Iterator[tuple[int, Generation]]:
        """Greedy answers.

        Raises:
            EvalError: a prompt and its answer may need more positions than the model has an embedding of.
        """
        self._check_room(asked)
        decoder = Decoder(self._network, self._head, stops, self._budget, separable=self._separable)
        begin = self._begun if self._separable else self._begun_alone
        yield from decoder.run(range(len(asked)), lambda numbers: begin(asked, numbers))

    def _check_room(self, asked: Sequence[Prompt]) -> None:
        known = position_table(self._model)
        over = [p for p in asked if known is not None and len(p.ids) + p.longest > known]
        if over:
            worst = max(over, key=lambda p: len(p.ids) + p.longest)
            raise EvalError(f"{len(over)} of {len(asked)} prompts do not fit the model's {known} positions with their "
                            f"answers (the longest: {len(worst.ids)} tokens and up to {worst.longest} of answer); "
                            "lower eval.max_new_tokens (--max-new-tokens), or leave the suite out")

    # Reading

    @torch.inference_mode()
    def _read_all(self, parts: Sequence[Part], longest: int | None = None) -> Iterator[tuple[list[Part], Tensor]]:
        """Every part once, behind its parent, depth first, so that keys and values are held for one batch a level.

        Args:
            longest: inputs will be continued by so many tokens, and what their ends hold is kept.

        Yields:
            The ends of inputs in a batch, and its final hidden states [ends, positions, width], padded at the right.
        """
        queue, more, share = Queue(parts, mixed=self._separable), longest or 0, 1 if longest is None else AT_ONCE
        while queue:
            check()
            batch = queue.batch(self._budget.tokens // share, self._enough, more)
            try:
                with self._budget.spending(len(batch), len(batch) * (max(part.end for part in batch) + more)):
                    hidden = self._read(batch, keep=longest is not None)
            except Smaller:
                continue
            queue.done(batch)
            if ends := [at for at, part in enumerate(batch) if part.row is not None]:
                yield [batch[at] for at in ends], hidden[ends]
            del hidden
            yield from self._read_all([child for part in batch for child in part.children], longest)
            for part in batch:
                part.held = None

    def _read(self, batch: Sequence[Part], *, keep: bool) -> Tensor:
        """Final hidden states of a batch. What stands before its parts is padded at the left, they are at the right.

        Args:
            keep: hold keys and values of all parts, not only of those that are continued.
        """
        width, behind, device = max(p.size for p in batch), max(p.start for p in batch), self._model.device
        keep = keep or any(part.children for part in batch)
        ids = torch.tensor([[*p.ids[p.start:p.end], *[self._pad] * (width - p.size)] for p in batch], device=device)
        more: dict[str, Any] = {"past_key_values": DynamicCache()} if keep and self._separable else {}
        if behind:
            more["past_key_values"] = self._joined([part.parent.held for part in batch if part.parent], width)
            starts = torch.tensor([[part.start] for part in batch], device=device)
            more["position_ids"] = starts + torch.arange(width, device=device)
            if any(part.start < behind for part in batch):
                more["attention_mask"] = (torch.arange(behind + width, device=device) >= behind - starts).long()
        out = self._network(input_ids=ids, use_cache=keep or bool(behind), **more)
        for row, part in enumerate(batch if keep else ()):
            part.held = Held(out.past_key_values, row, behind - part.start, behind + part.size)
        return out.last_hidden_state  # type: ignore[no-any-return]

    def _joined(self, held: Sequence[Held], room: int) -> Any:
        return join(held, room) if self._separable else copies(held[0].cache, len(held))

    # Likelihoods

    def _scored(self, inputs: Sequence[_Input], hidden: Tensor, sizes: Sequence[int]) -> Iterator[
            tuple[int, Likelihood]]:
        tails = torch.cat([hidden[i, size - one.tail:size] for i, (one, size) in enumerate(
            zip(inputs, sizes, strict=True))])
        found, greedy = self._said(tails, inputs)
        at = 0
        for place, continuation in (asked for one in inputs for asked in one.wanted):
            end = at + len(continuation)
            yield place, Likelihood(float(found[at:end].sum()), bool(greedy[at:end].all()))
            at = end

    @torch.inference_mode()
    def _said(self, hidden: Tensor, inputs: Sequence[_Input]) -> tuple[Tensor, Tensor]:
        """Log-probability of every wanted token, in the order of the requests, and whether it is the likeliest; on the
        CPU, so that the device is waited for once a batch and not once a request.

        Args:
            hidden: [positions, width], the tails of the inputs.
        """
        ends = accumulate(one.tail for one in inputs)
        wanted = [(end, said) for end, one in zip(ends, inputs, strict=True) for _, said in one.wanted]
        where = torch.tensor([at for end, said in wanted for at in range(end - len(said), end)], device=hidden.device)
        tokens = torch.tensor([token for _, said in wanted for token in said], device=hidden.device)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        found = torch.zeros(len(tokens), dtype=wide, device=hidden.device)
        greedy = torch.zeros_like(tokens, dtype=torch.bool)
        step = max(1, LOGITS // self._model.config.get_text_config().vocab_size)
        for start in range(0, len(hidden), step):
            logprobs = self._head(hidden[start:start + step]).to(wide).log_softmax(dim=-1)
            here = ((where >= start) & (where < start + step)).nonzero().flatten()
            rows, said = where[here] - start, tokens[here]
            found[here], greedy[here] = logprobs[rows, said], logprobs.argmax(dim=-1)[rows] == said
        return found.cpu(), greedy.cpu()

    # Generation

    def _begun(self, asked: Sequence[Prompt], numbers: Sequence[int]) -> Iterator[Begun]:
        """Prompts read as a tree, a few at a time: those that wait hold memory."""
        order = sorted(numbers, key=lambda number: (asked[number].ids, number))
        rows = [asked[number].ids for number in order]
        longest = max((asked[number].longest for number in order), default=0)
        for ends, hidden in self._read_all(grow(rows, [len(ids) - 1 for ids in rows]), longest):
            last = torch.stack([hidden[at, part.size - 1] for at, part in enumerate(ends)])
            begun = [order[number] for part in ends if (number := part.row) is not None]
            yield Begun([Row(number, asked[number].longest, part.held)
                         for number, part in zip(begun, ends, strict=True)], last)

    @torch.inference_mode()
    def _begun_alone(self, asked: Sequence[Prompt], numbers: Sequence[int]) -> Iterator[Begun]:
        """Whole prompts, padded at the left, where the model carries a state: its code knows how to pass padding."""
        left = sorted(numbers, key=lambda number: (-len(asked[number].ids), -asked[number].longest, number))
        while left:
            first = asked[left[0]]
            batch = left[:max(1, self._budget.tokens // (len(first.ids) + first.longest))]
            width, device = len(first.ids), self._model.device
            pads = [width - len(asked[number].ids) for number in batch]
            ids = torch.tensor([[self._pad] * pad + list(asked[number].ids)
                                for pad, number in zip(pads, batch, strict=True)], device=device)
            mask = torch.arange(width, device=device) >= torch.tensor(pads, device=device)[:, None]
            try:
                with self._budget.spending(len(batch), len(batch) * (width + first.longest)):
                    out = self._network(input_ids=ids, attention_mask=mask.long(), use_cache=True,
                                        position_ids=(mask.cumsum(1) - 1).clamp(min=0))
            except Smaller:
                continue
            left = left[len(batch):]
            yield Begun([Row(number, asked[number].longest, Held(out.past_key_values, at, pad, width))
                         for at, (pad, number) in enumerate(zip(pads, batch, strict=True))],
                        out.last_hidden_state[:, -1])


def _inputs(asked: Sequence[Continuation], window: int) -> list[_Input]:
    """Inputs of the model in lexical order, equal ones once; cut from the left to the window as lm-eval does."""
    found: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for place, (context, continuation) in enumerate(asked):
        ids = (context + continuation)[-(window + 1):][:-1]
        found.setdefault(ids, []).append((place, continuation))
    return [_Input(ids, wanted) for ids, wanted in sorted(found.items())]
