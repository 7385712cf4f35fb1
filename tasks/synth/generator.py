"""The generator that a configuration names: weights that are loaded here, or a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eval_suites.backends.endpoint import Endpoint, Usage
from infra.settings import secret
from sft_core.config.data import ModelSection
from sft_core.config.decontaminate import DecontaminateSection
from sft_core.config.evaluate import EndpointSection
from sft_core.config.synth import GeneratorSection, SynthConfig
from sft_core.stage import fingerprint
from sft_core.synth.contract import Asked, Generator, Said
from tasks.named import Opener, named_model, spoken_through
from tasks.stages import Workspace

if TYPE_CHECKING:
    from eval_suites.asking.respondent import ChatFormat


class Opened(NamedTuple):
    """A generator, ready to be asked."""

    generator: Generator
    endpoint: Endpoint | None

    @property
    def usage(self) -> dict[str, Usage]:
        """What a server was paid for in this process; nothing of weights."""
        return {"generator": self.endpoint.usage} if self.endpoint else {}


def found(config: SynthConfig, place: Workspace, tracker: Opener) -> SynthConfig:
    """The configuration with its generator's model where it lies.

    Raises:
        TrackingError: there is no such run or registered model.
    """
    model = config.generator.model
    if model is None:
        return config
    there = model.model_copy(update={"path": named_model(model.path, place, tracker).path})
    return config.model_copy(update={"generator": config.generator.model_copy(update={"model": there})})


def identity(section: GeneratorSection, place: Workspace) -> str:
    """Moves with the weights, or with the name of a server's model, and with how they are asked.

    Raises:
        ModelError: there is no such model.
    """
    from sft_core.model.load import model_identity

    asked = section.model_dump(mode="json", exclude={"model", "endpoint", "batch_tokens", "max_unanswered_share"})
    who = section.endpoint.model if section.endpoint else model_identity(_weights(section), place.mirror)["digest"]
    return fingerprint(who, asked)


def open_generator(section: GeneratorSection, seed: int, place: Workspace) -> Opened:
    """Load the weights, or get ready to ask the server. What is said is kept in the workspace's cache.

    Raises:
        ConfigError: the server's key is not set.
        ModelError, TemplateError: the model cannot be loaded, or has no such template.
    """
    from eval_suites.backends.sampled import How, Sampler, Served

    how = How(section.temperature, section.top_p, seed)
    if section.endpoint:
        endpoint = endpoint_of(section.endpoint, place)
        name = f"{section.endpoint.model} at {section.endpoint.url}"
        return Opened(Served(name, endpoint, section.endpoint.parallel, how), endpoint)
    from eval_suites.asking.respondent import load_respondent
    from eval_suites.backends.generate import Templated

    model = _weights(section)
    subject = load_respondent(model, _form(section, model, place), place.mirror, section,
                              place.root / "cache" / "answers")
    assert isinstance(subject.answerer, Templated), "it has a form"
    return Opened(Sampler(f"{model.path}, {subject.name}", subject.answerer, how), None)


def endpoint_of(section: EndpointSection, place: Workspace) -> Endpoint:
    """A server whose answers are kept in the workspace.

    Raises:
        ConfigError: its key is not set.
    """
    return Endpoint(section, secret(section.key_env), place.root / "cache" / "synth.jsonl")


def asker(opened: Opened, section: GeneratorSection) -> Callable[[Sequence[Asked], str], list[Said]]:
    """Asks, and fails where too many requests do."""
    from sft_core.synth.asking import ask_all

    return lambda asked, label: ask_all(opened.generator, asked, section.max_unanswered_share, label)


def holder(config: SynthConfig, place: Workspace) -> Callable[[Sequence[Sequence[str]]], list[str]]:
    """Says which item of the suites that will be used each row of texts holds; '' where none.

    Raises:
        EvalError: a suite is unknown or cannot be read.
    """
    used = config.decontaminate
    if not used.suites:
        return lambda rows: [""] * len(rows)
    from eval_suites.asking.questions import eval_items
    from sft_core.data.curate.contamination import ItemFinder, facts_of_texts, fault

    finder = ItemFinder(eval_items(used.suites, mirror=place.mirror, include_path=used.include_path,
                                   scratch=place.scratch, data_path=Path(used.data_path) if used.data_path else None),
                        reworded=used.reworded)
    section = DecontaminateSection(reworded="drop" if used.reworded else "off", pairs=used.pairs, words=used.words)

    def holds(rows: Sequence[Sequence[str]]) -> list[str]:
        found = (fault(one, section) for one in facts_of_texts(rows, finder))
        return [one[1] if one else "" for one in found]

    return holds


def _weights(section: GeneratorSection) -> ModelSection:
    assert section.model is not None, "the configuration has one of the two"
    return section.model


def _form(section: GeneratorSection, model: ModelSection, place: Workspace) -> ChatFormat:
    from eval_suites.asking.respondent import plain_form
    from sft_core.model.load import load_tokenizer, locate

    if section.plain is not None:
        return plain_form(section.plain, section.until, load_tokenizer(model, locate(model, place.mirror)))
    form = spoken_through(model, section.template, place)[1]
    return form._replace(stops=(*form.stops, *section.until))
