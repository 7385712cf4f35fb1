"""Client of any server that speaks OpenAI's chat completions: retries, requests in parallel, usage, answers kept.

Answers are kept by what was asked (model, messages, parameters) and not by where, so a server may move. What failed is
not kept.
"""

from __future__ import annotations

import email.utils
import math
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from eval_suites.backends.cache import KeptRows
from eval_suites.backends.completion import PACKED, Unusable, completion, received
from eval_suites.backends.contract import Draw
from eval_suites.backends.parallel import as_they_end
from sft_core.config.evaluate import EndpointSection
from sft_core.errors import EvalError
from sft_core.masking import HIDDEN
from sft_core.stage import fingerprint
from sft_core.stopping import check, sleep

Messages = Sequence[Mapping[str, str]]
FIRST_PAUSE_S = 0.5
"""Before the first retry; doubled before each further one."""
LONGEST_PAUSE_S = 60.0
"""Of any pause, also of one that the server asks for."""
GIVE_UP = 3
"""So many requests in a row that failed after all tries: the next ones are tried once, until one is answered."""
AGAIN = frozenset({408, 409, 425, 429})
"""Statuses below 500 that are worth another try."""
OWN_ENDS = ("stop", "length", "tool_calls", "function_call", "eos", "eos_token", "stop_sequence")
"""How an answer of the model's own ends: OpenAI's `finish_reason`, and what Together and TGI call the first. Any other,
as content_filter, error, abort or cancelled, is the server's doing."""
LONGEST_NAME = 200
"""Characters of a name that a server gives, where a person is told of it."""
VERSION = re.compile(r"[-:@](?:latest|main|v?\d{4}[\d-]*)$")


class EndpointError(EvalError):
    """A server gave no answer, after all tries. Holds no key."""


class Reply(NamedTuple):
    """An answer. Tool calls that the server has parsed stand in the text as `<tool_call>` blocks."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Request(NamedTuple):
    """What `Endpoint.many` asks; the arguments of `Endpoint.chat`."""

    messages: Messages
    max_tokens: int
    tools: Sequence[Mapping[str, Any]] | None = None


class Usage(NamedTuple):
    """What was paid for in this process: `kept` answers cost nothing. `cost` is in the currency of the prices."""

    calls: int
    kept: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


class _Passing(Exception):
    """A failure that may pass; `wait_s` is what the server asks for."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _Pace:
    """Lets no more than so many requests begin in a minute, evenly spread, as a bucket of the server's would refill."""

    def __init__(self, per_minute: int | None, pause: Callable[[float], None]) -> None:
        self._apart_s, self._pause = 60.0 / per_minute if per_minute else 0.0, pause
        self._lock, self._next = threading.Lock(), 0.0

    def wait(self) -> None:
        """Until the next one may begin."""
        with self._lock:
            now = time.monotonic()
            begin, self._next = max(now, self._next), max(now, self._next) + self._apart_s
        if begin > now:
            self._pause(begin - now)


