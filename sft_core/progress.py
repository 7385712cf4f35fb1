"""Progress of long stages: a bar with rate and time left on a terminal, and lines for logs."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 10.0
"""At first; then whenever a twentieth of the time so far has passed again, but `LONGEST_SILENCE_S`."""
LINE_EVERY, LONGEST_SILENCE_S = 1 / 20, 120.0
LATELY_S = 60.0
"""How far back the rate looks."""
log = logging.getLogger("sft")
lines = logging.getLogger("sft.progress")
"""Of its own, so that a terminal with a bar can leave out what the log of a flow run takes."""


class Progress(Protocol):
    """What a stage tells about its way."""

    def advance(self, n: float = 1, **fields: object) -> None:
        """n more units are done; fields are shown beside the rate, e.g. `loss=1.23`."""


def _shown(fields: dict[str, object]) -> str:
    return " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in fields.items())


class _Way(NamedTuple):
    total: float
    begun: int  # done before
    unit: str


class _Pace:
    """Units per second lately. The first unit is left out, which pays for what happens once (caches, compiling)."""

    def __init__(self) -> None:
        self.done = 0.0
        self._marks: deque[tuple[float, float]] = deque()

    def advance(self, n: float, now: float) -> None:
        """n more units are done."""
        self.done += n
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[1][0] > LATELY_S:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """None until a second unit is done."""
        (began, before), (ended, after) = self._marks[0], self._marks[-1]
        return (after - before) / (ended - began) if ended > began else None


class _Bar:
    def __init__(self, bar: RichProgress, label: str, way: _Way) -> None:
        self._bar, self._unit, self._pace, self._lines = bar, way.unit, _Pace(), _Lines(label, way)
        self._task = bar.add_task(label, total=way.total, completed=way.begun, rate="", extra="")

    def advance(self, n: float = 1, **fields: object) -> None:
        self._pace.advance(n, time.monotonic())
        rate = self._pace.rate
        shown = "" if rate is None else f"{rate:,.1f} {self._unit}/s"
        self._bar.update(self._task, advance=n, rate=shown, extra=_shown(fields))
        self._lines.advance(n, **fields)


class _Lines:
    def __init__(self, label: str, way: _Way) -> None:
        self._label, self._way = label, way
        self._began = self._said = time.monotonic()
        self._pace = _Pace()

    def advance(self, n: float = 1, **fields: object) -> None:
        now = time.monotonic()
        self._pace.advance(n, now)
        if now - self._said < max(LINE_EVERY_S, min(LINE_EVERY * (now - self._began), LONGEST_SILENCE_S)):
            return
        self._said = now
        total, begun, unit = self._way
        done, rate = begun + self._pace.done, self._pace.rate
        said = "the first one, which says nothing of the others" if rate is None else (
            f"{rate:.1f} {unit}/s, about {(total - done) / rate:.0f} s left")
        shown = "; ".join(filter(None, (said, _shown(fields))))
        lines.info("%s: %g of %g %s, %s", self._label, done, total, unit, shown)


@contextmanager
def progress(label: str, total: float, unit: str, *, begun: int = 0, shown: bool = True) -> Iterator[Progress]:
    """Show the way of a stage that has `total` units to do, `begun` of which are done already; `unit` names them, e.g.
    `steps`.

    `shown` is false in processes that do the same work as another one: a terminal has room for one bar.
    """
    way = _Way(total, begun, unit)
    if shown and begun:
        log.info("%s: continuing after %g of %g %s", label, begun, total, unit)
    if not (shown and sys.stderr.isatty()):
        yield _Lines(label, way)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn(unit),
               TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
               TextColumn("{task.fields[extra]}"))
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, label, way)
