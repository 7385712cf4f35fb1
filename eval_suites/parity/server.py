"""Asks a running server one chat at a time, for the parity certificate: no retries, nothing in parallel, no cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import httpx

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
        try:
            # Not through a proxy: the server is on this machine or in its network.
            with httpx.Client(timeout=self._timeout, trust_env=False) as client:
                reply = client.post(f"{self._url}/chat/completions", json=body)
        except httpx.HTTPError as error:
            raise EvalError(f"no answer from {self._url} ({type(error).__name__}: {error}); give --endpoint the base "
                            "URL of a running server, http://127.0.0.1:8000/v1 for example") from error
        if reply.status_code != httpx.codes.OK:
            raise EvalError(f"{self._url} answers {reply.status_code} to model {self._model!r}: {reply.text[:300]}; "
                            "--served-name gives the model's name there")
        return _said(reply, self._url)


def _said(reply: httpx.Response, url: str) -> Said:
    try:
        found = reply.json()
        choice = found["choices"][0]
        return Said(choice["message"].get("content") or "", str(choice["finish_reason"]),
                    int(found["usage"]["prompt_tokens"]))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EvalError(f"{url} does not answer as OpenAI's chat completions do ({type(error).__name__}: {error}): "
                        f"{reply.text[:300]}") from error
