"""Drawn answers: by the probabilities that were asked for, and the same whatever is computed beside them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from eval_suites.backends import alone, local
from eval_suites.backends.cache import Cached
from eval_suites.backends.contract import Draw, Prompt, Stops
from eval_suites.backends.draw import Stream, drawn
from eval_suites.backends.local import Local
from sft_core.config.data import ModelSection
from sft_core.model.load import load_model

NO_STOPS = Stops(frozenset())


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    return load_model(ModelSection(path=str(model_folder)), mirror=None).model.eval()


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """The probabilities after Holtzman et al. 2020, the plain way."""
    shares, order = (logits.double() / temperature).softmax(-1).sort(descending=True)
    kept = shares.cumsum(-1) - shares < top_p
    found = torch.zeros_like(shares).scatter(0, order, shares.where(kept, 0.0))
    return found / found.sum()


@pytest.mark.parametrize(("vocabulary", "temperature", "top_p"), [
    (12, 1.0, 1.0), (12, 0.5, 0.8), (12, 2.0, 0.3), (700, 3.0, 0.97), (40, 1.0, 1e-9)])
def test_tokens_come_as_often_as_they_should(vocabulary: int, temperature: float, top_p: float) -> None:
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 2
    wanted = nucleus(logits, temperature, top_p)
    stream, rows = Stream(Draw(temperature, top_p, 7)), 4000
    found = Counter(drawn(logits.expand(rows, -1), [stream] * rows).tolist())
    assert {token for token in range(vocabulary) if wanted[token] == 0}.isdisjoint(found)
    common = [token for token in range(vocabulary) if wanted[token] * rows >= 5]
    seen = [found[token] for token in common] + [rows - sum(found[token] for token in common)]
    due = [float(wanted[token]) * rows for token in common]
    due.append(rows - sum(due))
    if due[-1] < 5:  # what is left is too rare for the test
        seen[-2:], due[-2:] = [sum(seen[-2:])], [sum(due[-2:])]
    assert len(seen) == 1 or chisquare(seen, due).pvalue > 1e-3


def test_a_barred_token_never_comes() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    stream = Stream(Draw(1.0, 1.0, 3))
    assert {int(drawn(logits, [stream])) for _ in range(200)} == {0, 2}


def asked(model: Any, samples: int, longest: int = 12) -> list[Prompt]:
    prompts = [tuple(range(5, 5 + n)) for n in (4, 60, 4, 90)]
    return [Prompt(ids, longest, Draw(1.2, 0.9, hash((ids, number)))) for ids in prompts
            for number in range(samples)]


@pytest.mark.parametrize("tokens", [1, 400, 4000])
def test_an_answer_is_the_same_whatever_is_computed_beside_it(model: Any, tokens: int) -> None:
    prompts = asked(model, 3)
    by_itself = [dict(Local(model, 1).generate([one], NO_STOPS))[0] for one in prompts]
    assert [found for _, found in sorted(Local(model, tokens).generate(prompts, NO_STOPS))] == by_itself
    backwards = sorted(Local(model, tokens).generate(prompts[::-1], NO_STOPS))
    assert [found for _, found in backwards][::-1] == by_itself
    assert len(set(by_itself)) == 9, "the first and the third prompt are one, and so are their answers"


def test_it_is_the_same_by_the_models_own_code(model: Any) -> None:
    prompts = asked(model, 2)
    found = dict(Local(model, 4000).generate(prompts, NO_STOPS))
    assert [alone.generated(model, one, NO_STOPS, 0) for one in prompts] == [found[at] for at in range(len(prompts))]


def test_it_is_the_same_after_memory_ran_out(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, steps = asked(model, 3), 0
    wanted = sorted(Local(model, 4000).generate(prompts, NO_STOPS))
    step = local.Decoder.step

    def short(self: Any, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, *args)

    monkeypatch.setattr(local.Decoder, "step", short)
    assert sorted(Local(model, 4000).generate(prompts, NO_STOPS)) == wanted
    assert steps > 6


def test_drawn_and_greedy_answers_are_kept_apart(model: Any, tmp_path: Path) -> None:
    prompts = asked(model, 2)[:2]
    every = [*prompts, prompts[0]._replace(draw=None), prompts[0]._replace(draw=Draw(0.1, 0.9, 5))]
    kept = Cached(Local(model, 2000), tmp_path, "model")
    first = sorted(kept.generate(every, NO_STOPS))
    again = Cached(Local(model, 2000), tmp_path, "model")
    assert sorted(again.generate(every, NO_STOPS)) == first
    assert (kept.computed, again.computed) == (4, 0)
    assert len({found for _, found in first}) >= 3
