"""The stage `prepare`: sources → checked, deduplicated, decontaminated, split, rendered examples with a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval_suites.asking.questions import eval_items
from eval_suites.lm_door.data import outside
from eval_suites.suites.suite import named_suites
from infra.orchestrator import stage_task
from sft_core.config.experiment import ExperimentConfig
from sft_core.data.curate.decontaminate import EvalItem
from sft_core.stage import Stage, fingerprint, read_json
from tasks.inputs import replay_sources, sources_of
from tasks.stages import Done, Workspace, once, version

NO_EXAMPLE = {"pack", "sources", "mirror"}
"""Fields of the data section that change no example: sources and what the mirror holds count by their content."""
NOT_PREPARED = {"streaming", "weight"}
"""Fields of a source that change how it is fetched or trained, not what is prepared."""


def prepared_stage(config: ExperimentConfig, place: Workspace) -> Stage:
    """The stage of this configuration, finished or not.

    Raises:
        DataError, ModelError: a source or the base cannot be found, or the base has too few positions.
    """
    from sft_core.data.sources import source_digest
    from sft_core.model.load import check_positions, model_identity

    check_positions(config.model, place.mirror, config.data.max_tokens)
    identity = model_identity(config.model, place.mirror)
    tokenizer = {name: digest for name, digest in identity["files"].items() if not name.endswith(".safetensors")}
    sources = [*config.data.sources, *replay_sources(config)]
    asked = config.eval
    suites = (version("questions"), [
        (one.asked(), outside(one, asked, place.mirror)) for one in named_suites(asked.suites).values()]) \
        if config.data.decontaminate != "off" else None
    stamp = fingerprint(
        "prepare", version("prepare"), config.data.model_dump(mode="json", exclude=NO_EXAMPLE),
        config.template, _text_of(config.template.path), config.seed, tokenizer, suites, [
            (source.model_dump(mode="json", exclude=NOT_PREPARED),
             source_digest(source, scratch=place.scratch, mirror=place.mirror)) for source in sources
        ], len(config.data.sources),
    )
    return place.shared("prepare", stamp)


def _text_of(path: str | None) -> str | None:
    """What a template's file says; an unreadable one is told of when it is used."""
    return Path(path).read_text(encoding="utf-8", errors="replace") if path and Path(path).is_file() else None


def _wanted(config: ExperimentConfig, place: Workspace) -> Sequence[EvalItem]:
    """The evaluation items that training text is searched for."""
    if config.data.decontaminate == "off":
        return ()
    data_path = Path(config.eval.data_path) if config.eval.data_path else None
    return eval_items(config.eval.suites, mirror=place.mirror, include_path=config.eval.include_path,
                      scratch=place.scratch, data_path=data_path)


@stage_task("prepare", "prepare the data of {config.name}")
def prepare(config: ExperimentConfig, place: Workspace) -> Done:
    """Prepare the training data of an experiment, or find it prepared.

    Raises:
        DataError, TemplateError, ModelError, EvalError: an input is missing or cannot be used.
    """
    from sft_core.data.prepare import prepare as prepare_data
    from sft_core.data.sources import name_of, source_files
    from sft_core.model.load import load_tokenizer, locate

    def make(out: Path) -> dict[str, object]:
        items = _wanted(config, place)
        ledger = prepare_data(
            config.data, config.template, tokenizer=load_tokenizer(config.model, locate(config.model, place.mirror)),
            replay=replay_sources(config), eval_items=items, seed=config.seed, mirror=place.mirror, out=out,
        )
        found = read_json(out / "contaminated.json")
        return {"ledger": ledger.to_dict(), "rows": ledger.table(), "contaminated": found,
                "sources": [{"name": name_of(source), "use": use, "path": source.path, "files": source_files(
                    source, scratch=place.scratch, mirror=place.mirror)} for source, use in sources_of(config)]}

    return once(prepared_stage(config, place), make)
