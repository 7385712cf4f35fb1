"""Finished stages for other machines: an archive for each, among the artifacts of the team's MLflow server.

Machines that work on one study and have no folder in common have this server in common, and record their runs there.
An archive is named by the SHA-256 of its bytes, so one that is damaged, or written by half, is as if it were not there.
Whoever may write to the server is trusted, as with registered models.
"""

from __future__ import annotations

import hashlib
import logging
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.contract import Tracker
from infra.databases import is_sql
from infra.open_runs import running
from infra.settings import Settings
from sft_core.errors import ConfigError, TrackingError
from sft_core.masking import masked

log = logging.getLogger("sft")
EXPERIMENT = "sft-stages"
"""MLflow experiment of the archives: a run for each stage, found again by the stage's name and fingerprint."""
ENDING = ".tar"  # not compressed: Parquet and states of the base hardly get smaller


def shared_stages(settings: Settings, uri: str | None) -> SharedStages | None:
    """The archives of the server that runs are recorded on, where the settings share stages (SFT_SHARE).

    Args:
        uri: `tracking.uri` of the configuration.

    Raises:
        ConfigError: runs are recorded in a database.
    """
    if not settings.share:
        return None
    if is_sql(place := uri or settings.mlflow_uri):
        raise ConfigError("SFT_SHARE=mlflow keeps stages on an MLflow server, and runs are recorded in the database "
                          f"{masked(place)}; set MLFLOW_TRACKING_URI to the http:// address of a server, or unset "
                          "SFT_SHARE")
    return SharedStages(place, settings.workspace)


class SharedStages:
    """The archives of one server. What goes wrong is a warning, and from then on this process makes what it lacks."""

    def __init__(self, uri: str, workspace: Path) -> None:
        self._uri, self._workspace, self._away = uri, workspace, False

    def keep(self, key: str, folder: Path, entries: Sequence[str]) -> None:
        """Keep these entries of a folder under a key."""
        if self._away:
            return
        with self._scratch() as scratch:
            draft = scratch / "draft"
            with tarfile.open(draft, "w") as archive:
                for entry in entries:
                    archive.add(folder / entry, entry)
            tracker = self._tracker(make=True)
            run_id = tracker.start_run(key, key, {}, f"stage: {key}\n", {"sft.kind": "stage"})
            with running(tracker, run_id):
                tracker.log_artifacts(run_id, draft.rename(scratch / f"{_digest(draft)}{ENDING}"))
                tracker.finish(run_id)

    def bring(self, key: str, folder: Path) -> bool:
        """Make a folder of what is kept under a key; False, and nothing to rely on in it, where there is nothing whole.
        """
        if self._away:
            return False
        with self._scratch() as scratch:
            tracker = self._tracker(make=False)
            for run in tracker.runs_of(key):
                for name in sorted(one for one in tracker.artifacts(run.run_id) if one.endswith(ENDING)):
                    file = tracker.download(run.run_id, name, scratch)
                    if _digest(file) == file.stem:
                        with tarfile.open(file) as archive:
                            archive.extractall(folder, filter="data")
                        return True
                    log.warning("%s on the MLflow server is damaged, as if it were not there", key)
        return False

    def _tracker(self, *, make: bool) -> Tracker:
        from infra.tracking import open_tracker  # brings MLflow, a second that only what is missing needs

        return open_tracker(self._uri, EXPERIMENT, self._workspace, make=make)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder for an archive; leaves the block where the server, or the disk, is of no use."""
        (place := self._workspace / "scratch").mkdir(parents=True, exist_ok=True)
        try:
            with TemporaryDirectory(dir=place) as scratch:
                yield Path(scratch)
        except (TrackingError, tarfile.TarError, OSError) as error:
            self._away = True
            log.warning("stages are not shared with other machines (SFT_SHARE), and what is missing is made here: %s",
                        masked(str(error)))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
