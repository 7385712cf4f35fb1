"""Who computes: one contract for transformers in this process, vLLM, and both behind a cache of answers.

A backend works on token ids. Template, few-shot examples and the tokenizer's rules are decided before it is asked, so
the ids are all that an answer depends on besides the weights.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from sft_core.errors import EvalError

NOT_FINITE = "the model's logits are not finite"


class Continuation(NamedTuple):
    """How likely is `continuation` behind `context`? Both hold at least one id."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """Nats of the continuation, and whether greedy decoding would have said it. NaN where logits are not finite."""

    logprob: float
    greedy: bool


class Draw(NamedTuple):
    """How one answer is drawn: tokens by their probability at `temperature` (above 0), among the likeliest that hold
    `top_p` of it together (Holtzman et al. 2020). `seed` is the answer's own."""

    temperature: float
    top_p: float
    seed: int


def seed_of(seed: int, ids: Sequence[int], number: int) -> int:
    """The seed of the answer `number` to a prompt, 63 bits: of these three alone."""
    found = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8)
    found.update(array("q", ids).tobytes())
    return int.from_bytes(found.digest(), "little") >> 1


class Prompt(NamedTuple):
    """What is to be continued by at most `longest` tokens: greedily, or as `draw` says."""

    ids: tuple[int, ...]
    longest: int
    draw: Draw | None = None

    @property
    def full(self) -> int:
        """Positions that it takes at the most with its answer."""
        return len(self.ids) + self.longest


class Generation(NamedTuple):
    """New ids without the stop. `stopped`: by a stop id, or by `done`. `why` says that there is no answer."""

    ids: tuple[int, ...]
    stopped: bool
    why: str = ""


class Stops(NamedTuple):
    """What ends an answer: ids, and for stops that are text a function of the ids so far, asked now and then.

    `key` stands for `done` in the cache's keys.
    """

    ids: frozenset[int]
    done: Callable[[Sequence[int]], bool] | None = None
    key: str = ""


class Backend(Protocol):
    """Answers come in any order, with the place of their request, as soon as they are there."""

    @property
    def name(self) -> str:
        """Engine with version, device and precision: what results are labelled with."""

    @property
    def window(self) -> int:
        """Most tokens of context and answer together."""

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of a batch, by now; 0 where batches are the engine's own."""

    def likelihoods(self, asked: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        """Log-probabilities. A context that does not fit the window loses its beginning, as lm-eval cuts it."""

    def generate(self, asked: Sequence[Prompt], stops: Stops) -> Iterator[tuple[int, Generation]]:
        """Answers. Every prompt leaves room for its answer in the window."""


def check_asked(asked: Sequence[Continuation], window: int) -> None:
    """Look at requests before anything is computed.

    Raises:
        EvalError: a context or a continuation has no tokens, or a continuation is longer than the window, so that its
            first tokens would have nothing before them.
    """
    for place, (context, continuation) in enumerate(asked):
        if not context or not continuation:
            raise EvalError(f"request {place} of {len(asked)} for a likelihood has no tokens of "
                            f"{'continuation' if context else 'context'}; a continuation is scored behind at least one "
                            "token (the tokenizer's BOS or EOS, where the text has none)")
        if len(continuation) > window:
            raise EvalError(f"request {place} of {len(asked)} asks for the likelihood of {len(continuation)} tokens, "
                            f"and the model's window is {window}; shorten that answer, or measure it as a text (engine "
                            "likelihood, kind text), which is cut into windows")
