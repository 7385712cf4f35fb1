"""How many items a suite will ask, before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval_suites.results import Answerable, Expected
from eval_suites.suites.chat_item import ChatItem, LikelihoodItem
from eval_suites.suites.items import read_items, read_texts
from eval_suites.suites.sample import drawn, of_part
from eval_suites.suites.suite import Suite
from sft_core.config.evaluate import EvalSection

LETTERS = 4.0
"""Of a token, about."""
ANSWER = 100.0
"""Tokens of the answer, or of all choices, to a task of lm-eval, at most: a guess."""
MOST = 10**9


def expected(chosen: Suite, section: EvalSection, mirror: Path | None) -> Expected:
    """The items of a suite under the section's limits, counted.

    Raises:
        EvalError: they cannot be read.
    """
    if chosen.engine == "lm_eval":
        from eval_suites.asking.opened import door_of  # brings torch, and the flows import this file
        from eval_suites.lm_door.data import outside

        door = door_of(chosen, section.include_path, mirror, section.max_new_tokens, outside(chosen, section, mirror))
        limit, clusters = section.limit_of(chosen.name), door.clusters
        part = of_part(chosen.name, door.strata, clusters, limit)
        ids = [one for some in drawn(part, limit).values() for one in some]
        asked = sum(len(one.text) for one in door.questions()) / LETTERS / max(sum(map(len, door.strata.values())), 1)
        return Expected(chosen.name, chosen.kind, chosen.scale, len(ids), len({clusters[one] for one in ids}),
                        tokens=(asked, asked * (1 + (chosen.num_fewshot or 0)) + ANSWER),
                        elsewhere=tuple(name for name in door.strata if name not in part))
    read = read_texts if chosen.engine == "likelihood" else read_items
    limit, data = section.limit_of(chosen.name), Path(section.data_path) if section.data_path else None
    items = read(chosen, limit, data)
    answer = [item.cluster for item in items if isinstance(item, ChatItem) and item.expect.get("refuse") is False]
    return Expected(chosen.name, chosen.kind, chosen.scale, len(items), len({item.cluster for item in items}),
                    answerable=Answerable(len(answer), len(set(answer))) if answer else None,
                    tokens=_tokens(items, min(chosen.max_new_tokens or 0, section.max_new_tokens or MOST)),
                    elsewhere=tuple(sorted(
                        _groups(read(chosen, data_path=data))
                        - _groups(read(chosen, limit._replace(per_task=None, total=None), data)))))


def _groups(items: Sequence[ChatItem | LikelihoodItem]) -> set[str]:
    return {one.group if isinstance(one, ChatItem) else one.kind for one in items}


def _tokens(items: Sequence[ChatItem | LikelihoodItem], longest: int) -> tuple[float, float]:
    """Tokens that an item takes, by its letters: with an answer of a quarter of the longest, and with the longest."""
    letters = sum(len(turn["content"]) for item in items for turn in item.messages) + sum(
        len(item.text) for item in items if isinstance(item, LikelihoodItem))
    asked = letters / LETTERS / max(len(items), 1)
    return asked + longest / 4, asked + longest
