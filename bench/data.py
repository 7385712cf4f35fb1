"""Speed, memory and finds of the work on data: curation, duplicates, preparation, decontamination, personal data.

    python -m bench.data [--json FILE] [--quick] [--processes N] [--data FOLDER]

Curation is measured step by step, each step in a process of its own (`bench/data_child.py`), on made-up rows of
Alpaca's lengths with planted duplicates and with everything on. Real rows and the suites whose items are planted are
read from a folder like `../shared/data` (`--data`); where it is not there the shipped suites stand in, and
`curate_alpaca_s` is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from math import log
from os import getloadavg
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.data_child import run
from bench.data_rows import rows_of, write_rows
from bench.found import write_found
from bench.train import setup
from bench.train_first import first_step, write_tokenizer
from eval_suites.asking.questions import eval_items
from sft_core.config.decontaminate import DecontaminateSection
from sft_core.config.pii import PiiSection
from sft_core.data.curate.contamination import ItemFinder
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.pii.finder import Finder as PiiFinder
from sft_core.data.curate.pii.measure import labelled, measure
from sft_core.data.curate.recall import Recall, false_finds, recalls

ROOT = Path(__file__).resolve().parent.parent
ALPACA = ("random_9k.json", "claude_t45.json", "helpfulness_t45.json")
"""16,547 rows."""
LABELLED = ROOT / "tests" / "core" / "pii.jsonl"
GOALS = {"dedup_100k_s": "≤ 8", "dedup_100k_gb": "≤ 1", "dedup_1m_s": "≤ 120", "dedup_1m_gb": "≤ 3",
         "dedup_vs_datasketch": "≥ 20", "scaling_exponent": "≤ 1.1", "curate_alpaca_s": "≤ 45", "prepare_1m_gb": "≤ 3",
         "first_step_vs_tokenizer": "≤ 1.3", "decontamination_false_positive_rate": "≤ 0.002"}


class Plan(NamedTuple):
    """How much is measured."""

    sizes: Mapping[str, int]  # name in the keys → rows
    against: int  # rows that datasketch is given too
    first_rows: int
    real: int | None  # rows of each real file, None for all
    planted: int  # items of a suite under each change
    suites: tuple[str, ...]  # of genuine benchmarks


FULL = Plan({"10k": 10_000, "100k": 100_000, "1m": 1_000_000}, 20_000, 50_000, None, 200, ("gsm8k", "mmlu"))
QUICK = Plan({"1k": 1_000, "4k": 4_000}, 2_000, 2_000, 500, 20, ("gsm8k",))


class Where(NamedTuple):
    """Folders of one run."""

    root: Path
    data: Path


class Bench:
    """One run: what was found so far."""

    def __init__(self, where: Where, scope: Plan, workers: int) -> None:
        self.where, self.scope, self.workers = where, scope, workers
        self.items = suite_items(where, scope.suites)
        self.keys: dict[str, Any] = {}
        self.details: dict[str, Any] = {"items": len(self.items)}
        self._asked = where.root / "items.json"
        self._asked.write_text(json.dumps(self.items), encoding="utf-8")

    def sizes(self) -> None:
        """Curation step by step, duplicates alone and preparation, at every size."""
        tokenizer = self.where.root / "tokenizer"
        write_tokenizer(tokenizer, [row["output"] for row in rows_of(5_000, seed=1)])
        totals, steps = {}, {}
        for name, rows in self.scope.sizes.items():
            folder = self.where.root / name
            folder.mkdir()
            write_rows(folder / "rows.jsonl", rows, seed=0)
            steps[name], curated = self._steps(folder, [folder / "rows.jsonl"])
            totals[rows] = sum(each["seconds"] for each in steps[name].values())
            shards = next((folder / "curation" / "normalise").glob("*/"))
            found = run("dedup", shards=str(shards), out=str(folder / "dedup"), workers=self.workers)
            self.keys |= {f"dedup_{name}_s": found["seconds"], f"dedup_{name}_gb": found["peak_gb"]}
            steps[name]["prepare"] = run("prepare", curated=curated, tokenizer=str(tokenizer),
                                         out=str(folder / "prepared"), workers=self.workers)
            self.keys[f"prepare_{name}_gb"] = steps[name]["prepare"]["peak_gb"]
            self.details.setdefault("dedup", {})[name] = found
            print(told(name, rows, steps[name]), flush=True)
        self.keys["scaling_exponent"] = slope(totals)
        self.details["steps"] = {name: {step: {"rows_per_s": self.scope.sizes[name] / each["seconds"],
                                               "busy_us_per_row": each["busy_s"] / self.scope.sizes[name] * 1e6,
                                               "peak_gb": each["peak_gb"]} for step, each in several.items()}
                                 for name, several in steps.items()}
        against = run("against", shards=str(shards), rows=self.scope.against)
        self.keys["dedup_vs_datasketch"], self.details["datasketch"] = against["ratio"], against

    def _steps(self, folder: Path, files: Sequence[Path]) -> tuple[dict[str, dict[str, Any]], str]:
        made: dict[str, dict[str, Any]] = {}
        while True:
            found = run("step", folder=str(folder / "curation"), **self._of(files))
            if found["name"] is None:
                return made, found["folder"]
            made[found["name"]] = found

    def _of(self, files: Sequence[Path]) -> dict[str, Any]:
        return {"files": [str(file) for file in files], "items": str(self._asked), "workers": self.workers}

    def alpaca(self) -> None:
        """The curation of real rows, everything on."""
        files = [self.where.data / "alpaca_subset" / name for name in ALPACA]
        self.keys["curate_alpaca_s"] = None
        if all(file.is_file() for file in files):
            own = [self.where.root / file.name for file in files]
            for file, mine in zip(files, own, strict=True):
                mine.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8"))[:self.scope.real]))
            found = run("whole", folder=str(self.where.root / "alpaca"), **self._of(own))
            self.keys["curate_alpaca_s"], self.details["curate_alpaca"] = found["seconds"], found

    def first_step(self) -> None:
        """From rows to the first step of training."""
        self.keys["first_step_vs_tokenizer"], self.details["first_step"] = first_step(
            self.where.root / "first", self.scope.first_rows)

    def decontamination(self) -> None:
        """Planted items under every change, and decoys."""
        rows = [[row["instruction"], row["output"]] for row in islice(self._real(), 2_000)]
        section = DecontaminateSection(recall_items=self.scope.planted)
        finder = ItemFinder(self.items)
        found = recalls(finder, rows, section, seed=0)
        false = false_finds(finder, rows, section, seed=0)
        self.keys["decontamination_recall"] = by_change(found)
        self.keys["decontamination_false_positive_rate"] = false.with_decoys / false.rows
        self.details["decontamination"] = {
            "recall": [{**one._asdict(), "interval": one.interval} for one in found],
            "false": {**false._asdict(), "interval": false.interval}}

    def _real(self) -> Any:
        file = self.where.data / "alpaca_subset" / ALPACA[0]
        return iter(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else rows_of(2_000, seed=2)

    def personal(self) -> None:
        """The labelled set of the tests."""
        kinds = PiiSection().kinds
        scores = measure(labelled(LABELLED), PiiFinder(PiiSection(allow=())))
        self.keys["pii_f1"] = {kind: scores[kind].f1 for kind in kinds}
        self.details["pii"] = {kind: scores[kind]._asdict() for kind in kinds}


def suite_items(where: Where, suites: tuple[str, ...]) -> list[EvalItem]:
    """Items of these suites where they are, else of some that need no data of others."""
    hub = where.data / "hub"
    names, mirror = (suites, hub) if hub.is_dir() else (("tiny_gsm8k", "tiny_mmlu", "format"), None)
    return eval_items(names, mirror=mirror, include_path=None, scratch=where.root)


def by_change(found: Sequence[Recall]) -> dict[str, float]:
    """The share that is found of all suites' planted items, change by change."""
    planted: dict[str, int] = defaultdict(int)
    hits: dict[str, int] = defaultdict(int)
    for one in found:
        planted[one.change] += one.planted
        hits[one.change] += one.found
    return {change: hits[change] / number for change, number in planted.items()}


