"""The items of one suite, opened for one model: which there are, and the results of any of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from eval_suites.asking.respondent import Respondent
from eval_suites.backends.converse import converse
from eval_suites.backends.generate import Answer, Answerer
from eval_suites.backends.likelihood import Measured, Texts
from eval_suites.lm_door.data import outside
from eval_suites.lm_door.door import LmDoor, language_model
from eval_suites.results import SCORER_ERRORS, ItemResult, ended, scorer_failed
from eval_suites.scorers.base import Score
from eval_suites.scorers.registry import scorer_for
from eval_suites.suites.chat_item import ChatItem, LikelihoodItem
from eval_suites.suites.items import read_items, read_texts
from eval_suites.suites.sample import drawn, of_part
from eval_suites.suites.suite import Suite
from sft_core.config.evaluate import EvalSection
from sft_core.errors import EvalError
from sft_core.progress import progress
from sft_core.stage import fingerprint


class Taken(NamedTuple):
    """Results of some items, requests that lost context, additions to the protocol, and the scale of the scores."""

    items: tuple[ItemResult, ...]
    truncated: int
    notes: Mapping[str, Any]
    scale: str


class Asking(Protocol):
    """An opened suite."""

    @property
    def strata(self) -> Mapping[str, Sequence[str]]:
        """Task → ids of the items that are to be asked, a sample where there is a limit."""

    def take(self, ids: Collection[str]) -> Taken:
        """Ask these items. Items that were asked before are not asked again where answers are kept."""


def open_suite(chosen: Suite, subject: Respondent, section: EvalSection, mirror: Path | None) -> Asking:
    """The suite's items.

    Raises:
        EvalError: items cannot be read, the suite needs a chat template and there is none, or a server is to give
            likelihoods.
    """
    if chosen.through_template and subject.form is None and subject.backend is not None:
        raise EvalError(f"suite {chosen.name} asks through a chat template, and the model has none; evaluate it with "
                        "the template of a run (template.name: chatml, for example)")
    if subject.backend is None and chosen.engine != "generate":
        raise EvalError(f"suite {chosen.name} ({chosen.engine}) needs likelihoods and prompts of its own, and a chat "
                        f"endpoint gives answers only; evaluate the weights, or suites of the engine generate")
    if chosen.engine == "lm_eval":
        door = door_of(chosen, section.include_path, mirror, section.max_new_tokens, outside(chosen, section, mirror))
        return LmItems(chosen, subject, section, door)
    return ChatItems(chosen, subject, section) if chosen.engine == "generate" else TextItems(chosen, subject, section)


@lru_cache(maxsize=32)
def door_of(chosen: Suite, include_path: str | None, mirror: Path | None, _longest: int | None, _stamp: str
          ) -> LmDoor:
    """lm-eval's tasks with their data, loaded once for base, tuned model and A/A floor (MMLU: 57 data sets).

    A cap on answers stays in the tasks, hence it is part of what is remembered, and so are changes to files.
    """
    with tempfile.TemporaryDirectory(prefix="sft-lm-") as scratch:
        return LmDoor(chosen, include_path=include_path, mirror=mirror, scratch=Path(scratch))


def _data(section: EvalSection) -> Path | None:
    return Path(section.data_path) if section.data_path else None


class LmItems:
    """Tasks of lm-eval."""

    def __init__(self, chosen: Suite, subject: Respondent, section: EvalSection, door: LmDoor) -> None:
        assert subject.backend is not None
        self._door, self._section = door, section
        self._lm = language_model(subject.network, subject.tokenizer, section.batch_tokens, chosen.name,
                                  subject.backend)
        limit = section.limit_of(chosen.name)
        self._part = of_part(chosen.name, door.strata, door.clusters, limit)
        self._count = sum(map(len, door.strata.values()))
        self.strata: Mapping[str, Sequence[str]] = drawn(self._part, limit)

    def take(self, ids: Collection[str]) -> Taken:
        """See `Asking`."""
        ran = self._door.run(self._lm, chosen=None if len(ids) == self._count else ids,
                             max_new_tokens=self._section.max_new_tokens)
        stands = {name: len(self._part[name]) / len(some) for name, some in self.strata.items()}
        items = tuple(item._replace(weight=item.weight * stands[item.task]) for item in ran.items)
        scale = "log" if any("nats" in item.metrics for item in items) else "share"
        return Taken(items, ran.truncated, {"tasks": ran.tasks, "bos": self._lm.add_bos_token}, scale)


class ChatItems:
    """Own items, answered through a chat template."""

    def __init__(self, chosen: Suite, subject: Respondent, section: EvalSection) -> None:
        assert subject.answerer is not None
        assert chosen.max_new_tokens is not None
        self._suite, self._answerer = chosen, subject.answerer
        self._longest = min(chosen.max_new_tokens, section.max_new_tokens or chosen.max_new_tokens)
        self._items = read_items(chosen, section.limit_of(chosen.name), _data(section))
        self._score = scorer_for(chosen.scorer, chosen.folder)
        self.strata = _strata([(item.group, item.item_id) for item in self._items])

    def take(self, ids: Collection[str]) -> Taken:
        """See `Asking`."""
        items = [item for item in self._items if item.item_id in ids]
        answers = converse(items, lambda batch: answer_all(self._answerer, batch, self._longest, self._suite.name))
        found = [scored(self._suite.name, item, answer, self._score)
                 for item, answer in zip(items, answers, strict=True)]
        if self._suite.scorer is not None:  # nobody else knows what guessing scores there
            found = [one._replace(chance=item.guess) for one, item in zip(found, items, strict=True)]
        return Taken(tuple(found), 0, {}, self._suite.scale)


def answer_all(answerer: Answerer, items: Sequence[ChatItem], longest: int, label: str) -> list[Answer]:
    """Answers in the order of the items, behind a progress bar."""
    found: dict[int, Answer] = {}
    with progress(label, len(items), "answers") as bar:
        for place, answer in answerer.answers(items, longest):
            found[place] = answer
            bar.advance(1)
    return [found[place] for place in range(len(items))]


def scored(suite: str, item: ChatItem, answer: Answer,
           score: Callable[[str, Mapping[str, Any], str], Score]) -> ItemResult:
    """The result of one item; a scorer that raises leaves it without a score, and `why` says where it broke."""
    made = ItemResult(
        suite=suite, task=item.group, item_id=item.item_id, cluster=item.cluster, score=None, metrics={},
        prompt="\n\n".join(turn["content"] for turn in item.messages), answer=answer.text or "",
        target=json.dumps(item.expect, ensure_ascii=False, sort_keys=True), why=answer.why,
        asked=fingerprint(item.messages, item.tools, item.expect), ids=answer.ids, weight=item.weight,
        chance=item.chance)
    if answer.text is None:
        return made
    said = ended(answer.tokens, stopped=answer.stopped)
    try:
        value = score(item.kind, item.expect, answer.text)
    except SCORER_ERRORS as error:
        return made._replace(metrics=said, why=scorer_failed(error))
    return made._replace(score=value.value, metrics={**value.metrics, **said}, why=value.why)


class TextItems:
    """Texts and answers whose likelihood is measured."""

    def __init__(self, chosen: Suite, subject: Respondent, section: EvalSection) -> None:
        assert subject.backend is not None
        self._suite = chosen
        self._texts = Texts(subject.backend, subject.tokenizer, subject.form)
        self._items = read_texts(chosen, section.limit_of(chosen.name), _data(section))
        if subject.form is None and any(item.kind == "answer" for item in self._items):
            raise EvalError(f"suite {chosen.name} measures answers behind a chat template, and the model has none; "
                            "evaluate it with the template of a run (template.name: chatml, for example)")
        self.strata = _strata([(item.kind, item.item_id) for item in self._items])

    def take(self, ids: Collection[str]) -> Taken:
        """See `Asking`."""
        items = [item for item in self._items if item.item_id in ids]
        found: dict[int, Measured] = {}
        with progress(self._suite.name, len(items), "texts") as bar:
            for place, one in self._texts.measured(items):
                found[place] = one
                bar.advance(1)
        made = tuple(_measured(self._suite.name, item, found[place]) for place, item in enumerate(items))
        return Taken(made, 0, {}, "log")


def _measured(suite: str, item: LikelihoodItem, found: Measured) -> ItemResult:
    """Score: minus nats per byte of UTF-8; the weight is the bytes."""
    size = len(item.text.encode())
    good = found.nats is not None
    return ItemResult(
        suite=suite, task=item.kind, item_id=item.item_id, cluster=item.cluster,
        score=-found.nats / size if found.nats is not None else None,
        metrics={"nats": found.nats, "tokens": float(found.tokens), "bytes": float(size)} if found.nats is not None
        else {}, prompt="\n\n".join(turn["content"] for turn in item.messages), answer="", target=item.text[:2000],
        why="" if good else found.why, asked=fingerprint(item.messages, item.tools, item.text), ids=found.ids,
        weight=item.weight * size)


def _strata(rows: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stratum, item_id in rows:
        found.setdefault(stratum, []).append(item_id)
    return found
