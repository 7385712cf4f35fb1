"""The workers of a sweep that one command starts on this machine; a killed one is replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from infra.children import GRACE_S, end_all, end_with_parent, last_line
from infra.orchestrator import api_url
from infra.settings import child_environment, threads_environment

REPLACED = 5
"""How many killed workers are replaced: what kills them, such as a lack of memory, may do so for ever."""


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    output: Path


class Crew:
    """Workers of one sweep, as long as the block runs; they end with this process."""

    def __init__(self, study: str, storage: str | None, workers: int, folder: Path, trials: int | None = None) -> None:
        """Nothing is started yet; `trials`: how many each worker runs at most."""
        self._command = ["sweep-worker", study, *(["--storage", storage] if storage else []),
                         *(["--trials", str(trials)] if trials else [])]
        self._wanted, self._folder, self._replaced = workers, folder, 0
        self._all: list[_Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        if kind is None:  # all trials are over, and the workers are about to see it
            for worker in self._all:
                worker.process.wait()
        else:
            end_all((worker.process for worker in self._all), 2 * GRACE_S)  # trials have their own time to save

    def at_work(self) -> int:
        """How many are there. They are started at the first call; later ones replace those that were killed."""
        self._all = self._all or [self._start(number) for number in range(self._wanted)]
        for number, worker in enumerate(self._all):
            if (worker.process.poll() or 0) < 0 and self._replaced < REPLACED:
                self._replaced += 1
                self._all[number] = self._start(number)
        return sum(worker.process.poll() is None for worker in self._all)

    def last_words(self) -> str:
        """What the first of those that failed said last, and where it said more; empty where none failed."""
        for worker in self._all:
            if worker.process.poll():
                return (f"exit code {worker.process.returncode}: {last_line(worker.output) or 'nothing'}; see "
                        f"{worker.output}")
        return ""

    def _start(self, number: int) -> _Worker:
        output = self._folder / f"worker-{number}.log"
        environment = child_environment({"PREFECT_API_URL": api_url(), **threads_environment(self._wanted)})
        with output.open("ab") as stream:
            process = subprocess.Popen([sys.executable, "-m", "flows.cli", *self._command], stdin=subprocess.DEVNULL,
                                       stdout=stream, stderr=stream, env=environment, start_new_session=True,
                                       preexec_fn=end_with_parent())
        return _Worker(process, output)
