"""Our engine on one accelerator: a Llama of 1 B parameters, a vocabulary of 128 k, bf16, packed rows of 4,096 tokens.

    python -m bench.gpu [--json FILE] [--rows N] [--micro N] [--steps N] [--only NAME…] [--smoke]

Random weights, chats of Alpaca's lengths, about half of the tokens trained. `--smoke` does the same with a tiny shape
on the CPU. Tokens/s are all tokens of a step, padding excluded, replay included.

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
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from bench.train import setup
from bench.train_data import SHAPES, Shape, lengths, write_model, write_prepared
from bench.train_native import KL, from_spec
from bench.train_spec import Spec

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bf16 FLOPs per second of SXM cards by a part of their name (NVIDIA's data sheets, without sparsity)."""


class Work(NamedTuple):
    """FLOPs of one step."""

    needed: float
    with_head_everywhere: float


def variants(spec: Spec) -> dict[str, Spec]:
    """What is measured, by name."""
    found = {"full sft": spec, **{f"full + kl {name}": replace(spec, kl=name) for name in KL},
             "full + replay": replace(spec, replay=1.0), "lora sft": replace(spec, method="lora"),
             **{f"lora + kl {name}": replace(spec, method="lora", kl=name) for name in KL}}
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


def measure(spec: Spec, shape: Shape, steps: int) -> dict[str, Any]:
    """Median over `steps` steps after two of warm-up."""
    on_cuda = spec.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    step = from_spec(spec)
    taken = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        made = step()  # ends with one wait for the device: the losses are read
        taken.append((time.perf_counter() - began, made))
    timed = taken[2:]
    seconds = median(took for took, _ in timed)
    # A step tells the tokens of the chats; replay rows hold `batch_tokens` more, all of them trained.
    more = spec.batch_tokens * spec.replay_share if spec.replay else 0.0
    tokens = median(made.tokens for _, made in timed) + more
    trained = median(made.trained_tokens for _, made in timed) + more
    flops = work(shape, spec, tokens, trained)
    peak = next((v for k, v in PEAK_FLOPS.items() if on_cuda and k in torch.cuda.get_device_name()), None)
    return {"tokens_per_s": tokens / seconds, "step_s": seconds, "trained_share": trained / tokens,
            "mfu": peak and flops.needed / seconds / peak,
            "mfu_6nt": peak and flops.with_head_everywhere / seconds / peak,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_cuda else None, "loss": made.loss}


def run(root: Path, shape: Shape, spec: Spec, steps: int, only: Sequence[str]) -> dict[str, dict[str, Any]]:
    """All variants, one after the other; one that does not fit or cannot run says why and the others go on."""
    write_model(spec.model, shape, torch.bfloat16 if spec.device == "cuda" else torch.float32)
    # Some more chats than all steps of the longest variant need; the course starts over at its end in any case.
    write_prepared(spec.prepared, max(32, (steps + 3) * spec.batch_tokens // 80), shape.vocabulary, seed=0)
    found = {}
    for name, one in variants(spec).items():
        if only and name not in only:
            continue
        one.out.mkdir(parents=True)
        try:
            found[name] = measure(one, shape, steps)
        except torch.cuda.OutOfMemoryError as error:
            found[name] = {"error": str(error).splitlines()[0]}
        print(line(name, found[name]), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


def line(name: str, row: Mapping[str, Any]) -> str:
    """A row of the table."""
    if "error" in row:
        return f"{name:16} {row['error']}"
    share = "     -" if row["mfu"] is None else f"{row['mfu']:6.1%}"
    peak = "     -" if row["peak_gib"] is None else f"{row['peak_gib']:6.1f}"
    return f"{name:16} {row['tokens_per_s']:9.0f} tokens/s  {row['step_s']:8.3f} s/step  MFU {share}  {peak} GiB"


def ratios(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Steps of the variants against the plain one of their method."""
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
    parser.add_argument("--smoke", action="store_true", help="tiny, on the CPU")
    known = parser.parse_args(arguments)
    if not known.smoke and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --smoke runs a tiny shape on the CPU")
    shape = SHAPES["nano" if known.smoke else "1b"]
    width, rows, micro, steps = (512, 2, 1, 1) if known.smoke else (4096, known.rows, known.micro, known.steps)
    with tempfile.TemporaryDirectory(prefix="sft-gpu-") as folder:
        root = Path(folder)
        spec = Spec("native", root / "model", root / "prepared", root / "runs", width, width * rows, True,
                    bf16=not known.smoke, rows_per_step=rows, micro_rows=micro,
                    device="cpu" if known.smoke else "cuda")
        found = run(root, shape, spec, steps, known.only)
    device = "cpu" if known.smoke else torch.cuda.get_device_name()
    told = {"variants": found, "step_ratios": ratios(found), "shape": shape._asdict(), "device": device,
            "row_tokens": width, "rows_per_step": rows, "micro_rows": micro, "setup": setup(torch.get_num_threads())}
    if known.json:
        known.json.parent.mkdir(parents=True, exist_ok=True)
        known.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return told


if __name__ == "__main__":
    main(sys.argv[1:])
