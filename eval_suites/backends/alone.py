"""One input at a time through the model's own code, for what can be asked in no faster way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from eval_suites.backends.contract import Generation, Prompt, Stops
from eval_suites.backends.decode import ended
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
def generated(model: Any, prompt: Prompt, stops: Stops, pad: int, temperature: float = 0.0,
              told: Callable[[Sequence[int]], None] | None = None) -> Generation:
    """An answer by the model's own `generate`.

    Args:
        temperature: of sampling from all of the vocabulary; 0: greedy.
        told: is given the ids so far, after each one.

    Raises:
        EvalError: the model cannot generate.
    """
    settle(model)
    ids, watch = torch.tensor([prompt.ids], device=model.device), _Watch(prompt.longest, stops, told)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    try:
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=1, pad_token_id=pad,
            max_new_tokens=prompt.longest, eos_token_id=sorted(stops.ids) or None, **how,
            logits_processor=LogitsProcessorList([watch.look]), stopping_criteria=StoppingCriteriaList([watch]))
    except RAISED as error:
        if isinstance(error, RuntimeError) and is_short(error):
            raise
        raise EvalError(f"{type(model).__name__} cannot generate ({type(error).__name__}: {first_line(error)}); leave "
                        "out suites of free answers, or evaluate a causal language model") from error
    assert watch.found is not None
    return watch.found


class _Watch:
    """Takes each token as the decoder does, and stops where it would. `look` is shown the logits before each."""

    def __init__(self, longest: int, stops: Stops, told: Callable[[Sequence[int]], None] | None) -> None:
        self._said, self._longest, self._stops, self._told = list[int](), longest, stops, told
        self._good = True
        self.found: Generation | None = None

    def look(self, _ids: Tensor, scores: Tensor) -> Tensor:
        self._good = bool(scores.max().isfinite())
        return scores

    def __call__(self, ids: Tensor, _scores: Any) -> Tensor:
        check()
        self.found = ended(self._said, int(ids[0, -1]) if self._good else None, self._longest, self._stops)
        if self._told:
            self._told(self._said)
        return torch.tensor([self.found is not None], device=ids.device)
