"""Generators of synthetic data under one contract: weights behind a template, and a server with its moods."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from eval_suites.asking.respondent import ChatFormat, load_respondent, plain_form
from eval_suites.backends.endpoint import Endpoint
from eval_suites.backends.generate import Templated
from eval_suites.backends.sampled import SERVER_SEEDS, How, Sampler, Served
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EndpointSection
from sft_core.config.synth import GeneratorSection
from sft_core.errors import EvalError
from sft_core.synth.asking import ask_all
from sft_core.synth.contract import Asked, Generator, Said
from tests.evals.conftest import JINJA
from tests.evals.fake_server import serve

Make = Callable[[int], tuple[Generator, Callable[[], int]]]
"""A generator of this seed, and how often something was computed for it so far."""


def asked(*texts: str, samples: int = 2, longest: int = 8) -> list[Asked]:
    return [Asked([{"role": "user", "content": text}], longest, number) for text in texts for number in range(samples)]


@pytest.fixture(params=["weights", "server"])
def make(request: pytest.FixtureRequest, model_folder: Path, tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:
        if request.param == "server":
            url, seen = stack.enter_context(serve(
                lambda body, n: f"{body['messages'][-1]['content']} {body['seed']} {body['temperature']}"))
            section = EndpointSection(url=url, model="m", parallel=3)

            def served(seed: int) -> tuple[Generator, Callable[[], int]]:
                endpoint = Endpoint(section, keep=tmp_path / "kept.jsonl")
                return Served("m", endpoint, 3, How(0.9, 0.9, seed)), lambda: len(seen)

            yield served
            return

        def local(seed: int) -> tuple[Generator, Callable[[], int]]:
            model = ModelSection(path=str(model_folder))
            found = load_respondent(model, ChatFormat(JINJA, ("<|im_end|>",)), None,
                                    GeneratorSection(model=model, batch_tokens=900), tmp_path)
            assert isinstance(found.answerer, Templated)
            return Sampler("m", found.answerer, How(0.9, 0.9, seed)), lambda: found.backend.computed  # type: ignore

        yield local


class TestContract:
    """What every generator does."""

    def test_every_sample_comes_once_and_hangs_on_seed_prompt_and_number(self, make: Make) -> None:
        generator = make(0)[0]
        every = asked("Hi", "Where is Ulm?", "Hi there", samples=3)
        places, said = zip(*generator.say(every), strict=True)
        assert sorted(places) == list(range(9))
        found = {place: one.text for place, one in zip(places, said, strict=True)}
        assert len(set(found.values())) == 9
        other = dict(make(0)[0].say(every[4:6][::-1]))
        assert [other[1].text, other[0].text] == [found[4], found[5]]
        assert dict(make(1)[0].say(every[4:5]))[0].text != found[4]

    def test_nothing_is_made_twice(self, make: Make) -> None:
        generator, computed = make(0)
        first = sorted(generator.say(asked("Hi", "Ho")))
        assert computed() == 4
        again, counted = make(0)
        before = counted()  # of a new process 0, of the server that both ask 4
        assert sorted(again.say(asked("Hi", "Ho"))) == first
        assert counted() == before
        assert len(list(again.say(asked("Hi", "Ho", "Hey")))) == 6
        assert counted() == before + 2

    def test_nothing_asked_is_nothing_said(self, make: Make) -> None:
        assert list(make(0)[0].say([])) == []


def test_a_prompt_without_room_has_no_answer_and_costs_none_of_the_others(model_folder: Path, tmp_path: Path) -> None:
    model = ModelSection(path=str(model_folder))
    found = load_respondent(model, ChatFormat(JINJA), None, GeneratorSection(model=model), tmp_path)
    assert isinstance(found.answerer, Templated)
    said = dict(Sampler("m", found.answerer, How(0.0, 1.0, 0)).say(asked("Hi", "word " * 80, samples=1)))
    assert said[0].tokens == 8
    assert not said[0].stopped
    assert said[1].text is None
    assert "do not fit the model's window of 256" in said[1].why


def test_a_base_model_goes_on_with_a_text(model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    form = plain_form('Question: {prompt}\nAnswer "in words":', ("\n\n",), tokenizer)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": 'Why {so}, "Ω"?'}]
    text = tokenizer.apply_chat_template(messages, chat_template=form.jinja, tokenize=False, add_generation_prompt=True)
    assert text == 'Question: Be kind.\n\nWhy {so}, "Ω"?\nAnswer "in words":'
    assert form.stops == ("\n\n",)
    tokenizer.bos_token = tokenizer.eos_token
    begun = type("Begun", (), {"encode": lambda self, text: [tokenizer.bos_token_id],
                               "bos_token_id": tokenizer.bos_token_id})()
    told = plain_form("{prompt}", (), begun).jinja
    shown = tokenizer.apply_chat_template(messages[1:], chat_template=told, tokenize=False)
    assert shown.startswith("<|endoftext|>Why")


def test_what_a_server_is_asked() -> None:
    with serve(lambda body, n: "yes") as (url, seen):
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        endpoint = Endpoint(EndpointSection(url=url, model="m"))
        one = asked("Hi", samples=1)[0]._replace(tools=json.dumps(tools))
        list(Served("m", endpoint, 1, How(0.5, 0.8, 3)).say([one]))
        list(Served("m", endpoint, 1, How(0.0, 0.8, 3)).say([one]))
    assert [(body["temperature"], body.get("top_p"), body["max_tokens"]) for body in seen] == [(0.5, 0.8, 8),
                                                                                              (0.0, None, 8)]
    assert 0 <= seen[0]["seed"] < SERVER_SEEDS
    assert seen[0]["tools"] == tools


def run(say: Callable[[dict[str, Any], int], Any], keep: Path | None = None, most: float = 0.0, samples: int = 8
        ) -> list[Said]:
    with serve(say) as (url, _):
        section = EndpointSection(url=url, model="m", parallel=2, retries=2, timeout_s=5)
        generator = Served("m", Endpoint(section, keep=keep, pause=lambda _: None), 2, How(0.9, 1.0, 0))
        return ask_all(generator, asked("Hi", samples=samples), most, "answers")


OK = json.dumps({"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]})


@pytest.mark.parametrize("odd", [
    (429, {"Retry-After": "0"}, "slow down"), (500, {}, "oops"), (200, {}, "<html>garbage"),
    (200, {}, '{"choices": []}'),
], ids=["429", "500", "garbage", "no choice"])
def test_what_passes_costs_nothing(odd: tuple[int, dict[str, str], str]) -> None:
    found = run(lambda body, n: odd if n in (1, 4) else (200, {}, OK))  # so often may one request fail
    assert [one.text for one in found] == ["fine"] * 8


def test_a_server_that_dies_midway_stops_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    kept, calls = tmp_path / "kept.jsonl", []

    def dies(body: dict[str, Any], number: int) -> Any:
        return (200, {}, OK) if number <= 4 else (500, {}, "dead")

    def lives(body: dict[str, Any], number: int) -> Any:
        calls.append(number)
        return 200, {}, OK

    with pytest.raises(EvalError, match=r"answers: 1 of 8 requests have no answer.*HTTP 500: dead.*goes on from there"):
        run(dies, kept)
    assert [one.text for one in run(lives, kept)] == ["fine"] * 8
    assert len(calls) == 4, "what was answered before is not asked again"


def test_few_failures_are_counted_and_their_reason_is_told() -> None:
    def refuses(body: dict[str, Any], number: int) -> Any:
        return (400, {}, "content policy") if number == 3 else (200, {}, OK)

    found = run(refuses, most=0.2)
    lost = [one for one in found if one.text is None]
    assert len(lost) == 1
    assert "HTTP 400: content policy" in lost[0].why


def test_an_empty_answer_and_one_without_an_end_are_answers() -> None:
    def odd(body: dict[str, Any], number: int) -> Any:
        ended = "length" if number == 1 else "stop"
        return 200, {}, json.dumps({"choices": [{"message": {"content": "" if number == 2 else "x"},
                                                 "finish_reason": ended}], "usage": {"completion_tokens": 8}})

    found = sorted(run(odd, samples=3), key=lambda one: (one.stopped, one.text))
    assert found == [Said("x", False, "", 8), Said("", True, "", 8), Said("x", True, "", 8)]
