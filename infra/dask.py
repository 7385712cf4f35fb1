"""The only door to Dask: shards of data on a cluster, local or elsewhere, through Prefect's own runner for it.

Results come in the order of the shards, as from `sft_core/data/workers.py`, whose contract this keeps; so nothing hangs
on how many computed them. What a worker computes it writes to the workspace, which all must see under the same path.
A worker that is lost has its shards computed again by others: Dask sees to that.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sft_core.errors import ConfigError, DataError, OrchestrationError
from sft_core.masking import masked
from sft_core.stopping import POLL_S, check

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger("sft")
LOCAL = "local:"
"""In front of a number of processes on this machine."""
ALONE_S = 60.0
"""How long a cluster without a worker is waited for."""
_AHEAD = 2
"""Shards a worker that are handed out before the first is done."""
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


def check_cluster(address: str) -> str:
    """The address of a scheduler, or `local:N`.

    Raises:
        ConfigError: it is neither.
    """
    local = address.removeprefix(LOCAL)
    if local != address and local.isdecimal() and int(local) > 0 or address.startswith(("tcp://", "tls://", "ws://")):
        return address
    raise ConfigError(f"SFT_DASK={masked(address)} is no Dask cluster; set it to the address of a scheduler "
                      "(tcp://host:8786) or local:2 for two processes of this machine, or unset it")


class Cluster:
    """The workers of a Dask cluster.

    Args:
        client: connected to it.
        name: as people know it.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name

    def map(self, function: Callable[[I], O], items: Sequence[I]) -> Iterator[O]:
        """`function` of every item, in their order. An error ends it; items that were not begun are not computed.

        Raises:
            DataError: one item ended several workers, no worker is left, or the scheduler is gone.
        """
        self._wait()
        job = self._client.submit(_travelled, pickle.dumps(function), pure=False)
        waiting: deque[Future] = deque()
        try:
            for item in items:
                waiting.append(self._client.submit(_called, job, item, pure=False))
                if len(waiting) >= _AHEAD * max(1, len(self._client.nthreads())):
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            self._client.cancel([job, *waiting])

    def everywhere(self, function: Callable[[], Any]) -> Mapping[str, Any]:
        """`function` on each worker that is there now, by its address."""
        self._wait()
        found: Mapping[str, Any] = self._client.run(function)
        return found

    def _result(self, future: Future) -> Any:
        from distributed import CancelledError, KilledWorker

        while True:
            try:
                return future.result(POLL_S)
            except TimeoutError:
                if future.done():  # just now, or the function itself raised it
                    return future.result()
                check()
                self._wait()
            except KilledWorker as error:
                raise DataError(f"a shard ended several workers of the Dask cluster {self._name} ({error}), mostly "
                                "for want of memory: give them more, and run again; finished shards are kept"
                                ) from error
            except (CancelledError, OSError) as error:
                raise self._gone(error) from error

    def _wait(self) -> None:
        """Wait for a worker where there is none."""
        until = time.monotonic() + ALONE_S
        try:
            while not self._client.nthreads():
                check()
                if time.monotonic() > until:
                    raise DataError(f"the Dask cluster {self._name} has had no worker for {ALONE_S:.0f} s; start some "
                                    f"(`dask worker {self._name}`), and run again; finished shards are kept")
                time.sleep(POLL_S)
        except OSError as error:
            raise self._gone(error) from error

    def _gone(self, error: BaseException) -> DataError:
        return DataError(f"the scheduler of the Dask cluster {self._name} is gone ({type(error).__name__}); look at "
                         "its log, start it again, and run again; finished shards are kept")


@contextmanager
def cluster(address: str) -> Iterator[Cluster]:
    """The cluster at an address; `local:N` is started, and ends with this.

    Raises:
        OrchestrationError: the extra is not installed, or nothing answers there.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise OrchestrationError("SFT_DASK names a cluster, which needs the package prefect-dask; install it with "
                                 "`pip install 'sft-platform[dask]'`, or unset it") from error
    local = {"n_workers": int(address.removeprefix(LOCAL)), "threads_per_worker": 1, "processes": True,
             "dashboard_address": "127.0.0.1:0"} if address.startswith(LOCAL) else None
    with DaskTaskRunner(cluster_kwargs=local) if local else DaskTaskRunner(address=address) as runner:
        try:
            client = runner.client
        except OSError as error:
            raise OrchestrationError(f"no Dask scheduler answers at {masked(address)} ({error}); start one "
                                     "(`dask scheduler`), or unset SFT_DASK") from error
        yield Cluster(client, masked(address))


def refuse_others(workers: Cluster, folder: Path, code: Callable[[], str]) -> None:
    """Raises OrchestrationError where a worker does not see a folder, or has other code: its results would be kept as
    if they were ours."""
    here = code()
    for address, (sees, there) in workers.everywhere(_Look(folder, code)).items():
        if not sees:
            raise OrchestrationError(f"the Dask worker {address} does not see {folder}; SFT_HOME must be on storage "
                                     "that all workers mount under the same path")
        if there != here:
            raise OrchestrationError(f"the Dask worker {address} has other code than this process; install the same "
                                     "version of sft-platform there, and start it again")


class _Look:
    """What a worker has; a class, as it travels."""

    def __init__(self, folder: Path, code: Callable[[], str]) -> None:
        self._folder, self._code = folder, code

    def __call__(self) -> tuple[bool, str]:
        return self._folder.is_dir(), self._code()


def _travelled(job: bytes) -> bytes:
    return job


@lru_cache(maxsize=4)
def _loaded(job: bytes) -> Callable[[Any], Any]:
    found: Callable[[Any], Any] = pickle.loads(job)
    return found


def _called(job: bytes, item: Any) -> Any:
    return _loaded(job)(item)
