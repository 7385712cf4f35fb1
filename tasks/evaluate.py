"""The stage `evaluate`: a model and suites → per-item results, cached by content, one stage folder per suite."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eval_suites.backends.endpoint import Endpoint
from eval_suites.lm_door.data import outside
from eval_suites.results import SuiteResult, read_results, write_results
from eval_suites.statistics.floor import Floor
from eval_suites.suites.suite import named_suites, suite
from eval_suites.verdict.outcome import shown_score
from infra.orchestrator import stage_task
from infra.settings import secret, server_key
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection, suite_name
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import ConfigError
from sft_core.stage import Stage, fingerprint, read_json, write_json
from tasks.inputs import suite_stamp
from tasks.measure import Against, Asked, floors_of, measured, processes_of
from tasks.named import Opener, named_model, spoken_through
from tasks.pace import evaluation_pace
from tasks.stages import Done, Workspace, version

if TYPE_CHECKING:
    from eval_suites.backends.generate import ChatForm

log = logging.getLogger("sft")
BASE = "base"


class Subject(NamedTuple):
    """What is evaluated. `template` is a template.json of `prepare`; None: the model folder's own chat template."""

    label: str
    model: ModelSection
    template: Path | None


def base_subject(config: ExperimentConfig, prepared: Done) -> Subject:
    """The base, asked through the run's template so that its answers pair with the tuned model's."""
    return Subject(BASE, config.model, prepared.folder / "template.json")


def tuned_subject(config: ExperimentConfig, trained: Done) -> Subject:
    """What will be served: the saved folder, reloaded, with its own template."""
    return folder_subject("tuned", trained.folder / "model", config.model)


def folder_subject(label: str, folder: Path, like: ModelSection) -> Subject:
    """A model folder on the same device and in the same precision as another model."""
    model = ModelSection(path=str(folder), device=like.device, precision=like.precision,
                         trust_remote_code=like.trust_remote_code)
    return Subject(label, model, None)


def check_loaded(model: ModelSection, against: str | None) -> None:
    """Raises ConfigError where only servers are told in what to compute."""
    from eval_suites.backends.remote import is_endpoint

    told = (model.device, model.precision) != ("auto", "auto")
    if told and all(is_endpoint(one) for one in (model.path, against) if one):
        raise ConfigError("--device and --precision are of weights that are loaded here, and a server decides for "
                          "itself; leave them out, or give the model's folder")


def named(asked: ModelSection, template: str, section: EvalSection, place: Workspace, tracker: Opener) -> Subject:
    """Whatever a person may name: `tiny`, a folder, a hub id, a run, models:/NAME@ALIAS, or http://HOST/v1#NAME.

    Args:
        asked: the name as `path`, with device, precision and trust.
        template: how to talk to a model without a chat template of its own, see `TemplateSection.name`.

    Raises:
        ModelError, TemplateError, EvalError, TrackingError: it cannot be found or cannot be asked.
    """
    from eval_suites.backends.remote import is_endpoint

    reference = asked.path
    model = asked.model_copy(update={"path": named_model(reference, place, tracker).path})
    if is_endpoint(reference) or not any(suite(name).through_template for name in section.suites):
        return Subject(reference, model, None)
    name, spoken = spoken_through(model, template, place)
    form = {"name": name, "stops": spoken.stops, "jinja": spoken.jinja}
    file = place.scratch / f"template-{fingerprint(form)}.json"
    write_json(file, form)
    return Subject(reference, model, file)


def alike(first: Subject, second: Subject) -> tuple[Subject, Subject]:
    """Two models that are to be compared: one without a chat template of its own is asked through the other's.

    So a base is asked as its tuned model is, whose template came with the training.
    """
    if first.template is None or second.template is None:
        return first, second
    own = [read_json(one.template)["name"] == "model" for one in (first, second) if one.template]
    if own == [False, True]:
        return first._replace(template=second.template), second
    if own == [True, False]:
        return first, second._replace(template=first.template)
    return first, second


