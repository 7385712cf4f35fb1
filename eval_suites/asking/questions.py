"""The question texts of suites, for decontamination."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval_suites.suites.items import read_items, read_texts
from eval_suites.suites.suite import Suite, suite
from sft_core.data.curate.decontaminate import EvalItem


def eval_items(suites: Sequence[str], *, mirror: Path | None, include_path: str | None, scratch: Path,
               data_path: Path | None = None) -> list[EvalItem]:
    """The questions of these suites, without few-shot examples and headings, for decontamination. Loads no model.

    Args:
        mirror: folder with hub data sets, see `lm_door/`.
        include_path: folder with further lm-eval tasks.
        scratch: where generated task files may be written.
        data_path: folder with published benchmarks.

    Raises:
        EvalError: a suite is unknown or its items cannot be read.
    """
    from eval_suites.lm_door.door import LmDoor  # brings torch, and the flows import this file

    found: list[EvalItem] = []
    for name in suites:
        chosen = suite(name)
        if chosen.engine == "lm_eval":
            door = LmDoor(chosen, include_path=include_path, mirror=mirror, scratch=scratch)
            found += [EvalItem(chosen.name, item_id, text) for item_id, text in door.questions()]
        else:
            found += _questions(chosen, data_path)
    return found


def _questions(chosen: Suite, data_path: Path | None) -> list[EvalItem]:
    """What the user says in the clean items; texts and answers whose probability is measured."""
    if chosen.engine == "likelihood":
        return [EvalItem(chosen.name, item.item_id, item.text) for item in read_texts(chosen, data_path=data_path)]
    plain = chosen.model_copy(update={"variants": ()})
    return [EvalItem(chosen.name, item.item_id, turn["content"]) for item in read_items(plain, data_path=data_path)
            for turn in item.messages if turn["role"] == "user"]
