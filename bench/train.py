"""Our engine against TRL's SFTTrainer on this machine, and what our KL, replay and packing cost.

    python -m bench.train [--json FILE] [--quick] [--threads N] [--batch-tokens N]

For each size every engine × packing × precision runs in a process of its own (so that its peak memory is its own) for
two timed steps; the best configuration of each engine then takes steps in turn, one process at a time, and the medians
are compared. `--quick` takes the best configurations of earlier full runs instead of searching them.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from bench.found import write_found
from bench.train_data import SHAPES, lengths, write_model, write_prepared
from bench.train_first import first_step
from bench.train_native import KL
from bench.train_parent import Child, Timed, alternate
from bench.train_spec import Spec
from bench.train_where import parts, top
from sft_core.train.pack import plan

ROW_TOKENS = 512  # of a packed row: TRL's dense mask makes longer rows slower for it, ours does not mind
QUICK_BEST = {("trl", "8k"): (True, True), ("trl", "49k"): (True, False),
              ("native", "8k"): (True, True), ("native", "49k"): (True, True)}
"""(packed, bf16) that were best in full runs."""


class Plan(NamedTuple):
    """How much is measured."""

    batch_tokens: int
    rounds: int  # timed steps of each best configuration
    screened: int  # timed steps of every configuration in the search; 0 takes QUICK_BEST
    packed_examples: int
    first_rows: int


    where: bool  # profile a step
    terms: tuple[str, ...]  # sizes on which KL and replay are measured


FULL = Plan(2048, 5, 2, 1_000_000, 50_000, True, ("8k", "49k"))
QUICK = Plan(1024, 2, 0, 1_000_000, 2_000, False, ("8k",))


class Bench:
    """One run: a folder with models and data, and what was found."""

    def __init__(self, root: Path, threads: int, scope: Plan) -> None:
        self.root, self.threads, self.scope = root, threads, scope
        self.keys: dict[str, float | None] = {}
        self.details: dict[str, Any] = {}

    def prepare(self, size: str) -> None:
        """Model and data of a size."""
        write_model(self.root / size / "model", SHAPES[size])
        write_prepared(self.root / size / "prepared", self.scope.batch_tokens, SHAPES[size].vocabulary, seed=0)

    def spec(self, engine: str, size: str, pack: bool, bf16: bool) -> Spec:
        """A configuration: about `batch_tokens` a step, in micro-batches that suit the engine best.

        TRL wants small ones: unpacked it pads to the longest of a micro-batch, packed its mask grows with the square
        of the micro-batch's tokens (measured: 2 rows, 1 row).
        """
        tokens = self.scope.batch_tokens
        rows = tokens // ROW_TOKENS if pack else max(2, round(tokens / 93 / 2) * 2)  # 93: mean tokens of a chat
        micro = rows if engine == "native" else 1 if pack else 2
        folder = self.root / size
        out = folder / f"{engine}-{'packed' if pack else 'rows'}-{'bf16' if bf16 else 'fp32'}"
        return Spec(engine, folder / "model", folder / "prepared", out, ROW_TOKENS, tokens, pack, bf16, rows, micro)

    # Speed and memory

    def speed(self, size: str) -> tuple[Spec, Spec]:
        """Ours against TRL's, each at its best; returns the two configurations, ours first."""
        best = {engine: self._best(engine, size) for engine in ("native", "trl")}
        children = [Child([best[engine]], self.threads) for engine in ("native", "trl")]
        ours, its = alternate(children, self.scope.rounds)
        self.keys[f"speed_vs_trl_{size}"] = ours.rate / its.rate
        if size == "49k":
            self.keys["rss_vs_trl_49k"] = ours.peak_bytes / its.peak_bytes
        self.details[f"best_{size}"] = [_told(ours), _told(its)]
        self.details[f"where_{size}"] = {child.spec.name: self._where(child, size) for child in children
                                         if self.scope.where}
        for child in children:
            child.quit()
        print(f"{size}: trained tokens/s {ours.rate:.0f} ({ours.spec.name}) : {its.rate:.0f} ({its.spec.name}); first "
              f"loss {ours.first_loss:.6f} : {its.first_loss:.6f}", flush=True)
        return best["native"], best["trl"]

    def _best(self, engine: str, size: str) -> Spec:
        if not self.scope.screened:
            return self.spec(engine, size, *QUICK_BEST[engine, size])
        found = [self._alone(self.spec(engine, size, pack, bf16)) for pack in (True, False) for bf16 in (True, False)]
        self.details[f"searched_{size}_{engine}"] = [_told(one) for one in found]
        return max(found, key=lambda one: one.rate).spec

    def _alone(self, spec: Spec) -> Timed:
        child = Child([spec], self.threads)
        timed = alternate([child], self.scope.screened)[0]
        child.quit()
        told = _told(timed)
        print(f"  {spec.name:18} {told['trained_tokens_per_s']:6.0f} trained tokens/s  {told['peak_mb']:6.0f} MB  "
              f"first loss {told['first_loss']:.6f}", flush=True)
        return timed

    def _where(self, child: Child, size: str) -> dict[str, Any]:
        answer = child.run(1, order="profile")
        seconds = sum(step["seconds"] for step in answer["steps"])
        return {"parts_s": parts(answer["profile"], SHAPES[size], seconds), "step_s": seconds,
                "top_s": top(answer["profile"])}

    def same_losses(self, size: str) -> None:
        """Both engines' loss of the first step on the same rows, for every packing and precision."""
        ours, its = (self.details[f"searched_{size}_{engine}"] for engine in ("native", "trl"))
        gaps = {a["name"].removeprefix("native "): abs(a["first_loss"] - b["first_loss"])
                for a, b in zip(ours, its, strict=True)}
        self.details[f"loss_gap_{size}"] = gaps
        print(f"{size}: losses of the same rows differ by " + ", ".join(f"{v:.1e} ({k})" for k, v in gaps.items()))

    # Terms of the objective

    def terms(self, size: str, spec: Spec) -> None:
        """Steps with KL and with replay against the plain one, in one process, in turn.

        `replay` has as many tokens as the chats of the step, all of them trained, twice as many as of the chats;
        `replay_equal_trained`, told in the details, half as many.
        """
        specs = {"plain": spec, **{f"kl_{name}": replace(spec, kl=name) for name in KL},
                 "replay": replace(spec, replay=1.0),
                 "replay_equal_trained": replace(spec, replay=1.0, replay_share=0.5)}
        specs = {name: replace(one, out=spec.out.with_name(f"{spec.out.name}-{name}")) for name, one in specs.items()}
        child = Child(list(specs.values()), self.threads)
        timed = dict(zip(specs, alternate([child] * len(specs), self.scope.rounds, range(len(specs))), strict=True))
        child.quit()
        ratios = {name: one.seconds / timed["plain"].seconds for name, one in timed.items()}
        for name in ("kl_exact", "kl_cached", "replay"):
            self.keys[f"{name}_step_ratio"] = ratios.get(name)
        self.details[f"terms_{size}"] = {"ratios": ratios, "step_s": {k: one.seconds for k, one in timed.items()}}
        print(f"{size}: steps against the plain one: " + ", ".join(f"{k} {v:.2f}" for k, v in ratios.items()))

    # Packing

    def packing(self) -> None:
        """Fill at 2,048 tokens and seconds for a million examples."""
        drawn = lengths(50_000, seed=1)
        self.keys["pack_fill"] = sum(drawn) / (len(plan(drawn, 2048, 0)) * 2048)
        rng = random.Random(0)
        many = rng.choices(drawn, k=self.scope.packed_examples)
        began = time.perf_counter()
        plan(many, 2048, 0)
        self.keys["pack_1m_s"] = (time.perf_counter() - began) * 1e6 / self.scope.packed_examples


