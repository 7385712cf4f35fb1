"""Runs taken away: folder, place in MLflow and registry, and the model where no other run has it. By the rules of
`clean`: nothing goes that an alias names, that a sweep continues from, or that a process at work may read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import NamedTuple

from infra.contract import Registered, Tracker
from sft_core.errors import TrackingError
from sft_core.locks import try_exclusive
from tasks.clean import Thing, at_work, disk_size, remove, things, waiting_since
from tasks.listing import listed_run
from tasks.runs import Recorded
from tasks.shown import here
from tasks.stages import Workspace


class Going(NamedTuple):
    """A run that is asked to go. `refused` says why it stays; empty: it may go."""

    run: Recorded
    sweep: str
    refused: str
    models: tuple[Thing, ...]
    """Stages that no other run has, which go with it: of one that was killed, the training that it began."""
    shared: tuple[str, ...]
    """Other runs that have the same model, which stays."""
    versions: tuple[Registered, ...]
    folder_bytes: int

    @property
    def bytes(self) -> int:
        """Of the folder and of the models that go with it."""
        return total([self])


def total(some: Sequence[Going]) -> int:
    """Bytes of these runs, a model of several once."""
    models = {model.paths[0]: model.bytes for one in some for model in one.models}
    return sum(one.folder_bytes for one in some) + sum(models.values())


def going(asked: Sequence[Recorded], place: Workspace, tracker: Tracker) -> list[Going]:
    """What would become of these runs; nothing is touched."""
    stages = [one for one in things(place, tracker) if one.runs]
    versions, names = tracker.registered(), {run.name for run in asked}
    return [_looked_at(run, [one for one in stages if run.name in {of.name for of in one.runs}],
                       [one for one in versions if one.run_id == run.run_id], names, place) for run in asked]


def _looked_at(run: Recorded, stages: Sequence[Thing], versions: Sequence[Registered], names: set[str],
               place: Workspace) -> Going:
    listed = listed_run(run.folder, place)
    alone = tuple(one for one in stages if {of.name for of in one.runs} <= names)
    others = sorted({of.name for one in stages for of in one.runs} - names)
    aliases = [f"{one.name}@{alias}" for one in versions for alias in one.aliases]
    why = ""
    if listed.state == "under way":
        why = "it is under way"
    elif aliases:
        why = f"{', '.join(aliases)} names its model; `sft promote` another run, or drop the alias in MLflow"
    elif listed.sweep and (listed.sweep in waiting_since(place) or f"the sweep {listed.sweep}" in at_work(place)):
        why = f"the sweep {listed.sweep} needs it, which can continue"
    elif needed := [one.needed for one in alone if one.needed]:
        why = f"its model may be in use: {needed[0]}"
    return Going(run, listed.sweep, why, alone, tuple(others), tuple(versions), disk_size(run.folder, set()))


def take_away(one: Going, place: Workspace, tracker: Tracker) -> str:
    """Remove a run that may go; returns why it stays after all, empty where it is gone. Said again after a kill, it
    goes on.

    Raises:
        TrackingError: MLflow refuses; the folder of the run stays.
    """
    if (handle := try_exclusive(one.run.folder / "lock")) is None:
        return "somebody has begun it again"
    with handle:
        for model in one.models:
            if model.paths[0].exists() and not remove(model, tracker):  # else it went with another run that had it
                return "somebody has begun to use its model"
        for version in tracker.registered():  # of a model that stays with another run
            if version.run_id == one.run.run_id:
                tracker.forget(version)
        if tracker.standings([one.run.run_id]):
            tracker.delete_run(one.run.run_id)
        aside = place.scratch / f"removed-{one.run.name}"
        shutil.rmtree(aside, ignore_errors=True)
        one.run.folder.rename(aside)  # at once: half a run would be none, and shown as one
        shutil.rmtree(aside, ignore_errors=True)
    return ""


def named(references: Sequence[str], place: Workspace) -> list[Recorded]:
    """The runs of this workspace by their names.

    Raises:
        TrackingError: one is none of them.
    """
    found = {name: here(name, place) for name in references}
    if missing := [name for name, run in found.items() if run is None]:
        raise TrackingError(f"there is no run {', '.join(missing)} in {place.root}; `sft runs` lists those there are, "
                            "by the names that this takes")
    return [run for run in found.values() if run]
