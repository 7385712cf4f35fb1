"""Progress of long stages: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 10.0
log = logging.getLogger("sft")


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


class _Bar:
    def __init__(self, bar: RichProgress, label: str, way: _Way) -> None:
        self._bar, self._unit = bar, way.unit
        self._started, self._done = time.monotonic(), 0.0
        self._task = bar.add_task(label, total=way.total, completed=way.begun, rate="", extra="")

    def advance(self, n: float = 1, **fields: object) -> None:
        self._done += n
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        self._bar.update(self._task, advance=n, rate=f"{rate:,.1f} {self._unit}/s", extra=_shown(fields))


class _Lines:
    def __init__(self, label: str, way: _Way) -> None:
        self._label, self._way = label, way
        self._started = self._said = time.monotonic()
        self._done = 0.0

    def advance(self, n: float = 1, **fields: object) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._said < LINE_EVERY_S:
            return
        self._said = now
        rate = self._done / (now - self._started)
        total, begun, unit = self._way
        left = (total - begun - self._done) / rate
        log.info("%s: %g of %g %s, %.1f %s/s, about %.0f s left %s", self._label, begun + self._done, total, unit, rate,
                 unit, left, _shown(fields))


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
