"""What servers send that is no answer, or one in another form: told, counted, and never a traceback of ours."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval_suites.backends.completion import MOST_BYTES, completion
from eval_suites.backends.endpoint import Endpoint, EndpointError
from eval_suites.parity.server import ChatServer
from eval_suites.results import ItemResult, SuiteResult, read_results, write_results
from sft_core.config.evaluate import EndpointSection
from sft_core.errors import EvalError
from sft_core.stage import fingerprint, read_json, write_json
from tests.evals.fake_server import serve

ASKED = [{"role": "user", "content": "hello"}]
HALF = r"\ud800"


def body(content: object = "hi", usage: object = None, **more: object) -> str:
    return json.dumps({"choices": [{"message": {"content": content, **more}, "finish_reason": "stop"}], "usage": usage})


def asked(raw: Any, headers: dict[str, str] | None = None) -> Endpoint:
    """An endpoint that got this reply, to every try."""
    with serve(lambda _, n: (200, headers or {}, raw)) as (url, _):
        endpoint = Endpoint(EndpointSection(url=url, model="m", retries=1, timeout_s=30), pause=lambda _: None)
        endpoint.chat(ASKED, max_tokens=5)
        return endpoint


@pytest.mark.parametrize("raw", [
    "[" * 200_000, '{"choices":' * 200_000, body()[:-1] + ', "x": ' + "[" * 200_000, '{"choices": {}}',
    '{"choices": "text"}', '{"choices": [[]]}', "[]", "5", '{"choices": [{"message": "hi"}]}', body(5), body(["hi"]),
    body([5]), body(tool_calls=5), body(tool_calls=[{"function": None}]),
    body("x", usage=1).replace("1}", "9" * 5000 + "}")], ids=lambda raw: str(raw)[:25])
def test_what_is_no_completion_is_a_failed_request(raw: str) -> None:
    with pytest.raises(EndpointError, match=r"no answer \(tries: 2\).*is no chat completion"):
        asked(raw)
    with serve(lambda _, n: (200, {}, raw)) as (url, _), pytest.raises(EvalError, match="does not answer as OpenAI's"):
        ChatServer(url, "m").chat(ASKED, max_tokens=5)


@pytest.mark.parametrize(("said", "tokens"), [
    ("1e999", 0), ("-1e999", 0), ("NaN", 0), ("-3", 0), ('"7"', 7), ('"many"', 0), ("[7]", 0), ("null", 0), ("7.0", 7),
    ("9" * 400, 0), ("true", 1), ("7", 7)])
def test_a_number_of_tokens_that_is_none_costs_no_answer(said: str, tokens: int) -> None:
    raw = body(usage={"prompt_tokens": "P", "completion_tokens": "P"}).replace('"P"', said)
    usage = asked(raw).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (tokens, tokens)
    assert usage.cost == 0.0


@pytest.mark.parametrize("usage", ["many", [1, 2], 7, None])
def test_usage_may_be_anything(usage: object) -> None:
    assert completion(body("hi", usage))[:4] == ("hi", (), "stop", 0)


def test_content_in_parts_is_their_text() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "so "},
             {"type": "text", "text": "7"}]
    assert completion(body(parts)).words == "so 7"
    assert completion(body([{"type": "refusal", "refusal": "No."}])).words == "No."


def test_half_a_character_is_replaced_wherever_it_stands(tmp_path: Path) -> None:
    raw = body("#### X 7", tool_calls=[{"function": {"name": "fX", "arguments": {"a": "X"}}}]).replace("X", HALF)
    raw = raw.replace('"stop"', '"stop", "index": "' + HALF + '"')
    keep = tmp_path / "kept.jsonl"
    with serve(lambda _, n: (200, {}, raw)) as (url, _):
        for _ in range(2):
            reply = Endpoint(EndpointSection(url=url, model="m"), keep=keep).chat(ASKED, max_tokens=5)
            assert reply.text.split("\n") == [
                "#### \ufffd 7", "<tool_call>", '{"name": "f\ufffd", "arguments": {"a": "\ufffd"}}', "</tool_call>"]
    assert completion(body("\U0001f600")).words == "\U0001f600", "a whole pair is a character"


def test_what_is_written_of_others_never_fails_on_half_a_character(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é \ud800": "\udfff"})
    assert read_json(tmp_path / "a.json") == {"é \ufffd": "\ufffd"}
    item = ItemResult("s", "t", "1", "c", 1.0, {"ü": 1.0}, "p \ud800", "a \ud800", "t", "w \ud800", "x")
    write_results(tmp_path, SuiteResult("s", "capability", {}, (item,), 0.0, 0, "m", "b"))
    found, = read_results(tmp_path, "s").items
    assert (found.prompt, found.answer, found.why) == ("p \ufffd", "a \ufffd", "w \ufffd")
    assert fingerprint("\ud800") != fingerprint("\ufffd")


def endless(piece: bytes) -> Iterator[bytes]:
    return itertools.repeat(piece)


@pytest.mark.parametrize("packed", [False, True], ids=["spaces", "gzip bomb"])
def test_a_server_that_does_not_stop_is_left(packed: bool) -> None:
    bomb = gzip.compress(b" " * (4 * MOST_BYTES))
    raw = [bomb] if packed else endless(b" " * 2**16)
    headers = {"Content-Encoding": "gzip"} if packed else {}
    tracemalloc.start()
    try:
        with pytest.raises(EndpointError, match="the reply is longer than 16 MiB"):
            asked(raw, headers)
        assert tracemalloc.get_traced_memory()[1] < 12 * MOST_BYTES
    finally:
        tracemalloc.stop()
    with serve(lambda _, n: (200, headers, [bomb] if packed else endless(b" " * 2**16))) as (url, _), pytest.raises(
            EvalError, match="the reply is longer than 16 MiB"):
        ChatServer(url, "m").chat(ASKED, max_tokens=5)


def test_what_is_packed_is_read_only_in_the_way_that_was_asked_for() -> None:
    assert asked([gzip.compress(body().encode())], {"Content-Encoding": "gzip"}).usage.calls == 1
    twice = gzip.compress(gzip.compress(body().encode()))
    for encoding, raw in (("gzip, gzip", twice), ("br", b"x")):
        with pytest.raises(EndpointError, match=f"packed as '{encoding}', and gzip was asked for"):
            asked([raw], {"Content-Encoding": encoding})


def test_names_of_any_length_are_told_in_short() -> None:
    for raw in (body()[:-1] + f', "model": "{"x" * 10_000}"}}', body().replace("stop", "y" * 10_000)):
        with pytest.raises(EndpointError) as caught:
            asked(raw)
        assert len(str(caught.value)) < 700
