"""The front of a sweep from the recorded results of its trials, and what its table and its picture say of each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from eval_suites.front.differences import difference
from eval_suites.front.front import Front, Placed, front
from eval_suites.front.points import Objectives, Point, Role, Terms
from eval_suites.results import SuiteResult
from eval_suites.statistics.intervals import Interval
from eval_suites.statistics.pairing import MISSING
from infra.contract import Tracker
from infra.naming import run_page
from infra.pareto import Dot, Spread
from infra.study_contract import TrialRow
from sft_core.config.evaluate import GateSection
from sft_core.config.experiment import SearchSection
from sft_core.errors import EvalError, TrackingError
from sft_core.stage import write_json
from tasks.runs import REPORT, run_of_trial
from tasks.stages import Workspace

log = logging.getLogger("sft")
AXES = {"alignment": "alignment score (points)", "tax": "tax against the base (points)"}
"""What the value of an objective is: of alignment the score itself, where sentences tell the gain over the base."""
IN_WORDS = {name: title.removesuffix(" (points)") for name, title in AXES.items()}
COLUMNS = "Alignment score: the model's own, not its gain over the base; tax: what it lost against the base."
MOST_NAMES = 5
"""Names that a cell of the table lists."""


def points_of(rows: Sequence[TrialRow], own: Mapping[str, object], search: SearchSection, place: Workspace,
              tracker: Tracker) -> list[Point]:
    """The base and all trials that have results, named by their numbers; nothing where none has any.

    A trial that took over another's values is that one's point. Whose results cannot be had is told in the log.

    Args:
        rows: the trials.
        own: the configuration's own point.
        search: objectives and limits.
        place, tracker: where the runs of trials are found.
    """
    what, points = objectives(search), list[Point]()
    for row in {_run(row): row for row in reversed(rows) if row.values}.values():
        try:
            run = run_of_trial(row.notes, place, tracker)
            base = points[0] if points else _base(run.results("base", texts=False), search)
            role: Role = "default" if row.params == own else ""
            point = Point(str(row.number), (run.results(texts=False),), role, not row.broken)
            difference(base, point, what)
            points += [point] if points else [base, point]
        except (EvalError, TrackingError) as error:
            log.warning("trial %d is in the table with its values only, and nothing is proved of it: %s", row.number,
                        error)
    return sorted(points, key=lambda point: -1 if point.role == "base" else int(point.name))


def objectives(search: SearchSection) -> Objectives:
    """What points are compared by."""
    return Objectives(search.alignment, search.capability)


def front_of(points: Sequence[Point], search: SearchSection, gate: GateSection) -> Front | None:
    """All points compared item by item; None without any."""
    return front(points, objectives(search), Terms(gate.alpha, search.tolerance)) if points else None


def texts(found: Front | None, rows: Sequence[TrialRow], best: Iterable[TrialRow], chosen: str = ""
          ) -> dict[str, dict[str, str]]:
    """What the table says: number of a trial, or name of another point → column → text.

    ★ marks the points of the front of the estimates; where nothing can be compared, `best`, which go by the values.
    `2 = 1` is a trial that took over the values of another one; `chosen` is the name of the proposed point.
    """
    if found is None:
        return {str(row.number): {"trial": f"{row.number} ★"} for row in best}
    cells = {one.name: _cells(one) for one in found.points}
    if chosen:
        cells[chosen]["trial"] += " proposed"
    first = {_run(row): str(row.number) for row in reversed(rows) if row.values}
    same = {str(row.number): first[_run(row)] for row in rows if row.values}
    return cells | {number: {**cells[name], "trial": f"{number} = {cells[name]['trial']}"}
                    for number, name in same.items() if name in cells and name != number}


def pages(rows: Sequence[TrialRow], place: Workspace, within: str) -> dict[str, str]:
    """Name of a trial → page of its run: on an MLflow server, else beside the sweep's own page in the workspace."""
    found = {}
    for row in rows:
        run = row.notes.get("run", "")
        page = run_page(within, row.notes.get("run_id", ""))
        if page or (run and (place.runs / run / REPORT).exists()):
            found[str(row.number)] = page or f"../../{place.runs.name}/{quote(run)}/{REPORT}"
    return found


def dots(found: Front | None, rows: Sequence[TrialRow], best: Iterable[TrialRow],
         links: Mapping[str, str] | None = None) -> list[Dot]:
    """What is drawn: all points with their intervals, and the trials without results where they were measured. `links`
    as `pages` has them."""
    links = links or {}
    by_values = {row.number for row in best} if found is None else set()
    placed = {one.name: one for one in found.points} if found else {}
    taken = {_run(row) for row in rows if str(row.number) in placed}
    said = {str(row.number): [f"trial {row.number}", *(f"{field}: {value}" for field, value in row.params.items())]
            for row in rows}
    drawn = [Dot(one.name, _spread(one.alignment), _spread(one.tax), one.role, one.on_front,
                 bool(one.dominated_by) or not one.feasible, said.get(one.name, [one.name]), links.get(one.name, ""))
             for one in placed.values() if one.tax]
    return drawn + [
        Dot(str(row.number), Spread(*[row.values["alignment"]] * 3), Spread(*[row.values["tax"]] * 3), "",
            row.number in by_values, bool(row.broken), said[str(row.number)], links.get(str(row.number), ""))
        for row in rows if row.values and _run(row) not in taken]


