"""Runs that are whole: the same command again is told so within seconds, without torch or Prefect.

A run notes at its end what it was asked and what it read (`signature`), if that is what it was at its start, and what
it has made: the files of its folder and of the stages it used, and what the store has of it. As long as all of that is
as it was, every stage would be found and the same be recorded again.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from infra.contract import CANDIDATE, Tracker
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import DamagedFile, TrackingError
from sft_core.locks import shared
from sft_core.stage import DONE, file_digest, fingerprint, known, read_json, use, write_json
from tasks.stages import Workspace

SETTLED = "settled.json"
"""In the folder of a run; removed when the run is opened again."""
NO_RESULTS = {SETTLED, "lock", "followed.json"}
SAMPLED = "train/loss"
"""The metric whose points are counted."""


class Asked(NamedTuple):
    """What a run was asked, as it was when the run began; `stamp` is None where that cannot be told."""

    config: ExperimentConfig
    stamp: str | None


def asked(config: ExperimentConfig, place: Workspace) -> Asked:
    """To be called before the run reads anything."""
    from tasks.inputs import signature  # brings SciPy, which a run imports while its Prefect server starts

    return Asked(config, signature(config, place))


def settle(run: Path, began: Asked, place: Workspace, tracker: Tracker) -> None:
    """Note in the folder of a run that it is whole, recorded and closed, unless something has changed meanwhile.

    Raises:
        TrackingError: the store does not say what it has of it.
    """
    if began.stamp is not None and began.stamp == asked(began.config, place).stamp:
        run_id = read_json(run / "summary.json", "mlflow_run_id")["mlflow_run_id"]
        write_json(run / SETTLED, {"signature": began.stamp, "store": _stored(tracker, run_id), "files": {
            str(file): _as_it_is(file) for file in _made(run, place)}})


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
            noted = read_json(note, "signature", "files", "store")
            if noted["signature"] == stamp and _is_as_made(noted["files"]):
                return _whole(note.parent, config.tracking.registered_model, connect, noted["store"])
        except (DamagedFile, OSError, TrackingError):  # told by the run itself
            continue
    return None


def _made(run: Path, place: Workspace) -> Iterator[Path]:
    """The files of a run, of its model, and of the finished stages that this process has used. Checkpoints of finished
    training may go."""
    yield from (file for file in sorted(run.rglob("*")) if file.is_file() and file.name not in NO_RESULTS)
    yield from (file for file in sorted((run / "model").iterdir()) if file.is_file())
    root = place.stages.root.resolve()
    for used in sorted(shared()):
        stage = used.parent.resolve()
        if stage.is_relative_to(root) and (stage / DONE).is_file():
            yield stage / DONE
            yield from (file for file in sorted((stage / "out").rglob("*"))
                        if file.is_file() and "checkpoints" not in file.relative_to(stage).parts)


def _is_as_made(files: Mapping[str, object]) -> bool:
    return all(_as_it_is(Path(file)) == was for file, was in files.items())


def _as_it_is(file: Path) -> object:
    """Of a done-mark its content: its age says when the stage was used."""
    return file_digest(file) if file.name == DONE else known(file)


def _stored(tracker: Tracker, run_id: str) -> dict[str, object]:
    """What the store has of a run, as far as that is told at once: of one metric all points, of the others the last."""
    run = tracker.find_run(run_id)
    return {"status": run.status, "metrics": fingerprint(run.metrics), "points": tracker.points(run_id, SAMPLED),
            "artifacts": sorted(tracker.artifacts(run_id))}


def _whole(run: Path, offered: str | None, connect: Callable[[], Tracker], noted: object) -> dict[str, Any] | None:
    """The summary of a run that the store has as it was, and its model as the candidate where it is offered as one:
    another run's may be that by now. The store may have another address than then."""
    summary: dict[str, Any] = read_json(run / "summary.json", "mlflow_run_id")
    use(run / "model" / "config.json")
    tracker, run_id = connect(), summary["mlflow_run_id"]
    now = _stored(tracker, run_id)
    if now != noted or now["status"] != "FINISHED":
        return None
    stands = offered is None or any(one.run_id == run_id and CANDIDATE in one.aliases
                                    for one in tracker.registered(offered))
    return {**summary, "mlflow_uri": tracker.shown, "mlflow_pages": tracker.pages} if stands else None
