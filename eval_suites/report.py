"""What a person compares after the verdict: the items that one model gets right and the other does not."""

from __future__ import annotations

from typing import NamedTuple

from eval_suites.results import ItemResult, SuiteResult
from eval_suites.verdict import check_protocols


class Flip(NamedTuple):
    """An item whose score changed."""

    suite: str
    task: str
    item_id: str
    base: float
    tuned: float
    prompt: str
    target: str
    base_answer: str
    tuned_answer: str
    why: str  # what the lower answer lacked


def flips(base: SuiteResult, tuned: SuiteResult) -> list[Flip]:
    """Items whose score changed, losses first, in the order of the base.

    Raises:
        EvalError: the protocols differ.
    """
    check_protocols(base, tuned)
    after: dict[str, ItemResult] = {item.item_id: item for item in tuned.items}
    found = []
    for item in base.items:
        other = after.get(item.item_id)
        if other is None or item.score is None or other.score is None or item.score == other.score:
            continue
        lower = item if item.score < other.score else other
        found.append(Flip(item.suite, item.task, item.item_id, item.score, other.score, item.prompt, item.target,
                          item.answer, other.answer, lower.why))
    return sorted(found, key=lambda f: f.tuned - f.base > 0)
