"""Training and evaluation of the genuine small model of `make real`, against TRL and lm-eval.

    python -m bench.real [--json FILE] [--quick] [--model FOLDER] [--data FOLDER]

Training: every configuration runs in a process of its own, one thread, and takes steps in turn with the others; the
best of each engine (of the about equally fast the one with least memory) are compared by the medians of their trained
tokens per second of computing (CPU seconds, so that others on the machine count for little) and by the peak memory of
their processes. `--quick` takes the configurations of `BEST` instead of searching, and fewer steps. Evaluation:
`bench.real_evaluation`; of the two kinds of prompts the slower ratio counts. The file is written after training and
again after evaluation.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig

from bench import real_evaluation
from bench.found import write_found
from bench.train import setup
from bench.train_data import write_prepared
from bench.train_parent import Child, Timed, alternate
from bench.train_spec import Spec

MODEL = Path(".sft/smollm2")
ROW_TOKENS = 512
BATCH_TOKENS = {"full": 2048, "lora": 512}
SQUARE = 2048  # rows and columns of the matrices whose product is the peak
GOALS = {"train_full_vs_trl": "≥ 2.5", "train_full_rss_vs_trl": "≤ 0.9", "train_share_of_peak": "≥ 0.65",
         "train_lora_vs_trl": "≥ 2.5", "mmlu_vs_lm_eval_cli": "≥ 8", "generation_vs_hflm_auto": "≥ 2"}


class Way(NamedTuple):
    """How an engine takes a step."""

    pack: bool
    micro_rows: int
    half_base: bool = False


WAYS = {("native", "full"): (Way(True, 1), Way(True, 2), Way(True, 4)),
        ("trl", "full"): (Way(True, 1), Way(False, 2), Way(False, 4)),
        ("native", "lora"): (Way(True, 1), Way(False, 4)),
        ("trl", "lora"): (Way(True, 1), Way(True, 1, True), Way(False, 2, True), Way(False, 4, True))}
"""What is tried, in bfloat16 throughout: TRL packed wants one row at a time (its mask grows with the square of a
micro-batch's tokens), unpacked few of them (it pads to the longest). TRL's adapters may sit on a base in bfloat16."""
BEST = {("native", "full"): Way(True, 2), ("trl", "full"): Way(True, 1), ("native", "lora"): Way(True, 1),
        ("trl", "lora"): Way(True, 1, True)}
"""What --quick takes: what the search has found."""
AS_FAST = 0.97
"""Of ways that are this near to the fastest, the one that takes least memory is an engine's best."""


class Training:
    """One run: a folder with data, and what was found."""

    def __init__(self, model: Path, root: Path, quick: bool) -> None:
        self.model, self.root, self.quick = model, root, quick
        self.keys: dict[str, float] = {}
        self.details: dict[str, Any] = {}
        self._config = AutoConfig.from_pretrained(model)
        write_prepared(root / "prepared", 600, self._config.vocab_size, seed=0)

    def spec(self, engine: str, method: str, way: Way) -> Spec:
        """About BATCH_TOKENS a step."""
        tokens = BATCH_TOKENS[method]
        rows = tokens // ROW_TOKENS if way.pack else max(way.micro_rows, tokens // 93 // 4 * 4)  # 93: of a chat, mean
        name = f"{engine}-{method}-{'packed' if way.pack else 'rows'}-{way.micro_rows}{'-half' * way.half_base}"
        return Spec(engine, self.model, self.root / "prepared", self.root / name, ROW_TOKENS, tokens, way.pack, True,
                    rows, min(rows, way.micro_rows), method=method, half_base=way.half_base)

    def compare(self, method: str) -> None:
        """Ours against TRL's, each at its best."""
        best = [self._best(engine, method) for engine in ("native", "trl")]
        children = [Child([spec], threads=1) for spec in best]
        ours, its = alternate(children, 1 if self.quick else 3)
        for child in children:
            child.quit()
        self.keys[f"train_{method}_vs_trl"] = ours.cpu_rate / its.cpu_rate
        self.keys[f"train_{method}_rss_vs_trl"] = ours.peak_bytes / its.peak_bytes
        self.details[f"best_{method}"] = [_told(ours), _told(its)]
        if method == "full":
            work = median(self._flop(step) / step["cpu_seconds"] for step in ours.steps)
            self.details["flop_per_s"], self.details["peak_flop_per_s"] = work, peak()
            self.keys["train_share_of_peak"] = work / self.details["peak_flop_per_s"]

    def _best(self, engine: str, method: str) -> Spec:
        if self.quick:
            return self.spec(engine, method, BEST[engine, method])
        found = [self._alone(self.spec(engine, method, way)) for way in WAYS[engine, method]]
        self.details[f"searched_{method}_{engine}"] = [_told(one) for one in found]
        fastest = max(one.cpu_rate for one in found)
        return min((one for one in found if one.cpu_rate >= AS_FAST * fastest), key=lambda one: one.peak_bytes).spec

    def _alone(self, spec: Spec) -> Timed:
        child = Child([spec], threads=1)
        timed = alternate([child], 1)[0]
        child.quit()
        print(json.dumps(_told(timed)), flush=True)
        return timed

    def _flop(self, step: dict[str, Any]) -> float:
        """Of the products of a step of full training: 6 per weight and token (forward, and two backward), the head at
        trained tokens alone; attention is left out, at 512 tokens it is 3 % more (Kaplan et al. 2020, arXiv 2001.08361,
        2.1)."""
        shape = self._config
        kept = shape.head_dim * (2 * shape.num_attention_heads + 2 * shape.num_key_value_heads)
        layer = shape.hidden_size * (kept + 3 * shape.intermediate_size)
        body, head = shape.num_hidden_layers * layer, shape.vocab_size * shape.hidden_size
        return 6.0 * (body * step["tokens"] + head * step["trained_tokens"])


def peak() -> float:
    """FLOP per CPU second of one thread's product of two large bfloat16 matrices, the best of five."""
    left, right = (torch.randn(SQUARE, SQUARE).bfloat16() for _ in range(2))
    took = []
    for _ in range(6):
        began = time.process_time()
        left @ right
        took.append(time.process_time() - began)
    return 2.0 * SQUARE**3 / min(took[1:])


def run(model: Path, data: Path, quick: bool) -> Iterator[dict[str, Any]]:
    """The keys with `details` and `setup`, after training and again after evaluation. A key that was not measured (yet,
    or for want of data) has no value."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="sft-bench-") as folder:
        training = Training(model, Path(folder), quick)
        for method in ("full", "lora"):
            training.compare(method)
    keys: dict[str, float | None] = {**dict.fromkeys(GOALS), **training.keys}
    found = {"details": training.details, "setup": setup(1)}
    yield {**keys, **found}
    if data.is_dir():
        measured = real_evaluation.measure(model, real_evaluation.QUICK if quick else real_evaluation.FULL, data)
        kinds = measured["generation_vs_hflm_auto"].values()
        keys |= {"mmlu_vs_lm_eval_cli": measured["mmlu_vs_lm_eval_cli"]["times"],
                 "generation_vs_hflm_auto": min(kind["times"] for kind in kinds)}
        found["details"]["evaluation"] = measured
        yield {**keys, **found}


def _told(timed: Timed) -> dict[str, Any]:
    spec = timed.spec
    return {"name": spec.out.name, "trained_tokens_per_cpu_s": timed.cpu_rate, "trained_tokens_per_s": timed.rate,
            "peak_mb": timed.peak_bytes / 1e6, "first_loss": timed.first_loss}


def main(arguments: Sequence[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--quick", action="store_true", help="within five minutes")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, default=real_evaluation.DATA, help="MMLU and GSM8K, for evaluation")
    known = parser.parse_args(arguments)
    if not (known.model / "config.json").is_file():
        sys.exit(f"{known.model} is not there: `make real` fetches it")
    for found in run(known.model.resolve(), known.data.resolve(), known.quick):
        write_found(known.json, found)
    print("\n".join(f"{key:24} {'-' if found[key] is None else format(found[key], '.3f'):>6}   {goal}"
                    for key, goal in GOALS.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
