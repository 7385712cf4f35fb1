"""Who gives rows the scores of `data.scores`: the base or another model in this process, and a judge behind an
endpoint. Models are loaded when the first row is to be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from sft_core.config.data import ModelSection
from sft_core.config.experiment import ExperimentConfig
from tasks.inputs import text_of, tokenizer_of
from tasks.stages import Workspace

if TYPE_CHECKING:
    from sft_core.conversation import Conversation
    from sft_core.data.curate.chain import Scoring
    from sft_core.data.curate.likelihood import Asked, Scorer
    from sft_core.data.curate.measure import Family
    from sft_core.data.curate.scores import Grade, Grader

MODULES = ("eval_suites.backends.local", "sft_core.model.load")
"""Whose code computes log-probabilities."""
KEPT = "judge_rows.jsonl"


def scored_by(config: ExperimentConfig) -> ModelSection:
    """The model that measures: the base, or the one that `data.scores.model` names, on the same device."""
    path = config.data.scores.model
    return config.model if path is None else config.model.model_copy(update={"path": path, "revision": None})


def scoring_of(config: ExperimentConfig, place: Workspace) -> Scoring:
    """Who gives the scores that the configuration asks for.

    Raises:
        ModelError: the model that is to measure is missing or incomplete.
    """
    from sft_core.data.curate.chain import Scoring

    section = config.data.scores
    if not section.names:
        return Scoring()
    grader = _grader(config, place) if section.judge else None
    if not section.measure:
        return Scoring(grader=grader)
    from sft_core.data.curate.likelihood import families

    held = _Held(lambda: _opened(config, place))
    return Scoring(families(section.measure, MODULES, _settings(config, place), held.get), grader, held.give_back)


def fits_of(config: ExperimentConfig, place: Workspace) -> Family:
    """Which rows can be trained: rendered by the template with the base's tokenizer, within `data.max_tokens`.

    Raises:
        ModelError: the base is missing.
    """
    from sft_core.data.curate.fits import fits_by
    from sft_core.data.rendering import Recipe
    from sft_core.model.load import load_tokenizer, locate
    from sft_core.templates.choose import choose

    def recipe() -> Recipe:
        tokenizer = load_tokenizer(config.model, locate(config.model, place.mirror))
        return Recipe(choose(config.template, tokenizer), tokenizer, config.template, config.data, config.seed)

    settings = [tokenizer_of(config, place), config.template.model_dump(mode="json"), text_of(config.template.path),
                config.data.max_tokens, config.data.too_long]
    return fits_by(settings, recipe)


def _settings(config: ExperimentConfig, place: Workspace) -> object:
    """All that the numbers hang on besides rows and code."""
    from sft_core.model.load import compute_dtype, model_identity, resolve_device

    model = scored_by(config)
    return [model_identity(model, place.mirror)["digest"], config.template.model_dump(mode="json"),
            text_of(config.template.path), config.data.max_tokens, config.data.too_long,
            str(compute_dtype(model, resolve_device(model))), version("transformers")]


class _Held:
    """A model, loaded once, until it is given back."""

    def __init__(self, load: Callable[[], Scorer]) -> None:
        self._load = load
        self._scorer: Scorer | None = None

    def get(self) -> Scorer:
        """Load it, where it is not there."""
        if self._scorer is None:
            self._scorer = self._load()
        return self._scorer

    def give_back(self) -> None:
        """Free its memory."""
        if self._scorer is not None:
            from sft_core.model.release import give_back

            self._scorer = None
            give_back()


def _opened(config: ExperimentConfig, place: Workspace) -> Scorer:
    """The model with its template.

    Raises:
        ModelError, TemplateError: it cannot be loaded, has too few positions, or no such template.
    """
    from eval_suites.backends.cache import Cached
    from eval_suites.backends.contract import Continuation
    from eval_suites.backends.local import Local
    from sft_core.data.curate.likelihood import Scorer, opening_of
    from sft_core.model.load import check_positions, compute_dtype, load_model, load_tokenizer, locate, resolve_device
    from sft_core.templates.choose import choose
    from sft_core.templates.render import Renderer

    section = scored_by(config)
    check_positions(section, place.mirror, config.data.max_tokens)
    tokenizer = load_tokenizer(section, locate(section, place.mirror))
    template = choose(config.template, tokenizer)
    renderer, device = Renderer(template, tokenizer, config.template), resolve_device(section)
    loaded = load_model(section, mirror=place.mirror, added=template.added, dtype=compute_dtype(section, device))
    local = Local(loaded.model.to(device).eval(), None)

    def nats(folder: Path) -> Callable[[Sequence[Asked]], Iterator[tuple[int, float]]]:
        backend = Cached(local, folder, "")  # the folder lies in that of a stage, which hangs on all of this

        def of(asked: Sequence[Asked]) -> Iterator[tuple[int, float]]:
            for place, found in backend.likelihoods([Continuation(*one) for one in asked]):
                yield place, -found.logprob

        return of

    return Scorer(renderer, config.data, opening_of(renderer, tokenizer), nats)


def _grader(config: ExperimentConfig, place: Workspace) -> Grader:
    from eval_suites.backends.endpoint import Endpoint
    from eval_suites.judge.prompts import VERSION
    from eval_suites.verifiers.judged import grades, talk_of_row
    from infra.settings import secret
    from sft_core.data.curate.scores import Grader
    from sft_core.versions import code_version

    section = config.data.scores.judge
    assert section is not None

    @cache
    def endpoint() -> Endpoint:
        return Endpoint(section.endpoint, secret(section.endpoint.key_env), place.root / "cache" / KEPT)

    def grade(rows: Sequence[Conversation]) -> list[Grade]:
        return grades(list(map(talk_of_row, rows)), endpoint(), section.max_tokens, "data.scores.judge")

    def paid() -> str:
        calls, kept, prompt, completion, cost = endpoint().usage
        return f"{calls} requests, {kept} replies were kept; {prompt:,} and {completion:,} tokens cost {cost:g}"

    stamp = [section.endpoint.model, section.max_tokens, VERSION, code_version("eval_suites.verifiers.judged")]
    return Grader([*stamp, section.max_ungraded_share], section.max_ungraded_share, grade, paid)
