"""The items of evaluation suites, as training text is searched for them."""

from __future__ import annotations

from typing import NamedTuple


class EvalItem(NamedTuple):
    """One question of an evaluation suite, with what the suite knows of its answer; parts of an item share its id."""

    suite: str
    id: str
    text: str
    answers: tuple[str, ...] = ()  # texts that solve it or would score
    choices: tuple[str, ...] = ()  # what is to be chosen from, in the suite's order
