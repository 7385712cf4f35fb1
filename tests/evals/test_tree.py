"""Inputs that begin alike: each beginning is computed once, and nobody's answer changes by it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from eval_suites.backends.contract import Continuation, Generation, Likelihood, Prompt, Stops
from eval_suites.backends.kv import separable
from eval_suites.backends.local import Local
from eval_suites.backends.tree import Part, Queue, grow
from sft_core.errors import EvalError

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 512}
WORLD: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "gemma3, sliding": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=24)),
    "gpt2, learned positions": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=512, n_embd=32, n_layer=2,
                                                                  n_head=4)),
    "lfm2, a state": lambda: Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])),
}


@pytest.fixture(params=WORLD)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    made = WORLD[request.param]().to(torch.float64).eval()
    for weight in made.parameters():  # far from uniform, so that a wrong key is seen
        weight.data.mul_(3.0) if weight.dim() > 1 else None
    return made


def ids(draw: random.Random, count: int) -> tuple[int, ...]:
    return tuple(draw.choices(range(3, 97), k=count))


def asked() -> list[Continuation]:
    """Two subjects with examples, questions behind them, continuations behind those; some texts of their own."""
    draw = random.Random(1)
    found = []
    for _ in range(2):
        shots = ids(draw, draw.randint(80, 120))
        for _ in range(5):
            question = shots + ids(draw, draw.randint(17, 40))
            found += [Continuation(question, ids(draw, draw.randint(1, 5))) for _ in range(4)]
        found += [Continuation(shots + ids(draw, draw.randint(1, 9)), (letter,)) for letter in (3, 4)]
    found += [Continuation(ids(draw, n), ids(draw, 2)) for n in (1, 30, 90)]
    draw.shuffle(found)
    return found


def test_a_tree_holds_every_input_whole_and_every_beginning_once() -> None:
    rows = sorted({one.context + one.continuation for one in asked()})
    parts = grow(rows, [len(row) - 1 for row in rows])
    seen, computed, depth = {}, 0, 0

    def walk(some: list[Part], before: tuple[int, ...], level: int) -> None:
        nonlocal computed, depth
        for part in some:
            depth = max(depth, level)
            here = before + tuple(part.ids[part.start:part.end])
            computed += part.size
            assert part.start == len(before)
            if part.row is not None:
                seen[part.row] = here
            walk(part.children, here, level + 1)

    walk(parts, (), 1)
    assert [seen[number] for number in range(len(rows))] == rows
    assert depth == 3  # examples, question, continuation
    assert computed < 0.25 * sum(map(len, rows))


def test_what_may_not_be_shared_is_not() -> None:
    """Equal inputs, one the beginning of the other, tails that must be computed for themselves, and no ids at all."""
    row = tuple(range(100))
    rows, stems = [row[:60], row, row, row + (1,)], [59, 40, 99, 100]
    parts, ends = grow(rows, stems), []
    while parts:
        part = parts.pop()
        parts += part.children
        if part.row is not None:
            ends.append(part.row)
            assert part.start <= stems[part.row]
            assert part.end == len(rows[part.row])
    assert sorted(ends) == [0, 1, 2, 3]
    assert grow([], []) == []


@pytest.mark.parametrize("mixed", [True, False])
def test_a_queue_gives_every_part_once_within_its_budget(mixed: bool) -> None:
    draw = random.Random(2)
    parents = [Part((0,) * n, 0, n, None) for n in (20, 50)]
    parts = [Part((0,) * 300, p.end, p.end + draw.randint(1, 90), p, n) for n in range(40) for p in parents]
    parts[3].children = [parts[3]]
    queue, batches = Queue(parts, mixed=mixed), []
    while queue:
        batches.append(queue.batch(1000, 200, more=5))
        queue.done(batches[-1])
    assert sorted(map(id, (one for batch in batches for one in batch))) == sorted(map(id, parts))
    for batch in batches:
        width = max(part.size for part in batch)
        assert len(batch) * (width + max(part.start for part in batch) + 5) <= 1000
        assert mixed or len({part.parent for part in batch}) == 1
        assert mixed or len(batch) == 1 or not any(part.children for part in batch)
        assert len(batch) * width < 300 or min(part.size for part in batch) >= 0.85 * width
    assert max(map(len, batches)) > 4


@torch.inference_mode()
def test_likelihoods_equal_those_of_whole_inputs(model: Any) -> None:
    """In float64, forward passes over each input alone are the reference."""
    read: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, __: read.append(args[0].numel()))
    found = dict(Local(model, 3000).likelihoods(asked()))
    hook.remove()
    for place, (context, continuation) in enumerate(asked()):
        logprobs = model(torch.tensor([context + continuation[:-1]])).logits[0].log_softmax(-1)[-len(continuation):]
        want = sum(float(logprobs[i, token]) for i, token in enumerate(continuation))
        assert found[place].logprob == pytest.approx(want, abs=1e-9)
        assert found[place].greedy == (logprobs.argmax(-1).tolist() == list(continuation))
    assert sum(read) < 0.5 * sum(len(one.context + one.continuation) for one in asked())


@torch.inference_mode()
def test_answers_equal_those_of_one_prompt_at_a_time(model: Any) -> None:
    """Rows end at different times and others take their place."""
    prompts = [Prompt(one.context, 1 + place % 23) for place, one in enumerate(asked())]
    sizes: list[tuple[int, int]] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, __: sizes.append(tuple(args[0].shape)))
    found = dict(Local(model, 2000).generate(prompts, Stops(frozenset())))
    hook.remove()
    for place, (begin, longest, *_) in enumerate(prompts):
        row = list(begin)
        for _ in range(longest):
            row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
        assert found[place] == Generation(tuple(row[len(begin):]), False)
    steps = [rows for rows, width in sizes if width == 1]
    assert len(steps) < 0.5 * sum(prompt.longest for prompt in prompts)
    if separable(model.config):
        assert any(a < b for a, b in zip(steps, steps[1:], strict=False))


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).to(torch.float64).eval()
    prompts, stops = [Prompt(one.context, 9) for one in asked()], Stops(frozenset())
    want = sorted(Local(model, 50_000).likelihoods(asked())), sorted(Local(model, 50_000).generate(prompts, stops))
    failed = 0

    def tight(_: Any, args: Any, kwargs: Any) -> None:
        nonlocal failed
        cache = kwargs.get("past_key_values")
        rows, tokens = kwargs["input_ids"].shape
        if rows * (tokens + (cache.get_seq_length() if cache else 0)) > 400:
            failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.register_forward_pre_hook(tight, with_kwargs=True)
    for ask, whole in ((lambda local: local.likelihoods(asked()), want[0]),
                       (lambda local: local.generate(prompts, stops), want[1])):
        caplog.clear()
        failed = 0
        found = sorted(ask(Local(model, 50_000)))
        assert failed
        assert len(caplog.records) == 1
        assert "out of memory" in caplog.text
        assert [place for place, _ in found] == list(range(len(prompts)))
        assert [one[0] if isinstance(one, Likelihood) else one for _, one in found] == [
            pytest.approx(one[0], abs=1e-9) if isinstance(one, Likelihood) else one for _, one in whole]
    with pytest.raises(EvalError, match="one input of 501 tokens does not fit"):
        list(Local(model, 50_000).likelihoods([Continuation((5,) * 500, (6, 7))]))
