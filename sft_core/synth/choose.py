"""Which answers to a prompt are kept: the best that passed and are not alike; and as many at random beside them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sft_core.synth.rouge import rouge_l

WORSE, ALIKE = "worse", "alike"
"""Passed, and not among the best; passed, and too much like one that is kept."""


class Answer(NamedTuple):
    """An answer that is there. `prompt` is the prompt's place; `merits` order those that passed."""

    prompt: int
    number: int
    text: str
    passed: bool
    merits: tuple[float, ...] = ()


def chosen(answers: Sequence[Answer], keep: int, max_similarity: float) -> dict[int, str]:
    """Of all that passed, by place: '' where it is kept, else why not.

    Of a prompt the best come first, by merits and then as they were drawn, and one is kept while there are fewer than
    `keep` and its ROUGE-L with each that is kept is below `max_similarity`.
    """
    by_prompt: dict[int, list[int]] = {}
    for place, answer in enumerate(answers):
        if answer.passed:
            by_prompt.setdefault(answer.prompt, []).append(place)
    said: dict[int, str] = {}
    for places in by_prompt.values():
        kept: list[str] = []
        for place in sorted(places, key=lambda at: (tuple(-one for one in answers[at].merits), answers[at].number)):
            text = answers[place].text
            if any(text == one or rouge_l(text, one) >= max_similarity for one in kept):
                said[place] = ALIKE
            elif len(kept) == keep:
                said[place] = WORSE
            else:
                said[place] = ""
                kept.append(text)
    return said


def at_random(answers: Sequence[Answer], said: Mapping[int, str], keep: int, seed: int) -> list[int]:
    """The baseline that selection has to beat: as many answers as were kept, drawn from all, whether they passed or
    not, and no more than `keep` of a prompt; fewer where there are no more."""
    wanted = sum(why == "" for why in said.values())
    order = list(range(len(answers)))
    random.Random(seed).shuffle(order)
    taken: dict[int, int] = {}
    found: list[int] = []
    for place in order:
        prompt = answers[place].prompt
        if len(found) < wanted and taken.get(prompt, 0) < keep:
            taken[prompt] = taken.get(prompt, 0) + 1
            found.append(place)
    return sorted(found)
