"""The stage `prepare`: curated conversations → split and rendered examples with a ledger."""

from __future__ import annotations

from pathlib import Path

from infra.orchestrator import stage_task
from sft_core.config.experiment import ExperimentConfig
from sft_core.stage import Stage, fingerprint, read_json
from tasks.curate import asked_of, curate, items_of, wanted_of, workers_of
from tasks.inputs import replay_sources, sources_of, text_of, tokenizer_of
from tasks.stages import Done, Workspace, once, version

READS = {"max_tokens", "too_long", "validation_share", "max_rejected_share", "decontaminate", "held_out_tasks"}
"""Fields of the data section that this stage looks at; what becomes of rows before is in the stamp of `curate`."""


def prepared_stage(config: ExperimentConfig, place: Workspace) -> Stage:
    """The stage of this configuration, finished or not.

    Raises:
        DataError, ModelError: a source or the base cannot be found, or the base has too few positions.
    """
    from sft_core.data.curate.chain import READ_BY
    from sft_core.data.sources import source_digest
    from sft_core.model.load import check_positions

    check_positions(config.model, place.mirror, config.data.max_tokens)
    stamp = fingerprint(
        "prepare", version("prepare"), config.data.model_dump(mode="json", include=READS),
        config.template, text_of(config.template.path), config.seed, tokenizer_of(config, place),
        wanted_of(config, place).stamp(),
        [(one.may_be_empty, one.task, one.kind) for one in config.data.sources],
        asked_of(config, place) if replay_sources(config) else None,
        [(source.model_dump(mode="json", include=READ_BY), source.may_be_empty,
          source_digest(source, scratch=place.scratch, mirror=place.mirror)) for source in replay_sources(config)],
    )
    return place.shared("prepare", stamp)


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
        curated = curate(config, place).folder
        tokenizer = load_tokenizer(config.model, locate(config.model, place.mirror))
        with workers_of(config.data.processes, place) as workers:
            ledger = prepare_data(
                config.data, config.template, tokenizer=tokenizer, curated=curated, replay=replay_sources(config),
                eval_items=items_of(config, place) if replay_sources(config) else (), seed=config.seed,
                mirror=place.mirror, out=out, workers=workers)
        found = read_json(out / "contaminated.json")
        return {"ledger": ledger.to_dict(), "rows": ledger.table(), "contaminated": found,
                "sources": [{"name": name_of(source), "use": use, "path": source.path, "files": source_files(
                    source, scratch=place.scratch, mirror=place.mirror)} for source, use in sources_of(config)]}

    return once(prepared_stage(config, place), make, listed=True)
