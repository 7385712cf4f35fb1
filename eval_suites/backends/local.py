"""The backend `transformers`: a loaded causal LM, batched by tokens.

Inputs that begin alike share the computing of their beginning (`tree.py`), requests with the same input are computed
once (the four letters behind one MMLU question), and logits exist only where a continuation is. Generation
(`decode.py`): rows that have ended leave, and waiting ones take their place. Inputs so long that rotary
positions would depend on those beside them (`sft_core/model/rotary.py`) are asked one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eval_suites.backends import alone
from eval_suites.backends.budget import Budget
from eval_suites.backends.contract import Continuation, Generation, Likelihood, Prompt, Stops, check_asked
from eval_suites.backends.decode import Decoder
from eval_suites.backends.proof import SIZE, Proof
from eval_suites.backends.reader import Reader
from eval_suites.backends.tree import grow
from sft_core.errors import EvalError
from sft_core.model.load import position_table
from sft_core.model.proof import reach
from sft_core.model.rotary import settle, turning_point
from sft_core.stopping import check

LOGITS = 1 << 25
"""Logits held at once, 128 MiB in float32: 262 positions of a vocabulary of 128,000."""
NO_WINDOW = 1 << 30
Head = Callable[[Tensor], Tensor]


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
        self._model, self._budget = model, Budget(model, batch_tokens)
        self._reader = Reader(model, self._budget, pad)
        self._proofs: dict[int, Proof] = {}
        self._same = turning_point(model.config) or NO_WINDOW

    @property
    def name(self) -> str:
        """Engine, version, device and precision."""
        dtype = str(self._model.dtype).removeprefix("torch.")
        return f"transformers {version('transformers')}, {self._model.device.type}, {dtype}"

    @property
    def window(self) -> int:
        """The model's positions; no bound where it has none."""
        known = getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or 0
        return known if known > 0 else NO_WINDOW  # XLNet says -1

    @property
    def batch_tokens(self) -> int:
        """As they are by now."""
        return self._budget.tokens

    def likelihoods(self, asked: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        """Log-probabilities of the continuations, batch by batch.

        Raises:
            EvalError: a context or a continuation has no tokens, a continuation is longer than the window, or the model
                cannot be called with token ids alone.
        """
        check_asked(asked, self.window)
        every = _inputs(asked, self.window)
        inputs = [one for one in every if len(one.ids) <= self._same]
        way = self._proof(max(len(one.ids) for one in inputs)).reading if inputs else "alone"
        if way == "alone":
            yield from self._alone(every)
            return
        parts = grow([one.ids for one in inputs], [(len(one.ids) - one.tail) * (way == "shared") for one in inputs])
        for ends, hidden in self._reader.read(parts):
            some = [inputs[number] for part in ends if (number := part.row) is not None]
            yield from self._scored(some, hidden, [part.size for part in ends], self._reader.head)
        yield from self._alone([one for one in every if len(one.ids) > self._same])

    def _alone(self, inputs: Sequence[_Input]) -> Iterator[tuple[int, Likelihood]]:
        for one in inputs:
            check()
            with self._budget.spending(1, len(one.ids)):
                found = alone.logits(self._model, one.ids)
            yield from self._scored([one], found[None], [len(one.ids)], nn.Identity())

    def generate(self, asked: Sequence[Prompt], stops: Stops) -> Iterator[tuple[int, Generation]]:
        """Greedy answers.

        Raises:
            EvalError: a prompt has no tokens, it and its answer may need more positions than the model has an embedding
                of, or the model cannot be called with token ids alone.
        """
        self._check_room(asked)
        yield from ((place, Generation((), False)) for place, one in enumerate(asked) if one.longest < 1)
        places = [place for place, one in enumerate(asked) if one.longest > 0]
        near = [place for place in places if asked[place].full <= self._same]
        if near and self._proof(max(asked[place].full for place in near)).continues:
            yield from Decoder(self._reader, stops).run(near, lambda numbers: self._reader.begun(asked, numbers))
            places = [place for place in places if asked[place].full > self._same]
        for place in places:
            check()
            with self._budget.spending(1, asked[place].full):
                found = alone.generated(self._model, asked[place], stops, self._reader.pad)
            yield place, found

    def _proof(self, longest: int) -> Proof:
        """Made once, and again where inputs are longer than a window for the first time."""
        behind = min(reach(self._model.config.get_text_config(), longest), max(longest - SIZE, 0))
        if behind not in self._proofs:
            self._proofs[behind] = Proof(self._reader, behind)
        settle(self._model)
        return self._proofs[behind]

    def _check_room(self, asked: Sequence[Prompt]) -> None:
        if empty := [place for place, one in enumerate(asked) if not one.ids]:
            raise EvalError(f"{len(empty)} of {len(asked)} prompts have no tokens (first: request {empty[0]}), and a "
                            "model needs one to begin with; give the item a text, or a template that begins with some")
        known = position_table(self._model)
        over = [p for p in asked if known is not None and p.full > known]
        if over:
            worst = max(over, key=lambda p: p.full)
            raise EvalError(f"{len(over)} of {len(asked)} prompts do not fit the model's {known} positions with their "
                            f"answers (the longest: {len(worst.ids)} tokens and up to {worst.longest} of answer); "
                            "lower eval.max_new_tokens (--max-new-tokens), or leave the suite out")

    # Likelihoods

    def _scored(self, inputs: Sequence[_Input], hidden: Tensor, sizes: Sequence[int], head: Head
                ) -> Iterator[tuple[int, Likelihood]]:
        tails = torch.cat([hidden[i, size - one.tail:size] for i, (one, size) in enumerate(
            zip(inputs, sizes, strict=True))])
        found, greedy = self._said(tails, inputs, head)
        at = 0
        for place, continuation in (asked for one in inputs for asked in one.wanted):
            end = at + len(continuation)
            yield place, Likelihood(float(found[at:end].sum()), bool(greedy[at:end].all()))
            at = end

    @torch.inference_mode()
    def _said(self, hidden: Tensor, inputs: Sequence[_Input], head: Head) -> tuple[Tensor, Tensor]:
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
            logprobs = head(hidden[start:start + step]).to(wide).log_softmax(dim=-1)
            here = ((where >= start) & (where < start + step)).nonzero().flatten()
            rows, said = where[here] - start, tokens[here]
            found[here], greedy[here] = logprobs[rows, said], logprobs.argmax(dim=-1)[rows] == said
        return found.cpu(), greedy.cpu()


def _inputs(asked: Sequence[Continuation], window: int) -> list[_Input]:
    """Inputs of the model in lexical order, equal ones once; cut from the left to the window as lm-eval does."""
    found: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for place, (context, continuation) in enumerate(asked):
        ids = (context + continuation)[-(window + 1):][:-1]
        found.setdefault(ids, []).append((place, continuation))
    return [_Input(ids, wanted) for ids, wanted in sorted(found.items())]
