"""What a server sends back, read: no more of it than an answer can be long, and each thing as what it should be."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import httpx

from sft_core.stopping import check
from sft_core.visible import whole

MOST_BYTES = 16 * 2**20
"""Of a reply, unpacked: several million tokens. What is longer comes from a server that does not stop."""
MOST_TOKENS = 2**31
"""From here on a number of tokens is none."""
PACKED = {"accept-encoding": "gzip"}
"""Header of requests. One piece of what is packed so is a thousand times as long at the most, of other ways no such
bound is known."""


class Unusable(httpx.HTTPError):
    """A reply that is no answer, and that another try would not better."""


class Completion(NamedTuple):
    """An answer. A number of tokens is 0 where the server gives none; each call is a `<tool_call>` block."""

    words: str
    calls: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model: str  # who the server says gave it


def received(answer: httpx.Response, until: float) -> str:
    """The body of a streamed response, read in pieces, so that a server that sends a byte now and then cannot hold a
    request for ever.

    Args:
        until: moment of `time.monotonic` from which on nothing is waited for.

    Raises:
        Unusable: it is longer than `MOST_BYTES`, or packed in a way that nobody asked for.
        httpx.HTTPError: what httpx raises; ReadTimeout where it is not whole by then.
    """
    packed = answer.headers.get("content-encoding", "identity").strip().lower()
    if packed not in ("identity", PACKED["accept-encoding"]):
        raise Unusable(f"the reply is packed as {packed[:40]!r}, and {PACKED['accept-encoding']} was asked for")
    held = bytearray()
    for piece in answer.iter_bytes():
        check()
        held += piece
        if len(held) > MOST_BYTES:
            raise Unusable(f"the reply is longer than {MOST_BYTES // 2**20} MiB, and the server goes on sending")
        if time.monotonic() > until:
            raise httpx.ReadTimeout("it is still sending")
    return held.decode("utf-8", errors="replace")


def completion(text: str) -> Completion:
    """The answer in a body. What the model says in OpenAI's `refusal`, beside empty content, are its words. Halves of
    UTF-16 pairs, which JSON can hold and no file, are replaced like all that is no UTF-8.

    Raises:
        ValueError: the body is no JSON of a chat completion, or holds no choice.
    """
    try:
        found = json.loads(text)
        choice, usage = found["choices"][0], found.get("usage")
        message, numbers = choice["message"], usage if isinstance(usage, dict) else {}
        words = _words(message.get("content")) or _words(message.get("refusal"))
        ended, model = (whole(str(said or "")) for said in (choice.get("finish_reason"), found.get("model")))
        return Completion(whole(words), tuple(map(whole, _calls(message))), ended,
                          _count(numbers.get("prompt_tokens")), _count(numbers.get("completion_tokens")), model)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the reply is no chat completion ({type(error).__name__}: {error}): {text[:200]!r}"
                         ) from error


def _words(content: object) -> str:
    """Text, or the text among the parts that some servers make of it; what was thought before is not said."""
    if not isinstance(content, list):
        if content is not None and not isinstance(content, str):
            raise TypeError(f"the content is a {type(content).__name__} and no text")
        return content or ""
    parts = [part.get("text") or part.get("refusal") for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def _calls(message: Mapping[str, Any]) -> Iterator[str]:
    for call in message.get("tool_calls") or ():
        name, given = call["function"]["name"], call["function"].get("arguments") or {}
        said = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        # As it is: arguments that are no JSON are the model's fault and not the server's.
        call_text = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {said}}}'
        yield f"<tool_call>\n{call_text}\n</tool_call>"


def _count(said: Any) -> int:
    try:
        number = float(said)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(number) if 0 <= number < MOST_TOKENS else 0