def slope(seconds: Mapping[int, float]) -> float:
    """The exponent that time grows by: least squares of log seconds over log rows."""
    return float(np.polyfit([log(rows) for rows in seconds], [log(each) for each in seconds.values()], 1)[0])


def told(name: str, rows: int, steps: Mapping[str, Mapping[str, Any]]) -> str:
    """Steps of one size for a terminal."""
    lines = [f"  {step:22} {rows / each['seconds']:10,.0f} rows/s  {each['busy_s'] / rows * 1e6:6.0f} µs busy  "
             f"{each['peak_gb']:6.2f} GB" for step, each in steps.items()]
    return "\n".join([f"{name} rows", *lines])


def measured(where: Where, scope: Plan, workers: int) -> dict[str, Any]:
    """All numbers of one run."""
    bench = Bench(where, scope, workers)
    for part in (bench.decontamination, bench.personal, bench.alpaca, bench.first_step, bench.sizes):
        part()
    return {**bench.keys, "details": {**bench.details, "plan": scope._asdict()},
            "setup": {**setup(1), "processes": workers, "load": getloadavg()}}


def table(found: Mapping[str, Any]) -> str:
    """The goals that were measured, for a terminal."""
    lines = [f"{key:36} {'-' if found[key] is None else f'{found[key]:.4g}':>9}   {goal}"
             for key, goal in GOALS.items() if key in found]
    for key in ("decontamination_recall", "pii_f1"):
        lines.append(f"{key}: " + ", ".join(f"{name} {share:.3f}" for name, share in found[key].items()))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--quick", action="store_true", help="few rows, about a minute")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    known = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sft-bench-") as folder:
        found = measured(Where(Path(folder), known.data.resolve()), QUICK if known.quick else FULL, known.processes)
    print(table(found))
    write_found(known.json, found)


if __name__ == "__main__":
    main(sys.argv[1:])
