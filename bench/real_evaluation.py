"""Evaluation of a genuine model against lm-eval, for `bench.real` and alone.

    python -m bench.real_evaluation MODEL_FOLDER --json FILE [--quick] [--data DIR] [--precision float32|bfloat16]

Two measures on the same items in the same precision on one thread, sides in turn, medians of rounds:

mmlu_vs_lm_eval_cli     five-shot MMLU, the whole command from start to end: `sft eval` against lm-eval's own with its
                        best fixed batch size
generation_vs_hflm_auto free answers with the model loaded: ours against lm-eval's HFLM, at its best of several batch
                        sizes; behind five worked examples (GSM8K), and behind prompts that share nothing

Wall time says what a user waits; CPU seconds stand beside it, as wall time means little on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import pyarrow.parquet as pq
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.evaluation import ROOT, setup
from bench.evaluation_generation import requests
from bench.found import write_found
from eval_suites.backends.local import Local
from eval_suites.lm_door.door import language_model
from eval_suites.results import read_results

Precision = Literal["float32", "bfloat16"]
DATA = ROOT.parent / "shared" / "data"
LONGEST = 128  # new tokens of an answer


class Plan(NamedTuple):
    """How much is measured."""

    limit: int  # items per subject
    batches: tuple[int, ...]  # sizes that lm-eval may choose from
    requests: int
    rounds: int


FULL = Plan(48, (4, 8, 16), 48, 2)
QUICK = Plan(24, (8,), 12, 1)
SEARCHED = 12  # items that lm-eval's best size is found by
SUBJECTS = ("mmlu_abstract_algebra", "mmlu_anatomy")


class Took(NamedTuple):
    """Seconds of a command or a call."""

    wall: float
    cpu: float


def mmlu_vs_lm_eval_cli(model: Path, plan: Plan, data: Path, precision: Precision) -> dict[str, Any]:
    """How many times longer lm-eval's command takes; both sides' seconds, and the share of items scored alike."""
    with tempfile.TemporaryDirectory(prefix="sft-bench-") as folder:
        scratch = Path(folder)
        ours = [_ours(model, plan, data, precision, scratch / "ours-0")]
        items = read_results(scratch / "ours-0" / "items", "two_subjects").items
        asked = [one.item_id for one in items]
        best = plan.batches[0]
        if len(plan.batches) > 1:
            some = {size: _theirs(model, asked[:: len(asked) // SEARCHED], data, precision, scratch / f"{size}", size)
                    for size in plan.batches}
            best = min(some, key=lambda size: some[size].cpu)
        theirs = [_theirs(model, asked, data, precision, scratch / "theirs-0", best)]
        for number in range(1, plan.rounds):
            ours.append(_ours(model, plan, data, precision, scratch / f"ours-{number}"))
            theirs.append(_theirs(model, asked, data, precision, scratch / f"theirs-{number}", best))
        said = _scores(scratch / "theirs-0")
    alike = sum(said[one.item_id] == one.score for one in items) / len(items)
    return {**_ratio(ours, theirs), "items": len(items), "scored_alike": alike, "lm_eval_batch": best}


def _ours(model: Path, plan: Plan, data: Path, precision: str, folder: Path) -> Took:
    folder.mkdir(parents=True)
    suite = folder / "two_subjects.yaml"
    suite.write_text(yaml.safe_dump({
        "about": "MMLU subjects", "kind": "capability", "engine": "lm_eval", "tasks": list(SUBJECTS),
        "task_folder": "mmlu/default", "metric": "acc,none", "num_fewshot": 5}), encoding="utf-8")
    return _call([
        sys.executable, "-m", "flows.cli", "eval", str(model), "--suite", str(suite), "--device", "cpu", "--precision",
        precision, "--out", str(folder / "items"), "--limit", str(plan.limit),
    ], {"SFT_HOME": str(folder / "home"), "SFT_MIRROR": str(data / "hub")}, ROOT)


def _theirs(model: Path, items: Sequence[str], data: Path, precision: str, folder: Path, size: int) -> Took:
    """lm-eval's command; its working directory makes hub ids of the mirror's folders."""
    chosen: dict[str, list[int]] = {}
    for item in items:
        task, _, number = item.rpartition("/")
        chosen.setdefault(task, []).append(int(number))
    return _call([
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--model_args",
        f"pretrained={model},dtype={precision}", "--tasks", ",".join(SUBJECTS), "--num_fewshot", "5", "--batch_size",
        str(size), "--samples", json.dumps(chosen), "--log_samples", "--output_path", str(folder),
    ], {}, data / "hub")


def _scores(folder: Path) -> dict[str, float]:
    """Item id → accuracy, of lm-eval's own samples."""
    found = {}
    for file in folder.rglob("samples_*.jsonl"):
        task = file.name.removeprefix("samples_").rpartition("_")[0]
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[f"{task}/{row['doc_id']}"] = float(row["acc"])
    return found


