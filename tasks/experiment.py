"""One run: its folder in the workspace and its place in the tracker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.artifacts import show_links
from infra.contract import Tracker
from infra.naming import origin
from infra.open_runs import running
from infra.stores import store_of
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import LoadedConfig, flatten
from sft_core.locks import exclusive
from sft_core.stage import fingerprint, write_json, write_text
from tasks.facts import sortable
from tasks.runs import EVENTS, link_to
from tasks.settled import SETTLED
from tasks.stages import CODE, Done, Workspace, version
from tasks.versions import head

log = logging.getLogger("sft")
FOLLOWED = "followed.json"
"""In the folder of a run: how much of its events the tracker has."""


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
        """Send the training events written so far to the tracker; a tracker that is down costs nothing. The run keeps
        a link to them: one that is killed has nothing else that leads to its stage."""
        if (self.folder / EVENTS).resolve() != events.resolve():
            link_to(self.folder / EVENTS, events)
        self.tracker.follow(self.run_id, events, self.folder / FOLLOWED)


def run_key(config: ExperimentConfig, prepared: str, parent_run_id: str | None) -> str:
    """What makes a run the same run: configuration, data by the fingerprint of its stage, code, and its sweep."""
    return fingerprint(config, prepared, {one: version(one) for one in CODE}, parent_run_id)


@contextmanager
def open_experiment(
    loaded: LoadedConfig, prepared: Done, place: Workspace, tracker: Tracker, parent_run_id: str | None = None,
) -> Iterator[Experiment]:
    """The run of this configuration, data and code, open as long as the block runs; the same three always mean the
    same run, so a second process waits for the first and then finds its stages finished.

    Raises:
        TrackingError: the tracker refuses.
        Interrupted: a signal asked to stop the wait.
    """
    config = loaded.config
    key = run_key(config, prepared.fingerprint, parent_run_id)
    folder = place.runs / f"{config.name}-{key[:8]}"
    with exclusive(folder / "lock"):
        (folder / SETTLED).unlink(missing_ok=True)
        write_text(folder / "config.yaml", loaded.text)
        tags = {"sft.kind": "experiment", "sft.name": config.name, **sortable(config),
                **origin("sft sweep" if parent_run_id else "sft run", head())}
        run_id = tracker.start_run(folder.name, key, flatten(config), loaded.text, tags, parent_run_id)
        where = {"mlflow_run_id": run_id, "mlflow_uri": tracker.shown, "mlflow_pages": tracker.pages,
                 "mlflow_store": store_of(tracker.shown, place.root), "experiment": config.tracking.experiment}
        write_json(folder / "run.json", {"name": folder.name, "key": key, "parent_run_id": parent_run_id, **where})
        log.info("run %s (MLflow %s)", folder.name, run_id[:8])
        show_links(tracker.pages, run_id, config.name, folder.name, parent_run_id)
        with running(tracker, run_id):
            yield Experiment(config, folder, tracker, run_id)
