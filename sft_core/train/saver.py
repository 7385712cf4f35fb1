"""Writes checkpoints and best weights while training goes on: copies in main memory, and one thread that writes them.

A step waits for the copies alone. One write at most is in flight; what comes next waits for it. The copies lie in the
same memory every time, locked for transfers where the tensors come from a GPU. Where main memory has no room for them,
training waits for the writing instead.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent import futures
from contextlib import suppress
from types import TracebackType

import torch
from torch import Tensor
from torch.cuda._pin_memory_utils import pin_memory, unpin_memory

from sft_core.model.room import free_bytes
from sft_core.train import pulse
from sft_core.train.events import EventLog
from sft_core.train.memory import in_words

HELD_UP, WRITING = 0.05, 0.5
"""Shares of the time that checkpoints may hold training up for, and that they may be written in."""
AT_ANY_PRICE_S = 1.0
"""Who wants checkpoints more often than this gets them, whatever they cost."""
ROOM = 0.8
"""Share of free main memory that the copies may take."""
log = logging.getLogger("sft")


class Copies:
    """Tensors as they are now, in main memory: valid until the next call for the same name."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._waits = False

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """A copy; of a tensor on a GPU only after `ready`."""
        kept = self._kept.get(name)
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            kept = self._kept[name] = _memory(tensor)
        self._waits |= tensor.is_cuda
        return kept.copy_(tensor, non_blocking=True)

    def ready(self) -> None:
        """Wait for copies from the GPU."""
        if self._waits:
            torch.cuda.current_stream().synchronize()


def _memory(tensor: Tensor) -> Tensor:
    made = torch.empty(tensor.shape, dtype=tensor.dtype)
    if tensor.is_cuda and made.numel():
        # Torch's allocator of pinned memory would round up to a power of two. Without it a copy is slower, not wrong.
        with suppress(RuntimeError):
            pin_memory(made.data_ptr(), made.numel() * made.element_size())
            weakref.finalize(made, unpin_memory, made.data_ptr())
    return made


class Saver:
    """Decides when a checkpoint is due, and writes one after the other in the order in which they were begun."""

    def __init__(self, events: EventLog, every_s: float) -> None:
        self.events, self._every_s = events, every_s
        self._thread = futures.ThreadPoolExecutor(1, "saver")
        self._writing: futures.Future[float] | None = None
        self._step: int | None = None  # of the checkpoint in flight; None for best weights
        self._began = time.monotonic()  # the last checkpoint
        self._held_up_s = self._written_s = 0.0
        self._warned = False
        self._copies: Copies | None = None
        self._room: bool | None = None  # not known before the first save

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Also a run that fails keeps the checkpoint that is being written."""
        if self._writing is not None:
            pulse.at("writing a checkpoint", long=True)
        if error is None:
            self.wait()
        else:
            with suppress(Exception):  # the first error is the one to be told
                self.wait()
        self._thread.shutdown()

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._began >= max(self._every_s, self._pause_s())

    def copies(self, tensors: Iterable[Tensor]) -> Copies | None:
        """Where to copy what is to be written, once nothing is in flight; None where main memory has no room for it.

        Args:
            tensors: all that a checkpoint holds; looked at in the first call.

        Raises:
            TrainingError: what was in flight could not be written.
        """
        self.wait()
        if self._room is None:
            self._room = _has_room(sum(t.numel() * t.element_size() for t in tensors))
            self._copies = Copies() if self._room else None
        return self._copies

    def save(self, step: int, began: float, write: Callable[[], object]) -> None:
        """Write the checkpoint of a step from `copies`; the diary tells of it when it is there.

        Args:
            began: when training began to wait for it (time.monotonic).
        """
        self._step, self._began = step, began
        self._ready()
        self._held_up_s = time.monotonic() - began
        self._begin(write)
        if self._copies is None:
            self._held_up_s = time.monotonic() - began

    def save_best(self, write: Callable[[], object]) -> None:
        """Write the best weights from `copies`."""
        self._step = None
        self._ready()
        self._begin(write)

    def _ready(self) -> None:
        if self._copies is not None:
            self._copies.ready()

    def _begin(self, write: Callable[[], object]) -> None:
        self._writing = self._thread.submit(_timed, write)
        if self._copies is None:
            futures.wait([self._writing])

    def look(self) -> None:
        """Tell the diary of a checkpoint that has been written.

        Raises:
            TrainingError: it could not be.
        """
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """`look`, when what is in flight has been written."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        seconds = writing.result()
        if self._step is not None:
            self._written_s = seconds
            self.events.write("checkpoint", step=self._step, held_up_s=round(self._held_up_s, 3),
                               written_s=round(seconds, 3))
            self._warn()

    def _pause_s(self) -> float:
        """Seconds from one checkpoint to the next that their cost asks for."""
        if self._every_s < AT_ANY_PRICE_S:
            return 0.0
        written_s = self._written_s if self._writing is None else time.monotonic() - self._began
        return max(self._held_up_s / HELD_UP, written_s / WRITING)

    def _warn(self) -> None:
        pause_s = self._pause_s()
        shown = f"{pause_s:.{0 if pause_s >= 10 else 1}f}"
        if not self._warned and float(shown) > self._every_s:  # else both would read the same
            self._warned = True
            log.warning("a checkpoint holds training up for %.1f s and takes %.1f s to write, so the next one comes "
                        "after %s s, not after train.checkpoint_every_s: %g. They are to hold it up for at most "
                        "%.0f %% of the time, and to be written in at most %.0f %% of it", self._held_up_s,
                        self._written_s, shown, self._every_s, 100 * HELD_UP, 100 * WRITING)


def _timed(write: Callable[[], object]) -> float:
    began = time.monotonic()
    write()
    return time.monotonic() - began


def _has_room(need: int) -> bool:
    """Whether main memory has room for so many bytes; said where it has none."""
    free = free_bytes(torch.device("cpu"))
    if need > ROOM * free:
        log.warning("main memory has %s free and copies of the training state would take %s: training waits while "
                    "checkpoints are written", in_words(free), in_words(need))
    return need <= ROOM * free
