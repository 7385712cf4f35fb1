"""What a tracker must do, whatever stands behind it; the values that go in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from infra.events import Standing
from infra.naming import Input

ERROR = "sft.error"
"""The tag of a run that did not come to its end: why, in words."""
CANDIDATE = "candidate"
"""Alias of the model that a run has offered last."""
Keep = Literal["auto", "link", "copy"]
"""How a model folder is stored, see `tracking.store_models`."""


class TrackedRun(NamedTuple):
    """One run as the store has it."""

    run_id: str
    name: str
    status: str
    started_s: float
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class Resolved(NamedTuple):
    """A registered model version and its folder on this machine."""

    version: str
    run_id: str
    folder: Path


class Registered(NamedTuple):
    """One version of a registered model; `folder` where the store is a folder of this machine."""

    name: str
    version: str
    run_id: str
    aliases: tuple[str, ...]
    folder: Path | None
    tags: Mapping[str, str] = {}
    made_s: float = 0.0


NOTHING_ASKED: Mapping[str, str] = MappingProxyType({})


class Tracker(Protocol):
    """One experiment in a tracking store.

    Everything can be repeated: a run is found again by its key, parameters and equal metrics are not logged twice,
    artifacts replace themselves, a model folder of the same content keeps its version. `follow` never raises; all else
    raises TrackingError.
    """

    uri: str
    shown: str
    """The URI for people and files: without its password."""
    pages: str
    """Address of the experiment's pages, see `naming.pages_of`."""
    workspace: Path

    def start_run(self, name: str, run_key: str, params: Mapping[str, object], config_text: str,
                  tags: Mapping[str, str], parent_run_id: str | None = None) -> str:
        """Open the run of this key, the earlier one where there is one (finished, failed or left RUNNING by a kill).

        Args:
            name: shown name; not unique.
            run_key: what makes the run the same run, e.g. a fingerprint.
            params: flat; long values are left to the config artifact.
            config_text: the whole configuration, saved as `config.yaml` and hashed into the tag `sft.config_sha256`.
            parent_run_id: run of the sweep that this run is a trial of.

        Returns: the MLflow run id.
        """

    def follow(self, run_id: str, events: Path, offset_file: Path, *, last: bool = False) -> bool:
        """Send what is new in an event file; never raises and never blocks for long.

        Args:
            events: `events.jsonl` of training; it need not exist yet.
            offset_file: where this run's place in that file is kept.
            last: try even if the server failed a moment ago.

        Returns: whether everything was sent; if not, the place is kept and a later call sends the rest.
        """

    def log_metrics(self, run_id: str, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log final metrics; None (not measured) is left out, a value that stands already is not repeated."""

    def log_artifacts(self, run_id: str, source: Path, path: str = "") -> None:
        """Save a folder's content, or one file, as artifacts under `path`; files of the same name are replaced."""

    def log_table(self, run_id: str, file: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Save one table that MLflow shows and compares between runs; an earlier one of that name is replaced.

        Args:
            file: artifact path ending in `.json`, e.g. `eval/tiny_gsm8k.json`.
            columns: equally long columns of JSON values.
        """

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""

    def describe(self, run_id: str, said: str, files: Sequence[str] = (), inputs: Sequence[Input] = (),
                 derived: Mapping[str, object] = NOTHING_ASKED) -> None:
        """Put Markdown and links to artifacts on the run's page, in place of what stood there, its data, and further
        parameters that were derived."""

    def arrange(self, metrics: Sequence[str]) -> None:
        """Keep a view of the experiment's runs that has these metrics, and those of earlier calls, as columns and
        charts; one that somebody has changed stays."""

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED."""

    def log_model(self, run_id: str, model_folder: Path, how: Keep) -> None:
        """Save where a run's model lies and its digest as `model.json`, and the folder itself as `model`: linked where
        the store is a folder on the same disk, else copied, or with `link` left out."""

    def register(self, run_id: str, model_folder: Path, name: str, how: Keep = "auto") -> str:
        """Save a model folder as it is and make it a version of a registered model. Linked where the store is a folder
        on the same disk and `how` is not `copy`.

        The folder is stored file by file (`mlflow.transformers.log_model` of a PEFT model on a local base loads wrong
        weights without an error). The same content from the same run keeps its version.

        Returns: the version.
        """

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias (`champion`, `candidate`) at a version."""

    def drop_alias(self, name: str, alias: str) -> None:
        """Take an alias away; nothing where it is not there."""

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → version of a registered model; nothing where there is no such model."""

    def resolve_alias(self, name: str, alias: str) -> Resolved:
        """The version behind an alias and its folder: the store's own, or downloaded once into the workspace.

        Raises:
            TrackingError: unknown model or alias (the message names those there are), a version that was deleted, or
                files that have changed (the message names them).
        """

    def registered(self, name: str | None = None) -> list[Registered]:
        """All versions of all registered models, or of this one."""

    def note(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version, replacing older values."""

    def forget(self, version: Registered) -> None:
        """Take a version that has no alias out of the registry, with its files where these are on this machine.

        Raises:
            TrackingError: an alias points at it by now.
        """

    def delete_run(self, run_id: str) -> None:
        """Put a run among the deleted ones: it is found no more, and the store keeps it until it is cleaned."""

    def find_run(self, ref: str) -> TrackedRun:
        """The run of any experiment with this id, id prefix (from 6 characters) or name; of one name the latest.

        Raises:
            TrackingError: none, or a prefix of several; the message lists the latest runs.
        """

    def runs_of(self, run_key: str) -> list[TrackedRun]:
        """The runs of this key, the latest first: several where machines opened it at the same time."""

    def standings(self, run_ids: Sequence[str]) -> dict[str, Standing]:
        """How these runs of any experiment stand; those that are not in the store are left out."""

    def points(self, run_id: str, metric: str) -> int:
        """How many values of a metric, by our name of it, the store has of a run."""

    def recent(self, limit: int, tags: Mapping[str, str] = NOTHING_ASKED) -> list[TrackedRun]:
        """The latest runs first, of those that have these tags."""

    def download(self, run_id: str, artifact_path: str, folder: Path) -> Path:
        """Copy an artifact (file or folder) of a run into `folder` and return where it lies."""

    def artifacts(self, run_id: str) -> frozenset[str]:
        """Names of what a run has saved, on the highest level."""
