"""The parent's side of a child process of the bench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.train_spec import Spec

ROOT = Path(__file__).resolve().parent.parent


class BenchError(Exception):
    """A child process ended early."""


class Child:
    """A process that holds one engine, ready to make steps when told to; it sleeps in between."""

    def __init__(self, specs: Sequence[Spec], threads: int) -> None:
        self.spec, self._log = specs[0], specs[0].out.with_suffix(".log")
        specs[0].out.mkdir(parents=True, exist_ok=True)
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads),
                 "MKL_NUM_THREADS": str(threads)}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.train_child", *(spec.to_json() for spec in specs)], cwd=ROOT, stderr=log,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **quiet})
        self._ready = False

    def wait_until_ready(self) -> None:
        """The process has loaded everything and sleeps."""
        if not self._ready:
            self._answer()
            self._ready = True

    def run(self, steps: int, which: int = 0, order: str = "run") -> dict[str, Any]:
        """Make steps and return `steps` (seconds, cpu_seconds, loss, tokens, trained_tokens of each), `peak_bytes`."""
        self.wait_until_ready()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order} {steps} {which}\n")
        self._process.stdin.flush()
        return self._answer()

    def quit(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text().strip().splitlines()[-15:]
            raise BenchError(f"{self.spec.name} ended early:\n" + "\n".join(tail))
        answer: dict[str, Any] = json.loads(line)
        return answer


class Timed(NamedTuple):
    """Steps of one configuration."""

    spec: Spec
    steps: list[dict[str, Any]]
    peak_bytes: int
    first_loss: float  # of the untimed step before: equal for equal rows, whatever the engine

    @property
    def rate(self) -> float:
        """Trained tokens per second, the median over the steps."""
        return median(s["trained_tokens"] / s["seconds"] for s in self.steps)

    @property
    def cpu_rate(self) -> float:
        """Trained tokens per CPU second, the median: with one thread what a machine does that nobody shares."""
        return median(s["trained_tokens"] / s["cpu_seconds"] for s in self.steps)

    @property
    def seconds(self) -> float:
        """Seconds of a step, the median."""
        return median(s["seconds"] for s in self.steps)


def alternate(children: Sequence[Child], rounds: int, which: Sequence[int] = ()) -> list[Timed]:
    """One step of each in turn, so many rounds, after one step of each that is not counted but kept as the first."""
    for child in children:  # nobody works while another is timed
        child.wait_until_ready()
    turns = list(zip(children, which or [0] * len(children), strict=True))
    steps: list[list[dict[str, Any]]] = [[] for _ in turns]
    peaks = [0] * len(turns)
    for _ in range(rounds + 1):
        for at, (child, number) in enumerate(turns):
            answer = child.run(1, number)
            steps[at] += answer["steps"]
            peaks[at] = answer["peak_bytes"]
    return [Timed(child.spec, made[1:], peak, made[0]["loss"])
            for (child, _), made, peak in zip(turns, steps, peaks, strict=True)]
