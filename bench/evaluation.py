"""Evaluation of a base and a tuned model by this platform, against what a user would do instead.

    python -m bench.evaluation [--json FILE] [--quick] [--threads N]

The same two models, the same items, one after the other in one run: `sft eval TUNED --against BASE` over every suite
whose items are here, then lm-eval's own CLI once per task and model and a plain script per other suite and model. Then
generation throughput of one model on the same requests: lm-eval's HFLM with batch size 1 and `auto` against ours, in
turn. Genuine benchmarks are read from a folder like `../shared/data` (`--data`); those that are not there are left out
and said.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.evaluation_generation import throughput
from bench.found import write_found
from bench.random_llama import build
from eval_suites.results import SuiteResult, read_results
from eval_suites.statistics.bootstrap import bootstrap_paired
from eval_suites.suites.suite import Suite, load_suites

ROOT = Path(__file__).resolve().parent.parent
SHIPPED_ROWS = ROOT / "eval_suites" / "suites" / "rows"


class Plan(NamedTuple):
    """How much is measured."""

    limit: int  # items per task
    max_new_tokens: int
    suites: tuple[str, ...]  # empty: every shipped suite whose items are here
    requests: int  # for generation throughput, of 128 new tokens each
    rounds: int


LONGEST = 128  # new tokens per request when throughput is measured
FULL = Plan(4, 48, (), 64, 3)
QUICK = Plan(1, 24, ("gsm8k", "format", "refusal"), 24, 1)


class Where(NamedTuple):
    """Folders of one run."""

    root: Path
    data: Path  # published benchmarks as their authors ship them, and `hub`

    @property
    def template(self) -> Path:
        """The chat template that both sides ask through."""
        return self.root / "template.jinja"

    def model(self, label: str) -> Path:
        """The folder of `base` or `tuned`."""
        return self.root / label


def call(command: Sequence[str], where: Where, threads: int, cwd: Path = ROOT) -> float:
    """Seconds that a command took.

    Raises:
        SystemExit: it failed; with the end of what it printed.
    """
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SFT_")}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads),
             "PYTHONPATH": str(ROOT), "SFT_HOME": str(where.root / "home"), "SFT_MIRROR": str(where.data / "hub")}
    started = time.monotonic()
    done = subprocess.run(command, cwd=cwd, env={**outside, **quiet}, capture_output=True, text=True)
    if done.returncode:
        said = done.stdout[-2000:] + done.stderr[-4000:]
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return time.monotonic() - started


def present(where: Where, names: Sequence[str]) -> tuple[list[Suite], list[str]]:
    """Suites whose items are here, and the names of the others."""
    chosen = [one for name, one in load_suites().items() if not names or name in names]
    missing = [one.name for one in chosen if not _here(one, where)]
    return [one for one in chosen if one.name not in missing], missing


def _here(one: Suite, where: Where) -> bool:
    if one.engine != "lm_eval":
        return one.reader is None or (where.data / str(one.items)).exists()
    hub = {"mmlu": "cais/mmlu", "gsm8k": "openai/gsm8k"}.get(one.name)
    return one.name.startswith("tiny_") or (hub is not None and (where.data / "hub" / hub).is_dir())


def ours(where: Where, suites: Sequence[Suite], plan: Plan, threads: int) -> float:
    """Seconds of the one command."""
    chosen = [part for one in suites for part in ("--suite", one.name)]
    return call([
        sys.executable, "-m", "flows.cli", "eval", str(where.model("tuned")), "--against", str(where.model("base")),
        *chosen, "--limit", str(plan.limit), "--template", "chatml", "--max-new-tokens", str(plan.max_new_tokens),
        "--data-path", str(where.data), "--out", str(where.root / "ours"),
    ], where, threads)


def theirs(where: Where, one: Suite, result: SuiteResult, plan: Plan, threads: int) -> float:
    """Seconds of the same items without this platform: a process per model."""
    seconds = 0.0
    for label in ("base", "tuned"):
        folder = where.root / "theirs" / label / one.name
        folder.mkdir(parents=True)
        make = _lm_command if one.engine == "lm_eval" else _script_command
        seconds += call(make(where, one, result, plan, folder), where, threads,
                        where.data / "hub" if one.engine == "lm_eval" else ROOT)
    return seconds


def _lm_command(where: Where, one: Suite, result: SuiteResult, plan: Plan, folder: Path) -> list[str]:
    """lm-eval's own CLI with its defaults on the very items; its cwd makes hub ids of the mirror's folders."""
    chosen: dict[str, list[int]] = {}
    for item in result.items:
        task, _, number = item.item_id.rpartition("/")
        chosen.setdefault(task, []).append(int(number))
    more = ["--num_fewshot", str(one.num_fewshot)] if one.num_fewshot is not None else []
    if one.name.startswith("tiny_"):
        more += ["--include_path", str(ROOT / "eval_suites" / "suites" / "lm_tasks")]
    generation = any("gsm8k" in task for task in chosen)
    return [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu",
        "--model_args", f"pretrained={where.model(folder.parent.name)}", "--tasks", ",".join(one.tasks),
        "--samples", json.dumps(chosen), "--output_path", str(folder), "--log_samples", *more,
        *(["--gen_kwargs", f"max_gen_toks={plan.max_new_tokens}"] if generation else []),
    ]


def _script_command(where: Where, one: Suite, result: SuiteResult, plan: Plan, folder: Path) -> list[str]:
    ids = folder / "ids.json"
    ids.write_text(json.dumps([item.item_id for item in result.items]))
    return [sys.executable, "-m", "bench.evaluation_script", str(where.model(folder.parent.name)), one.name, str(ids),
            str(where.template), "--data-path", str(where.data), "--max-new-tokens", str(plan.max_new_tokens)]


def bootstrap_seconds() -> float:
    """10,000 draws over 14,042 paired items in 57 subjects, as MMLU has them."""
    random = np.random.default_rng(0)
    base, tuned = random.integers(0, 2, 14_042).astype(float), random.integers(0, 2, 14_042).astype(float)
    subjects = [str(subject) for subject in random.integers(0, 57, 14_042)]
    started = time.monotonic()
    bootstrap_paired(base, tuned, subjects, None, draws=10_000)
    return time.monotonic() - started


def prepare(where: Where) -> None:
    """Two random models of one shape, and the template."""
    texts = [file for name in ("wikitext2/train_raw_excerpt.txt", "gsm8k/test.jsonl")
             if (file := where.data / name).is_file()] or sorted(SHIPPED_ROWS.glob("*.jsonl"))
    for seed, label in enumerate(("base", "tuned")):
        build(where.model(label), texts, hidden=256, layers=4, seed=seed)
    where.template.write_text((ROOT / "sft_core" / "templates" / "chatml.jinja").read_text(encoding="utf-8"))


def measure(where: Where, plan: Plan, threads: int) -> dict[str, Any]:
    """All numbers of one run."""
    prepare(where)
    suites, missing = present(where, plan.suites)
    print(f"suites: {', '.join(one.name for one in suites)}; not here: {', '.join(missing) or 'none'}", flush=True)
    first, again = (ours(where, suites, plan, threads) for _ in range(2))
    print(f"ours: {first:.1f} s, again {again:.1f} s", flush=True)
    seconds = {}
    for one in suites:
        seconds[one.name] = theirs(where, one, read_results(where.root / "ours", one.name), plan, threads)
        print(f"  {one.name}: {seconds[one.name]:.1f} s without us", flush=True)
    rates = throughput(where.model("base"), plan.requests, LONGEST, plan.rounds)
    return {
        "speed_vs_lm_eval_cli": sum(seconds.values()) / first,
        "rerun_s": again,
        "generation_vs_hflm_bs1": rates["ours"] / rates["bs1"],
        "generation_vs_hflm_auto": rates["ours"] / rates["auto"],
        "bootstrap_s": bootstrap_seconds(),
        "details": {"ours_s": first, "theirs_s": seconds, "tokens_per_s": rates, "missing": missing,
                    "plan": plan._asdict(), "setup": setup(threads)},
    }


def setup(threads: int) -> Mapping[str, object]:
    """Where and when."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": platform.machine(),
            "python": platform.python_version(), "threads": threads,
            **{name: version(name) for name in ("torch", "transformers", "lm_eval")}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few suites and items, two minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    known = parser.parse_args()
    torch.set_num_threads(known.threads)
    with tempfile.TemporaryDirectory(prefix="sft-bench-") as scratch:
        found = measure(Where(Path(scratch), known.data.resolve()), QUICK if known.quick else FULL, known.threads)
    print(json.dumps(found, indent=2))
    write_found(known.json, found)


if __name__ == "__main__":
    main()
