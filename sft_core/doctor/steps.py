"""What training relies on, tried out on the model itself: every check compares two ways to the same numbers."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.doctor.finding import Seen, verdict
from sft_core.errors import Interrupted, TrainingError
from sft_core.model.held import widen
from sft_core.model.load import compute_dtype, resolve_device
from sft_core.model.noise import own_noise
from sft_core.model.proof import Rows, choose_backend
from sft_core.model.reach import in_sentence
from sft_core.train import best
from sft_core.train.adapter import MERGE_TOLERANCE, merge_adapter, token_log_probs
from sft_core.train.course import Course, Row, Stream
from sft_core.train.inputs import TrainInputs
from sft_core.train.objective import Term
from sft_core.train.step import Stepper
from sft_core.train.trainer import train
from sft_core.train.workbench import Workbench

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest relative difference of two sums, or of two gradients, that are the same but for rounding."""
PACKED = 3  # examples in one row
NOISE = 0.02
"""Spread of what is put into an adapter that begins at zero: merging nothing would prove nothing."""
RESUMED_ON_CUDA = 1e-3  # relative: kernels on CUDA may add up in another order
HEAVY = 8 << 30
"""Bytes of a checkpoint from which resuming is not tried out."""


def attention(bench: Workbench, model: ModelSection, rows: Rows) -> Seen:
    """The backend that keeps examples apart, and its proof on this model. Sets the workbench to the one that the run
    itself will take.

    Args:
        rows: those of the run, which are longer than the workbench's.

    Raises:
        ModelError: it does not.
    """
    policy = bench.policy
    dtype = compute_dtype(model, policy.device)
    policy.backend = choose_backend(policy.model, model.attention, policy.device, dtype, rows)
    network: Any = policy.model
    coefficient = getattr(network.config.get_text_config(), "router_aux_loss_coef", None)
    routers = f"the routers' auxiliary loss (the base's config: {coefficient:g}) is not added; " if coefficient else ""
    sizes = sum(p.numel() for p in policy.model.parameters()), sum(p.numel() for p in bench.parameters.values())
    return verdict(True, f"{policy.backend} (asked for: {model.attention}) on {policy.device} in {_name(dtype)}: the "
                   f"examples {'of one row' if rows.packed else 'of a batch'} do not see each other; hidden states "
                   f"(of up to {rows.longest} tokens) and logits are the model's own; {routers}"
                   f"{sizes[0] / 1e6:,.1f} M parameters, {sizes[1] / 1e6:,.2f} M of them trained"
                   + (f"; {in_sentence(policy.kept_as_is)}" if policy.kept_as_is else "")
                   + (f"; {noise}" if (noise := own_noise(network.config)) else ""))


@torch.no_grad()
def packed_as_alone(bench: Workbench, model: ModelSection) -> Seen:
    """The loss of a row of several examples is the sum of their losses alone."""
    policy, stream = bench.policy, bench.course.sft
    if not bench.inputs.pack:
        return Seen("skipped", "data.pack is off: a row holds one example")
    rows = [tuple(range(len(stream.examples)))[at : at + PACKED] for at in range(0, len(stream.examples), PACKED)]
    policy.eval()
    roomy = replace(bench, capacity=max(sum(stream.tokens[i] for i in row) for row in rows) + 8)
    alone = [_nats(roomy, stream, (i,)) for i in range(len(stream.examples))]
    gap = max(_gap(_nats(roomy, stream, row), sum(alone[i] for i in row)) for row in rows)
    policy.train()
    allowed = TOLERANCE[compute_dtype(model, policy.device)]
    return verdict(gap <= allowed, f"{len(alone)} examples in {len(rows)} rows: a row's loss differs from the sum of "
                   f"its examples' alone by at most {gap:.1e} of it (allowed {allowed:.0e})")


def accumulated_as_at_once(bench: Workbench, section: TrainSection, model: ModelSection) -> Seen:
    """The gradient of a step is the same row by row and in one forward pass, with λ and β; dropout is off."""
    course = bench.course
    sft = replace(course.sft, steps=(tuple((i,) for i in range(len(course.sft.examples))),))
    replay = None if course.replay is None else replace(
        course.replay, steps=(tuple((i,) for i in range(len(course.replay.examples))),))
    whole = replace(bench, course=Course(sft, replay, 1))
    one, norm = _gradient(whole, section.model_copy(update={"micro_rows": 1}))
    other, other_norm = _gradient(whole, section.model_copy(update={"micro_rows": len(sft.examples)}))
    apart = sum(float((one[name] - other[name]).double().square().sum()) for name in one) ** 0.5
    size = sum(float(g.double().square().sum()) for g in other.values()) ** 0.5
    gap = max(apart / max(size, 1e-30), _gap(norm, other_norm))
    allowed = TOLERANCE[compute_dtype(model, bench.policy.device)]
    rows = len(sft.examples)
    terms = f"λ {section.replay.lambda_:g}, β {section.kl.beta:g}"
    return verdict(gap <= allowed, f"{rows} passes of 1 row and 1 pass of {rows} ({terms}): gradients differ by "
                   f"{gap:.1e} of their size (allowed {allowed:.0e}), norms {norm:.4g} and {other_norm:.4g}")


