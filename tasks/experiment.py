"""One run: its folder in the workspace and its place in the tracker."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from infra.tracking import Tracker
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import LoadedConfig, flatten
from sft_core.errors import Interrupted, TrackingError
from sft_core.stage import fingerprint, write_json, write_text
from tasks.stages import CODE, Done, Workspace, version

log = logging.getLogger("sft")


@dataclass(frozen=True)
class Experiment:
    """An open run. `folder` holds config.yaml, run.json and, once judged, verdict.json."""

    config: ExperimentConfig
    folder: Path
    tracker: Tracker
    run_id: str

    @property
    def name(self) -> str:
        """Name of the run folder: the config's name and the start of the run's key."""
        return self.folder.name

    def follow(self, events: Path) -> None:
        """Send the training events written so far to the tracker; a tracker that is down costs nothing."""
        self.tracker.follow(self.run_id, events, self.folder / "followed.json")

    def __enter__(self) -> Experiment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Say in the tracker that the run ended early. The error that ended it matters more than a tracker's."""
        if kind is None:
            return
        stopped = issubclass(kind, Interrupted) or not issubclass(kind, Exception)
        try:
            self.tracker.finish(self.run_id, "KILLED" if stopped else "FAILED")
        except TrackingError as refused:
            log.warning("the run stays open in the tracker: %s", refused)


def open_experiment(
    loaded: LoadedConfig, prepared: Done, place: Workspace, tracker: Tracker, parent_run_id: str | None = None,
) -> Experiment:
    """Open the run of this configuration, data and code; the same three always mean the same run.

    Raises:
        TrackingError: the tracker refuses.
    """
    config = loaded.config
    key = fingerprint(config, prepared.fingerprint, {one: version(one) for one in CODE}, parent_run_id)
    folder = place.runs / f"{config.name}-{key[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", loaded.text)
    tags = {"sft.kind": "experiment", "sft.name": config.name}
    run_id = tracker.start_run(folder.name, key, flatten(config), loaded.text, tags, parent_run_id)
    where = {"mlflow_run_id": run_id, "mlflow_uri": tracker.uri, "experiment": config.tracking.experiment}
    write_json(folder / "run.json", {"name": folder.name, "key": key, **where})
    log.info("run %s (MLflow %s)", folder.name, run_id[:8])
    return Experiment(config, folder, tracker, run_id)
