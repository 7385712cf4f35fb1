"""The front of a sweep from the recorded results of its trials, and what its table says of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from eval_suites.front.differences import difference
from eval_suites.front.front import Front, Placed, front
from eval_suites.front.points import Objectives, Point, Terms
from eval_suites.statistics.intervals import Interval
from infra.contract import Tracker, TrialRow
from sft_core.config.evaluate import GateSection
from sft_core.config.experiment import SearchSection
from sft_core.errors import EvalError, TrackingError
from sft_core.stage import write_json
from tasks.runs import Recorded, find
from tasks.stages import Workspace

log = logging.getLogger("sft")


def front_of(rows: Sequence[TrialRow], search: SearchSection, gate: GateSection, place: Workspace,
             tracker: Tracker) -> Front | None:
    """All trials with results and the base, compared item by item; None where none has any.

    A trial that took over another's values is that one's point. Whose results cannot be had is told in the log.
    """
    what, points = Objectives(search.alignment, search.capability), list[Point]()
    for row in {row.notes.get("run", ""): row for row in reversed(rows) if row.values}.values():
        with suppress(EvalError, TrackingError):
            run = _recorded(row, place, tracker)
            base = Point("base", (run.results("base"),), "base")
            point = Point(str(row.number), (run.results(),))
            difference(points[0] if points else base, point, what)
            points += [point] if points else [base, point]
            continue
        log.warning("trial %d has no results here that can be compared item by item, so nothing is proved of it; it is "
                    "in the table with its values", row.number)
    return front(points, what, Terms(gate.alpha, search.tolerance)) if points else None


def texts(found: Front | None, rows: Sequence[TrialRow]) -> dict[str, Mapping[str, str]]:
    """What the table says: number of a trial, or base → column → text."""
    if found is None:
        return {}
    cells = {one.name: _cells(one) for one in found.points}
    own = {row.notes.get("run", ""): str(row.number) for row in reversed(rows) if row.values}
    return {"base": cells["base"]} | {str(row.number): cells[first] for row in rows if row.values
                                  and (first := own[row.notes.get("run", "")]) in cells}


def measured(one: Placed) -> dict[str, float]:
    """What the run of a trial is given as metrics, in points."""
    ends = {"alignment": one.alignment, "tax": one.tax}
    return {"front_chance": one.chance} | {f"{name}_{end}": value for name, found in ends.items() if found
                                           for end, value in (("low", found.low), ("high", found.high))}


def keep(folder: Path, study: str, table: Sequence[Mapping[str, str]]) -> Path:
    """Write the table into the sweep's folder."""
    write_json(folder / "front.json", {"study": study, "rows": list(table)})
    return folder / "front.json"


def _recorded(row: TrialRow, place: Workspace, tracker: Tracker) -> Recorded:
    try:
        return find(row.notes.get("run", ""), place, tracker)
    except TrackingError:
        return find(row.notes.get("run_id", ""), place, tracker)


def _cells(one: Placed) -> Mapping[str, str]:
    beaten = ", ".join(f"{name} (p {p:.2g})" for name, p in one.dominated_by.items())
    return {"alignment (interval)": _span(one.alignment), "tax (interval)": _span(one.tax) if one.tax else "—",
            "chance to be on the front": f"{100 * one.chance:.0f} %", "proved dominated by": beaten or "—",
            "not told from": ", ".join(one.not_told_from) or "—"}


def _span(found: Interval) -> str:
    return f"{found.estimate:.1f} ({found.low:.1f} to {found.high:.1f})"
