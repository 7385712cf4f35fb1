"""Nights whose tracker was away: noted in the workspace, and recorded by the next night that can."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from infra.contract import Tracker
from sft_core.stage import read_json, write_json
from tasks.nights import ALL, Found, Outcome, past, unmeasured
from tasks.stages import Workspace

NOTHING = frozenset({ALL})
"""What such a night has not measured."""


class Untracked(NamedTuple):
    """A night that the tracker does not know of. `occasion`: its flow run."""

    occasion: str
    sentence: str
    outcome: Outcome


def note_night(why: str, name: str, occasion: str, place: Workspace) -> Found:
    """What a night comes to whose tracker is away, after those that were noted before; it is noted, too.

    Raises:
        OSError: the workspace cannot be written.
    """
    others = [one for one in noted_nights(name, place) if one.occasion != occasion]
    found = unmeasured(why, [NOTHING] * len(others))
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    _write(name, place, [*others, Untracked(occasion, f"{at}: {found.sentence}", found.outcome)])
    return found


def noted_nights(name: str, place: Workspace) -> list[Untracked]:
    """Those that are not recorded yet, the earliest first."""
    file = _file(name, place)
    return [Untracked(*row) for row in read_json(file, "nights")["nights"]] if file.exists() else []


def record_noted(name: str, place: Workspace, tracker: Tracker) -> None:
    """Record them as the nights that they were, with the numbers that follow the last one's.

    Raises:
        TrackingError: the tracker cannot be asked; those that are not recorded stay noted.
    """
    waiting = noted_nights(name, place)
    while waiting:
        one, before = waiting.pop(0), past(name, tracker)
        number = before[0].number + 1 if before else 1
        found = Found(one.outcome, one.sentence, before[0].known if before else frozenset(), NOTHING)
        run_id = tracker.start_run(f"nightly-{name}-{number}", f"nightly-{name}-{one.occasion}", {"model": name},
                                   f"{name}, night {number}", found.tags(name, number))
        tracker.finish(run_id, "FAILED")
        _write(name, place, waiting)


def _write(name: str, place: Workspace, nights: Sequence[Untracked]) -> None:
    if nights:
        write_json(_file(name, place), {"nights": [list(one) for one in nights]})
        return
    with suppress(FileNotFoundError):
        _file(name, place).unlink()


def _file(name: str, place: Workspace) -> Path:
    return place.root / "nights" / f"{name}.untracked.json"
