"""One model through several suites: loaded once, every suite written as soon as it is finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from eval_suites.asking.opened import Asking, Taken, open_suite
from eval_suites.asking.protocol import protocol
from eval_suites.asking.respondent import ChatFormat, Respondent, identity_of, load_respondent, own_form, respondent_of
from eval_suites.backends.contract import NOT_FINITE
from eval_suites.backends.generate import ChatForm
from eval_suites.results import ItemResult, SuiteResult, read_results, write_results
from eval_suites.suites.sample import parts
from eval_suites.suites.suite import Suite, suite
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from sft_core.errors import EvalError
from sft_core.model.release import giving_back
from sft_core.names import file_name

__all__ = ["ChatFormat", "Out", "Respondent", "evaluate", "protocol", "respondent_of", "run_suite"]

Stop = Callable[[SuiteResult], bool]
"""Whether a suite whose first items came out like this is certain already; see `SuiteResult.looks`."""


class Out(NamedTuple):
    """Where results go, where the answers of all models are kept, and when a suite may end early.

    `stop` is asked after every look but the last, with `eval.looks` > 1. `key` is the API key of a model behind a
    server.
    """

    folder: Path
    cache: Path | None = None
    stop: Stop | None = None
    key: str | None = None


@giving_back()
def evaluate(model: ModelSection, suites: Sequence[str], *, section: EvalSection, template: ChatForm | None,
             mirror: Path | None, out: Path | Out) -> dict[str, SuiteResult]:
    """Run the suites on a model and write `<suite>.parquet` and `<suite>.json` into `out`.

    Suites that `out` already holds for the same model, protocol and settings are not run again, so an interrupted
    evaluation goes on; within a suite it goes on behind the last batch that `out.cache` holds.

    Args:
        model: the model folder (or hub id, or `tiny`, or `http://host/v1#name`) with device and precision.
        suites: names, see `suites.py`.
        section: limit, batch size, looks and caps.
        template: the chat template to ask through; None takes the one in the model folder. The base of a run is
            asked through the run's template, so that its answers can be paired with the tuned model's.
        mirror: folder with hub data sets and models, or None for the hub.
        out: where the results go; a path alone keeps no answers and ends no suite early.

    Raises:
        EvalError: a suite is unknown, its items cannot be read, there is no chat template for a chat suite, a server
            is to give likelihoods, or no answer of a suite is finite.
        ModelError: the model cannot be loaded.
    """
    folder, cache, stop, key = out if isinstance(out, Out) else Out(out)
    chosen = [suite(name) for name in suites]
    identity = identity_of(model, mirror)
    form = form_of(chosen, model, template, mirror)
    subject = None
    found: dict[str, SuiteResult] = {}
    for one in chosen:
        asked = protocol(one, section, model, form)
        result = _finished(folder, one, asked, identity, section)
        if result is None:
            subject = subject or load_respondent(model, form, mirror, section, cache, key)
            result = replace(run_suite(one, subject, section, asked, mirror=mirror, stop=stop), model=identity,
                             vocabulary=subject.vocabulary)
            write_results(folder, result)
            _mark(folder, one, section)
        found[one.name] = result
    return found


def form_of(chosen: Sequence[Suite], model: ModelSection, template: ChatForm | None, mirror: Path | None
            ) -> ChatForm | None:
    """The template that is asked through: the given one, else the model's own where a suite needs one."""
    return template or (own_form(model, mirror) if any(one.through_template for one in chosen) else None)


def run_suite(chosen: Suite, subject: Respondent, section: EvalSection, asked: Mapping[str, Any], *,
              mirror: Path | None, stop: Stop | None = None) -> SuiteResult:
    """One suite on a loaded model, in `section.looks` parts where `stop` may end it early.

    Raises:
        EvalError: items cannot be read, the suite needs a chat template and there is none, or nothing is finite.
    """
    started = time.monotonic()
    asking = open_suite(chosen, subject, section, mirror)
    looks = section.looks if stop is not None else 1
    for look, ids in enumerate(parts(asking.strata, looks), 1):
        result = _result(chosen, subject, asked, asking.take(ids), asking)
        result = replace(result, seconds=round(time.monotonic() - started, 3), min_scored=section.min_scored,
                         looks=(look, looks) if looks > 1 else None)
        if look < looks and stop is not None and stop(result):
            break
    return result


def _result(chosen: Suite, subject: Respondent, asked: Mapping[str, Any], taken: Taken, asking: Asking) -> SuiteResult:
    items = taken.items
    if items and all(item.why == NOT_FINITE for item in items):
        raise EvalError(f"suite {chosen.name}: {NOT_FINITE} on any of {len(items)} items; the weights of "
                        f"{subject.label} hold NaN or infinite values, or overflow in this precision (try "
                        "model.precision: float32, --precision float32)")
    full = json.loads(json.dumps({**asked, **taken.notes}))
    return SuiteResult(chosen.name, chosen.kind, full, _weighed(items, asking.strata), 0.0, taken.truncated,
                       backend=subject.name, scale=taken.scale,
                       batch_tokens=subject.backend.batch_tokens if subject.backend else 0)


def _weighed(items: Sequence[ItemResult], strata: Mapping[str, Sequence[str]]) -> tuple[ItemResult, ...]:
    """Items of a part of the suite stand for the rest of their stratum too."""
    of = {item_id: name for name, ids in strata.items() for item_id in ids}
    counts: dict[str, int] = {}
    for item in items:
        counts[of[item.item_id]] = counts.get(of[item.item_id], 0) + 1
    return tuple(
        item if counts[of[item.item_id]] == len(strata[of[item.item_id]]) else item._replace(
            weight=item.weight * len(strata[of[item.item_id]]) / counts[of[item.item_id]]) for item in items)


def _settings(chosen: Suite, section: EvalSection) -> dict[str, Any]:
    """What decides which items are asked."""
    return {**section.limit_of(chosen.name)._asdict(), "looks": section.looks}


def _note(out: Path, chosen: Suite) -> Path:
    return out / f".{file_name(chosen.name)}.settings.json"


def _mark(out: Path, chosen: Suite, section: EvalSection) -> None:
    _note(out, chosen).write_text(json.dumps(_settings(chosen, section)), encoding="utf-8")


def _finished(out: Path, chosen: Suite, asked: Mapping[str, Any], identity: str,
              section: EvalSection) -> SuiteResult | None:
    try:
        result = read_results(out, chosen.name)
        settings = json.loads(_note(out, chosen).read_text(encoding="utf-8"))
    except (EvalError, OSError, json.JSONDecodeError):
        return None
    plain = json.loads(json.dumps(asked))
    same = all(result.protocol.get(key) == value for key, value in plain.items())
    return result if same and result.model == identity and settings == _settings(chosen, section) else None
