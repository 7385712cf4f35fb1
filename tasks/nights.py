"""The nights of a registered model in the tracker: what they found, what is known already, and how they went on.

A regression is told once and then named as still there, until the suite is measured and back within the margin, or
another version is guarded. Nights are counted, not dated: a clock that was put back changes nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from eval_suites.verdict.night import NIGHTS
from infra.contract import TrackedRun, Tracker
from infra.trend import MOVED, NAMES, Point, trend_picture
from sft_core.locks import try_exclusive
from tasks.night import Night
from tasks.stages import Workspace

Outcome = Literal["quiet", "drift", "still", "not_measured", "regression", "blind", "anew"]
"""`regression`: one that nobody has been told of; `blind`: the same was not measured two nights in a row, and nobody
has been told of that. `still`: of either, somebody has. `anew`: its results are stored for later nights."""
ALL = ""
"""What a night has not measured that could not begin: every suite of every version."""
TRENDS = "trends"
"""Folder of the workspace with the course of the nights of each model."""
MOST_PANELS = 30
"""Courses that are drawn: the picture is to be read."""
KEPT = 14
"""Nights whose answers stay."""
LONGEST = 4000
"""Characters of a sentence in a tag; MLflow takes 8000 bytes."""


class Past(NamedTuple):
    """A night that was recorded. `known`: regressions that were told, `missing`: what was not measured, as
    `Night.key`, or `ALL`. `moved`: alias/suite → how it moved, of those that did."""

    number: int
    run: TrackedRun
    outcome: str
    sentence: str
    known: frozenset[str]
    missing: frozenset[str]
    moved: Mapping[str, str]

    @property
    def row(self) -> dict[str, str]:
        """For a table."""
        date = datetime.fromtimestamp(self.run.started_s, UTC).strftime("%Y-%m-%d %H:%M")
        return {"night": str(self.number), "date (UTC)": date, "outcome": self.outcome, "said": self.sentence}


class Found(NamedTuple):
    """What a night comes to."""

    outcome: Outcome
    sentence: str
    known: frozenset[str]
    missing: frozenset[str]
    moved: Mapping[str, str] = {}

    def tags(self, name: str, number: int) -> dict[str, str]:
        """What the MLflow run of this night is found and read again by."""
        return {"sft.kind": "nightly", "sft.model": name, "sft.night": str(number), "sft.outcome": self.outcome,
                "sft.sentence": self.sentence[:LONGEST], "sft.known": json.dumps(sorted(self.known)),
                "sft.missing": json.dumps(sorted(self.missing)), "sft.moved": json.dumps(self.moved)}


def past(name: str, tracker: Tracker, limit: int = NIGHTS) -> list[Past]:
    """The nights of a registered model, the latest first.

    Raises:
        TrackingError: the tracker cannot be asked.
    """
    runs = tracker.recent(limit, {"sft.kind": "nightly", "sft.model": name})
    found = [Past(int(run.tags["sft.night"]), run, run.tags["sft.outcome"], run.tags["sft.sentence"],
                  frozenset(json.loads(run.tags["sft.known"])), frozenset(json.loads(run.tags["sft.missing"])),
                  json.loads(run.tags["sft.moved"]))
             for run in runs]
    return sorted(found, key=lambda one: -one.number)


def concluded(nights: Sequence[Night], margin: float, before: Sequence[Past]) -> Found:
    """The outcome of a night and its sentence, with what those before it knew, the latest first."""
    knew = before[0].known if before else frozenset[str]()
    worse = {one.key(suite.suite): f"{one.who}: {suite.said}" for one in nights for suite in one.suites
             if suite.state == "regression"}
    there = {one.key(suite.suite): suite for one in nights for suite in one.suites}
    versions = tuple(f"{one.guarded.version}/" for one in nights)
    still = {key for key in knew if key.startswith(versions) and not (
        key in there and key not in worse and there[key].recovered(margin))}
    parts: dict[Outcome, list[str]] = {
        "regression": [said for key, said in worse.items() if key not in knew],
        "blind": [],
        "still": sorted(f"still: {worse.get(key) or f'{key}, as was told'}" for key in still),
        "drift": [f"environment drift: {one.who}: {suite.said}" for one in nights for suite in one.suites
                  if suite.state == "drift"],
        "not_measured": [],
    }
    for kind, said in (found for one in nights for found in _unmeasured(one, before)):
        parts[kind].append(said)
    changed = sorted({said for one in nights for said in one.changed})
    told = [said for group in parts.values() for said in group]
    if told and changed:
        told.append(f"changed since the stored results: {', '.join(changed)}")
    outcome: Outcome = next((kind for kind, group in parts.items() if group), "quiet")
    return Found(outcome, "; ".join(told) or _quiet(nights, changed), frozenset(still | worse.keys()),
                 frozenset(one.key(what) for one in nights for what in one.missing),
                 {f"{one.guarded.alias}/{suite.suite}": suite.state for one in nights for suite in one.suites
                  if suite.state in MOVED})


def unmeasured(why: str, before: Sequence[frozenset[str]]) -> Found:
    """What a night comes to that could measure nothing.

    Args:
        why: in words.
        before: what each night before it has not measured, the latest first.
    """
    kind, row = _standing(ALL, before)
    return Found(kind, f"{'still: ' * (kind == 'still')}nothing was measured{row}: {why}", frozenset(),
                 frozenset({ALL}))


def _unmeasured(one: Night, before: Sequence[Past]) -> list[tuple[Outcome, str]]:
    """What was not measured of a version, in words: a sentence for each cause."""
    causes: dict[tuple[Outcome, str, str, str], list[str]] = {}
    for what, why in one.missing.items():
        side, _, suite = what.rpartition("/")
        kind, row = _standing(one.key(what), [night.missing for night in before])
        causes.setdefault((kind, row, side, why), []).append(suite)
    return [(kind, f"{'still: ' * (kind == 'still')}{one.who}: {'the base on ' * bool(side)}"
                   f"{', '.join(suites)}{' ' * any(suites)}not measured{row}: {why}")
            for (kind, row, side, why), suites in causes.items()]


def _standing(key: str, before: Sequence[frozenset[str]]) -> tuple[Outcome, str]:
    """Whether something that was not measured is new, to be told, or told: by how many nights in a row it was not."""
    row = 1
    for missing in before:
        if not any(_covers(key, other) or _covers(other, key) for other in missing):
            break
        row += 1
    if row == 1:
        return "not_measured", ""
    return "still" if row > 2 and key in before[0] else "blind", f" {row} nights in a row"


def _covers(whole: str, part: str) -> bool:
    return whole in (ALL, part) or (whole.endswith("/") and part.startswith(whole))


def renewed(nights: Sequence[Night]) -> Found:
    """What a night comes to whose results later ones are held against, and what had moved until then."""
    moved = [f"{one.who}: {suite.said}" for one in nights for suite in one.suites]
    changed = sorted({said for one in nights for said in one.changed})
    said = [f"{', '.join(one.who for one in nights)} measured anew, and later nights are held against this one", *moved]
    if changed:
        said.append(f"changed since: {', '.join(changed)}")
    return Found("anew", "; ".join(said), frozenset(), frozenset())


@contextmanager
def alone(place: Workspace, name: str) -> Iterator[bool]:
    """Whether no other night of this model is under way in the workspace, and while it lasts none begins."""
    held = try_exclusive(place.root / "locks" / f"night-{name}")
    with held or nullcontext():
        yield held is not None


def place_of(place: Workspace, name: str, occasion: str) -> Workspace:
    """Where a night of this model keeps its answers: it may be killed, or somebody may want to look."""
    return place._replace(root=place.root / "nights" / name / occasion)


def forget(place: Workspace, name: str) -> None:
    """Remove the answers of all but the last nights; what they came to is in the tracker."""
    folders = sorted((place.root / "nights" / name).glob("*"), key=lambda one: one.stat().st_mtime)
    for folder in folders[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def _quiet(nights: Sequence[Night], changed: Sequence[str]) -> str:
    suites = [suite for one in nights for suite in one.suites]
    flipped = sum(suite.change.lost + suite.change.gained for suite in suites)
    items = sum(suite.change.pairs for suite in suites)
    said = (f"no proved regression of {', '.join(one.who for one in nights)}: {flipped} of {items} scores changed on "
            f"{len(suites)} suites")
    return said + (f"; changed since the stored results: {', '.join(changed)}" if changed else "")


def metrics(nights: Sequence[Night]) -> dict[str, float | None]:
    """Per alias and suite: tonight's score with its interval, losses, flip rate, coverage, and the limits that a score
    must leave to be proved changed (control limits of this night)."""
    values: dict[str, float | None] = {}
    for one in nights:
        for suite in one.suites:
            at, change = f"{one.guarded.alias}/{suite.suite}", suite.change
            score, low, high = one.score.get(suite.suite, (None, None, None))
            values |= {f"{at}/score": score, f"{at}/score_low": low, f"{at}/score_high": high,
                       f"{at}/flip_rate": suite.flip_rate, f"{at}/coverage": suite.coverage,
                       f"{at}/loss": change.points}
            if change.points is not None and change.base is not None:
                below = change.base - (change.margin + change.points - change.low) / 100
                above = change.base + (change.high - change.points) / 100
                if change.scale == "share":
                    below, above = max(below, 0.0), min(above, 1.0)
                values |= {f"{at}/loss_low": change.low, f"{at}/loss_high": change.high, f"{at}/stored": change.base,
                           f"{at}/limit_low": below, f"{at}/limit_high": above}
            if suite.canary is not None:
                values[f"{at}/base_loss"] = suite.canary.points
            if suite.own is not None:
                values |= {f"{at}/own_loss": suite.own.points, f"{at}/own_low": suite.own.low}
    return values


def trend(name: str, tracker: Tracker, place: Workspace) -> list[Path]:
    """Draw the nights so far, a panel for each alias and suite that any of them has measured, as a picture and on a
    page in `trends/` of the workspace; returns the files, none where no night has a score.

    Raises:
        TrackingError: the tracker cannot be asked.
    """
    course = past(name, tracker)[::-1]
    ending = f"/{NAMES[0]}"
    measured = sorted({key.removesuffix(ending) for one in course for key in one.run.metrics if key.endswith(ending)})
    points = {at: some for at in measured if (some := [point for one in course if (point := _point(one, at))])}
    if not points:
        return []
    last = sorted(points, key=lambda at: -points[at][-1].night)[:MOST_PANELS]  # rather what is measured still
    from tasks.pages.nights import write_nights_page

    counted = f"{len(course)} night{'s' * (len(course) > 1)}"
    part = f", {len(last)} of {len(points)} courses" if len(last) < len(points) else ""
    folder, title = place.root / TRENDS / name, f"{name}, {counted}{part}"
    folder.mkdir(parents=True, exist_ok=True)
    picture = trend_picture(title, {at: points[at] for at in sorted(last)})
    picture.savefig(folder / "trend.png", dpi=120)
    return [folder / "trend.png", write_nights_page(title, picture, [one.row for one in course[::-1]], folder)]


def _point(one: Past, at: str) -> Point | None:
    """None of a night on which the suite was not measured."""
    known = one.run.metrics
    names = [f"{at}/{what}" for what in NAMES]
    if not set(names) <= known.keys():
        return None
    score, low, high, below, above, stored = (known[name] for name in names)
    return Point(one.number, score, low, high, below, above, stored, one.moved.get(at, ""))


def rows(nights: Sequence[Night]) -> list[dict[str, str]]:
    """A line per model and suite: what changed, of the model and of the base, with flip rate and coverage."""
    lines = []
    for one in nights:
        for suite in one.suites:
            change, own = suite.change, suite.own
            flips, canary = suite.flip_rate, suite.canary
            lines.append({
                "model": one.who, "suite": suite.suite, "state": suite.state.replace("_", " "),
                "loss": _span(change.points, change.low, change.high),
                "of the base": _span(canary.points, canary.low, canary.high) if canary else "–",
                "own part": _span(own.points, own.low, own.high) if own else "–",
                "flipped": "–" if flips is None else f"{100 * flips:.1f} %", "scored": f"{100 * suite.coverage:.0f} %",
                "items": str(change.pairs)})
    return lines


def _span(points: float | None, low: float, high: float) -> str:
    return "–" if points is None else f"{points:+.1f} ({low:+.1f} to {high:+.1f})"
