"""The edge of the window: one token less, exactly full, one more, in whatever computes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval_suites.asking.respondent import ChatFormat
from eval_suites.backends.contract import Backend, Continuation, Prompt, Stops
from eval_suites.backends.generate import Templated
from eval_suites.backends.likelihood import Texts, windows
from eval_suites.backends.local import Local
from eval_suites.backends.vllm import Vllm
from eval_suites.lm_door.door import language_model
from eval_suites.suites.chat_item import ChatItem, LikelihoodItem

WINDOW = 32
ECHO = "{% for m in messages %}{{ m.content }}{% endfor %}"


class Engine:
    """vLLM's `LLM` as far as the backend uses it, over a model of transformers, with vLLM's rule: prompt and
    `max_tokens` together are at most `max_model_len` (vLLM itself needs CUDA)."""

    def __init__(self, model: Any, window: int = WINDOW) -> None:
        self._model, self._window = model, window

    @torch.no_grad()
    def generate(self, prompts: Sequence[dict[str, list[int]]], how: Any, use_tqdm: bool) -> list[Any]:
        each = how if isinstance(how, list) else [how] * len(prompts)
        return [self._one(prompt["prompt_token_ids"], one) for prompt, one in zip(prompts, each, strict=True)]

    def _one(self, ids: list[int], how: Any) -> Any:
        if len(ids) + how.max_tokens > self._window:
            raise ValueError(f"{len(ids)} tokens and {how.max_tokens} new ones are longer than {self._window}")
        logprobs = self._model(torch.tensor([ids])).logits[0].log_softmax(-1)
        steps = [None] + [{token: SimpleNamespace(logprob=float(row[token]), rank=int((row > row[token]).sum()) + 1)}
                          for row, token in zip(logprobs, ids[1:], strict=False)]
        said, total = list(ids), 0.0
        for _ in range(how.max_tokens):
            row = self._model(torch.tensor([said])).logits[0, -1].log_softmax(-1)
            said.append(int(row.argmax()))
            total += float(row[said[-1]])
        return SimpleNamespace(prompt_logprobs=steps, outputs=[SimpleNamespace(
            token_ids=said[len(ids):], finish_reason="length", cumulative_logprob=total)])


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=64,
        max_position_embeddings=WINDOW, bos_token_id=1, eos_token_id=2)).double().eval()


@pytest.fixture(params=["local", "vllm"])
def backend(request: pytest.FixtureRequest, model: Any, monkeypatch: pytest.MonkeyPatch) -> Backend:
    if request.param == "local":
        return Local(model, 2000)
    monkeypatch.setattr("eval_suites.backends.vllm.version", lambda _: "0")
    return Vllm(SimpleNamespace(SamplingParams=SimpleNamespace), Engine(model), WINDOW, "float64")


@pytest.fixture
def tokenizer() -> Any:
    """One token a word: `w5` is 5."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({**{f"w{n}": n for n in range(3, 64)}, "<u>": 0, "<s>": 1, "</s>": 2}, "<u>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<u>",
                                   pad_token="</s>", model_max_length=WINDOW)


def words(count: int) -> str:
    return " ".join(f"w{3 + n * 7 % 61}" for n in range(count))


def network(backend: Backend) -> Any:
    """The model behind it, for its config."""
    inner: Any = backend
    return inner._model if isinstance(backend, Local) else inner._engine._model


@pytest.mark.parametrize("more", [-1, 0, 1, 2])
@torch.no_grad()
def test_likelihoods(backend: Backend, model: Any, more: int) -> None:
    """What a context loses is its beginning, and what is counted is always the whole continuation."""
    ids = tuple(3 + n * 7 % 61 for n in range(backend.window + more))
    for answer in (1, 4, len(ids) - 1):
        one = Continuation(ids[:-answer], ids[-answer:])
        if len(one.continuation) > backend.window:
            continue  # is nobody's request, see `windows`
        seen = ids[-(backend.window + 1):]
        logprobs = model(torch.tensor([seen[:-1]])).logits[0].log_softmax(-1)[-answer:]
        want = sum(float(logprobs[i, token]) for i, token in enumerate(one.continuation))
        (_, found), = backend.likelihoods([one])
        assert found.logprob == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_texts_count_every_token_once(backend: Backend, tokenizer: Any, more: int) -> None:
    count = backend.window + more
    assert sum(len(one.continuation) for one in windows(range(count), 1, backend.window)) == count
    item = LikelihoodItem("a", "text", "a", words(count), [])
    (_, found), = Texts(backend, tokenizer, None).measured([item])
    assert found.tokens == count
    assert found.nats is not None
    lm = language_model(network(backend), tokenizer, 2000, "test", backend)
    assert lm.max_length == backend.window
    rolled, = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (words(count),), 0)])
    assert rolled == pytest.approx(-found.nats, abs=1e-6)


@pytest.mark.parametrize(("more", "asked"), [(0, True), (1, True), (2, False)])
def test_answers_behind_messages(backend: Backend, tokenizer: Any, more: int, asked: bool) -> None:
    item = LikelihoodItem("a", "answer", "a", "w4 w5 w6",
                          [{"role": "user", "content": words(backend.window + more - 3)}])
    (_, found), = Texts(backend, tokenizer, ChatFormat(ECHO)).measured([item])
    assert (found.nats is not None) == asked
    assert asked or f"do not fit the model's window of {backend.window}" in found.why


@pytest.mark.parametrize(("more", "said"), [(-2, 2), (-1, 1), (0, 0), (1, 0)])
def test_chats(backend: Backend, tokenizer: Any, more: int, said: int) -> None:
    item = ChatItem("a", "k", "a", [{"role": "user", "content": words(backend.window + more)}], None, {})
    (_, found), = Templated(backend, tokenizer, ChatFormat(ECHO), []).answers([item], 9)
    assert found.tokens == said
    assert (found.text is None) == (said == 0)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_prompts_of_lm_eval(backend: Backend, tokenizer: Any, more: int) -> None:
    """A prompt that leaves no room for its answer loses its beginning."""
    lm = language_model(network(backend), tokenizer, 2000, "test", backend)
    request = Instance("generate_until", {}, (words(backend.window - 5 + more), {
        "until": ["</s>"], "max_gen_toks": 5, "do_sample": False}), 0)
    lm.generate_until([request])
    assert bool(lm.truncated) == (more > 0)


@pytest.mark.parametrize("more", [-1, 0])
def test_prompts_and_answers_fill_the_window(backend: Backend, more: int) -> None:
    (_, found), = backend.generate([Prompt(tuple(range(3, 23)), backend.window - 20 + more)], Stops(frozenset()))
    assert len(found.ids) == backend.window - 20 + more
