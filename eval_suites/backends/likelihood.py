"""The engine `likelihood`: nats per byte of texts, and of answers behind their prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from eval_suites.backends.contract import NOT_FINITE, Backend, Continuation
from eval_suites.backends.generate import ChatForm, asked_ids
from eval_suites.suites.chat_item import ChatItem, LikelihoodItem
from sft_core.stage import fingerprint
from sft_core.templates.messages import RAISED


class Measured(NamedTuple):
    """Nats of an item's text; None where it could not be measured."""

    nats: float | None
    tokens: int
    ids: str
    why: str = ""


class Pieces(NamedTuple):
    """An item as what a backend is asked; their nats add up. `why` says that it cannot be asked."""

    asked: tuple[Continuation, ...]
    ids: str
    why: str = ""


def windows(ids: Sequence[int], prefix: int, window: int) -> list[Continuation]:
    """A text as continuations that score every token once, as lm-eval's rolling log-likelihood cuts it.

    The first window predicts from `prefix` on; every further one predicts the next `window` tokens behind one token of
    context, and the last one has as much context as fits.
    Source: `lm_eval.utils.get_rolling_token_windows` with context_len 1, made disjoint.
    """
    if not ids:
        return []
    end = min(window, len(ids))
    found = [Continuation((prefix,), tuple(ids[:end]))]
    while end < len(ids):
        count = min(len(ids) - end, window)
        first, end = end, end + count
        found.append(Continuation(tuple(ids[max(end - window - 1, 0):first]), tuple(ids[first:end])))
    return found


class Texts:
    """Measures likelihood items on a backend.

    Args:
        backend: who computes.
        tokenizer: the model's.
        form: chat template, for answers behind messages.
    """

    def __init__(self, backend: Backend, tokenizer: Any, form: ChatForm | None) -> None:
        self._backend, self._tokenizer, self._form = backend, tokenizer, form
        begin = tokenizer.bos_token_id
        self._prefix = tokenizer.eos_token_id if begin is None else begin

    def measured(self, items: Sequence[LikelihoodItem]) -> Iterator[tuple[int, Measured]]:
        """(place of the item, its nats), each as soon as all its windows are there."""
        pieces = [self._pieces(item) for item in items]
        asked = [(place, one) for place, piece in enumerate(pieces) for one in piece.asked]
        left = [len(piece.asked) for piece in pieces]
        nats = [0.0] * len(items)
        for place, piece in enumerate(pieces):
            if not piece.asked:
                yield place, Measured(None, 0, piece.ids, piece.why)
        for at, found in self._backend.likelihoods([one for _, one in asked]):
            place = asked[at][0]
            nats[place] -= found.logprob
            left[place] -= 1
            if not left[place]:
                tokens = sum(len(one.continuation) for one in pieces[place].asked)
                good = math.isfinite(nats[place])
                yield place, Measured(nats[place] if good else None, tokens, pieces[place].ids,
                                      "" if good else NOT_FINITE)

    def _pieces(self, item: LikelihoodItem) -> Pieces:
        if item.kind == "text":
            ids = self._tokenizer.encode(item.text, add_special_tokens=False)  # a BOS is the prefix, no part of it
            found = tuple(windows(ids, self._prefix, self._backend.window))
            return Pieces(found, fingerprint(ids), "" if found else "the text has no tokens")
        return self._answer(item)

    def _answer(self, item: LikelihoodItem) -> Pieces:
        """The answer's own tokens behind the opened assistant turn; the stop is not measured."""
        assert self._form is not None
        as_chat = ChatItem(item.item_id, item.kind, item.cluster, item.messages, item.tools, {})
        try:
            context = tuple(asked_ids(self._tokenizer, as_chat, self._form.jinja))
        except RAISED as error:
            return Pieces((), "", f"the chat template refuses it: {error}")
        answer = tuple(self._tokenizer.encode(item.text, add_special_tokens=False))
        hashed, window = fingerprint(context), self._backend.window
        if not answer:
            return Pieces((), hashed, "the answer has no tokens")
        if len(context) + len(answer) > window + 1:
            return Pieces((), hashed, f"{len(context) + len(answer)} tokens do not fit the model's window of {window}")
        return Pieces((Continuation(context, answer),), hashed)
