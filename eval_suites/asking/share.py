"""A share of every suite's items, asked for the answers alone: several processes fill the cache that one reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eval_suites.asking.opened import open_suite
from eval_suites.asking.respondent import load_respondent
from eval_suites.asking.run import form_of
from eval_suites.backends.generate import ChatForm
from eval_suites.suites.suite import suite
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection


class Share(NamedTuple):
    """Every `of`-th item of a suite from item `number` on, and where answers are kept."""

    number: int
    of: int
    cache: Path


def fill(model: ModelSection, suites: Sequence[str], share: Share, *, section: EvalSection, template: ChatForm | None,
         mirror: Path | None) -> dict[str, float]:
    """Ask a share of the items and keep the answers; returns seconds per suite. Arguments as for `run.evaluate`.

    Raises:
        EvalError, ModelError: as `run.evaluate`.
    """
    chosen = [suite(name) for name in suites]
    subject = load_respondent(model, form_of(chosen, model, template, mirror), mirror, section, share.cache)
    seconds: dict[str, float] = {}
    for one in chosen:
        began = time.monotonic()
        asking = open_suite(one, subject, section, mirror)
        ids = {item_id for some in asking.strata.values() for item_id in some}
        if mine := set(sorted(ids)[share.number::share.of]):
            asking.take(mine)
        seconds[one.name] = time.monotonic() - began
    return seconds
