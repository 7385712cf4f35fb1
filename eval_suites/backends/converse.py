"""Conversations of several turns: each user turn is answered with the model's own earlier answers in context.

An item carries its user turns in `messages` and again in `expect["questions"]`; it is asked in rounds, every round in
one batch. `run.py` passes its batch function:

    answers = converse(items, lambda batch: in_order(answerer.answers(batch, longest), len(batch)))

The answer of an item with one turn is its text; with more turns it is the JSON list of all texts (`texts_of`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from eval_suites.backends.generate import Answer
from eval_suites.suites.chat_item import ChatItem

AnswerBatch = Callable[[list[ChatItem]], list[Answer]]


def turns_of(item: ChatItem) -> int:
    """User turns that are to be answered one after the other; 1 for an item that does not ask for it."""
    questions = item.expect.get("questions")
    return len(questions) if isinstance(questions, list) and questions else 1


def texts_of(expect: Mapping[str, Any], answer: str) -> list[str]:
    """The texts of an item's answer, one a turn.

    Raises:
        ValueError: the item has several turns and the answer is no JSON list of so many texts.
    """
    questions = expect.get("questions") or [""]
    if len(questions) == 1:
        return [answer]
    found = json.loads(answer)
    if not isinstance(found, list) or len(found) != len(questions) or not all(isinstance(x, str) for x in found):
        raise ValueError(f"the answer is no list of {len(questions)} texts")
    return found


def in_order(found: Iterable[tuple[int, Answer]], count: int) -> list[Answer]:
    """(place, answer) in any order → answers in the order of their places."""
    by_place = dict(found)
    return [by_place[place] for place in range(count)]


def converse(items: Sequence[ChatItem], answer_batch: AnswerBatch) -> list[Answer]:
    """Answers in the order of the items.

    A turn that cannot be answered leaves the whole item without an answer. `stopped` holds when every turn stopped,
    `tokens` are those of all turns, `ids` those of the last prompt.
    """
    said: list[list[Answer]] = [[] for _ in items]
    for turn in range(max(map(turns_of, items), default=0)):
        open_now = [i for i, item in enumerate(items) if turn < turns_of(item) and _goes_on(said[i])]
        batch = [_asked(items[i], [answer.text or "" for answer in said[i]]) for i in open_now]
        for i, answer in zip(open_now, answer_batch(batch) if batch else [], strict=True):
            said[i].append(answer)
    return [_joined(item, answers) for item, answers in zip(items, said, strict=True)]


def _goes_on(answers: Sequence[Answer]) -> bool:
    return not answers or answers[-1].text is not None


def _asked(item: ChatItem, answers: Sequence[str]) -> ChatItem:
    """The item up to its next unanswered user turn, earlier ones followed by their answers."""
    if turns_of(item) == 1:
        return item
    messages: list[dict[str, str]] = []
    left = list(answers)
    for message in item.messages:
        messages.append(message)
        if message["role"] == "user":
            if not left:
                break
            messages.append({"role": "assistant", "content": left.pop(0)})
    return item._replace(messages=messages)


def _joined(item: ChatItem, answers: Sequence[Answer]) -> Answer:
    last = answers[-1]
    if turns_of(item) == 1:
        return last
    if last.text is None:
        return last._replace(why=f"turn {len(answers)}: {last.why}")
    return Answer(json.dumps([one.text for one in answers], ensure_ascii=False), all(one.stopped for one in answers),
                  "", sum(one.tokens for one in answers), last.ids)
