"""Our engine and TRL's on one accelerator: a Llama of 1 B parameters, 128 k tokens, bf16, packed rows of 4,096 tokens.

    python -m bench.gpu [--json FILE] [--rows N] [--micro N] [--steps N] [--only NAME…] [--budget-s N] [--smoke]

Random weights, chats of Alpaca's lengths, about half of the tokens trained; the same rows for all. Variants come in the
order of what they tell; those for which the budget leaves no time are left out and say so, and one that fails says why.
The JSON is written after each. Tokens/s are all tokens of a step, padding excluded, replay included.

`--smoke` does the same with a tiny shape on the CPU, and as if memory ran out in one variant and TRL was not installed
when the versions are read.

MFU is the work that a step needs over what the device could have done in the same time. With N_body the weights of all
layers, N_head = vocabulary × width, T tokens, of which T_trained are trained, and examples of length l:

    FLOPs of SFT = 6 · (N_body · T + N_head · T_trained) + 6 · layers · width · Σ l²

6 = 2 (forward) + 4 (backward) per weight and token; the attention term is 4 · l² · width forward, half of it for the
causal mask, times 3 with its backward pass (Kaplan et al. 2020; PaLM, appendix B). The head counts only where a token
is trained, since it runs only there; `mfu_6nt` counts it everywhere, as others do. Replay adds its tokens, all of them
trained; exact KL adds one forward pass of the base; adapters need no gradients of weights (4 instead of 6). Gradient
checkpointing is not counted.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState

from bench.found import write_found
from bench.train import setup
from bench.train_data import SHAPES, Shape, lengths, write_model, write_prepared
from bench.train_native import from_spec
from bench.train_spec import Spec, Step
from sft_core.errors import SftError
from sft_core.train.policy import Policy

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bf16 FLOPs per second of SXM cards by a part of their name (NVIDIA's data sheets, without sparsity)."""


class Work(NamedTuple):
    """FLOPs of one step."""

    needed: float
    with_head_everywhere: float


WARM = 2
"""Steps before the timed ones."""
BUDGET_S = 540.0
FAILS = (SftError, RuntimeError, ImportError, ValueError, TypeError)
"""How a variant can fail; the others go on."""


def variants(spec: Spec) -> dict[str, Spec]:
    """What is measured, by name; the most telling first."""
    full, lora = spec, replace(spec, method="lora")
    # TRL wants small passes: its mask grows with the square of their tokens.
    trl, trl_lora = (replace(one, engine="trl", micro_rows=1) for one in (full, lora))
    found = {
        "full sft": full, "full compiled": replace(full, compile=True), "full by trl": trl,
        "full by trl, liger": replace(trl, liger=True), "full + kl exact": replace(full, kl="exact"),
        "lora sft": lora, "lora by trl": trl_lora, "full + replay": replace(full, replay=1.0),
        "full + kl cached": replace(full, kl="cached"), "lora by trl, liger": replace(trl_lora, liger=True),
        "lora compiled": replace(lora, compile=True), "lora + kl exact": replace(lora, kl="exact"),
        "lora + kl cached": replace(lora, kl="cached")}
    return {name: replace(one, out=spec.out / name.replace(" ", "_")) for name, one in found.items()}


def work(shape: Shape, spec: Spec, tokens: float, trained: float) -> Work:
    """FLOPs of a step of `tokens` tokens with `trained` of them trained (see the formula above)."""
    narrow = shape.width if shape.key_value_heads is None else shape.key_value_heads * shape.head
    inner = shape.width * 8 // 3 // 32 * 32
    body = shape.layers * (2 * shape.width**2 + 2 * shape.width * narrow + 3 * shape.width * inner)
    head = shape.vocabulary * shape.width
    drawn = lengths(20_000, seed=0)
    squares = tokens * sum(n * n for n in drawn) / sum(drawn)  # Σ l² of so many tokens
    attention = shape.layers * shape.width * squares
    per_weight = (4 if spec.method == "lora" else 6) + 2 * (spec.kl == "exact")
    attended = 6 + 2 * (spec.kl == "exact")
    return Work(per_weight * (body * tokens + head * trained) + attended * attention,
                per_weight * (body + head) * tokens + attended * attention)


class Timed(NamedTuple):
    """A step and what it took; it ends when the device has ended."""

    seconds: float
    step: Step


