"""lm-eval's HFLM with a backend of ours behind it.

Tokenization, truncation, stop and decoding rules stay lm-eval's; computing, batching and the cache of answers are the
backend's. What a backend does not do (sampling, beams) is left to HFLM itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    _add_special_kwargs,
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from eval_suites.backends.contract import NOT_FINITE, Backend, Continuation, Prompt, Stops
from eval_suites.results import ended
from sft_core.errors import EvalError
from sft_core.progress import progress
from sft_core.stopping import check

GREEDY = {"until", "max_gen_toks", "do_sample", "temperature"}
AT_ONCE = 1024  # texts per call of the tokenizer
ALL = 1 << 30  # requests per batch as far as HFLM is concerned: batching is the backend's


class FastModel(HFLM):  # type: ignore[misc]
    """HFLM that asks a backend.

    Args:
        network: the model; for a backend in another engine one without weights, for its config.
        tokenizer: the model's; lm-eval gives it a pad token, so a copy.
        backend: who computes.
        label: of the progress bar.
    """

    def __init__(self, network: Any, tokenizer: Any, backend: Backend, label: str) -> None:
        self._backend, self._label = backend, label
        super().__init__(pretrained=network, tokenizer=copy.deepcopy(tokenizer), batch_size=ALL, backend="causal")
        self.truncated: set[str] = set()
        """Contexts that were cut to fit the model."""
        self.failed: dict[str, str] = {}
        """Contexts that have no answer, and why."""
        self.ended: dict[str, dict[str, float]] = {}
        """Contexts of free answers, and how these ended: what chats measure (`asking/opened.py`), where it is known."""
        self._encoded: dict[str, list[int]] = {}

    @property
    def max_length(self) -> int:
        """HFLM's, or what the backend takes if that is less."""
        return int(min(super().max_length, self._backend.window))

    # Tokenizing: many texts at once, each once

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None,
                   **kwargs: Any) -> Any:
        """HFLM's, remembered while requests are answered."""
        if add_special_tokens is None and left_truncate_len is None and string in self._encoded:
            return list(self._encoded[string])
        return super().tok_encode(string, add_special_tokens, left_truncate_len, **kwargs)

    def _encode_all(self, strings: Iterable[str]) -> None:
        """As `tok_encode` would, many at a time; all of MMLU takes a minute, which is told."""
        prefix = self.tokenizer.decode(self.prefix_token_id)
        kinds: dict[bool, list[str]] = {True: [], False: []}
        for string in dict.fromkeys(strings):
            kinds[bool(has_bos_prefix(string, prefix))].append(string)
        how = _add_special_kwargs(None, self.add_bos_token)
        with progress(f"{self._label}: prompts", sum(map(len, kinds.values())), "texts") as bar:
            for begun, texts in kinds.items():
                for start in range(0, len(texts), AT_ONCE):
                    check()
                    some = texts[start:start + AT_ONCE]
                    found = self.tokenizer(some, **({**how, "add_special_tokens": False} if begun else how))
                    self._encoded.update(zip(some, found["input_ids"], strict=True))
                    bar.advance(len(some))

    # Likelihoods

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """HFLM's, with its texts encoded together."""
        pairs = [request.args for request in requests]
        bare = [context.rstrip() for context, _ in pairs]
        self._encode_all(text for (context, answer), cut in zip(pairs, bare, strict=True) if context
                         for text in (cut, context + answer) if text)
        try:
            return super().loglikelihood(requests, disable_tqdm=True)
        finally:
            self._encoded.clear()

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """HFLM's: its windows, all at once."""
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        asked = []
        for texts, context, answer in requests:
            if texts and len(context) + len(answer) > self.max_length + 1:
                self.truncated.add("".join(texts))
            asked.append(Continuation(tuple(context), tuple(answer)))
        found: list[Any] = [None] * len(requests)
        with progress(self._label, len(asked), "requests") as bar:
            for place, one in self._backend.likelihoods(asked):
                found[place] = (one.logprob, one.greedy)
                if requests[place][0] and not math.isfinite(one.logprob):
                    self.failed[requests[place][0][0]] = NOT_FINITE
                bar.advance(1)
        return found

    # Free answers

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As HFLM with batch size 1, greedy; requests that want another decoding go to HFLM itself."""
        found: list[str | None] = [None] * len(requests)
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(place)
        with progress(self._label, len(requests), "requests") as bar:
            for places in groups.values():
                for place, text in self._generated(requests, places):
                    found[place] = text
                    bar.advance(1)
        return found

    def _generated(self, requests: Sequence[Any], places: Sequence[int]) -> Iterable[tuple[int, str]]:
        """Requests with the same settings."""
        raw = requests[places[0]].args[1]
        kwargs = normalize_gen_kwargs(raw, self.max_gen_toks)
        if set(kwargs) - GREEDY or kwargs.get("do_sample") or kwargs.get("temperature"):
            yield from zip(places, self._as_hflm([requests[place] for place in places]), strict=True)
            return
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(kwargs["until"], eos=eos)
        longest = kwargs["max_gen_toks"]
        if (room := self.max_length - longest) <= 0:
            raise EvalError(f"{self._label}: an answer of {longest} tokens leaves no room for a question in a window "
                            f"of {self.max_length}; lower eval.max_new_tokens (--max-new-tokens)")
        prompts = [self._prompt(requests[place].args[0], room, longest) for place in places]
        for at, said in self._backend.generate(prompts, self._stops(until)):
            if said.why:
                self.failed[requests[places[at]].args[0]] = said.why
            text = self.tok_decode(list(said.ids))
            stopped = said.stopped or any(stop in text for stop in until)
            self.ended[requests[places[at]].args[0]] = ended(len(said.ids), stopped=stopped)
            yield places[at], postprocess_generated_text(generation=text, stop=until, think_end_token=None)

    def _as_hflm(self, requests: Sequence[Any]) -> Any:
        self.batch_size_per_gpu = 1
        try:
            return super().generate_until(requests, disable_tqdm=True)
        finally:
            self.batch_size_per_gpu = ALL

    def _prompt(self, text: str, room: int, longest: int) -> Prompt:
        """Cut from the left as HFLM does."""
        how: dict[str, Any] = {}
        if has_bos_prefix(text, getattr(self.tokenizer, "bos_token", None)):
            how = {"add_special_tokens": False}
        elif self.add_bos_token is not None:
            how = {"add_special_tokens": self.add_bos_token}
        ids = self.tokenizer(text, **how)["input_ids"]
        if len(ids) > room:
            self.truncated.add(text)
        return Prompt(tuple(ids[-room:]), longest)

    def _stops(self, until: Sequence[str]) -> Stops:
        """EOS and every stop text that is one token end an answer at once; other stop texts are looked for."""
        configured = self.model.generation_config.eos_token_id
        ends = set(configured if isinstance(configured, list) else [configured]) | {self.eot_token_id}
        ids = {text: self.tokenizer.encode(text, add_special_tokens=False) for text in until}
        special = set(self.tokenizer.all_special_ids)
        ends |= {found[0] for found in ids.values() if len(found) == 1 and found[0] in special}
        texts = [text for text, found in ids.items() if not (len(found) == 1 and found[0] in ends)]

        def done(said: Sequence[int]) -> bool:
            text = self.tokenizer.decode(said)
            return any(stop in text for stop in texts)

        return Stops(frozenset(one for one in ends if one is not None), done if texts else None, repr(texts))