def _call(command: Sequence[str], more: Mapping[str, str], cwd: Path) -> Took:
    """Run a command on one thread.

    Raises:
        SystemExit: it failed; with the end of what it printed.
    """
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SFT_")}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=cwd, env={**outside, **quiet, **more}, capture_output=True, text=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def generation_vs_hflm_auto(model: Path, plan: Plan, data: Path, precision: Precision) -> dict[str, Any]:
    """How many times longer lm-eval's HFLM takes for the same greedy answers, by kind of prompt."""
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, precision)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    makers: dict[str, Callable[[], Any]] = {
        "ours": lambda: language_model(network, tokenizer, None, "bench", Local(network, None)),
        **{f"bs{size}": lambda size=size: HFLM(network, tokenizer=tokenizer, batch_size=size, backend="causal")
           for size in plan.batches}}
    kinds = {"worked_examples": lambda: worked_examples(data, plan.requests),
             "nothing_shared": lambda: requests(plan.requests, LONGEST)}
    return {kind: _race(makers, ask, plan.rounds) for kind, ask in kinds.items()}


def worked_examples(data: Path, count: int) -> list[Any]:
    """GSM8K's first test questions, each behind the first five of its training set with their solutions."""
    folder = data / "hub" / "openai" / "gsm8k" / "main"
    train, test = (pq.read_table(next(folder.glob(f"{name}-*.parquet"))).to_pylist() for name in ("train", "test"))
    shots = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in train[:5])
    kwargs = {"until": ["Question:"], "max_gen_toks": LONGEST, "do_sample": False}
    return [Instance("generate_until", {}, (f"{shots}Question: {row['question']}\nAnswer:", dict(kwargs)), number)
            for number, row in enumerate(test[:count])]


def _race(makers: Mapping[str, Callable[[], Any]], ask: Callable[[], list[Any]], rounds: int) -> dict[str, Any]:
    took: dict[str, list[Took]] = {name: [] for name in makers}
    said: dict[str, Sequence[str]] = {}
    for _ in range(rounds):
        for name, make in makers.items():
            lm, asked = make(), ask()
            started, before = time.monotonic(), time.process_time()
            with contextlib.redirect_stderr(io.StringIO()), torch.inference_mode():
                said[name] = lm.generate_until(asked)
            took[name].append(Took(time.monotonic() - started, time.process_time() - before))
    best = min(set(makers) - {"ours"}, key=lambda name: median(one.cpu for one in took[name]))
    same = sum(a == b for a, b in zip(said["ours"], said[best], strict=True)) / len(said[best])
    return {**_ratio(took["ours"], took[best]), "same_texts": same, "lm_eval_batch": best}


def _ratio(ours: Sequence[Took], theirs: Sequence[Took]) -> dict[str, Any]:
    walls, cpus = ([median(getattr(one, kind) for one in side) for side in (ours, theirs)] for kind in ("wall", "cpu"))
    return {"times": walls[1] / walls[0], "times_cpu": cpus[1] / cpus[0], "ours_s": walls[0], "lm_eval_s": walls[1],
            "ours_cpu_s": cpus[0], "lm_eval_cpu_s": cpus[1]}


def measure(model: Path, plan: Plan, data: Path = DATA, precision: Precision = "float32") -> dict[str, Any]:
    """Both measures, with the machine's load before and after."""
    torch.set_num_threads(1)
    before = os.getloadavg()
    found = {"mmlu_vs_lm_eval_cli": mmlu_vs_lm_eval_cli(model, plan, data, precision),
             "generation_vs_hflm_auto": generation_vs_hflm_auto(model, plan, data, precision)}
    return {**found, "setup": {**setup(1), "precision": precision, "plan": plan._asdict(), "load_before": before,
                               "load_after": os.getloadavg()}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few items, one round")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    known = parser.parse_args()
    found = measure(known.model.resolve(), QUICK if known.quick else FULL, known.data.resolve(), known.precision)
    print(json.dumps(found, indent=2))
    write_found(known.json, found)


if __name__ == "__main__":
    main()
