"""The stage `interpolate`: base and trained model → the model in between that `train.interpolate` asks for."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from infra.orchestrator import stage_task
from sft_core.config.experiment import ExperimentConfig
from sft_core.stage import Stage, fingerprint
from tasks.stages import Done, Workspace, once, version
from tasks.train import inputs_of


def interpolate(config: ExperimentConfig, prepared: Done, trained: Done, place: Workspace) -> Done:
    """The model that is evaluated, saved and recorded: with `train.interpolate: 1` the trained one itself, else the one
    so far on the way, found or made now, with the report and the events of the training.

    Raises:
        ModelError, TrainingError: see `sft_core/train/interpolate.py`.
    """
    return trained if config.train.interpolate == 1.0 else _interpolated(config, prepared, trained, place)


@stage_task("interpolate", "interpolate: {config.train.interpolate:g} of the way")
def _interpolated(config: ExperimentConfig, prepared: Done, trained: Done, place: Workspace) -> Done:
    from sft_core.train.interpolate import interpolate as between

    def make(out: Path) -> dict[str, object]:
        stored = between(inputs_of(config, prepared, place), config.train, trained.folder / "model", out / "model")
        shutil.copy(trained.folder / "events.jsonl", out)
        return {**trained.result, "stored": json.loads(json.dumps(asdict(stored)))}

    return once(interpolated_stage(config, trained.fingerprint, place), make)


def interpolated_stage(config: ExperimentConfig, trained: str, place: Workspace) -> Stage:
    """The stage of the model on the way to that of a fingerprint."""
    return place.stages.open("interpolate", fingerprint(
        "interpolate", version("interpolate"), trained, config.train.interpolate))
