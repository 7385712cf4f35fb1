"""The stage `train`: prepared examples → a model folder, continued from its last checkpoint after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from sft_core.config.experiment import ExperimentConfig
from sft_core.stage import fingerprint
from tasks.stages import Done, Workspace, once, version

VOLATILE = {"checkpoint_every_s", "keep_checkpoints"}  # how often a run is saved does not change what it learns


@task(name="train", cache_policy=NO_CACHE)
def train(config: ExperimentConfig, prepared: Done, place: Workspace, follow: Callable[[Path], None]) -> Done:
    """Train, or find the trained model; `follow` is called now and then with the events written so far.

    Raises:
        TrainingError, ModelError: training cannot go on.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was saved.
    """
    from sft_core.models import compute_dtype, model_identity, resolve_device
    from sft_core.trainer import TrainInputs

    if config.train.engine == "trl":
        from sft_core.trl_engine import train as train_model
    else:
        from sft_core.trainer import train as train_model

    device = resolve_device(config.model)
    stamp = fingerprint(
        "train", version("train"), prepared.fingerprint, model_identity(config.model, place.mirror)["digest"],
        config.train.model_dump(mode="json", by_alias=True, exclude=VOLATILE), config.seed, config.data.max_tokens,
        config.data.pack, device.type, str(compute_dtype(config.model, device)),
    )

    def make(out: Path) -> dict[str, object]:
        inputs = TrainInputs(
            prepared=prepared.folder, model=config.model, max_tokens=config.data.max_tokens, pack=config.data.pack,
            seed=config.seed, mirror=place.mirror,
        )
        report = train_model(inputs, config.train, out, on_events=follow,
                             sync_every_s=config.tracking.sync_every_s)
        return dict(json.loads(json.dumps(asdict(report), default=str)))

    done = once(place.stages.open("train", stamp), make, resume=True)
    follow(done.folder / "events.jsonl")
    return done
