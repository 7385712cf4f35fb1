"""Generators of synthetic data (`sft_core/synth/contract.py`): a backend behind a template, or a server.

Both keep what was said by what was asked, so that a killed run asks only what it has not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from eval_suites.backends.contract import Draw, Prompt, seed_of
from eval_suites.backends.endpoint import Endpoint, EndpointError
from eval_suites.backends.generate import Answer, Templated
from eval_suites.backends.parallel import as_they_end
from eval_suites.suites.chat_item import ChatItem
from sft_core.stage import fingerprint
from sft_core.synth.contract import Asked, Said

SERVER_SEEDS = 2**31
"""Servers seed libraries that take no larger number."""


class How(NamedTuple):
    """How all answers of a generator are drawn; at temperature 0 they are greedy."""

    temperature: float
    top_p: float
    seed: int

    def draw(self, seed: int) -> Draw | None:
        """That of one answer with a seed of its own."""
        return Draw(self.temperature, self.top_p, seed) if self.temperature else None


class Sampler:
    """A backend, asked through a template.

    Args:
        name: what it is, for provenance.
        answerer: the template in front of it.
        how: sampling.
    """

    def __init__(self, name: str, answerer: Templated, how: How) -> None:
        self.name, self._answerer, self._how = name, answerer, how

    def say(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Said]]:
        """As `Generator.say`; a prompt that the template refuses, or that leaves no room, has no answer."""
        for place, answer in self._answerer.continued([self._prompt(one) for one in asked]):
            yield place, Said(answer.text, answer.stopped, answer.why, answer.tokens)

    def _prompt(self, one: Asked) -> Prompt | Answer:
        found = self._answerer.prompt(ChatItem("", "", "", one.messages, one.tools, {}), one.longest)
        if isinstance(found, Answer):
            return found
        return found._replace(draw=self._how.draw(seed_of(self._how.seed, found.ids, one.number)))


class Served:
    """A server.

    Args:
        endpoint: asks it, and keeps what it says.
        parallel: requests under way at a time.
        how: sampling.
    """

    def __init__(self, name: str, endpoint: Endpoint, parallel: int, how: How) -> None:
        self.name, self._endpoint, self._parallel, self._how = name, endpoint, parallel, how

    def say(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Said]]:
        """As `Generator.say`; a request that fails after all tries has no answer."""
        yield from as_they_end(self._one, asked, self._parallel)

    def _one(self, one: Asked) -> Said:
        seed = int(fingerprint(self._how.seed, one.messages, one.tools, one.number), 16) % SERVER_SEEDS
        try:
            reply = self._endpoint.chat(one.messages, max_tokens=one.longest, how=self._how.draw(seed),
                                        tools=json.loads(one.tools) if one.tools else None)
        except EndpointError as error:
            return Said(None, why=str(error))
        return Said(reply.text, reply.finish_reason != "length", "", reply.completion_tokens)