def measured(one: Placed) -> dict[str, float]:
    """What the run of a trial is given as metrics, in points."""
    ends = {"alignment": one.alignment, "tax": one.tax}
    return {"front_chance": one.chance} | {f"{name}_{end}": value for name, found in ends.items() if found
                                           for end, value in (("low", found.low), ("high", found.high))}


def note(found: Front | None) -> str:
    """What the columns of the table mean."""
    star = "★: on the front of the estimates, the base among them."
    if found is None:
        return f"{star} {COLUMNS} No results of the trials are here, so nothing is proved."
    level, tolerance = 100 * (1 - found.terms.alpha), found.terms.tolerance
    return (f"{star} {COLUMNS} Intervals: {level:g} %, each by itself, with the items that have no score counted "
            f"either way where those are more than {100 * MISSING:g} % of a suite. Proved dominated: the other is "
            f"proved better in one objective and no worse by more than {tolerance:g} (search.tolerance) in the other; "
            "not told from: proved to differ in neither; both hold for the whole table at once. Only the items are "
            "taken for chance: a trial stands for its model, not for other training seeds.")


def summed(drawn: Sequence[Dot], found: Front | None) -> dict[str, float]:
    """What the sweep's own run is given as metrics: how many trials are on the front, and proved dominated. The base,
    and models on the way to a trial, are points and no trials."""
    dominated = [one for one in found.points if one.dominated_by and one.name.isdigit()] if found else []
    front = [dot for dot in drawn if dot.on_front and dot.name.isdigit()]
    return {"trials_on_front": float(len(front)), "trials_proved_dominated": float(len(dominated))}


def of_base(found: Front | None) -> float | None:
    """Alignment of the base, in points; None where no result of it is at hand."""
    return next((one.alignment.estimate for one in found.points if one.role == "base"), None) if found else None


class Kept(NamedTuple):
    """What a sweep's `front.json` says: which point is proposed (empty: none), the last word on it, all points, and
    what they reach together."""

    study: str
    proposed: str
    says: str

    def write(self, folder: Path, found: Front | None, rows: Sequence[TrialRow]) -> Path:
        """Write it into the sweep's folder, each point with the values of its trial."""
        file, values = folder / "front.json", {str(row.number): dict(row.params) for row in rows}
        points = [{**asdict(one), "alignment": one.alignment._asdict(), "tax": one.tax and one.tax._asdict(),
                   "values": values.get(one.name.partition("-")[0])} for one in (found.points if found else ())]
        without = [{"name": str(row.number), "state": row.state, "values": dict(row.params), "measured": row.values}
                   for row in rows if str(row.number) not in {point["name"] for point in points}]
        write_json(file, {**self._asdict(), **(found.terms._asdict() if found else {}), "points": points,
                          "others": without, "reached": found.reached if found else {}})
        return file


def span(found: Interval, sign: str = "") -> str:
    """An estimate with its interval, e.g. `1.2 (-0.3 to 2.7)`."""
    return f"{found.estimate:{sign}z.1f} ({found.low:z.1f} to {found.high:z.1f})"


def _run(row: TrialRow) -> str:
    return row.notes.get("run") or f"trial {row.number}"


def _base(results: Mapping[str, SuiteResult], search: SearchSection) -> Point:
    """It has no tax and no win, which limits may ask for."""
    point = Point("base", (results,), "base")
    suites = {name: {"tuned": result.score, "tax": 0.0, "win": 0.0} for name, result in point.results[0].items()}
    mean = sum(point.of(suite)[0].score or 0.0 for suite in search.alignment) / len(search.alignment)
    beyond = [limit.excess(suites, {"alignment": 100 * mean, "tax": 0.0}) for limit in search.limits]
    return replace(point, feasible=all((excess or 0.0) <= 0 for excess in beyond))


def _cells(one: Placed) -> dict[str, str]:
    beaten = [f"{name} (p {p:.2g})" for name, p in sorted(one.dominated_by.items(), key=lambda pair: pair[1])]
    marks = [one.name, *"★" * one.on_front, *(["default"] if one.role == "default" else [])]
    return {"trial": " ".join(marks), AXES["alignment"]: span(one.alignment),
            AXES["tax"]: "0" if one.role == "base" else span(one.tax) if one.tax else "—",
            "chance to be on the front": f"{100 * one.chance:.0f} %" if one.feasible else "—",
            "proved dominated by": _listed(beaten), "not told from": _listed(one.not_told_from)}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more if names else "—"


def _spread(found: Interval) -> Spread:
    assert found.estimate is not None, "points have a score"
    return Spread(found.estimate, found.low, found.high)
