"""The backend `transformers`: a loaded causal LM, batched by tokens.

Likelihoods: requests with the same input are computed once (the four letters behind one MMLU question), inputs that
begin alike share the keys and values of their beginning (its few-shot examples), and logits exist only where a
continuation is. Generation: left-padded batches of similar length over a KV cache; rows that have ended leave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eval_suites.backends.contract import NOT_FINITE, Continuation, Generation, Likelihood, Prompt, Stops
from eval_suites.backends.kv import make_room
from sft_core.errors import EvalError
from sft_core.model.attention import decoder_of, head_of
from sft_core.model.load import position_table
from sft_core.stopping import check

SHARED = 48
"""A common beginning shorter than this is not worth a cache of its own."""
LOOK_EVERY = 8
"""Tokens between two looks at stops that are text; what was generated beyond one is cut off."""
LOGITS = 1 << 25
"""Logits held at once, 128 MiB in float32: 262 positions of a vocabulary of 128,000."""
NO_WINDOW = 1 << 30


class _Row(NamedTuple):
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
        batch_tokens: padded tokens per forward pass.
        pad: id for padding; it is masked, so any will do.
    """

    def __init__(self, model: Any, batch_tokens: int, pad: int = 0) -> None:
        self._model, self._budget, self._pad = model, batch_tokens, pad
        self._head = head_of(model)

    @property
    def name(self) -> str:
        """Engine, version, device and precision."""
        dtype = str(self._model.dtype).removeprefix("torch.")
        return f"transformers {version('transformers')}, {self._model.device.type}, {dtype}"

    @property
    def window(self) -> int:
        """The model's positions; no bound where it has none."""
        return getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or NO_WINDOW

    # Likelihoods

    def likelihoods(self, asked: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        """Log-probabilities of the continuations, batch by batch."""
        for group, shared in _groups(_rows(asked, self.window)):
            yield from self._likelihoods_behind(group, shared)

    @torch.inference_mode()
    def _likelihoods_behind(self, rows: Sequence[_Row], shared: int) -> Iterator[tuple[int, Likelihood]]:
        """Rows whose first `shared` ids are the same."""
        beginning = self._read(torch.tensor([rows[0].ids[:shared]], device=self._model.device)) if shared else None
        left = sorted(rows, key=lambda row: -len(row.ids))
        while left:
            check()
            width = len(left[0].ids) - shared  # shared keys and values cost memory, but no time
            count = max(1, self._budget // (width + shared // 4))
            batch, left = left[:count], left[count:]
            yield from self._scored(batch, self._hidden(batch, shared, beginning))

    def _read(self, ids: Tensor) -> Any:
        return decoder_of(self._model)(input_ids=ids, use_cache=True).past_key_values

    def _hidden(self, batch: Sequence[_Row], shared: int, beginning: Any) -> Tensor:
        """Final hidden states [rows, positions behind the shared beginning, width].

        Padding is on the right, where no token of the text looks.
        """
        width = len(batch[0].ids) - shared
        ids = torch.tensor([[*row.ids[shared:], *[self._pad] * (width - len(row.ids) + shared)] for row in batch],
                           device=self._model.device)
        if beginning is None:
            return decoder_of(self._model)(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[no-any-return]
        cache = _copies(beginning, len(batch))
        positions = torch.arange(shared, shared + width, device=ids.device).expand(len(batch), -1)
        return decoder_of(self._model)(  # type: ignore[no-any-return]
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True).last_hidden_state

    def _scored(self, batch: Sequence[_Row], hidden: Tensor) -> Iterator[tuple[int, Likelihood]]:
        start = len(batch[0].ids) - hidden.shape[1]
        spans = [(len(row.ids) - start - row.tail, len(row.ids) - start) for row in batch]
        found, greedy = self._said(torch.cat([hidden[i, a:b] for i, (a, b) in enumerate(spans)]), batch)
        at = 0
        for place, continuation in (one for row in batch for one in row.wanted):
            end = at + len(continuation)
            yield place, Likelihood(float(found[at:end].sum()), bool(greedy[at:end].all()))
            at = end

    def _said(self, hidden: Tensor, batch: Sequence[_Row]) -> tuple[Tensor, Tensor]:
        """Log-probability of every wanted token, in the order of the requests, and whether it is the likeliest.

        Args:
            hidden: [positions, width], the tails of the rows.
        """
        ends = accumulate(row.tail for row in batch)
        wanted = [(end, one) for end, row in zip(ends, batch, strict=True) for _, one in row.wanted]
        where = torch.tensor([at for end, one in wanted for at in range(end - len(one), end)], device=hidden.device)
        tokens = torch.tensor([token for _, one in wanted for token in one], device=hidden.device)
        found, greedy = torch.zeros(len(tokens), device=hidden.device), torch.zeros_like(tokens, dtype=torch.bool)
        step = max(1, LOGITS // self._model.config.get_text_config().vocab_size)
        for start in range(0, len(hidden), step):
            logprobs = self._head(hidden[start:start + step]).float().log_softmax(dim=-1)
            here = ((where >= start) & (where < start + step)).nonzero().flatten()
            rows, said = where[here] - start, tokens[here]
            found[here], greedy[here] = logprobs[rows, said], logprobs.argmax(dim=-1)[rows] == said
        return found, greedy

    # Generation

    def generate(self, asked: Sequence[Prompt], stops: Stops) -> Iterator[tuple[int, Generation]]:
        """Greedy answers, the longest prompts first.

        Raises:
            EvalError: a prompt and its answer may need more positions than the model has an embedding of.
        """
        self._check_room(asked)
        order = sorted(range(len(asked)), key=lambda place: (-len(asked[place].ids), -asked[place].longest, place))
        while order:
            first = asked[order[0]]
            count = max(1, self._budget // (len(first.ids) + first.longest))
            batch, order = order[:count], order[count:]
            yield from self._continued([asked[place] for place in batch], batch, stops)

    def _check_room(self, asked: Sequence[Prompt]) -> None:
        known = position_table(self._model)
        over = [p for p in asked if known is not None and len(p.ids) + p.longest > known]
        if over:
            worst = max(over, key=lambda p: len(p.ids) + p.longest)
            raise EvalError(f"{len(over)} of {len(asked)} prompts do not fit the model's {known} positions with their "
                            f"answers (the longest: {len(worst.ids)} tokens and up to {worst.longest} of answer); "
                            "lower eval.max_new_tokens (--max-new-tokens), or leave the suite out")

    @torch.inference_mode()
    def _continued(self, prompts: Sequence[Prompt], places: Sequence[int], stops: Stops
                   ) -> Iterator[tuple[int, Generation]]:
        """One batch. `alive` maps rows of the cache to prompts; a row that ends leaves once a quarter has ended."""
        width, device = max(len(p.ids) for p in prompts), self._model.device
        ids = torch.tensor([[self._pad] * (width - len(p.ids)) + list(p.ids) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts], device=device)
        positions, cache = (mask.cumsum(1) - 1).clamp(min=0), None
        said: list[list[int]] = [[] for _ in prompts]
        alive, ended = list(range(len(prompts))), set[int]()
        while True:
            check()
            out = decoder_of(self._model)(input_ids=ids, attention_mask=mask, position_ids=positions,
                                          past_key_values=cache, use_cache=True)
            if cache is None:
                make_room(out.past_key_values)
            cache, logits = out.past_key_values, self._head(out.last_hidden_state[:, -1])
            highest, chosen = logits.max(dim=-1)  # NaN if any is: -inf alone only bars a token
            finite = highest.isfinite()
            for row, token, good in zip(alive, chosen.tolist(), finite.tolist(), strict=True):
                if row not in ended and (found := _end(said[row], token, good, prompts[row].longest, stops)):
                    ended.add(row)
                    yield places[row], found
            if ended.issuperset(alive):
                return
            keep = [at for at, row in enumerate(alive) if row not in ended]
            if len(keep) <= 0.75 * len(alive):
                picked = torch.tensor(keep, device=device)
                cache.batch_select_indices(picked)
                alive, chosen, mask, positions = [alive[at] for at in keep], chosen[picked], mask[picked], \
                    positions[picked]
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)


def _end(said: list[int], token: int, good: bool, longest: int, stops: Stops) -> Generation | None:
    """Take one more token; the answer, if it ends with it."""
    if not good:
        return Generation(tuple(said), False, NOT_FINITE)
    if token in stops.ids:
        return Generation(tuple(said), True)
    said.append(token)
    full = len(said) >= longest
    if stops.done is not None and (full or len(said) % LOOK_EVERY == 0) and stops.done(said):
        first = next(n for n in range(max(len(said) - LOOK_EVERY, 0) + 1, len(said) + 1) if stops.done(said[:n]))
        return Generation(tuple(said[:first]), True)
    return Generation(tuple(said), False) if full else None


def _copies(cache: Any, count: int) -> Any:
    """The cache of one row for `count` rows; the original stays as it is."""
    import copy

    made = copy.deepcopy(cache)
    made.batch_repeat_interleave(count)
    return made


def _rows(asked: Sequence[Continuation], window: int) -> list[_Row]:
    """Inputs of the model in lexical order, equal ones once; cut from the left to the window as lm-eval does."""
    found: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for place, (context, continuation) in enumerate(asked):
        ids = (context + continuation)[-(window + 1):][:-1]
        found.setdefault(ids, []).append((place, continuation))
    return [_Row(ids, wanted) for ids, wanted in sorted(found.items())]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


def _groups(rows: Sequence[_Row]) -> Iterator[tuple[list[_Row], int]]:
    """Rows that share at least half of each and `SHARED` ids, with what they share; the others as one group with 0.

    In lexical order the common beginning of neighbours only shrinks as a group grows.
    """
    alone: list[_Row] = []
    at = 0
    while at < len(rows):
        shared, end = len(rows[at].ids) - rows[at].tail, at + 1
        while end < len(rows):
            row = rows[end]
            both = min(shared, _common(rows[at].ids, row.ids), len(row.ids) - row.tail)
            if both < SHARED or 2 * both < max(len(row.ids), len(rows[at].ids)):
                break
            shared, end = both, end + 1
        if end - at > 1:
            yield list(rows[at:end]), shared
        else:
            alone.append(rows[at])
        at = end
    if alone:
        yield alone, 0
