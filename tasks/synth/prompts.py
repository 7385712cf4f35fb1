"""What rejection sampling asks: conversations up to their last answer, or items as suites have them; and what of them
is left out, with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from eval_suites.suites.chat_item import BadRow, ChatItem, chat_item, parse_lines
from eval_suites.suites.items import read_items
from eval_suites.suites.suite import Suite, suite
from eval_suites.verifiers.contract import Prompted, Verifier
from sft_core.config.data import SourceSection
from sft_core.config.synth import SynthConfig
from sft_core.conversation import Conversation, Rejected
from sft_core.data.intake import Taken, take_in
from sft_core.errors import DataError, EvalError
from sft_core.stage import fingerprint
from sft_core.templates.messages import Form, messages_of, tools_of
from tasks.stages import Workspace

FORM = Form(arguments_as_text=True, wrapped_tools=True)
"""As OpenAI's interface has messages; sources are read in it too."""


class LeftOut(NamedTuple):
    """A prompt that is not asked."""

    why: str
    detail: str
    prompt: str


class Prompts(NamedTuple):
    """What is asked, and what is not."""

    asked: list[Prompted]
    left: list[LeftOut]


def own_suite(config: SynthConfig) -> Suite | None:
    """The suite whose items are asked."""
    assert config.reject is not None
    return suite(config.reject.prompts.suite) if config.reject.prompts.suite else None


def read_prompts(config: SynthConfig, place: Workspace, verifiers: Sequence[Verifier],
                 holds: Callable[[Sequence[Sequence[str]]], list[str]]) -> Prompts:
    """The prompts of a configuration, each once, those aside that no verifier can judge or that hold an item of an
    evaluation.

    Raises:
        DataError, EvalError: a source, an items file or a suite cannot be read, or nothing is left to be asked.
    """
    assert config.reject is not None
    made, seen = Prompts([], []), set[str]()
    every = list(islice(_all(config, place, made.left), config.reject.prompts.limit))
    for one, item in zip(every, holds([[*_texts(one)] for one in every]), strict=True):
        why, detail = _fault(one, verifiers, seen)
        why, detail = ("contaminated", item) if item and not why else (why, detail)
        seen.add(one.id)
        if why:
            made.left.append(LeftOut(why, detail, one.id))
        else:
            made.asked.append(one)
    if not made.asked:
        first = made.left[0] if made.left else LeftOut("none", "nothing was read", "")
        raise DataError(f"none of {len(made.left)} prompts is left to be asked; the first was left out as {first.why}: "
                        f"{first.detail}; look at reject.prompts and reject.verify")
    return made


def _texts(one: Prompted) -> Iterator[str]:
    yield from (str(turn.get("content") or "") for turn in one.messages)
    yield one.reference


def _fault(one: Prompted, verifiers: Sequence[Verifier], seen: set[str]) -> tuple[str, str]:
    if one.id in seen:
        return "repeated", "it was asked before"
    for verifier in verifiers:
        if lack := verifier.lacks(one):
            return "not_verifiable", f"{verifier.name}: {lack}"
    return "", ""


def _all(config: SynthConfig, place: Workspace, left: list[LeftOut]) -> Iterator[Prompted]:
    assert config.reject is not None
    section = config.reject.prompts
    if chosen := own_suite(config):
        data = config.decontaminate.data_path
        yield from map(_of_item, read_items(chosen, data_path=Path(data) if data else None))
    elif section.items:
        yield from map(_of_item, _items(Path(section.items)))
    for source in section.sources:
        yield from _of_source(source, place, left)


def _of_source(source: SourceSection, place: Workspace, left: list[LeftOut]) -> Iterator[Prompted]:
    for found in take_in(source, Taken(), scratch=place.scratch, mirror=place.mirror):
        if isinstance(found, Rejected):
            left.append(LeftOut(str(found.why), found.detail, str(found.origin)))
        else:
            yield _of_conversation(found)


def _of_conversation(conversation: Conversation) -> Prompted:
    turns = conversation.turns
    last = max(at for at, turn in enumerate(turns) if turn.role == "assistant")
    messages, tools = messages_of(turns[:last], FORM), tools_of(conversation.tools, FORM)
    text = json.dumps(tools, ensure_ascii=False) if tools else None
    return Prompted(fingerprint(messages, text), messages, text, turns[last].content, turns[last].tool_calls)


def _of_item(item: ChatItem) -> Prompted:
    return Prompted(fingerprint(item.messages, item.tools), [*item.messages], item.tools, item.reference or "", (),
                    item.kind, item.expect)


def _items(file: Path) -> Iterator[ChatItem]:
    try:
        text = file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"the items {file} cannot be read: {error}; reject.prompts.items is a JSONL file, a relative "
                        f"path begins in {Path.cwd()}") from error
    for where, row in parse_lines(text, file):
        try:
            yield chat_item(row)
        except BadRow as error:
            raise EvalError(f"{where} is no item: {error}; an item has id, kind, cluster, messages and expect"
                            ) from error
