"""Asks a running server one chat at a time, for the parity certificate: no retries, nothing in parallel, no cache."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import httpx

from eval_suites.backends.completion import PACKED, completion, received
from sft_core.errors import EvalError


class Said(NamedTuple):
    """A server's answer and how many tokens its prompt had. Calls of tools are no text."""

    text: str
    finish_reason: str
    prompt_tokens: int


class ChatServer:
    """A server that speaks OpenAI's chat completions.

    Args:
        url: base URL that ends in /v1.
        model: name of the model there.
        timeout_s: seconds to wait for one answer.
    """

    def __init__(self, url: str, model: str, timeout_s: float = 120.0) -> None:
        self._url, self._model, self._timeout = url.rstrip("/"), model, timeout_s

    def chat(self, messages: Sequence[Mapping[str, Any]], *, max_tokens: int,
             tools: Sequence[Mapping[str, Any]] | None = None) -> Said:
        """One answer.

        Raises:
            EvalError: nobody answers, or something else than a chat completion.
        """
        body: dict[str, Any] = {"model": self._model, "messages": list(messages), "max_tokens": max_tokens,
                                "temperature": 0.0}
        if tools:
            body["tools"] = list(tools)
        until, url = time.monotonic() + self._timeout, f"{self._url}/chat/completions"
        try:
            # Not through a proxy: the server is on this machine or in its network.
            with httpx.Client(timeout=self._timeout, trust_env=False, headers=PACKED) as client, client.stream(
                    "POST", url, json=body) as reply:
                status, text = reply.status_code, received(reply, until)
        except httpx.HTTPError as error:
            raise EvalError(f"no answer from {self._url} ({type(error).__name__}: {error}); give --endpoint the base "
                            "URL of a running server, http://127.0.0.1:8000/v1 for example") from error
        if status != httpx.codes.OK:
            raise EvalError(f"{self._url} answers {status} to model {self._model!r}: {text[:300]}; "
                            "--served-name gives the model's name there")
        return _said(text, self._url)


def _said(text: str, url: str) -> Said:
    try:
        found = completion(text)
    except ValueError as error:
        raise EvalError(f"{url} does not answer as OpenAI's chat completions do: {error}") from error
    if not found.prompt_tokens:
        raise EvalError(f"{url} does not say in usage.prompt_tokens how long the prompt was: {text[:300]}")
    return Said(found.words, found.finish_reason, found.prompt_tokens)
