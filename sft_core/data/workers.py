"""The same function over many shards: in this process, or shared out among several on this machine.

Results come in the order of the shards, so that nothing hangs on how many computed them. What computes must pickle: a
function of a module, or `functools.partial` of one.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import Any, Protocol, TypeVar

from sft_core.errors import DataError
from sft_core.stopping import POLL_S, check

LEAST_SHARDS = 4
"""With fewer, starting processes takes longer than they save."""
_AHEAD = 2
"""Shards a process that are handed out before the first is done."""
_PR_SET_PDEATHSIG = 1
_server_of: int | None = None  # the process whose fork server this module knows
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class Workers(Protocol):
    """Whoever computes."""

    def map(self, function: Callable[[I], O], items: Sequence[I]) -> Iterator[O]:
        """`function` of every item, in their order. An error ends it; items that were not begun are not computed."""


class InProcess:
    """One after the other, here."""

    def map(self, function: Callable[[I], O], items: Sequence[I]) -> Iterator[O]:
        """See `Workers`."""
        for item in items:
            check()
            yield function(item)


class Processes:
    """Several processes, started when the first call has shards enough, and ended by `close`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[I], O], items: Sequence[I]) -> Iterator[O]:
        """See `Workers`.

        Raises:
            DataError: a process ended by itself, which mostly means that memory ran out.
        """
        if self._count < 2 or len(items) < LEAST_SHARDS:
            yield from InProcess().map(function, items)
            return
        pool = self._started()
        waiting: deque[Future[Any]] = deque()
        try:
            with _in_file(function) as job:
                for item in items:
                    with _without_main():
                        waiting.append(pool.submit(_called, job, item))
                    if len(waiting) >= _AHEAD * self._count:
                        yield _result(waiting.popleft())
                while waiting:
                    yield _result(waiting.popleft())
        except BrokenProcessPool as error:
            raise DataError(f"one of {self._count} processes that work on the data is gone ({error}); the kernel ends "
                            "one when memory runs out (`dmesg` says so): set data.processes to a smaller number, and "
                            "run again; finished shards are kept") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes, in the middle of a shard too."""
        if self._pool is not None:
            running = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            self._pool = None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._count, _context(), _begin)
        return self._pool


@contextmanager
def processes(count: int | None) -> Iterator[Workers]:
    """So many processes, by default one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = Processes(count or cores)
    try:
        yield workers
    finally:
        workers.close()


def drain(results: Iterable[object]) -> None:
    """Compute all, whatever comes of it."""
    deque(results, maxlen=0)


def _context() -> BaseContext:
    """Processes are forked by a server: a fork of this process would take its locks along. One that was forked itself
    cannot ask the server of its parent, whose end it cannot wait for; there each process begins anew."""
    global _server_of
    _server_of = _server_of or os.getpid()
    context = multiprocessing.get_context("forkserver" if _server_of == os.getpid() else "spawn")
    context.set_forkserver_preload(["sft_core.data.curate.measure"])
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """A process that is started meanwhile does not import the main module of this one, which of a run on a server is
    all of Prefect; what it computes stands in other modules."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _result(future: Future[O]) -> O:
    while True:
        try:
            return future.result(POLL_S)
        except NotYet:
            if future.done():  # just now, or the function itself raised it
                return future.result()
            check()


def _begin() -> None:
    """Ends with the process that has started it; Ctrl-C is that one's to heed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _in_file(function: Callable[..., Any]) -> Iterator[str]:
    """The path of a function that each process reads once: an index of evaluation items is too large for every call.
    """
    with tempfile.NamedTemporaryFile(prefix="sft-job-") as file:
        pickle.dump(function, file)
        file.flush()
        yield file.name


@lru_cache(maxsize=4)
def _loaded(job: str) -> Callable[[Any], Any]:
    with open(job, "rb") as stream:
        found: Callable[[Any], Any] = pickle.load(stream)
    return found


def _called(job: str, item: Any) -> Any:
    return _loaded(job)(item)