@stage_task("evaluate", "evaluate {subject.label}")
def evaluate(
    subject: Subject, section: EvalSection, place: Workspace, occasion: str = "", against: Against | None = None
) -> dict[str, SuiteResult]:
    """Results per suite: found, or measured now with one model load for all that are missing.

    Args:
        subject: the model.
        section: suites, limits, batch size.
        place: the workspace.
        occasion: a new value measures again what was measured before (nightlies do).
        against: with `section.looks` > 1, a suite ends as soon as its verdict is certain.

    Raises:
        EvalError, ModelError: a suite or the model cannot be used.
    """
    stages = _stages(subject, section, place, (occasion, _judged_by(section, against)))
    partial: dict[str, SuiteResult] = {}
    with _held(stages) as missing:
        if missing:
            log.info("evaluating %s: %s", subject.label, ", ".join(missing))
            partial = _measure(subject, section, place, missing, None if occasion else place.root / "cache" / "answers",
                               against)
    if found := [name for name in stages if name not in missing]:
        took = sum(stages[name].seconds or 0.0 for name in found)
        log.info("evaluation of %s found: %s%s", subject.label, ", ".join(found),
                 f"; it took {took:.1f} s when it was made" if took else "")
    return _rescored({name: replace(partial[name] if name in partial else read_results(stage.work, name),
                                    min_scored=section.min_scored, found=name not in missing)
                      for name, stage in stages.items()}, section, place)


def known(subject: Subject, section: EvalSection, place: Workspace) -> dict[str, SuiteResult]:
    """The results that are there already, by suite; nothing is measured.

    Raises:
        EvalError, ModelError: a suite or the model cannot be used.
    """
    found = {name: stage for name, stage in _stages(subject, section, place, ("", None)).items()
             if stage.take() is not None}
    return {name: replace(read_results(stage.work, name), min_scored=section.min_scored)
            for name, stage in found.items()}