def merged_as_adapter(bench: Workbench, section: TrainSection) -> Seen:
    """The merged weights say what base and adapter say. The workbench cannot be used afterwards.

    Raises:
        TrainingError: they do not.
    """
    if section.method != "lora":
        return Seen("skipped", "train.method is full: there is no adapter")
    if section.lora.quantize != "none":
        return Seen("skipped", "the base is held in 4 bits; training merges into the whole base and checks that")
    with bench.policy.in_float32():
        return _merged_as_adapter(bench)


def _merged_as_adapter(bench: Workbench) -> Seen:
    micro = bench.policy.micro(bench.micro(bench.course.sft, bench.course.sft.rows[:1]).batch)
    model: Any = bench.policy.model.eval()
    widen(model)
    base = token_log_probs(model, micro)  # an adapter begins at zero
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in bench.parameters.items():
            if "lora_B" in name or "lora_embedding_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * NOISE)
    merged, before = merge_adapter(model, micro)
    gap = float((token_log_probs(merged, micro) - before).abs().max())
    for name, parameter in merged.named_parameters():
        if name not in bench.loaded.whole:
            parameter.data = parameter.data.to(bench.loaded.dtype).float()
    stored = float((token_log_probs(merged, micro) - before).abs().max())
    moved = float((before - base).abs().max())
    return verdict(gap <= MERGE_TOLERANCE, f"{len(before)} tokens: log-probabilities of merged and adapted model "
                   f"differ by at most {gap:.1e} nats (allowed {MERGE_TOLERANCE:g}), in {_name(bench.loaded.dtype)} by "
                   f"{stored:.1e}; the adapter filled with noise moves them by up to {moved:.2g}")


def resumed_as_uninterrupted(inputs: TrainInputs, section: TrainSection, trained: int, folder: Path) -> Seen:
    """Stopped by SIGTERM half way and started again, training ends with the weights of the run that went through.

    Args:
        inputs, section: of `drill.cut_down`.
        trained: parameters.
        folder: `whole/` and `halves/` are written there, each as by `train`.

    Raises:
        TrainingError, ModelError: training does not go on.
    """
    if (size := 12 * trained) > HEAVY:
        return Seen("skipped", f"a checkpoint takes {size / 2**30:.0f} GiB, more than a check of seconds should write")
    if threading.current_thread() is not threading.main_thread():
        return Seen("skipped", "signals reach the main thread only")
    whole = train(inputs, section, folder / "whole")
    half = max(1, whole.steps // 2)
    try:
        train(inputs, section, folder / "halves", on_events=_StopAfter(half), sync_every_s=0.0)
    except Interrupted:
        rest = train(inputs, section, folder / "halves")
    else:
        raise TrainingError(f"a run of {whole.steps} steps did not stop on SIGTERM after step {half}")
    kept = min(whole.validation, key=itemgetter(1))[0]
    first, second = (best.load(folder / name / "checkpoints", kept) for name in ("whole", "halves"))
    gap = max(float((first[n] - second[n]).abs().max() / first[n].abs().max().clamp_min(1e-12)) for n in first)
    equal = all(torch.equal(first[n], second[n]) for n in first)
    near = gap <= RESUMED_ON_CUDA and resolve_device(inputs.model).type == "cuda"
    good = rest.resumed_from == half and (equal or near)
    how = "bit-identical" if equal else f"apart by up to {gap:.1e} of their size"
    return verdict(good, f"{whole.steps} steps against {half} + checkpoint + {whole.steps - half}: the {len(first)} "
                   f"trained tensors are {how}; loss {whole.final.loss:.4f} and {rest.final.loss:.4f}")


class _StopAfter:
    """Sends this process SIGTERM once, when so many steps stand in the diary."""

    def __init__(self, steps: int) -> None:
        self._steps: int | None = steps

    def __call__(self, diary: Path) -> None:
        told = [json.loads(line)["event"] for line in diary.read_text(encoding="utf-8").splitlines()]
        if self._steps is not None and told.count("step") >= self._steps:
            self._steps = None
            signal.raise_signal(signal.SIGTERM)


class _GradientReader:
    """Stands where the optimiser does, and reads the gradient instead of taking a step, whatever the optimiser."""

    param_groups = ()

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self.found: dict[str, Tensor] = {}

    def step(self) -> None:
        self.found = {name: p.grad.to("cpu", copy=True) for name, p in self._parameters.items() if p.grad is not None}

    def zero_grad(self, set_to_none: bool) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None


def _gradient(bench: Workbench, section: TrainSection) -> tuple[Mapping[str, Tensor], float]:
    """The clipped gradient of one step on the CPU, and its norm before clipping; no step is taken."""
    reader = _GradientReader(bench.parameters)
    bench.forward.eval()
    taken = Stepper(replace(bench, optimizer=reader), section).take(0)
    bench.forward.train()
    return reader.found, taken.grad_norm


def _nats(bench: Workbench, stream: Stream, row: Row) -> float:
    micro = bench.micro(stream, (row,))
    return float(bench.policy(bench.policy.micro(micro.batch), Term()).nll)


def _gap(one: float, other: float) -> float:
    gap = abs(one - other) / max(abs(other), 1e-12)
    return gap if math.isfinite(gap) else math.inf  # max() passes over NaN


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
