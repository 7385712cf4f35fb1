"""One measurement of data work in a process of its own, so that its peak memory is its own.

    python -m bench.data_child '{"what": "step", "folder": …}'        prints what it found as JSON

The peak is of this process and those that it has started, sampled; of a page that several of them map, each has its
part (proportional set size, of Linux).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
import psutil

from sft_core.config.data import DataSection, TemplateSection
from sft_core.config.duplicates import DuplicatesSection
from sft_core.conversation import Conversation
from sft_core.data.curate import duplicates
from sft_core.data.curate.chain import Wanted, curate
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.kept import Kept, in_folder
from sft_core.data.curate.measure import measure_shards, sketches_of
from sft_core.data.curate.sketch import PERMUTATIONS, sketch
from sft_core.data.curate.words import texts, words
from sft_core.data.shards import read_shard, shards_of
from sft_core.data.sources import source_digest
from sft_core.data.workers import Workers, processes
from sft_core.progress import progress

EVERY_S = 0.1
EVERYTHING = {"pii": {"action": "redact"}, "quality": {"drop": ["repetition", "refusal", "truncated", "damage"]},
              "duplicates": {"compared": ["prompts", "conversations"]}, "validation_share": 0.01, "max_tokens": 1024,
              "too_long": "drop"}
"""Settings of the curation: every step is on, and the prompts are compared too."""
ROUNDS = 3


class Measured(NamedTuple):
    """What one piece of work took."""

    name: str
    seconds: float
    busy_s: float  # processor time, of all processes
    peak_gb: float


class Made(Exception):
    """A step was made; the next one is for the next process."""


def step(folder: str, files: list[str], items: str, workers: int) -> dict[str, Any]:
    """The first step of a curation below `folder` that was not made yet, and its name; None where all were."""
    root, steps, found = Path(folder), in_folder(Path(folder)), []
    wanted = _wanted(root, files, items)
    facts = count()

    def keep(name: str, stamp: str, make: Callable[[Path], Mapping[str, object]]) -> Kept:
        if name == "facts":
            families = wanted.families
            name = families[next(facts) % len(families)].name
        if not (root / name / f"{stamp}.json").exists():
            found.append(_measure(name, lambda: steps(name, stamp, make)))
            raise Made
        return steps(name, stamp, make)

    with processes(workers) as pool:
        try:
            curated = curate(wanted, keep, pool)
        except Made:
            return found[0]._asdict()
    return {"name": None, "folder": str(curated.folder)}


def whole(folder: str, files: list[str], items: str, workers: int) -> dict[str, Any]:
    """A whole curation."""
    wanted = _wanted(Path(folder), files, items)
    with processes(workers) as pool:
        return _measure("curate", lambda: curate(wanted, in_folder(Path(folder)), pool))._asdict()


def dedup(shards: str, out: str, workers: int) -> dict[str, Any]:
    """Sketches and the join, from shards: which rows go as exact or near duplicates."""
    section, gone = DuplicatesSection(), []

    def work() -> None:
        files = shards_of(Path(shards))
        with processes(workers) as pool, progress("sketch", len(files), "shards") as bar:
            measure_shards(sketches_of("conversations", section), Path(shards), Path(out), pool, bar)
            gone.append(_gone(duplicates.gathered(shards_of(Path(out))), section.threshold, workers=pool))

    Path(out).mkdir(parents=True)
    return {**_measure("dedup", work)._asdict(), "gone": gone[0]}


def prepare(curated: str, tokenizer: str, out: str, workers: int) -> dict[str, Any]:
    """Rendering and splitting curated rows."""
    from transformers import AutoTokenizer

    from sft_core.data.prepare import prepare as prepare_data

    data = DataSection.model_validate({**EVERYTHING, "sources": [{"path": "rows.jsonl", "name": "rows"}]})
    Path(out).mkdir(parents=True)
    with processes(workers) as pool:
        return _measure("prepare", lambda: prepare_data(
            data, TemplateSection(name="chatml"), tokenizer=AutoTokenizer.from_pretrained(tokenizer),
            curated=Path(curated), replay=(), eval_items=(), seed=0, mirror=None, out=Path(out), workers=pool)
            )._asdict()


def against(shards: str, rows: int) -> dict[str, Any]:
    """Near duplicates among the same rows by ours and by datasketch, in turn: medians, and how many each takes out.

    All from texts on, with the same shingles and as many permutations; `MinHash.bulk`, then `MinHashLSH`. `legacy` is
    what datasketch did before its version 2.
    """
    section = DuplicatesSection(exact=False)
    some = [one for file in shards_of(Path(shards)) for one in read_shard(file)][:rows]
    ways: dict[str, Callable[[], int]] = {
        "ours": lambda: _gone(duplicates.Gathered([sketch(some, section.words)]), section.threshold, exact=False),
        "datasketch": lambda: _gone_by_datasketch(some, section, "affine32"),
        "datasketch_legacy": lambda: _gone_by_datasketch(some, section, "legacy")}
    took: dict[str, list[float]] = {name: [] for name in ways}
    gone = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            gone[name] = way()
            took[name].append(time.perf_counter() - began)
    seconds = {name: median(each) for name, each in took.items()}
    return {"ratio": seconds["datasketch"] / seconds["ours"], "seconds": seconds, "gone": gone, "rows": len(some)}


DO: dict[str, Callable[..., dict[str, Any]]] = {
    "step": step, "whole": whole, "dedup": dedup, "prepare": prepare, "against": against}


def run(what: str, **arguments: object) -> dict[str, Any]:
    """A measurement in a process of its own.

    Raises:
        SystemExit: it failed; with the end of what it printed.
    """
    done = subprocess.run([sys.executable, "-m", "bench.data_child", json.dumps({"what": what, **arguments})],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} {arguments} failed: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _wanted(root: Path, files: list[str], items: str) -> Wanted:
    sources = [{"path": file, "name": Path(file).stem} for file in files]
    data = DataSection.model_validate({**EVERYTHING, "sources": sources})
    digests = [source_digest(one, scratch=root, mirror=None) for one in data.sources]
    asked = [EvalItem(suite, name, text, tuple(answers), tuple(choices)) for suite, name, text, answers, choices
             in json.loads(Path(items).read_text(encoding="utf-8"))]
    return Wanted(data, 0, digests, len(asked), lambda: asked, root, None)


def _gone(found: duplicates.Gathered, threshold: float, *, exact: bool = True, workers: Workers | None = None) -> int:
    order, alive = np.arange(found.rows), np.ones(found.rows, np.bool_)
    if exact:
        alive &= duplicates.exact(found.keys(), order).of < 0
    near = duplicates.near(found, order, alive, threshold, workers).of >= 0
    return int((near | ~alive).sum())


def _gone_by_datasketch(some: list[Conversation], section: DuplicatesSection, scheme: str) -> int:
    from datasketch import MinHash, MinHashLSH

    length, gone = section.words, 0
    rows = [[word for text in texts(one) for word in words(text)] for one in some]
    shingles = [[" ".join(row[at:at + length]).encode() for at in range(max(1, len(row) - length + 1))] for row in rows]
    index = MinHashLSH(section.threshold, PERMUTATIONS)
    for number, minhash in enumerate(MinHash.bulk(shingles, num_perm=PERMUTATIONS, scheme=scheme)):
        if index.query(minhash):
            gone += 1
        else:
            index.insert(number, minhash)
    return gone


def _measure(name: str, work: Callable[[], object]) -> Measured:
    done, used = Event(), _Used()

    def look() -> None:
        while not done.wait(EVERY_S):
            used.look()

    watching = Thread(target=look)
    began = time.perf_counter()
    watching.start()
    try:
        work()
    finally:
        seconds = time.perf_counter() - began
        done.set()
        watching.join()
    used.look()
    return Measured(name, seconds, used.busy_s(), used.peak / 1e9)


class _Used:
    """What this process and those below it have used so far."""

    def __init__(self) -> None:
        self.peak = 0  # bytes
        self._busy: dict[int, float] = {}  # by process
        self._before = 0.0
        self.look()
        self._before = self.busy_s()

    def look(self) -> None:
        """Sample; processes that ended meanwhile keep what was seen of them."""
        me, total = psutil.Process(), 0
        for one in (me, *me.children(recursive=True)):
            try:
                total += one.memory_full_info().pss
                self._busy[one.pid] = sum(one.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        self.peak = max(self.peak, total)

    def busy_s(self) -> float:
        """Seconds of processor time since the beginning."""
        return sum(self._busy.values()) - self._before


def main() -> None:
    """Command line."""
    arguments = json.loads(sys.argv[1])
    print(json.dumps(DO[arguments.pop("what")](**arguments)))


if __name__ == "__main__":
    main()
