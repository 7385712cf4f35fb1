"""All backends under one contract; ours against lm-eval's unmodified HFLM."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import GPT2Config, GPT2LMHeadModel

from eval_suites.backends import local
from eval_suites.backends.cache import Cached
from eval_suites.backends.contract import Backend, Continuation, Generation, Likelihood, Prompt, Stops
from eval_suites.backends.local import Local
from eval_suites.backends.reader import Reader
from eval_suites.lm_door.door import language_model
from sft_core.config.data import ModelSection
from sft_core.errors import EvalError
from sft_core.model.load import load_model

WORDS = ["the", "cat", "sat", "on", "a", "red", "mat", "and", "7", "dogs", "+", "3", "birds", "=", "10"]


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> tuple[Any, Any]:
    found = load_model(ModelSection(path=str(model_folder)), mirror=None)
    return found.model.eval(), found.tokenizer


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words))


@pytest.fixture(params=["local", "local, one row a batch", "cached", "cached on disk"])
def backend(request: pytest.FixtureRequest, loaded: tuple[Any, Any], tmp_path: Path) -> Backend:
    inner = Local(loaded[0], 1 if "one" in request.param else 2000)
    if "cached" not in request.param:
        return inner
    return Cached(inner, tmp_path if "disk" in request.param else None, "model")


class TestContract:
    """What every backend does."""

    asked = [Continuation(tuple(range(5, 5 + n)), (9, 8, 7)[:1 + n % 3]) for n in (60, 1, 20, 60, 200, 254)]

    def test_every_request_is_answered_once(self, backend: Backend) -> None:
        places = [place for place, _ in backend.likelihoods(self.asked)]
        assert sorted(places) == list(range(6))
        prompts = [Prompt(one.context[:100], 5) for one in self.asked]
        assert sorted(place for place, _ in backend.generate(prompts, Stops(frozenset()))) == list(range(6))
        assert list(backend.likelihoods([])) == list(backend.generate([], Stops(frozenset()))) == []

    def test_likelihoods_are_the_models_own(self, backend: Backend, loaded: tuple[Any, Any]) -> None:
        found = dict(backend.likelihoods(self.asked))
        for place, (context, continuation) in enumerate(self.asked):
            ids = torch.tensor([(context + continuation)[-(backend.window + 1):]])
            with torch.no_grad():
                logprobs = loaded[0](ids[:, :-1]).logits[0].log_softmax(-1)[-len(continuation):]
            want = float(sum(logprobs[i, token] for i, token in enumerate(continuation)))
            assert found[place].logprob == pytest.approx(want, abs=1e-5)
            assert found[place].greedy == (logprobs.argmax(-1).tolist() == list(continuation))

    def test_greedy_answers_are_the_models_own(self, backend: Backend, loaded: tuple[Any, Any]) -> None:
        prompts = [Prompt(tuple(range(3, 3 + n)), longest) for n, longest in ((4, 12), (90, 3), (30, 7), (31, 20))]
        found = dict(backend.generate(prompts, Stops(frozenset())))
        for place, (ids, longest, _) in enumerate(prompts):
            row = list(ids)
            with torch.no_grad():
                for _ in range(longest):
                    row.append(int(loaded[0](torch.tensor([row])).logits[0, -1].argmax()))
            assert found[place] == Generation(tuple(row[len(ids):]), False)

    def test_stops_end_answers(self, backend: Backend) -> None:
        prompts = [Prompt(tuple(range(3, 3 + n)), 40) for n in (4, 90, 30)]
        free = dict(backend.generate(prompts, Stops(frozenset())))
        end = free[1].ids[5]
        ended = dict(backend.generate(prompts, Stops(frozenset({end}))))
        for place in range(3):
            ids = free[place].ids
            at = ids.index(end) if end in ids else len(ids)
            assert ended[place] == Generation(ids[:at], at < len(ids))
        by_text = dict(backend.generate(prompts, Stops(frozenset(), lambda said: len(said) >= 10, "ten")))
        assert all(one.stopped and 10 <= len(one.ids) < 20 for one in by_text.values())


    def test_what_cannot_be_asked_is_said(self, backend: Backend) -> None:
        long = tuple(range(2, 250)) * 2
        for one, why in ((Continuation((), (5, 6)), "no tokens of context; a continuation is scored behind"),
                         (Continuation((5,), ()), "no tokens of continuation"),
                         (Continuation((5,), long), r"496 tokens, and the model's window is 256; shorten")):
            with pytest.raises(EvalError, match=rf"request 1 of 2 .*{why}"):
                list(backend.likelihoods([self.asked[0], one]))
        with pytest.raises(EvalError, match=r"1 of 2 prompts have no tokens \(first: request 1\)"):
            list(backend.generate([Prompt((5,), 3), Prompt((), 3)], Stops(frozenset())))

    def test_an_answer_of_no_tokens_is_empty(self, backend: Backend) -> None:
        found = dict(backend.generate([Prompt((5, 6), 0), Prompt((5, 6), 2)], Stops(frozenset())))
        assert (found[0], len(found[1].ids)) == (Generation((), False), 2)
        assert dict(backend.generate([Prompt((5, 6), 0)], Stops(frozenset()))) == {0: Generation((), False)}


def requests(kind: Any, rows: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, row, number) for number, row in enumerate(rows)]


@pytest.fixture(scope="module")
def hflm(loaded: tuple[Any, Any]) -> HFLM:
    return HFLM(pretrained=loaded[0], tokenizer=loaded[1], batch_size=1, backend="causal")


def test_likelihoods_equal_hflm(loaded: tuple[Any, Any], hflm: HFLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared examples, shared contexts, contexts too long, and none."""
    draw = random.Random(0)
    shots = text(draw, 30)
    rows = [(f"{shots} {text(draw, draw.randint(2, 9))}", answer) for _ in range(12) for answer in (" A", " B", " cat")]
    rows += [(text(draw, draw.randint(1, 40)), answer) for _ in range(12) for answer in (" red", " seven birds")]
    rows += [("", "cat sat"), (text(draw, 90), " A"), ("trailing ", "space")]
    shared: list[int] = []
    real = Reader._pass
    monkeypatch.setattr(Reader, "_pass", lambda self, batch, keep: shared.extend(
        part.start for part in batch) or real(self, batch, keep=keep))
    ours = language_model(*loaded, 2000, "test")
    found, want = (lm.loglikelihood(requests("loglikelihood", rows), disable_tqdm=True) for lm in (ours, hflm))
    assert max(abs(a[0] - b[0]) for a, b in zip(found, want, strict=True)) <= 1e-5
    assert [a[1] for a in found] == [b[1] for b in want]
    assert max(shared) >= len(shots)  # one token a byte: the examples were read once
    assert len(ours.truncated) == 1


