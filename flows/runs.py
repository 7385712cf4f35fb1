"""`sft runs`: the runs of this workspace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from flows import console
from infra.settings import Settings
from sft_core.errors import ConfigError
from tasks.columns import Columns, condition
from tasks.listing import Listed, listed_runs
from tasks.stages import Workspace

SPARED = ("saving", "model", "steps", "training", "sweep")
"""Columns that a narrow terminal does without, the first one first."""


class Order(NamedTuple):
    """Which runs, in which order, with which columns beside their names."""

    sort: str | None = None
    reverse: bool = False
    where: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """The columns that are named somewhere, in order."""
        sort = (self.sort,) if self.sort else ()
        return tuple(dict.fromkeys((*self.columns, *sort, *(condition(one).column for one in self.where))))


LATEST = Order()


def show_runs(settings: Settings, last: int, sweep: str | None = None, order: Order = LATEST, *, as_json: bool) -> None:
    """Print the latest runs, or trials of a sweep, as a table or as JSON.

    Raises:
        ConfigError: no run here is a trial of that sweep, no run has a column, or a condition is none.
    """
    place = Workspace(settings.workspace, settings.mirror)
    every = listed_runs(place)
    found, columns = _of_sweep(every, sweep, settings), Columns(every)
    columns.check(order.asked)
    wanted = [condition(one) for one in order.where]
    found = [run for run in found if all(one.holds(columns.of(run).get(one.column)) for one in wanted)]
    if order.sort:
        found = columns.sorted(found, order.sort, reverse=order.reverse)
    elif order.reverse:
        found = found[::-1]
    if as_json:
        print(json.dumps([{**one._asdict(), "config": str(one.config), **(
            {"columns": {name: columns.of(one).get(name) for name in order.asked}} if order.asked else {})}
            for one in found[:last]], indent=2))
        return
    _print(found, last, order, columns, (settings, len(every)))


def _of_sweep(runs: list[Listed], sweep: str | None, settings: Settings) -> list[Listed]:
    if sweep is None:
        return runs
    there = sorted({one.sweep for one in runs} - {""})
    if sweep not in there:
        raise ConfigError(f"no run in {settings.workspace} is a trial of the sweep {sweep}; there are trials of "
                          f"{', '.join(there) or 'none'}")
    return [one for one in runs if one.sweep == sweep]


def _print(found: Sequence[Listed], last: int, order: Order, columns: Columns, of: tuple[Settings, int]) -> None:
    settings, every = of
    rows = [{"run": one.name, **{name: _shown(columns.of(one).get(name)) for name in order.columns}}
            if order.columns else
            {**one.row(), **{name: _shown(columns.of(one).get(name)) for name in order.asked if name not in one.row()}}
            for one in found[:last]]
    spared = () if order.columns else _spare(rows)
    console.table(f"Runs in {settings.workspace}", rows)
    if not every:
        console.lines(f"there is no run in {settings.workspace} yet; sft run flows/configs/demo.yaml makes one")
    elif not found:
        console.lines(f"none of the {every} runs in {settings.workspace} is like that; sft runs lists all")
    if spared:
        console.lines(f"left out, as the terminal is narrow: {', '.join(spared)}; --columns shows what it names")
    if len(found) > last:
        which = "stand first" if order.sort else "changed last"
        console.lines(f"the {last} of {len(found)} that {which}; --last shows more")
    for one in found[:last]:
        if one.state == "stopped":
            how = f"sft sweep-worker {one.sweep}" if one.sweep else f"sft run {one.config}"
            console.lines(f"continue {one.name}: {how}")


def _spare(rows: list[dict[str, object]]) -> list[str]:
    """Take out of the rows columns in which nothing stands, and then what a narrow terminal has no room for, which is
    returned."""
    for name in [name for name in (rows[0] if rows else ()) if all(row[name] in ("", None) for row in rows)]:
        for row in rows:
            del row[name]
    left_out = []
    for name in SPARED:
        if console.fits(rows):
            break
        if rows and name in rows[0]:
            left_out.append(name)
            for row in rows:
                del row[name]
    return left_out


def _shown(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value
