"""The stage `train`: prepared examples → a model folder, continued from its last checkpoint after a kill; and the
stage `rung`: the model of a moment on the way."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_suites.suites.suite import named_suites
from infra.orchestrator import stage_task
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.mixture import MixtureSection
from sft_core.config.train import NO_WEIGHT
from sft_core.data.sources import name_of
from sft_core.stage import Stage, fingerprint
from tasks.afar import Afar
from tasks.inputs import replay_sources, suite_stamp
from tasks.pace import training_pace, whereabouts
from tasks.stages import Done, Workspace, once, version
from tasks.versions import made_with

if TYPE_CHECKING:
    from sft_core.data.mix.plan import Mixing
    from sft_core.train.finish import Until
    from sft_core.train.inputs import TrainInputs

log = logging.getLogger("sft")


@stage_task("train", "train: {config.train.method}, {config.train.epochs:g} epochs")
def train(config: ExperimentConfig, prepared: Done, place: Workspace, follow: Callable[[Path], None]) -> Done:
    """Train, or find the trained model; `follow` is called now and then with the events written so far.

    Raises:
        TrainingError, ModelError: training cannot go on.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was saved.
    """
    trained = trained_stage(config, prepared, place)
    done = once(trained, lambda out: _trained(config, prepared, place, follow), resume=True)
    follow(done.folder / "events.jsonl")
    return done


@stage_task("train-until", "train to {share:.0%} of the steps")
def train_until(config: ExperimentConfig, prepared: Done, place: Workspace, follow: Callable[[Path], None],
                share: float) -> Done:
    """Train up to a share of the steps, or find the model of that moment: in the folder `model`. `train`, or a larger
    share, continues from there.

    The result says under `paused` whether there is such a model: where training was past it already, or early stopping
    ended it before, it went on to its end.

    Raises:
        TrainingError, ModelError: training cannot go on.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was saved.
    """
    from sft_core.train.finish import Until

    trained = trained_stage(config, prepared, place)

    def make(out: Path) -> Mapping[str, object]:
        with trained.lock():
            if trained.take() is not None:
                return {"paused": False}
            made = _trained(config, prepared, place, follow, Until(share, out))
            if made["model_folder"] == str(out / "model"):
                shutil.copy(trained.work / "events.jsonl", out)
                return {**made, "paused": True}
            trained.finish(made)
            return {"paused": False}

    # Resumed, as several processes leave their report beside the checkpoints, and it tells of this model.
    done = once(place.stages.open("rung", fingerprint("rung", trained.fingerprint, share)), make, resume=True)
    follow(trained.work / "events.jsonl")
    return done


def _trained(config: ExperimentConfig, prepared: Done, place: Workspace, follow: Callable[[Path], None],
             until: Until | None = None) -> dict[str, object]:
    """Train in the work folder of its stage; what is kept of the report."""
    from sft_core.train.engine import engine_of

    where = whereabouts(config, place)
    inputs = referenced(config, prepared, place)
    engine = engine_of(config.train, _probe(config, prepared, place) if config.train.probe.suites else None)
    follower = follow if config.train.all_processes == 1 else Afar(follow)
    report = engine(inputs, config.train, trained_stage(config, prepared, place).resume(), on_events=follower,
                    sync_every_s=config.tracking.sync_every_s, until=until)
    _tell_end(told := json.loads(json.dumps(asdict(report), default=str)))
    return {**told, "pace": training_pace(config, where), "made_with": made_with()}


def _tell_end(report: Mapping[str, Any]) -> None:
    held_out = "".join(f", {loss:.4g} on held-out examples (step {step})" for step, loss in report["validation"][-1:])
    log.info("trained for %d steps: loss %.4g nats in the last one%s; %s tokens in %.1f s, saved in %.1f s",
             report["steps"], report["final"]["loss"], held_out, f"{report['trained_tokens']:,}", report["seconds"],
             report["saving_s"])


def referenced(config: ExperimentConfig, prepared: Done, place: Workspace) -> TrainInputs:
    """What the trainer is given, with what the base says of it where `kl.reference: cache` asks for that: found, or
    made now.

    Raises:
        TrainingError, ModelError: the base cannot be asked.
    """
    from sft_core.train.reference import with_reference

    inputs, kl = inputs_of(config, prepared, place), config.train.kl
    if kl.beta == 0 or kl.reference != "cache":
        return inputs
    kept = reference_stage(config, prepared, place)
    with kept.lock():
        inputs = with_reference(inputs, config.train, kept.resume())
        if kept.take() is None:
            kept.finish({})
    return inputs


def trained_stage(config: ExperimentConfig, prepared: Done, place: Workspace) -> Stage:
    """The stage of this configuration and these examples, finished or not.

    It hangs on what training reads and not on how that came about: another suite to look for, or a source under
    another path, trains again only where the prepared examples differ.
    """
    section = config.train
    asked = section.model_dump(mode="json", by_alias=True, exclude={
        **dict.fromkeys(NO_WEIGHT, True), "interpolate": True, "replay": {"sources": True}})
    weights = {name: weight for name, weight in inputs_of(config, prepared, place).weights.items() if weight != 1.0}
    # A probe that can stop the run decides what it learns; others only tell.
    deciding = named_suites(section.probe.suites).get(section.stopping.metric)
    decided = deciding and (version("probe"), suite_stamp(deciding, config.eval, place.mirror),
                            config.eval.max_new_tokens, config.eval.held_back)
    return place.stages.open("train", fingerprint(
        "train", version("train"), *_read(config, prepared, place, mixing_of(config)), asked, config.seed,
        config.data.max_tokens, config.data.pack, weights, decided))


def reference_stage(config: ExperimentConfig, prepared: Done, place: Workspace) -> Stage:
    """What the base says of these examples, for `kl.reference: cache`; shared by all trials of a sweep, because it
    hangs on the base as it is held and on the examples alone."""
    return place.shared("reference", fingerprint(
        "reference", version("reference"), *_read(config, prepared, place), config.train.lora.quantize))


def _read(config: ExperimentConfig, prepared: Done, place: Workspace, mixing: Mixing | None = None
          ) -> tuple[object, ...]:
    """Examples, how they are mixed, and base as they are, device and precision."""
    from sft_core.model.load import compute_dtype, model_identity, resolve_device
    from sft_core.train.inputs import data_digest

    device = resolve_device(config.model)
    return (data_digest(prepared.folder, mixing), *([mixing.to_dict()] if mixing else []),
            model_identity(config.model, place.mirror)["digest"], device.type,
            str(compute_dtype(config.model, device)))


def _probe(config: ExperimentConfig, prepared: Done,
           place: Workspace) -> Callable[[Any, Any], Mapping[str, float]] | None:
    from eval_suites.asking.probe import make_probe
    from eval_suites.asking.run import ChatFormat
    from sft_core.train.inputs import served_template

    served = served_template(prepared.folder)
    return make_probe(config.train.probe, config.eval, ChatFormat(served.jinja, served.stops), place.mirror)


def mixing_of(config: ExperimentConfig) -> Mixing | None:
    """How examples are mixed; None where nothing is said of it, and every one is used once in an epoch."""
    from sft_core.data.mix.plan import Mixing

    data = config.data
    if data.mixture is None and not any(one.share is not None or one.epochs != 1.0 for one in data.sources):
        return None
    return Mixing(data.mixture or MixtureSection(), {
        name_of(source): source for source in data.sources if not data.holds_out(source)})


def inputs_of(config: ExperimentConfig, prepared: Done, place: Workspace) -> TrainInputs:
    """What the trainer is given of an experiment."""
    from sft_core.train.inputs import TrainInputs

    weights = {name_of(source): source.weight for source in (*config.data.sources, *replay_sources(config))}
    return TrainInputs(prepared=prepared.folder, model=config.model, max_tokens=config.data.max_tokens,
                       pack=config.data.pack, seed=config.seed, mirror=place.mirror, weights=weights,
                       mixing=mixing_of(config), address=place.address)
