"""Forked children end as other processes do, and compute as other processes do."""

import atexit
import os
import threading
from pathlib import Path

import pytest
import torch

from infra.children import Forked

TRIES = 40  # two must ask for the pool in the same moment: of 40 children a few failed


def ended(child: Forked) -> int:
    while (code := child.poll()) is None:
        pass
    return code


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_to_be_done_at_the_end_is_done(tmp_path: Path, fails: bool) -> None:
    """Prefect sends the last two seconds of a flow run's log at the end of the threads, MLflow its queues at exit."""
    def work() -> int:
        threading._register_atexit(lambda: os.write(1, b"last lines of the log\n"))  # type: ignore[attr-defined]
        atexit.register(lambda: os.write(1, b"files closed\n"))
        return 1 // (not fails)

    atexit.register(said := lambda: os.write(1, b"the parent's own\n"))
    child = Forked(work, tmp_path / "output", {})
    atexit.unregister(said)
    assert ended(child) == 1
    assert (tmp_path / "output").read_text() == "last lines of the log\nfiles closed\n"


def test_its_threads_may_compute_at_once(tmp_path: Path) -> None:
    """transformers loads weights in threads; those of a child found no pool where its parent had computed."""
    torch.ones(10**5).exp()

    def work() -> int:
        meet, faults = threading.Barrier(8), list[Exception]()

        def compute() -> None:
            meet.wait()
            try:
                torch.ones(10**5).exp().to(torch.float64)
            except RuntimeError as error:
                faults.append(error)

        threads = [threading.Thread(target=compute) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(faults)

    assert {ended(Forked(work, tmp_path / "output", {})) for _ in range(TRIES)} == {0}