def test_rolling_likelihoods_equal_hflm(loaded: tuple[Any, Any], hflm: HFLM) -> None:
    rows = [(text(random.Random(n), n),) for n in (1, 20, 70, 150, 400)]
    ours = language_model(*loaded, 2000, "test")
    found, want = (lm.loglikelihood_rolling(requests("loglikelihood_rolling", rows), disable_tqdm=True)
                   for lm in (ours, hflm))
    assert found == pytest.approx(want, rel=1e-6)


@torch.inference_mode()
def test_greedy_texts_equal_hflm(loaded: tuple[Any, Any], hflm: HFLM) -> None:
    draw = random.Random(1)
    kwargs = {"until": ["Q", "<|im_end|>"], "max_gen_toks": 24, "do_sample": False}
    rows = [(text(draw, draw.randint(1, 90)), dict(kwargs)) for _ in range(20)]
    ours = language_model(*loaded, 1000, "test")
    found, want = (lm.generate_until(requests("generate_until", rows), disable_tqdm=True) for lm in (ours, hflm))
    assert found == want
    assert ours.truncated
    assert len({len(one) for one in found}) > 2  # some ended early


@pytest.mark.parametrize(("context", "answer"), [
    ("", "c"), ("", "cat"), ("", "b" * 256), ("a", "b" * 255), ("a", "b" * 256), ("a", "b" * 257), (" ", "c"),
    ("cat", "")])
def test_edges_of_likelihoods_are_those_of_hflm(loaded: tuple[Any, Any], hflm: HFLM, context: str, answer: str) -> None:
    """What HFLM only asserts is an error that says what to do."""
    ours, asked = language_model(*loaded, 2000, "test"), requests("loglikelihood", [(context, answer)])
    try:
        (want,) = hflm.loglikelihood(asked, disable_tqdm=True)
    except AssertionError:
        with pytest.raises(EvalError, match="request 0 of 1"):
            ours.loglikelihood(asked)
    else:
        (found,) = ours.loglikelihood(asked)
        assert found == (pytest.approx(want[0], rel=1e-6), want[1])


@pytest.mark.parametrize(("prompt", "changed"), [
    ("", {}), ("cat", {"max_gen_toks": 0}), ("cat", {"max_gen_toks": 255}), ("cat", {"max_gen_toks": 256}),
    ("cat", {"max_gen_toks": 1}), ("cat", {"until": [""]}), ("cat", {"until": []}), ("cat", {"until": 1}),
    ("cat", {"until": 3})])
@torch.inference_mode()
def test_edges_of_answers_are_those_of_hflm(loaded: tuple[Any, Any], hflm: HFLM, prompt: str,
                                            changed: dict[str, Any]) -> None:
    """A number of `until` is the answer's first characters: a stop at once. Of no tokens HFLM raises; ours is empty."""
    kwargs = {"until": ["Q"], "max_gen_toks": 8, "do_sample": False}
    (free,) = hflm.generate_until(requests("generate_until", [("cat", dict(kwargs))]), disable_tqdm=True)
    kwargs |= {key: [free[:value]] if key == "until" and isinstance(value, int) else value
               for key, value in changed.items()}
    ours = language_model(*loaded, 2000, "test")
    try:
        want = hflm.generate_until(requests("generate_until", [(prompt, dict(kwargs))]), disable_tqdm=True)
    except (AssertionError, RuntimeError, ValueError):
        if kwargs["max_gen_toks"]:
            with pytest.raises(EvalError, match=r"leaves no room for a question|have no tokens"):
                ours.generate_until(requests("generate_until", [(prompt, dict(kwargs))]))
            return
        want = [""]
    assert ours.generate_until(requests("generate_until", [(prompt, dict(kwargs))])) == want


