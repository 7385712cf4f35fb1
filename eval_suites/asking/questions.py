"""What suites ask, with options and answers, for decontamination."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from eval_suites.suites.chat_item import ChatItem, LikelihoodItem
from eval_suites.suites.items import read_items, read_texts
from eval_suites.suites.suite import Suite, suite
from sft_core.data.curate.items import EvalItem


def eval_items(suites: Sequence[str], *, mirror: Path | None, include_path: str | None, scratch: Path,
               data_path: Path | None = None) -> list[EvalItem]:
    """The questions of these suites, without few-shot examples and headings, with their options and answers, for
    decontamination. Loads no model.

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
            found += [EvalItem(chosen.name, *one) for one in door.questions()]
        else:
            found += _questions(chosen, data_path)
    return found


def _questions(chosen: Suite, data_path: Path | None) -> list[EvalItem]:
    """What the user says in the clean items; texts and answers whose probability is measured."""
    if chosen.engine == "likelihood":
        return [_measured(chosen.name, item) for item in read_texts(chosen, data_path=data_path)]
    plain = chosen.model_copy(update={"variants": ()})
    return [part for item in read_items(plain, data_path=data_path) for part in _asked(chosen.name, item)]


def _measured(suite_name: str, item: LikelihoodItem) -> EvalItem:
    before = [turn["content"] for turn in item.messages if turn["role"] == "user"]
    if not before:
        return EvalItem(suite_name, item.item_id, item.text)
    return EvalItem(suite_name, item.item_id, before[-1], (item.text,))


def _asked(suite_name: str, item: ChatItem) -> Iterator[EvalItem]:
    """Every user turn is a part of its own; the options and the answer are told with the last one."""
    turns = [turn["content"] for turn in item.messages if turn["role"] == "user"]
    for turn in turns[:-1]:
        yield EvalItem(suite_name, item.item_id, turn)
    for turn in turns[-1:]:
        yield EvalItem(suite_name, item.item_id, turn, _answers(item), tuple(map(str, item.expect.get("options", ()))))


def _answers(item: ChatItem) -> tuple[str, ...]:
    """The answer that scores 1, those that would, and a judge's references (one per turn)."""
    told = [item.expect.get(key, ()) for key in ("answers", "reference")]
    listed = [one for some in told for one in ([some] if isinstance(some, str) else some) if isinstance(one, str)]
    return tuple(dict.fromkeys([*filter(None, [item.reference]), *listed]))