def _missing(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    return {name: stage for name, stage in stages.items() if stage.take() is None}


def _rescored(results: dict[str, SuiteResult], section: EvalSection, place: Workspace) -> dict[str, SuiteResult]:
    """Requests judged by `eval.refusal_scorer`. Stages hold what the rules say: another scorer asks no model again."""
    from eval_suites.judge.refusal import RULES, refusal_scorer, rescore
    from eval_suites.judge.talk import judge_at

    if section.refusal_scorer == RULES:
        return results
    ask = None
    if section.refusal_scorer == "judge" and section.judge is not None:
        key = secret(section.judge.endpoint.key_env)
        where = Endpoint(section.judge.endpoint, key, place.root / "cache" / "judge.jsonl")
        ask = judge_at(where, section.judge.endpoint.model, section.judge.max_tokens).ask
    scorer = refusal_scorer(section, ask, place.mirror)
    return {name: rescore(result, scorer) for name, result in results.items()}


def _judged_by(section: EvalSection, against: Against | None) -> object:
    """What decides where a sequential evaluation stops; None where it runs to its end."""
    if against is None or section.looks == 1:
        return None
    asked = sorted((name, one.protocol_hash, one.model) for name, one in against.base.items())
    return version("looks"), against.gate, asked


def _stages(subject: Subject, section: EvalSection, place: Workspace, occasion: object) -> dict[str, Stage]:
    from eval_suites.asking.respondent import identity_of
    from eval_suites.backends.remote import is_endpoint
    from sft_core.model.load import compute_dtype, resolve_device

    device = resolve_device(subject.model)
    asked = section.model_dump(mode="json", exclude={  # what lies in these folders is in the stamp of their suites
        "suites", "batch_tokens", "floor_items", "parity", "judge", "refusal_scorer", "refusal_labels", "data_path",
        "include_path", "limit", "limits", "share", "held_back", "part", "min_scored"})
    common = (
        "evaluate", version("evaluate"), identity_of(subject.model, place.mirror), asked, device.type,
        "" if is_endpoint(subject.model.path) else str(compute_dtype(subject.model, device)), occasion,
    )
    template = read_json(subject.template) if subject.template else None
    opened = place.shared if subject.label == BASE else place.stages.open  # a tuned model is asked where it lies
    return {
        name: opened("evaluate", fingerprint(
            *common, suite_stamp(chosen, section, place.mirror), section.limit_of(name),
            template if chosen.through_template else None))
        for name, chosen in named_suites(section.suites).items()
    }


def _form(subject: Subject) -> ChatForm | None:
    from eval_suites.asking.run import ChatFormat

    served = read_json(subject.template) if subject.template else None
    return ChatFormat(served["jinja"], tuple(served["stops"])) if served else None


def _measure(subject: Subject, section: EvalSection, place: Workspace, stages: Mapping[str, Stage],
             cache: Path | None, against: Against | None) -> dict[str, SuiteResult]:
    """Measure into a pending folder, which keeps finished suites after a kill, then fill the stages, whose locks the
    caller holds.

    Returns what a server left unanswered in part: that is no finished stage, and the next evaluation asks for the rest.
    """
    from eval_suites.asking.run import Out
    from eval_suites.backends.remote import is_endpoint

    pending = place.scratch / f"evaluate-{fingerprint(sorted(s.fingerprint for s in stages.values()))}"
    asked = [one for one in section.suites if suite_name(one) in stages]
    served = is_endpoint(subject.model.path)
    found = measured(Asked(subject.model, section, _form(subject), place.mirror), asked,
                     Out(pending, cache, against if section.looks > 1 else None, server_key() if served else None),
                     processes_of(subject.model, section))
    for name, one in found.items():
        log.info("%s on %s: %s (%d items, %.1f s)", subject.label, name, shown_score(one.score, one.scale), one.n,
                 one.seconds)
    partial = {name: result for name, result in found.items() if served
               and not all(item.answered for item in result.items)}
    for name, stage in stages.items():
        if name not in partial:
            result = found[name]
            write_results(stage.fresh(), result)
            stage.finish({"suite": result.suite, "score": result.score, "protocol": result.protocol_hash,
                          "pace": evaluation_pace(subject.model, result, place)}, result.seconds)
    shutil.rmtree(pending)
    return partial


@stage_task("floors", "A/A floor of {subject.label}")
def floors(subject: Subject, results: Mapping[str, SuiteResult], section: EvalSection,
           place: Workspace) -> dict[str, Floor]:
    """The A/A floor of every suite that has scores: found, or measured now. Servers have none: their batches are their
    own.

    Raises:
        EvalError, ModelError: the model cannot be used.
    """
    from eval_suites.backends.remote import is_endpoint

    if is_endpoint(subject.model.path) or not section.floor_items:
        return {}
    chosen = named_suites(section.suites)
    stages = {name: place.shared("floors", fingerprint(
        "floors", version("floors"), (one.model, one.protocol_hash, one.backend, one.n), section.floor_items,
        section.batch_tokens, section.limit_of(name), outside(chosen[name], section, place.mirror)))
        for name, one in results.items() if one.score is not None}
    with _held(stages) as missing:
        if missing:
            log.info("A/A floor of %s: %d items each asked again of %s", subject.label, section.floor_items,
                     ", ".join(missing))
            began = time.monotonic()
            found = floors_of(Asked(subject.model, section, _form(subject), place.mirror),
                              {name: results[name] for name in missing}, processes_of(subject.model, section))
            each_s = round((time.monotonic() - began) / len(missing), 3)
            for name, stage in missing.items():
                stage.fresh()
                stage.finish({"floor": list(found[name])}, each_s)
    kept = {name: stage.result() for name, stage in stages.items()}
    return {name: Floor(*result["floor"]) for name, result in kept.items() if result is not None}


@contextmanager
def _held(stages: Mapping[str, Stage]) -> Iterator[dict[str, Stage]]:
    """Those that are still to be made, locked in one order for all processes."""
    with ExitStack() as held:
        for stage in sorted(_missing(stages).values(), key=lambda stage: stage.fingerprint):
            held.enter_context(stage.lock())
        yield _missing(stages)  # another process may have made some of them meanwhile