def test_no_logits_where_none_are_needed(loaded: tuple[Any, Any]) -> None:
    seen: list[int] = []
    local = Local(loaded[0], 4096)
    list(local.likelihoods(TestContract.asked))  # proved
    hook = loaded[0].get_output_embeddings().register_forward_pre_hook(
        lambda _, args: seen.append(args[0].reshape(-1, args[0].shape[-1]).shape[0]))
    list(local.likelihoods([Continuation(tuple(range(n)), (1,)) for n in (50, 100, 200)]))
    hook.remove()
    assert sum(seen) == 3


def test_logits_are_held_for_a_few_positions_at_once(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [*TestContract.asked, Continuation((4, 5), tuple(range(6, 200)))]
    whole = dict(Local(loaded[0], 2000).likelihoods(asked))
    seen: list[int] = []
    hook = loaded[0].get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    monkeypatch.setattr(local, "LOGITS", 50 * loaded[0].config.vocab_size)
    parts = dict(Local(loaded[0], 2000).likelihoods(asked))
    hook.remove()
    assert max(seen) == local.LOGITS
    for place, one in whole.items():
        assert parts[place].logprob == pytest.approx(one.logprob, abs=1e-4, rel=1e-6)
        assert parts[place].greedy == one.greedy


def test_answers_beyond_learned_positions_are_refused_before_any_is_made() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2)).eval()
    prompts, stops = [Prompt((1,) * 20, 12), Prompt((1,) * 25, 12)], Stops(frozenset())
    assert len(list(Local(model, 2000).generate(prompts[:1], stops))) == 1
    with pytest.raises(EvalError, match=r"1 of 2 prompts do not fit the model's 32 positions .*25 tokens and up to 12"):
        next(iter(Local(model, 2000).generate(prompts, stops)))


def test_nan_is_no_number(loaded: tuple[Any, Any]) -> None:
    model = copy.deepcopy(loaded[0])
    model.model.norm.weight.data.fill_(float("nan"))
    broken = Local(model, 2000)
    assert math.isnan(dict(broken.likelihoods([Continuation((1, 2), (3,))]))[0].logprob)
    assert "not finite" in dict(broken.generate([Prompt((1, 2), 3)], Stops(frozenset())))[0].why


class Counted:
    """A backend that counts what it is asked."""

    name, window = "counted", 99

    def __init__(self) -> None:
        self.asked = 0

    def likelihoods(self, asked: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        for place, one in enumerate(asked):
            self.asked += 1
            yield place, Likelihood(-float(len(one.context)), False)

    def generate(self, asked: Sequence[Prompt], stops: Stops) -> Iterator[tuple[int, Generation]]:
        for place, one in enumerate(asked):
            self.asked += 1
            yield place, Generation(one.ids[:one.longest], True)


def test_answers_are_kept_by_all_that_they_depend_on(tmp_path: Path) -> None:
    inner = Counted()

    def ask(model: str = "m", longest: int = 3, stop: int = 0, key: str = "") -> int:
        before = inner.asked
        cached = Cached(inner, tmp_path, model)
        list(cached.generate([Prompt((1, 2, 3, 4), longest)], Stops(frozenset({stop}), None, key)))
        list(cached.likelihoods([Continuation((1, 2), (3,)), Continuation((1,), (2, 3))]))
        return inner.asked - before

    assert [ask(), ask(), ask(longest=2), ask(stop=1), ask(key="x"), ask(model="n"), ask()] == [3, 0, 1, 1, 1, 3, 0]


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    asked = [Continuation((1,) * n, (2,)) for n in range(1, 9)]
    first = list(Cached(Counted(), tmp_path, "m").likelihoods(asked))
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-7])
    inner = Counted()
    assert sorted(Cached(inner, tmp_path, "m").likelihoods(asked)) == sorted(first)
    assert inner.asked == 1
    assert sorted(Cached(inner, tmp_path, "m").likelihoods(asked)) == sorted(first)
    assert inner.asked == 1


def test_vllm_says_what_is_missing(model_folder: Path, tmp_path: Path,
                                   make_missing: Callable[[str], None]) -> None:
    from eval_suites.backends.vllm import open_vllm

    make_missing("vllm")
    with pytest.raises(EvalError, match=r"sft-platform\[vllm\]"):
        open_vllm(ModelSection(path=str(model_folder)), model_folder)


@pytest.fixture
def make_missing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    import sys

    return lambda name: monkeypatch.setitem(sys.modules, name, None)