def _told(timed: Timed) -> dict[str, Any]:
    return {"name": timed.spec.name, "trained_tokens_per_s": timed.rate, "step_s": timed.seconds,
            "peak_mb": timed.peak_bytes / 1e6, "first_loss": timed.first_loss,
            "trained_share": median(s["trained_tokens"] / s["tokens"] for s in timed.steps)}


def setup(threads: int) -> dict[str, Any]:
    """The machine and the libraries."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "date": datetime.now(UTC).isoformat(),
            **{name: installed(name) for name in ("torch", "transformers", "trl")}}


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed, as the extras may be."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def run(scope: Plan, threads: int, root: Path) -> dict[str, Any]:
    """Everything; returns the keys with `details` and `setup`."""
    bench = Bench(root, threads, scope)
    bench.packing()
    best = {}
    for size in ("8k", "49k"):
        bench.prepare(size)
        best[size], _ = bench.speed(size)
        if scope.screened:
            bench.same_losses(size)
    for size in scope.terms:  # the keys keep the last one
        bench.terms(size, best[size])
    bench.keys["first_step_vs_tokenizer"], bench.details["first_step"] = first_step(root / "first", scope.first_rows)
    return {**bench.keys, "details": bench.details, "setup": setup(threads)}


def table(found: dict[str, Any]) -> str:
    """For a terminal."""
    goals = {"speed_vs_trl_8k": "≥ 1.7", "speed_vs_trl_49k": "≥ 3.5", "rss_vs_trl_49k": "≤ 0.45",
             "kl_exact_step_ratio": "≤ 1.5", "kl_cached_step_ratio": "≤ 1.25", "replay_step_ratio": "≤ 2.05",
             "pack_fill": "≥ 0.99", "pack_1m_s": "≤ 10", "first_step_vs_tokenizer": "≤ 1.2"}
    lines = [f"{key:26} {'-' if found[key] is None else f'{found[key]:.3f}':>9}   {goal}"
             for key, goal in goals.items()]
    for size in ("8k", "49k"):
        for name, where in found["details"][f"where_{size}"].items():
            shares = ", ".join(f"{part} {took / where['step_s']:.0%}" for part, took in where["parts_s"].items())
            lines.append(f"{size} {name}: {shares}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--quick", action="store_true", help="about a minute")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, help="tokens of a step")
    known = parser.parse_args(arguments)
    torch.set_num_threads(known.threads)  # of this process; children are told theirs
    scope = QUICK if known.quick else FULL
    if known.batch_tokens:
        scope = scope._replace(batch_tokens=known.batch_tokens)
    with tempfile.TemporaryDirectory(prefix="sft-bench-") as folder:
        found = run(scope, known.threads, Path(folder))
    print(table(found))
    write_found(known.json, found)


if __name__ == "__main__":
    main(sys.argv[1:])
