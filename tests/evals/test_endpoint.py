"""The client of OpenAI-compatible servers, against a real HTTP server on loopback that misbehaves as told."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval_suites.backends.contract import Draw
from eval_suites.backends.converse import converse, texts_of
from eval_suites.backends.endpoint import Endpoint, EndpointError, Reply, Request
from eval_suites.backends.generate import Answer
from eval_suites.scorers.registry import score
from eval_suites.suites.chat_item import ChatItem
from infra.servers import free_port
from infra.settings import secret
from sft_core.config.evaluate import EndpointSection
from sft_core.errors import ConfigError

spec = importlib.util.spec_from_file_location("fake_server", Path(__file__).with_name("fake_server.py"))
fake_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake_server)
serve = fake_server.serve
ASKED = [{"role": "user", "content": "hello"}]


def section(url: str, **more: object) -> EndpointSection:
    return EndpointSection(url=url, model="fake", **{"retries": 2, **more})


def test_a_reply_its_cost_and_the_key() -> None:
    with serve(lambda body, n: "hi") as (url, seen):
        endpoint = Endpoint(section(url, price_in=1e6, price_out=2e6), "sk-1\n")
        assert endpoint.chat(ASKED, max_tokens=5) == Reply("hi", "stop", 10, 2)
        assert seen[0]["key"] == "Bearer sk-1"
        assert (seen[0]["path"], seen[0]["max_tokens"], seen[0]["model"]) == ("/v1/chat/completions", 5, "fake")
        assert endpoint.usage.cost == 14.0


@pytest.mark.parametrize("failure", [
    (429, {"Retry-After": "7"}, "slow down"), (503, {"Retry-After": "nan"}, "later"),
    (500, {}, "oops"), (200, {}, "{not json"), (200, {}, '{"choices": []}'),
    (200, {}, '{"choices": [{"message": null}]}'), (200, {}, ""), (200, {}, "<html>502</html>"),
    (200, {"Content-Length": "99"}, '{"choices": ['), (200, {}, '{"choices": [{"message": {"content": ""}}]}')])
def test_what_may_pass_is_tried_again(failure: tuple[int, dict[str, str], str]) -> None:
    pauses: list[float] = []
    with serve(lambda body, n: failure if n < 3 else "at last") as (url, _):
        assert Endpoint(section(url), pause=pauses.append).chat(ASKED, max_tokens=5).text == "at last"
    assert len(pauses) == 2
    if failure[0] == 429:
        assert pauses == [7.0, 7.0]
    else:
        assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0


def test_what_stays_wrong_is_said_without_the_key() -> None:
    with serve(lambda body, n: (401, {}, "Incorrect API key: sk-secret")) as (url, seen):
        with pytest.raises(EndpointError, match=r"HTTP 401: Incorrect API key: \*\*\*") as caught:
            Endpoint(section(url), "sk-secret").chat(ASKED, max_tokens=5)
        assert len(seen) == 1
        assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(("said", "why"), [
    ({"model": "other-7b"}, "'other-7b' answers there, not 'fake': name it as the server does"),
    *(({"choices": [{"message": {"content": said}, "finish_reason": end}]}, f"withheld the answer .*{end}.*length")
      for said, end in (("no", "content_filter"), ("part", "abort"), (None, "abort"), ("", "cancelled"), ("a", "z")))])
def test_an_answer_that_is_not_the_models_own_is_none(said: dict[str, object], why: str) -> None:
    body = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], **said}
    with serve(lambda _, n: (200, {}, json.dumps(body))) as (url, seen):
        with pytest.raises(EndpointError, match=why):
            Endpoint(section(url)).chat(ASKED, max_tokens=5)
        assert len(seen) == 1


@pytest.mark.parametrize("name", ["fake", "", "org/fake", "/models/FAKE/", "fake-2024-08-06", "fake:latest"])
def test_a_model_may_say_nothing_and_its_server_may_name_it_otherwise(name: str) -> None:
    silent = {"model": name, "choices": [{"message": {"content": None}, "finish_reason": "stop"}]}
    with serve(lambda _, n: (200, {}, json.dumps(silent))) as (url, _):
        assert Endpoint(section(url)).chat(ASKED, max_tokens=5).text == ""


@pytest.mark.parametrize(("message", "ended"), [
    ({"content": None, "refusal": "I can't help."}, "stop"), ({"content": "I can't help.", "refusal": None}, "eos"),
    ({"content": "I can't help."}, None), ({"content": "I can't help."}, "function_call")])
def test_what_a_model_says_itself_is_its_answer(message: dict[str, object], ended: str | None) -> None:
    body = {"choices": [{"message": message, "finish_reason": ended}]}
    with serve(lambda _, n: (200, {}, json.dumps(body))) as (url, _):
        assert Endpoint(section(url)).chat(ASKED, max_tokens=5).text == "I can't help."


def test_a_server_that_is_down_is_given_up_after_some_requests() -> None:
    pauses: list[float] = []
    endpoint = Endpoint(section(f"http://127.0.0.1:{free_port()}/v1", parallel=1), pause=pauses.append)
    found = endpoint.many([Request(ASKED, n) for n in range(1, 11)])
    assert all(isinstance(one, EndpointError) and "ConnectError" in str(one) for one in found)
    assert len(pauses) == 6, "three requests with two pauses each, then none"


def test_a_slow_server_does_not_hold_a_request() -> None:
    def slow(body: object, n: int) -> str:
        time.sleep(0.6)
        return "late"

    with serve(slow) as (url, _), pytest.raises(EndpointError, match=r"within 0.2 s"):
        Endpoint(section(url, timeout_s=0.2, retries=0)).chat(ASKED, max_tokens=5)


def test_a_server_that_trickles_does_not_hold_a_request() -> None:
    def trickle() -> Iterator[str]:
        for letter in "{" * 50:
            time.sleep(0.05)
            yield letter

    with serve(lambda body, n: (200, {"Content-Length": "50"}, trickle())) as (url, _), pytest.raises(
            EndpointError, match=r"within 0.2 s"):
        Endpoint(section(url, timeout_s=0.2, retries=0)).chat(ASKED, max_tokens=5)


def test_many_keep_order_run_in_parallel_and_fail_alone() -> None:
    def say(body: dict, n: int) -> object:
        time.sleep(0.1)
        return (400, {}, "no") if body["max_tokens"] == 3 else str(body["max_tokens"])

    with serve(say) as (url, _):
        started = time.monotonic()
        found = Endpoint(section(url, parallel=8)).many([Request(ASKED, n) for n in range(1, 9)])
        assert time.monotonic() - started < 0.6
    assert [one.text if isinstance(one, Reply) else "failed" for one in found] == [
        "1", "2", "failed", "4", "5", "6", "7", "8"]


def test_answers_are_kept_wherever_the_server_is(tmp_path: Path) -> None:
    keep = tmp_path / "kept.jsonl"
    with serve(lambda body, n: "once") as (url, _):
        Endpoint(section(url), keep=keep).chat(ASKED, max_tokens=5)
    keep.write_text(keep.read_text() + '\n["torn')
    again = Endpoint(section("http://127.0.0.1:1/v1", retries=0), keep=keep)
    assert again.chat(ASKED, max_tokens=5).text == "once"
    assert again.usage[:2] == (0, 1)
    with pytest.raises(EndpointError):
        again.chat(ASKED, max_tokens=6)


def test_drawn_answers_are_kept_by_their_seed(tmp_path: Path) -> None:
    with serve(lambda body, n: f"answer {n}") as (url, seen):
        endpoint = Endpoint(section(url), keep=tmp_path / "kept.jsonl")
        said = [endpoint.chat(ASKED, max_tokens=5, how=how).text
                for how in (None, Draw(0.7, 0.9, 1), Draw(0.7, 0.9, 2), Draw(0.7, 0.9, 1))]
    assert said == ["answer 1", "answer 2", "answer 3", "answer 2"]
    assert [{key: one.get(key) for key in Draw._fields} for one in seen] == [
        {"temperature": 0.0, "top_p": None, "seed": None}, *(Draw(0.7, 0.9, n)._asdict() for n in (1, 2))]


def test_requests_begin_no_faster_than_the_server_allows() -> None:
    pauses: list[float] = []
    with serve(lambda body, n: "yes") as (url, _):
        endpoint = Endpoint(section(url, per_minute=60, parallel=1), pause=pauses.append)
        endpoint.many([Request(ASKED, n) for n in range(1, 5)])
    assert [round(pause) for pause in pauses] == [1, 2, 3], "as nobody waits here, each one more than the one before"


def test_tool_calls_stand_in_the_text() -> None:
    raw = ('{"choices": [{"message": {"content": null, "tool_calls": [{"function": {"name": "f", '
           '"arguments": "{\\"a\\": 1}"}}]}, "finish_reason": "tool_calls"}]}')
    with serve(lambda body, n: (200, {}, raw)) as (url, _):
        text = Endpoint(section(url)).chat(ASKED, max_tokens=5, tools=[{"type": "function"}]).text
    assert text == '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def test_arguments_that_are_no_json_are_the_models_fault() -> None:
    """The item had no score, as if the server had failed."""
    raw = ('{"choices": [{"message": {"content": null, "tool_calls": [{"function": {"name": "f", '
           '"arguments": "{\\"a\\": "}}]}, "finish_reason": "tool_calls"}]}')
    with serve(lambda body, n: (200, {}, raw)) as (url, _):
        said = Endpoint(section(url, retries=0)).chat(ASKED, max_tokens=5, tools=[{"type": "function"}]).text
    assert said == '<tool_call>\n{"name": "f", "arguments": {"a": }\n</tool_call>'
    wrong = score("tool_calls", {"calls": [{"name": "f", "arguments": {"a": 1}}]}, said)
    assert wrong.value == 0.0


def test_a_key_is_read_by_the_name_of_its_variable() -> None:
    assert secret(None, {}) is None
    assert secret("K", {"K": " sk "}) == "sk"
    with pytest.raises(ConfigError, match="environment variable K"):
        secret("K", {"K": ""})


def talk(item_id: str, *turns: str) -> ChatItem:
    return ChatItem(item_id, "open", item_id, [{"role": "user", "content": turn} for turn in turns], None,
                    {"questions": list(turns)})


def test_later_turns_see_the_models_own_answers() -> None:
    rounds: list[list[list[str]]] = []

    def batch(items: list[ChatItem]) -> list[Answer]:
        rounds.append([[turn["content"] for turn in item.messages] for item in items])
        return [Answer(None, False, "too long") if "bad" in item.messages[-1]["content"]
                else Answer(f"re {item.messages[-1]['content']}", True, tokens=2) for item in items]

    items = [talk("a", "one", "two"), talk("b", "single"), talk("c", "bad", "never asked")]
    both, single, bad = converse(items, batch)
    assert rounds == [[["one"], ["single"], ["bad"]], [["one", "re one", "two"]]]
    assert texts_of(items[0].expect, both.text or "") == ["re one", "re two"]
    assert (both.stopped, both.tokens, single.text) == (True, 4, "re single")
    assert (bad.text, bad.why) == (None, "turn 1: too long")
