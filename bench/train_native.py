"""Our engine, step by step: the real loop's own step, with its diary, and nothing around it.

`native_stepper` is the only place of the bench that knows how the trainer makes a step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.train_spec import Spec, Step
from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.stopping import StopRequest
from sft_core.train.events import EventLog
from sft_core.train.inputs import TrainInputs
from sft_core.train.reference import with_reference
from sft_core.train.saver import Saver
from sft_core.train.step import Stepper
from sft_core.train.trainer import _Run
from sft_core.train.workbench import join, set_up


def native_stepper(inputs: TrainInputs, section: TrainSection, out: Path) -> Callable[[], Step]:
    """Set a run up as `train()` does and return a function that makes its next optimiser step.

    The course starts over at its end, so that a bench may ask for any number of steps.
    """
    join(inputs.model)
    bench = set_up(with_reference(inputs, section, out / "reference"), section)
    saver = Saver(EventLog(out / "events.jsonl", None, 3600.0), section.checkpoint_every_s)
    run = _Run(Stepper(bench, section), out, saver, StopRequest())
    run.start()

    def step() -> Step:
        if run.step == bench.course.steps:
            run.step = 0
        before = run.done
        run._one_step()
        assert run.last is not None
        return Step(run.last.loss, run.done.tokens - before.tokens, run.done.trained_tokens - before.trained_tokens)

    return step


def from_spec(spec: Spec) -> Callable[[], Step]:
    """The stepper of one bench configuration."""
    precision = "bfloat16" if spec.bf16 else "float32"
    inputs = TrainInputs(prepared=spec.prepared, model=ModelSection(path=str(spec.model), device=spec.device,
                         precision=precision), max_tokens=spec.row_tokens, pack=spec.pack, seed=0)
    return native_stepper(inputs, section_of(spec), spec.out)


def section_of(spec: Spec) -> TrainSection:
    """The training section of a bench configuration."""
    return TrainSection.model_validate({
        "epochs": 1, "rows_per_step": spec.rows_per_step, "micro_rows": spec.micro_rows, "method": spec.method,
        "optim": {"lr": spec.lr, "schedule": "constant", "warmup_share": 0.0, "betas": (0.9, 0.999)},
        "checkpoint_every_s": 1e9, "validate_every_steps": 10**9, "gradient_checkpointing": spec.checkpointing,
        "compile": spec.compile,
        "replay": {"lambda": spec.replay, "sources": [{"path": "unread.txt"}],
                   "tokens_per_step": max(1, round(spec.batch_tokens * spec.replay_share))},
        "kl": {"beta": 0.1, "on": "assistant", **KL[spec.kl]} if spec.kl else {}})


KL: dict[str, dict[str, str]] = {"exact": {}, "cached": {"reference": "cache"}}
"""Settings of `train.kl` by the name that the bench gives them."""
