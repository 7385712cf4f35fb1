"""The stage `train`: prepared examples → a model folder, continued from its last checkpoint after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from sft_core.config.experiment import ExperimentConfig
from sft_core.config.train import NO_WEIGHT
from sft_core.data.sources import name_of
from sft_core.stage import fingerprint, read_json
from tasks.stages import Done, Workspace, once, version

if TYPE_CHECKING:
    from sft_core.train.inputs import TrainInputs


@task(name="train", cache_policy=NO_CACHE)
def train(config: ExperimentConfig, prepared: Done, place: Workspace, follow: Callable[[Path], None]) -> Done:
    """Train, or find the trained model; `follow` is called now and then with the events written so far.

    Raises:
        TrainingError, ModelError: training cannot go on.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was saved.
    """
    from sft_core.model.load import compute_dtype, model_identity, resolve_device
    from sft_core.train.engine import engine_of
    from sft_core.train.reference import with_reference

    inputs = inputs_of(config, prepared, place)
    device = resolve_device(config.model)
    base, precision = model_identity(config.model, place.mirror)["digest"], str(compute_dtype(config.model, device))
    stamp = fingerprint(
        "train", version("train"), prepared.fingerprint, base,
        config.train.model_dump(mode="json", by_alias=True, exclude=NO_WEIGHT), config.seed, config.data.max_tokens,
        config.data.pack, dict(inputs.weights), device.type, precision,
        # A probe that can stop the run decides what it learns; others only tell.
        version("probe") if config.train.stopping.metric in config.train.probe.suites else None,
    )

    def make(out: Path) -> dict[str, object]:
        kl, known = config.train.kl, inputs
        if kl.beta > 0 and kl.reference == "cache":
            # Shared by all trials of a sweep: it hangs on the base, the data and k alone.
            kept = place.stages.open("reference", fingerprint(
                "reference", version("reference"), prepared.fingerprint, base, kl.top_k, precision))
            with kept.lock():
                known = with_reference(inputs, config.train, kept.resume())
                kept.finish({"top_k": kl.top_k})
        engine = engine_of(config.train, _probe(config, prepared, place) if config.train.probe.suites else None)
        report = engine(known, config.train, out, on_events=follow, sync_every_s=config.tracking.sync_every_s)
        return dict(json.loads(json.dumps(asdict(report), default=str)))

    done = once(place.stages.open("train", stamp), make, resume=True)
    follow(done.folder / "events.jsonl")
    return done


def _probe(config: ExperimentConfig, prepared: Done,
           place: Workspace) -> Callable[[Any, Any], Mapping[str, float]] | None:
    from eval_suites.asking.probe import make_probe
    from eval_suites.asking.run import ChatFormat

    served = read_json(prepared.folder / "template.json")
    return make_probe(config.train.probe, config.eval, ChatFormat(served["jinja"], served["stop"]), place.mirror)


def inputs_of(config: ExperimentConfig, prepared: Done, place: Workspace) -> TrainInputs:
    """What the trainer is given of an experiment."""
    from sft_core.train.inputs import TrainInputs

    weights = {name_of(source): source.weight for source in (*config.data.sources, *config.train.replay.sources)}
    return TrainInputs(prepared=prepared.folder, model=config.model, max_tokens=config.data.max_tokens,
                       pack=config.data.pack, seed=config.seed, mirror=place.mirror, weights=weights)
