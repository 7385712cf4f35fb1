"""One input at a time through the model's own code, for what can be asked in no faster way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from eval_suites.backends.contract import Generation, Prompt, Stops
from eval_suites.backends.decode import ended
from eval_suites.backends.draw import drawn, stream_of
from sft_core.errors import EvalError
from sft_core.model.load import first_line
from sft_core.model.proof import RAISED
from sft_core.model.room import is_short
from sft_core.model.rotary import settle
from sft_core.stopping import check


@torch.inference_mode()
def logits(model: Any, ids: Sequence[int]) -> Tensor:
    """[tokens, vocabulary]."""
    settle(model)
    found: Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    return found


@torch.inference_mode()
def generated(model: Any, prompt: Prompt, stops: Stops, pad: int,
              told: Callable[[Sequence[int]], None] | None = None) -> Generation:
    """An answer by the model's own `generate`.

    Args:
        told: is given the ids so far, after each one.

    Raises:
        EvalError: the model cannot generate.
    """
    settle(model)
    ids, watch = torch.tensor([prompt.ids], device=model.device), _Watch(prompt, stops, told)
    try:
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=1, pad_token_id=pad,
            max_new_tokens=prompt.longest, eos_token_id=sorted(stops.ids) or None, do_sample=False,
            logits_processor=LogitsProcessorList([watch.look]), stopping_criteria=StoppingCriteriaList([watch]))
    except RAISED as error:
        if isinstance(error, RuntimeError) and is_short(error):
            raise
        raise EvalError(f"{type(model).__name__} cannot generate ({type(error).__name__}: {first_line(error)}); leave "
                        "out suites of free answers, or evaluate a causal language model") from error
    assert watch.found is not None
    return watch.found


class _Watch:
    """Takes each token as the decoder does, and stops where it would. `look` is shown the logits before each, and bars
    all tokens but the one that is drawn."""

    def __init__(self, prompt: Prompt, stops: Stops, told: Callable[[Sequence[int]], None] | None) -> None:
        self._said, self._longest, self._stops, self._told = list[int](), prompt.longest, stops, told
        self._stream = stream_of(prompt.draw)
        self._good = True
        self.found: Generation | None = None

    def look(self, _ids: Tensor, scores: Tensor) -> Tensor:
        self._good = bool(scores.max().isfinite())
        if self._stream is None or not self._good:
            return scores
        return torch.full_like(scores, -torch.inf).scatter(1, drawn(scores, [self._stream])[:, None], 0.0)

    def __call__(self, ids: Tensor, _scores: Any) -> Tensor:
        check()
        self.found = ended(self._said, int(ids[0, -1]) if self._good else None, self._longest, self._stops)
        if self._told:
            self._told(self._said)
        return torch.tensor([self.found is not None], device=ids.device)
