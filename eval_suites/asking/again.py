"""Asks some items of suites again, to measure the A/A floor (`floor.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eval_suites.asking.opened import open_suite
from eval_suites.asking.respondent import load_respondent
from eval_suites.backends.generate import ChatForm
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.statistics.floor import Floor, measure
from eval_suites.suites.sample import ordered
from eval_suites.suites.suite import named_suites
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from sft_core.model.release import giving_back

SAMPLE_LIMIT = 1
"""Batch tokens with which every row is alone."""


def floors(model: ModelSection, results: Mapping[str, SuiteResult], section: EvalSection, form: ChatForm | None,
           mirror: Path | None) -> dict[str, Floor]:
    """The floor of every suite: `section.floor_items` items asked three times, past all kept answers.

    Raises:
        EvalError, ModelError: as `run.evaluate`.
    """
    if not section.floor_items:
        return {}
    picked = {name: set(ordered([item.item_id for item in result.items])[:section.floor_items])
              for name, result in results.items()}
    size = section.batch_tokens or min((one.batch_tokens for one in results.values() if one.batch_tokens), default=None)
    rounds = [_asked(model, picked, section.model_copy(update={"batch_tokens": tokens}), form, mirror)
              for tokens in (size, size, SAMPLE_LIMIT)]
    return {name: measure(result, *(one[name] for one in rounds)) for name, result in results.items()}


@giving_back()
def _asked(model: ModelSection, picked: Mapping[str, set[str]], section: EvalSection, form: ChatForm | None,
           mirror: Path | None) -> dict[str, tuple[ItemResult, ...]]:
    """One round on a freshly loaded model: nothing of an earlier one is left."""
    subject = load_respondent(model, form, mirror, section, None)
    chosen = named_suites(section.suites)
    return {name: open_suite(chosen[name], subject, section, mirror).take(ids).items for name, ids in picked.items()}
