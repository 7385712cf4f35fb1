"""The diary of a training run: one JSON object a line, written before anybody is told (write-ahead).

Trackers follow the file; nothing else is handed to them. After a resume the file is first cut back to the length that
it had at the checkpoint, and `on_events` is called before the next line is written, so that a follower that keeps an
offset sees a file shorter than its offset and can move it back.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

from sft_core.errors import TrainingError

EVENTS = "events.jsonl"  # beside the folder of checkpoints
Kind = Literal["start", "resume", "step", "validation", "probe", "system", "checkpoint", "saved", "end"]


class EventLog:
    """Appends events to a file and tells `on_events` about it, at most every `every_s` seconds and on `close`."""

    def __init__(self, path: Path, on_events: Callable[[Path], None] | None, every_s: float) -> None:
        self._path, self._tell, self._every_s = path, on_events, every_s
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
        self._told = time.monotonic()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.tell()
        with _writing(self._path):
            self._file.close()

    def write(self, event: Kind, **fields: object) -> None:
        """One line; `time` (seconds since 1970) is added. A killed process loses nothing that was written.

        Raises:
            TrainingError: the file cannot be written.
        """
        line = json.dumps({"event": event, **fields, "time": round(time.time(), 3)}, allow_nan=False)
        with _writing(self._path):
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        if time.monotonic() - self._told >= self._every_s:
            self.tell()

    def tell(self) -> None:
        """Let the follower look at the file now."""
        self._told = time.monotonic()
        if self._tell is not None:
            self._tell(self._path)

    def length(self) -> int:
        """Bytes written so far, safe on disk."""
        with _writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size

    def cut(self, length: int) -> None:
        """Forget everything after the first `length` bytes."""
        with _writing(self._path):
            longer = os.fstat(self._file.fileno()).st_size > length
            if longer:
                self._file.truncate(length)
        if longer:
            self.tell()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(f"the events of the training run cannot be written to {path}: {error}; see that the disk "
                            "is there and the folder may be written, and give the same command again: it continues "
                            "from its last checkpoint") from error