class Turns:
    """So many steps of an engine that calls back, in this process."""

    def __init__(self, steps: int) -> None:
        self.taken: list[Timed] = []
        self._steps = steps

    def wait(self) -> bool:
        """Before every step; False when there are enough."""
        self._clock = time.perf_counter()
        return len(self.taken) < self._steps

    def stop_clock(self) -> None:
        """At the end of a step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._took = time.perf_counter() - self._clock

    def done(self, step: Step) -> None:
        """What the step was."""
        self.taken.append(Timed(self._took, step))


def steps_of(spec: Spec, steps: int) -> list[Timed]:
    """That many steps of an engine."""
    turns = Turns(steps)
    if spec.engine == "trl":
        from bench.train_trl import run as by_trl

        by_trl(spec, turns)
        return turns.taken
    step = from_spec(spec)
    while turns.wait():
        made = step()
        turns.stop_clock()
        turns.done(made)
    return turns.taken


def measure(spec: Spec, shape: Shape, steps: int) -> dict[str, Any]:
    """Median over `steps` steps after those of warm-up."""
    on_cuda = spec.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    timed = steps_of(spec, steps + WARM)[WARM:]
    seconds = median(one.seconds for one in timed)
    # A step tells the tokens of the chats; replay rows hold `batch_tokens` more, all of them trained.
    more = spec.batch_tokens * spec.replay_share if spec.replay else 0.0
    tokens = median(one.step.tokens for one in timed) + more
    trained = median(one.step.trained_tokens for one in timed) + more
    flops = work(shape, spec, tokens, trained)
    peak = next((v for k, v in PEAK_FLOPS.items() if on_cuda and k in torch.cuda.get_device_name()), None)
    return {"tokens_per_s": tokens / seconds, "step_s": seconds, "trained_share": trained / tokens,
            "mfu": peak and flops.needed / seconds / peak,
            "mfu_6nt": peak and flops.with_head_everywhere / seconds / peak,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_cuda else None, "loss": timed[-1].step.loss}


class Plan(NamedTuple):
    """How much is measured, and until when."""

    shape: Shape
    steps: int  # timed
    only: Sequence[str]
    budget_s: float
    breaks: str = ""  # the variant in which memory runs out


def run(spec: Spec, plan: Plan, told: Callable[[Mapping[str, Any]], None]) -> dict[str, dict[str, Any]]:
    """All variants, one after the other; `told` hears of all rows after each."""
    began = time.monotonic()
    write_model(spec.model, plan.shape, torch.bfloat16 if spec.device == "cuda" else torch.float32)
    # Some more chats than all steps of the longest variant need; the course starts over at its end in any case.
    write_prepared(spec.prepared, max(32, (plan.steps + 3) * spec.batch_tokens // 80), plan.shape.vocabulary, seed=0)
    found: dict[str, dict[str, Any]] = {}
    longest = 0.0
    for name, one in variants(spec).items():
        if plan.only and name not in plan.only:
            continue
        start = time.monotonic()
        if why := left_out(one, plan.budget_s - (start - began), longest):
            found[name] = {"left_out": why}
        else:
            with memory_runs_out() if name == plan.breaks else ExitStack():
                found[name] = row(one, plan)
            longest = max(longest, time.monotonic() - start)
        print(line(name, found[name]), flush=True)
        told(found)
    return found


def row(spec: Spec, plan: Plan) -> dict[str, Any]:
    """The numbers of a variant, or why there are none. What it held is given back."""
    spec.out.mkdir(parents=True)
    try:
        return measure(spec, plan.shape, plan.steps)
    except FAILS as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # the engines want different ones
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def left_out(spec: Spec, left_s: float, longest_s: float) -> str:
    """Why a variant is not measured; empty when it is."""
    if spec.liger and find_spec("liger_kernel") is None:
        return "the package liger-kernel is not installed"
    return f"{left_s:.0f} s of the budget are left, a variant took up to {longest_s:.0f}" \
        if 0 < longest_s > left_s else ""


@contextmanager
def memory_runs_out() -> Iterator[None]:
    """As if the device had no memory for a forward pass."""
    with patch.object(Policy, "forward", side_effect=torch.OutOfMemoryError("injected")):
        yield


@contextmanager
def without_trl() -> Iterator[None]:
    """As if TRL was not installed, for who asks for its version."""
    def of(name: str) -> str:
        if name == "trl":
            raise PackageNotFoundError(name)
        return version(name)

    with patch("bench.train.version", of):
        yield


def line(name: str, row: Mapping[str, Any]) -> str:
    """A row of the table."""
    if why := row.get("error") or row.get("left_out"):
        return f"{name:18} {'left out: ' if 'left_out' in row else ''}{why}"
    share = "     -" if row["mfu"] is None else f"{row['mfu']:6.1%}"
    peak = "     -" if row["peak_gib"] is None else f"{row['peak_gib']:6.1f}"
    return f"{name:18} {row['tokens_per_s']:9.0f} tokens/s  {row['step_s']:8.3f} s/step  MFU {share}  {peak} GiB"


def ratios(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Steps of the variants against our plain one of their method."""
    plain = {method: found.get(f"{method} sft", {}).get("step_s") for method in ("full", "lora")}
    return {name: row["step_s"] / plain[name.split()[0]] for name, row in found.items()
            if "step_s" in row and plain[name.split()[0]] and not name.endswith("sft")}


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--rows", type=int, default=8, help="rows of a step")
    parser.add_argument("--micro", type=int, default=4, help="rows of a forward pass")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--only", nargs="*", default=(), help="names of variants")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="no variant begins that would end after this")
    parser.add_argument("--smoke", action="store_true", help="tiny, on the CPU, with faults")
    known = parser.parse_args(arguments)
    if not known.smoke and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --smoke runs a tiny shape on the CPU")
    shape = SHAPES["nano" if known.smoke else "1b"]
    width, rows, micro, steps = (512, 2, 1, 1) if known.smoke else (4096, known.rows, known.micro, known.steps)
    plan = Plan(shape, steps, known.only, known.budget_s, "full + replay" if known.smoke else "")
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sft-gpu-") as folder, without_trl() if known.smoke else ExitStack():
        root = Path(folder)
        spec = Spec("native", root / "model", root / "prepared", root / "runs", width, width * rows, True,
                    bf16=not known.smoke, rows_per_step=rows, micro_rows=micro,
                    device="cpu" if known.smoke else "cuda")
        about = {"shape": shape._asdict(), "device": "cpu" if known.smoke else torch.cuda.get_device_name(),
                 "row_tokens": width, "rows_per_step": rows, "micro_rows": micro,
                 "setup": setup(torch.get_num_threads())}
        run(spec, plan, partial(write, known.json, about, told))
    return told


def write(file: Path | None, about: Mapping[str, Any], told: dict[str, Any],
          found: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what is known so far into `told`, and into the file."""
    told.update({"variants": dict(found), "step_ratios": ratios(found), **about})
    write_found(file, told)


if __name__ == "__main__":
    main(sys.argv[1:])
