"""The end of a run, the same for both engines: its counters and parameters checked, the model saved, the report."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sft_core.config.train import TrainSection
from sft_core.errors import TrainingError
from sft_core.train import checkpoint
from sft_core.train.artifact import Output, card_text, save_trained
from sft_core.train.course import Counts, Course
from sft_core.train.events import EventLog
from sft_core.train.snapshot import weights_of
from sft_core.train.step import Losses
from sft_core.train.workbench import Workbench

BEST = "best.safetensors"  # among the checkpoints: the weights that early stopping found best


@dataclass(frozen=True)
class Walked:
    """What an engine has done, as it counted it."""

    step: int  # optimiser steps done
    seconds: float  # in steps and validation, over all processes that took part
    done: Counts
    replayed: Counts
    last: Losses
    validations: Sequence[tuple[int, float]]  # (steps done, nats per trained token)
    resumed_from: int | None = None  # steps done at the checkpoint
    best: int | None = None  # steps done when the weights in BEST were the model's; None: the last ones are saved
    stopped_early: bool = False


@dataclass(frozen=True)
class TrainReport:
    """What a finished run amounts to."""

    steps: int
    seconds: float  # in steps and validation, over all processes that took part
    rows: int
    tokens: int  # of the training rows, padding excluded
    trained_tokens: int
    replay_tokens: int
    tokens_per_s: float  # training and replay tokens
    peak_rss_bytes: int
    final: Losses  # of the last step
    validation: tuple[tuple[int, float], ...]  # (steps done, nats per trained token)
    stopped_early: bool
    resumed_from: int | None  # steps done at the checkpoint
    model_folder: Path
    adapter_folder: Path | None


TOLD = ("rows", "tokens", "trained_tokens", "replay_tokens", "tokens_per_s", "seconds", "peak_rss_bytes",
        "stopped_early")
"""Fields of the report that the last event has."""


def finish(bench: Workbench, section: TrainSection, out: Path, events: EventLog, walked: Walked) -> TrainReport:
    """Check counters and parameters, save `out/model` (and `out/adapter`), write the last event.

    Every process calls this; the first one saves for all.

    Raises:
        TrainingError: counters that differ from the plan, a parameter that never moved, a merge that changes the
            model, or a folder that cannot be written.
    """
    check_counters(bench.course, walked)
    check_reached(bench.unreached.names)
    adapter = out / "adapter" if section.method == "lora" else None
    first = bench.accelerator.is_main_process
    weights = weights_of(bench.parameters, first)
    if first:
        if walked.best is not None:
            weights = checkpoint.load_weights(out / "checkpoints" / BEST)
        card = card_text(f"{Path(bench.inputs.model.path).name}, fine-tuned", _facts(bench, section, walked),
                         json.loads(section.model_dump_json(by_alias=True)))
        save_trained(bench, section, weights, Output(out / "model", adapter, card))
    bench.accelerator.wait_for_everyone()
    report = _report(walked, out / "model", adapter)
    events.write("end", step=walked.step, **{name: value for name, value in asdict(report).items() if name in TOLD})
    return report


def check_counters(course: Course, walked: Walked) -> None:
    """Raises TrainingError when what was counted is not what the course had planned."""
    pairs = [("training", course.sft, walked.done)]
    if course.replay is not None:
        pairs.append(("replay", course.replay, walked.replayed))
    for name, stream, counted in pairs:
        if counted != (planned := stream.totals(walked.step)):
            raise TrainingError(f"the {name} counters do not meet the plan: counted {counted}, planned {planned}; "
                                "this is a bug of the platform, the model was not saved")


def check_reached(unreached: Sequence[str]) -> None:
    """Raises TrainingError when the gradient of a trained parameter was zero in every step: it is not part of the
    model's work."""
    # lora_A has no gradient as long as lora_B is zero, so in a run of one step it rightly stays.
    still = [name for name in unreached if "lora_A" not in name and "lora_embedding_A" not in name]
    if still:
        raise TrainingError(f"{len(still)} trained parameters never got a gradient (first: {still[0]}); take them "
                            "out of train.lora.target_modules or modules_to_save, or use another base model")


def _facts(bench: Workbench, section: TrainSection, walked: Walked) -> dict[str, object]:
    """What the card tells beside the settings."""
    model, done = bench.inputs.model, walked.done
    return {"engine": section.engine, "base": model.path, "revision": model.revision or "-",
            "base content": bench.belongs_to["base"], "data content": bench.belongs_to["data"],
            "template": bench.template.name, "seed": bench.inputs.seed, "steps": walked.step,
            "training tokens": f"{done.tokens} ({done.trained_tokens} trained)",
            "replay tokens": walked.replayed.tokens,
            "last validation loss": walked.validations[-1][1] if walked.validations else "-"}


def _report(walked: Walked, model: Path, adapter: Path | None) -> TrainReport:
    done, replayed = walked.done, walked.replayed
    return TrainReport(
        steps=walked.step, seconds=walked.seconds, rows=done.rows, tokens=done.tokens,
        trained_tokens=done.trained_tokens, replay_tokens=replayed.tokens,
        tokens_per_s=(done.tokens + replayed.tokens) / walked.seconds,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, final=walked.last,
        validation=tuple(walked.validations), stopped_early=walked.stopped_early, resumed_from=walked.resumed_from,
        model_folder=model, adapter_folder=adapter)
