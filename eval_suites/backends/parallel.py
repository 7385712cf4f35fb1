"""Requests side by side in threads; a signal ends the wait for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Thread
from typing import TypeVar

from sft_core.stopping import POLL_S, check

Thing = TypeVar("Thing")
Made = TypeVar("Made")


def as_they_end(work: Callable[[Thing], Made], things: Sequence[Thing], parallel: int) -> Iterator[tuple[int, Made]]:
    """(place of the thing, what `work` made of it), `parallel` under way at a time, each as soon as it is there.

    Raises:
        Interrupted: a signal asked to stop; nothing more is begun, and what is under way is left to itself.
    """
    places: dict[Future[Made], int] = {Future(): place for place in range(len(things))}
    left = deque(zip(places, things, strict=True))
    for _ in range(min(parallel, len(things))):
        # Python waits at its end for the threads of a ThreadPoolExecutor: for a server that takes a minute, a minute.
        Thread(target=_work, args=(work, left), daemon=True).start()
    try:
        while places:
            check()
            for done in wait(places, POLL_S, FIRST_COMPLETED).done:
                yield places.pop(done), done.result()
    finally:
        left.clear()


def _work(work: Callable[[Thing], Made], left: deque[tuple[Future[Made], Thing]]) -> None:
    """Take one after the other for as long as there are any."""
    while left:
        try:
            future, thing = left.popleft()
        except IndexError:  # another thread took the last one
            return
        try:
            future.set_result(work(thing))
        except BaseException as error:  # noqa: BLE001  (whoever waits for the result gets it)
            future.set_exception(error)
