"""Small evaluations on the way: a few items of some suites on a model that is being trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eval_suites.asking.run import respondent_of, run_suite
from eval_suites.backends.generate import ChatForm
from eval_suites.suites.suite import suite
from sft_core.config.evaluate import EvalSection
from sft_core.config.train import ProbeSection


def make_probe(probe: ProbeSection, section: EvalSection, form: ChatForm | None,
               mirror: Path | None) -> Callable[[Any, Any], Mapping[str, float]] | None:
    """What the trainer calls after a validation: model and tokenizer → mean score by suite; None without suites.

    The model's generation config and the tokenizer's template are put back. A suite whose items could all not be scored
    has no value. What is held back stays so, whichever part is evaluated afterwards.

    Args:
        form: the chat template that the run trains.

    Raises:
        EvalError: a suite is unknown.
    """
    chosen = [suite(name) for name in probe.suites]
    few = section.model_copy(update={"suites": probe.suites, "limit": probe.items, "limits": {}, "part": "search"})

    def run(model: Any, tokenizer: Any) -> dict[str, float]:
        before = model.generation_config, tokenizer.chat_template
        try:
            subject = respondent_of(model, tokenizer, form, section.batch_tokens)
            results = [run_suite(one, subject, few, {}, mirror=mirror) for one in chosen]
        finally:
            model.generation_config, tokenizer.chat_template = before
        return {one.suite: one.score for one in results if one.score is not None}

    return run if chosen else None
