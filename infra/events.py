"""Reads `events.jsonl`, the file that training writes first, as metric points from where the last reading stopped.

The mark remembers the byte offset, the line before it and the last step sent of every metric. Training that was
killed cuts the file back to its checkpoint and writes the lost steps again: the line before the mark is then another
one, the file is read from its start, and steps that were sent before are not sent twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, NamedTuple

log = logging.getLogger(__name__)

PREFIX = {"step": "train/", "validation": "validation/", "probe": "validation/probe.", "saved": "validation/saved.",
          "system": "system/"}
"""Which events carry metrics, and what stands before their names: the group that a tracker shows them in."""
NOT_METRICS = {"step", "time"}
BATCH_POINTS = 900
"""Points that are sent in one call; MLflow takes at most 1000."""


class Point(NamedTuple):
    """One value of one metric. The time is the event's own, so that sending a point twice makes the same point."""

    key: str
    value: float
    time_ms: int
    step: int


class Standing(NamedTuple):
    """How far one run has come in the store; `steps`: the last step of every metric, by the store's names."""

    status: str
    steps: Mapping[str, int]


@dataclass(frozen=True)
class Mark:
    """How far a file was sent to one run."""

    run_id: str
    offset: int = 0
    line_bytes: int = 0
    line_hash: str = ""
    steps: dict[str, int] = field(default_factory=dict)


def load_mark(path: Path, run_id: str) -> Mark:
    """The mark in a file; a missing, torn or foreign one (of another run) means: from the start."""
    try:
        mark = Mark(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Mark(run_id)
    return mark if mark.run_id == run_id else Mark(run_id)


def save_mark(path: Path, mark: Mark) -> None:
    """Write the mark atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(json.dumps(asdict(mark)), encoding="utf-8")
    new.replace(path)


def batches(events: Path, mark: Mark) -> Iterator[tuple[list[Point], Mark]]:
    """Points of the complete lines after the mark, in file order, each batch with the mark that follows it.

    A last line without its line break is still being written: it waits. No file: nothing.
    """
    try:
        stream = events.open("rb")
    except FileNotFoundError:
        return
    with stream:
        mark = _checked(stream, mark)
        stream.seek(mark.offset)
        points: list[Point] = []
        steps, offset = dict(mark.steps), mark.offset
        for line in stream:
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            fresh = [p for p in _points(line) if p.step > steps.get(p.key, -1)]
            steps.update((p.key, p.step) for p in fresh)
            points += fresh
            mark = replace(mark, offset=offset, line_bytes=len(line), line_hash=_digest(line))
            if len(points) >= BATCH_POINTS:
                yield points, replace(mark, steps=dict(steps))
                points = []
        if points:
            yield points, replace(mark, steps=steps)


def _checked(stream: IO[bytes], mark: Mark) -> Mark:
    """The mark, or the start of the file (steps kept) when the line before the mark is not the one that was read."""
    stream.seek(mark.offset - mark.line_bytes)
    same = _digest(stream.read(mark.line_bytes)) == mark.line_hash
    return mark if same or not mark.offset else replace(mark, offset=0, line_bytes=0, line_hash="")


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def _points(line: bytes) -> list[Point]:
    try:
        event = json.loads(line)
    except ValueError:
        log.warning("events: a line is not JSON and was left out: %r", line[:80])
        return []
    prefix = PREFIX.get(str(event.get("event"))) if isinstance(event, Mapping) else None
    if prefix is None:
        return []
    time_ms = int(float(event.get("time", 0)) * 1000)
    return [
        Point(f"{prefix}{key}", float(value), time_ms, int(event["step"]))
        for key, value in event.items()
        if key not in NOT_METRICS and isinstance(value, int | float) and not isinstance(value, bool)
    ]
