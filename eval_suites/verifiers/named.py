"""The verifiers that a configuration names, those that cost least first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval_suites.backends.endpoint import Endpoint
from eval_suites.scorers.custom import load_scorer
from eval_suites.suites.suite import Suite
from eval_suites.verifiers import rules
from eval_suites.verifiers.contract import Verifier
from eval_suites.verifiers.judged import judged
from sft_core.config.synth import ScorerSection, VerifySection


def verifiers_of(section: VerifySection, asked: Suite | None, mirror: Path | None, judge: Endpoint | None
                 ) -> list[Verifier]:
    """All that are named.

    Args:
        asked: the suite that the prompts are items of, whose own scorer scores.
        mirror: folder with hub models.
        judge: asks the judge, where one is named.

    Raises:
        EvalError: a file, function or model cannot be used.
    """
    return [*_rules(section, asked), *_models(section, mirror, judge)]


def _rules(section: VerifySection, asked: Suite | None) -> Iterator[Verifier]:
    if section.words:
        yield rules.words(section.words.least, section.words.most)
    if section.pattern:
        yield rules.pattern(section.pattern.regex)
    if section.json_schema:
        yield rules.json_schema(section.json_schema.file)
    if section.number:
        yield rules.number(section.number.strict)
    if section.tool_calls:
        yield rules.tool_calls(section.tool_calls.arguments)
    if section.scorer:
        yield _scorer(section.scorer, asked)


def _models(section: VerifySection, mirror: Path | None, judge: Endpoint | None) -> Iterator[Verifier]:
    if section.reward:
        from eval_suites.verifiers.reward import reward  # brings torch

        yield reward(section.reward, mirror)
    if section.judge and judge:
        yield judged(section.judge, judge)


def _scorer(section: ScorerSection, asked: Suite | None) -> Verifier:
    if section.function:
        return rules.scorer(load_scorer(section.function, None), section.at_least)
    own = load_scorer(asked.scorer, asked.folder) if asked and asked.scorer else None
    return rules.scorer(own, section.at_least)
