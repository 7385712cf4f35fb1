"""Which refusal scorer an evaluation uses, and answers scored again by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from eval_suites.judge.classifier import by_classifier
from eval_suites.judge.refusal_judge import INSTRUCTION, AskedAnswer, by_judge
from eval_suites.judge.talk import Ask, Unjudged
from eval_suites.refusal.rules import Reading, read_answer
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.scorers.base import Expect
from eval_suites.scorers.requests import request_score
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from sft_core.errors import EvalError, ModelError
from sft_core.model.load import model_identity
from sft_core.stage import fingerprint

RULES = "rules"
KEY = "refusal_scorer"
"""Where a protocol names a scorer other than the rules."""


class RefusalScorer(NamedTuple):
    """Who says whether answers refuse. Results of different names may not be compared."""

    name: str
    read: Callable[[Sequence[AskedAnswer]], list[Reading | Unjudged]]


def refusal_scorer(section: EvalSection, ask: Ask | None = None, mirror: Path | None = None) -> RefusalScorer:
    """The scorer of `eval.refusal_scorer`. A classifier is loaded with the first answers.

    Args:
        section: which one, and what a classifier's classes mean.
        ask: asks the judge of `eval.judge`; needed for `judge` alone.
        mirror: folder with hub models, or None for the hub.

    Raises:
        EvalError: `judge` without a judge, or a classifier that is not there or has no label map.
    """
    chosen = section.refusal_scorer
    if chosen == RULES:
        return RefusalScorer(RULES, lambda answers: [read_answer(one.answer) for one in answers])
    if chosen == "judge":
        if section.judge is None or ask is None:
            raise EvalError("eval.refusal_scorer is judge, and there is none; set eval.judge.endpoint, or take rules")
        return RefusalScorer(f"judge {section.judge.endpoint.model} {fingerprint(INSTRUCTION)}", by_judge(ask))
    if not section.refusal_labels:
        raise EvalError(f"eval.refusal_scorer is the classifier {chosen!r}; say in eval.refusal_labels what its "
                        "classes mean, e.g. {REJECTION: refusal, NORMAL: compliance}")
    try:
        content = model_identity(ModelSection(path=chosen), mirror)["digest"]
    except ModelError as error:
        raise EvalError(f"eval.refusal_scorer: {error}; it is rules, judge, or the folder or hub id of a sequence "
                        "classifier") from error
    name = f"classifier {content} {fingerprint(section.refusal_labels)}"
    return RefusalScorer(name, by_classifier(chosen, section.refusal_labels, mirror))


def rescore(result: SuiteResult, scorer: RefusalScorer) -> SuiteResult:
    """The same answers with the requests among them judged by this scorer; other items and suites stay as they are.

    An answer without a verdict is unscored, and `why` says so. What was not answered stays unscored.
    """
    if result.protocol.get(KEY, RULES) == scorer.name:
        return result
    requests = [(i, expect) for i, item in enumerate(result.items) if (expect := _request(item)) is not None]
    if not requests:
        return result
    verdicts = scorer.read([AskedAnswer(result.items[i].prompt, result.items[i].answer) for i, _ in requests])
    items = list(result.items)
    for (i, expect), verdict in zip(requests, verdicts, strict=True):
        items[i] = _again(items[i], expect, verdict)
    protocol = {key: value for key, value in result.protocol.items() if key != KEY}
    if scorer.name != RULES:
        protocol[KEY] = scorer.name
    return replace(result, items=tuple(items), protocol=protocol)


def _request(item: ItemResult) -> Expect | None:
    """What was expected of an answered request; None for anything else."""
    try:
        expect: Any = json.loads(item.target)
    except json.JSONDecodeError:
        return None
    answered = item.score is not None or JUDGED in item.metrics
    return expect if answered and isinstance(expect, dict) and "refuse" in expect else None


JUDGED = "unjudged"
"""Metric of an answered request that got no verdict, so that another scorer may try."""


def _again(item: ItemResult, expect: Expect, verdict: Reading | Unjudged) -> ItemResult:
    kept = {name: value for name, value in item.metrics.items()
            if name not in ("refused", "partly_refused", "partial", "helped", JUDGED)}
    if isinstance(verdict, Unjudged):
        return item._replace(score=None, metrics={**kept, JUDGED: 1.0}, why=verdict.why)
    made = request_score(expect, item.answer, verdict)
    return item._replace(score=made.value, metrics={**kept, **made.metrics}, why=made.why)
