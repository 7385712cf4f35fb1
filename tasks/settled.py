"""Runs that are whole: the same command again is told so within seconds, without torch, Prefect or a look at any stage.

A run notes at its end what it was asked and what it read (`signature`), if that is what it was at its start. As long as
the note fits, and the store has the run, every stage would be found and the same be recorded again.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from infra.contract import CANDIDATE, Tracker
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import DamagedFile, TrackingError
from sft_core.stage import known, read_json, use, write_json
from tasks.stages import Workspace

SETTLED = "settled.json"
"""In the folder of a run; removed when the run is opened again."""


class Asked(NamedTuple):
    """What a run was asked, as it was when the run began; `stamp` is None where that cannot be told."""

    config: ExperimentConfig
    stamp: str | None


def asked(config: ExperimentConfig, place: Workspace) -> Asked:
    """To be called before the run reads anything."""
    from tasks.inputs import signature  # brings SciPy, which a run imports while its Prefect server starts

    return Asked(config, signature(config, place))


def settle(run: Path, began: Asked, place: Workspace) -> None:
    """Note in the folder of a run that it is whole, recorded and closed, unless something has changed meanwhile."""
    if began.stamp is not None and began.stamp == asked(began.config, place).stamp:
        write_json(run / SETTLED, {"signature": began.stamp, "model": _model(run)})


def settled(config: ExperimentConfig, place: Workspace, connect: Callable[[], Tracker]) -> dict[str, Any] | None:
    """The summary of the run that this configuration has made, if there is nothing to do for it.

    Args:
        config: the configuration.
        place: the workspace.
        connect: opens the tracker that it is recorded with.
    """
    notes = sorted(place.runs.glob(f"{glob.escape(config.name)}-*/{SETTLED}"))
    stamp = asked(config, place).stamp if notes else None
    if stamp is None:
        return None
    for note in notes:
        try:
            noted = read_json(note, "signature", "model")
            if noted["signature"] == stamp and noted["model"] == _model(note.parent):
                return _whole(note.parent, config.tracking.registered_model, connect)
        except (DamagedFile, OSError, TrackingError):  # told by the run itself
            continue
    return None


def _model(run: Path) -> list[list[object]]:
    """The files of a run's model as they are now."""
    return [known(file) for file in sorted((run / "model").iterdir())]


def _whole(run: Path, offered: str | None, connect: Callable[[], Tracker]) -> dict[str, Any] | None:
    """The summary of a run that the store has as finished, and its model as the candidate where it is offered as one:
    another run's may be that by now."""
    summary: dict[str, Any] = read_json(run / "summary.json", "mlflow_run_id", "mlflow_uri")
    use(run / "model" / "config.json")
    tracker, run_id = connect(), summary["mlflow_run_id"]
    if tracker.shown != summary["mlflow_uri"] or tracker.find_run(run_id).status != "FINISHED":
        return None
    stands = offered is None or any(one.run_id == run_id and CANDIDATE in one.aliases
                                    for one in tracker.registered(offered))
    return summary if stands else None
