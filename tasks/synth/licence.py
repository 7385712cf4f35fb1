"""Under which licences rows are that a model wrote: those of what it was shown and of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sft_core.config.data import SourceSection
from sft_core.config.synth import SynthConfig
from sft_core.data.provenance.terms import terms_of
from tasks.licences import OWN, licence_of_model, licence_of_source


def licence_of_rows(config: SynthConfig, mirror: Path | None) -> tuple[str, str]:
    """All licences at once, word by word, or '' where one of them is not known; and then the comment that stands for
    it, which says what is known."""
    said = dict(_said(config, mirror))
    if all(terms_of(licence) for licence in said.values()):
        return ", ".join(dict.fromkeys(said.values())), ""
    told = [f"#   {' '.join(of.split())}: {' '.join(licence.split()) or 'not known'}" for of, licence in said.items()]
    return "", "\n".join([
        "# Add `licence:` to this source: what these rows may be used for (`own` for an agreement of yours).",
        "# Without it data.use: commercial stops. What is known:", *told, ""])


def _said(config: SynthConfig, mirror: Path | None) -> Iterator[tuple[str, str]]:
    for source in _shown(config):
        found = licence_of_source(source, mirror)
        yield source.path, found.said if found else ""
    if config.self_instruct and not config.self_instruct.seeds:
        yield "the seed tasks that come with this", OWN
    if config.generator.model:
        weights = licence_of_model(config.generator.model, mirror)
        yield config.generator.model.path, weights.said if weights else ""
    elif config.generator.endpoint:
        yield config.generator.endpoint.model, ""  # a server does not say


def _shown(config: SynthConfig) -> Iterator[SourceSection]:
    """Prompts or seeds as sources."""
    if config.self_instruct:
        yield from (SourceSection(path=file) for file in config.self_instruct.seeds)
    if config.reject:
        prompts = config.reject.prompts
        yield from prompts.sources
        yield from (SourceSection(path=file) for file in (prompts.items, prompts.suite) if file)
