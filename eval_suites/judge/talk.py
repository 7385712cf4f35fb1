"""Who judges, which answers can be judged, and the scorer of those that nobody has judged yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from eval_suites.backends.converse import texts_of
from eval_suites.backends.endpoint import Endpoint, EndpointError, Reply, Request
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.scorers.answer_text import without_thought
from eval_suites.scorers.base import Expect, Score

Messages = list[dict[str, str]]
Ask = Callable[[Sequence[Messages]], list[str | Exception]]
"""Asks a judge, in order: its reply, or what went wrong."""


class Judge(NamedTuple):
    """A judge; verdicts of judges with different names may not be compared."""

    name: str
    ask: Ask


class Unjudged(NamedTuple):
    """No verdict, and why."""

    why: str


class Talk(NamedTuple):
    """A conversation to be judged: user turns, the model's answers to them, and reference answers where there are."""

    questions: list[str]
    answers: list[str]
    references: list[str]

    @property
    def length(self) -> int:
        """Characters of all answers: words are no measure in every script."""
        return sum(map(len, self.answers))


def judge_at(endpoint: Endpoint, name: str, max_tokens: int) -> Judge:
    """The model behind an endpoint as a judge."""

    def ask(asked: Sequence[Messages]) -> list[str | Exception]:
        replies = endpoint.many([Request(messages, max_tokens) for messages in asked])
        return [_said(reply, max_tokens) for reply in replies]

    return Judge(name, ask)


def _said(reply: Reply | EndpointError, max_tokens: int) -> str | Exception:
    """A reply that was cut off is no verdict: what it leans to so far may turn."""
    if isinstance(reply, EndpointError):
        return reply
    if reply.finish_reason == "length":
        return EndpointError(f"the judge's reply was cut off after {max_tokens} tokens: raise eval.judge.max_tokens")
    return reply.text


OPEN_ENDED = "eval_suites.judge.talk:keep_open"
"""The scorer of suites whose answers only a judge, or people, can score."""


def keep_open(expect: Expect, answer: str) -> Score:
    """Scorer of open-ended suites: keeps the answer, which only a judge can score."""
    return Score(None, {"answered": float(bool(answer.strip()))},
                 "it waits for a judge: `sft judge BASE TUNED` or `sft human`")


def unjudged(result: SuiteResult) -> bool:
    """Whether only a judge, or people, can score these answers."""
    chosen = result.protocol.get("suite")
    return isinstance(chosen, Mapping) and chosen.get("scorer") == OPEN_ENDED


def talk_of(item: ItemResult) -> Talk | Unjudged:
    """What a judge is shown of an item: without reasoning, turn by turn."""
    if not item.answered:
        return Unjudged(item.why or "it was not answered")
    try:
        expect = json.loads(item.target)
    except json.JSONDecodeError:
        expect = {}
    known: Mapping[str, Any] = expect if isinstance(expect, dict) else {}
    try:
        answers = texts_of(known, item.answer)
    except ValueError as error:
        return Unjudged(str(error))
    return Talk(known.get("questions") or [item.prompt], [without_thought(a).strip() for a in answers],
                list(known.get("reference") or []))
