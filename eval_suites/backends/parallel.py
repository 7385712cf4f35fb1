"""Requests side by side in threads; a signal ends the wait for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

from sft_core.stopping import POLL_S, check

Thing = TypeVar("Thing")
Made = TypeVar("Made")


def as_they_end(work: Callable[[Thing], Made], things: Sequence[Thing], parallel: int) -> Iterator[tuple[int, Made]]:
    """(place of the thing, what `work` made of it), `parallel` under way at a time, each as soon as it is there.

    Raises:
        Interrupted: a signal asked to stop; nothing more is begun.
    """
    pool = ThreadPoolExecutor(parallel)
    running = {pool.submit(work, thing): place for place, thing in enumerate(things)}
    try:
        while running:
            check()
            for done in wait(running, POLL_S, FIRST_COMPLETED).done:
                yield running.pop(done), done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