class Endpoint:
    """Asks one model of one server.

    Args:
        section: where it is, how long to wait, prices.
        key: the API key itself (`infra.settings.secret` reads it); it is sent and never shown.
        keep: file of kept answers; None: for as long as this object lives.
        pause: waits so many seconds.
    """

    def __init__(self, section: EndpointSection, key: str | None = None, keep: Path | None = None,
                 pause: Callable[[float], None] = sleep) -> None:
        self._section, self._key, self._pause = section, (key or "").strip(), pause
        self._kept, self._lock, self._failures = KeptRows(keep), threading.Lock(), 0
        self._calls, self._found, self._prompt, self._completion = 0, 0, 0, 0
        self._pace = _Pace(section.per_minute, pause)
        host = urlsplit(section.url).hostname or ""
        here = host in ("localhost", "::1") or host.startswith("127.")
        self._client = httpx.Client(timeout=section.timeout_s, trust_env=not here, headers=PACKED | (
            {"Authorization": f"Bearer {self._key}"} if self._key else {}))

    @property
    def usage(self) -> Usage:
        """Calls, tokens and cost so far."""
        section = self._section
        cost = (self._prompt * section.price_in + self._completion * section.price_out) / 1e6
        return Usage(self._calls, self._found, self._prompt, self._completion, cost)

    def chat(self, messages: Messages, *, max_tokens: int, tools: Sequence[Mapping[str, Any]] | None = None,
             how: Draw | None = None) -> Reply:
        """One answer, greedy or drawn as `how` says. May be called from several threads.

        Raises:
            EndpointError: there is none after all tries, or the server refuses the request.
        """
        body: dict[str, Any] = {"model": self._section.model, "messages": [dict(one) for one in messages],
                                "max_tokens": max_tokens, **(how._asdict() if how else {"temperature": 0.0})}
        body |= {"tools": tools} if tools else {}
        key = fingerprint(body)
        with self._lock:
            row = self._kept.get(key)
            self._found += row is not None
        if row is not None:
            return Reply(*row)
        reply = self._asked(body)
        with self._lock:
            self._kept.put(key, list(reply))
        return reply

    def many(self, requests: Sequence[Request]) -> list[Reply | EndpointError]:
        """Answers in the order of the requests, `parallel` under way at a time; a failure stands in its place."""

        def one(request: Request) -> Reply | EndpointError:
            try:
                return self.chat(request.messages, max_tokens=request.max_tokens, tools=request.tools)
            except EndpointError as error:
                return error

        found = dict(as_they_end(one, requests, self._section.parallel))
        return [found[place] for place in range(len(requests))]

    def _asked(self, body: Mapping[str, Any]) -> Reply:
        tries = 1 if self._failures >= GIVE_UP else self._section.retries + 1
        why = ""
        for number in range(tries):
            check()
            try:
                reply = self._once(body)
            except _Passing as failure:
                why = str(failure)
                if number + 1 < tries:
                    self._pause(_wait(number, failure.wait_s))
                continue
            self._failures = 0
            return reply
        with self._lock:
            self._failures += 1
        raise self._error(f"no answer (tries: {tries}); the last failure: {why}")

    def _once(self, body: Mapping[str, Any]) -> Reply:
        self._pace.wait()
        with self._lock:
            self._calls += 1
        status, headers, text = self._sent(body)
        if status in AGAIN or status >= 500:
            raise _Passing(f"HTTP {status}: {text[:200]}", _asked_wait(headers.get("retry-after")))
        if status != 200:
            raise self._error(f"HTTP {status}: {text[:300]}")
        reply = self._reply(text)
        with self._lock:
            self._prompt += reply.prompt_tokens
            self._completion += reply.completion_tokens
        return reply

    def _sent(self, body: Mapping[str, Any]) -> tuple[int, httpx.Headers, str]:
        until, url = time.monotonic() + self._section.timeout_s, f"{self._section.url.rstrip('/')}/chat/completions"
        try:
            with self._client.stream("POST", url, json=body) as answer:
                return answer.status_code, answer.headers, self._hidden(received(answer, until))
        except httpx.TimeoutException as error:
            raise _Passing(f"no complete answer within {self._section.timeout_s:g} s") from error
        except httpx.TransportError as error:
            raise _Passing(f"{type(error).__name__}: {error}") from error
        except Unusable as error:
            raise self._error(str(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._error(f"{type(error).__name__}: {error}") from error

    def _reply(self, text: str) -> Reply:
        """The answer in a body, if it is the asked model's own.

        A model may say nothing, and ends then as after any answer: no words and no `finish_reason` are no answer.
        """
        try:
            found = completion(text)
        except ValueError as error:
            raise _Passing(str(error)) from error
        said, ended = "\n".join(part for part in (found.words, *found.calls) if part), found.finish_reason
        if not said and not ended:
            raise _Passing(f"the reply holds neither words nor a finish_reason: {text[:200]!r}")
        if not _same_model(self._section.model, found.model):
            raise self._error(f"{found.model[:LONGEST_NAME]!r} answers there, not {self._section.model!r}: name it as "
                              "the server does")
        if ended and ended not in OWN_ENDS:
            raise self._error(f"the server withheld the answer (finish_reason {ended[:LONGEST_NAME]!r}; an "
                              f"answer that is the model's own ends with {', '.join(OWN_ENDS)}, or says none)")
        return Reply(said, ended, found.prompt_tokens, found.completion_tokens)

    def _hidden(self, text: str) -> str:
        """Without the key, which some servers send back."""
        return text.replace(self._key, HIDDEN) if self._key else text

    def _error(self, why: str) -> EndpointError:
        return EndpointError(f"{self._section.model} at {self._section.url}: {self._hidden(why)}. Check url, model and "
                             "key_env of the endpoint, and whether the server is up")


def _same_model(asked: str, said: str) -> bool:
    """Servers leave the name out, give the last part of it, or the version that an alias stands for now."""

    def plain(name: str) -> str:
        return VERSION.sub("", name.rstrip("/").rpartition("/")[2].lower())

    return not said or plain(asked) == plain(said)


def _asked_wait(header: str | None) -> float | None:
    """Seconds in a Retry-After, which is a number or a date (RFC 9110, 10.2.3); None where there is none."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        pass
    else:
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def _wait(number: int, asked_s: float | None) -> float:
    """Exponential back-off with half of it random, so that parallel requests do not come back together."""
    grown = FIRST_PAUSE_S * 2.0**number
    return min(asked_s if asked_s is not None else grown * random.uniform(0.5, 1.0), LONGEST_PAUSE_S)
