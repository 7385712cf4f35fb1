"""What is verified, and by whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from eval_suites.scorers.base import Score
from sft_core.conversation import ToolCall


class Prompted(NamedTuple):
    """A prompt with what is known of its answer."""

    id: str
    messages: list[dict[str, Any]]
    tools: str | None = None  # JSON text
    reference: str = ""  # an answer that is right, as far as there is one
    calls: tuple[ToolCall, ...] = ()  # of that answer
    kind: str = ""  # names the scorer of an item of a suite
    expect: Mapping[str, Any] = {}


Answered = tuple[Prompted, str]
"""A prompt and one answer to it."""


class Verifier(NamedTuple):
    """An answer passes where its score is `at_least` so much. A score of None says that nobody could tell, and why."""

    name: str
    at_least: float
    score: Callable[[Sequence[Answered]], list[Score]]
    lacks: Callable[[Prompted], str] = lambda _: ""
    """What a prompt lacks to be verified; '' where nothing."""
    ranks: bool = False
    """Among answers that pass, more is better."""


class Verdict(NamedTuple):
    """What came of one answer: `why` is empty where it passed all, else `failed` names the verifier; `unjudged` where
    that one could not tell."""

    failed: str
    why: str
    scores: dict[str, float]
    unjudged: bool = False


def verdicts(verifiers: Sequence[Verifier], answered: Sequence[Answered]) -> list[Verdict]:
    """Verify answers by each in turn; one that fails is not shown to those behind, which cost more."""
    found = [Verdict("", "", {}) for _ in answered]
    for verifier in verifiers:
        left = [at for at, one in enumerate(found) if not one.failed]
        for at, score in zip(left, verifier.score([answered[at] for at in left]), strict=True):
            found[at] = _with(found[at], verifier, score)
    return found


def _with(found: Verdict, verifier: Verifier, score: Score) -> Verdict:
    if score.value is None:
        return found._replace(failed=verifier.name, why=score.why or "no score", unjudged=True)
    scores = {**found.scores, verifier.name: score.value}
    if score.value >= verifier.at_least:
        return found._replace(scores=scores)
    return Verdict(verifier.name, score.why or f"{score.value:.3g}, below {verifier.at_least:g}", scores)
