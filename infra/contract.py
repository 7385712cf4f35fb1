"""What a tracker and a study must do, whatever stands behind them; the values that go in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from infra.events import Standing
from infra.naming import Input
from infra.plans import Plan, Value

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


FROM = "from"
"""The note of a trial that was taken over from an earlier study: which one of which."""
POINT = "point"
"""The note of a trial whose values lie outside the space: they are known, and no sampler learns from them."""
OTHER_VERSIONS = "other_versions"
"""The note of a trial that was run with other versions than its sweep began with: what differs, in words."""
ERROR = "sft.error"
"""The tag of a run that did not come to its end: why, in words."""
ENDED = "ended"
"""The note of a trial that was ended before its end: where and why, in words."""
NOTHING: Mapping[str, float] = MappingProxyType({})


class Aim(NamedTuple):
    """What a sweep is about, for workers that know its name alone."""

    trials: int
    """How many there are to be at the end."""
    config: str
    """The whole configuration, YAML."""
    parent: str
    """MLflow run of the sweep."""
    over: int = 0
    """How many trials were over when this was said."""
    versions: Mapping[str, str] = {}
    """What the sweep began with: code, libraries, model and data, by name."""


class TrialRow(NamedTuple):
    """A trial as the storage has it. `values` is None unless it is complete (missing is not zero)."""

    number: int
    state: str
    params: dict[str, Value]
    values: dict[str, float] | None
    notes: dict[str, str]
    excess: Mapping[str, float] = NOTHING
    """Constraint → how far beyond it the trial is, in points; at most 0 where it is kept to."""

    @property
    def broken(self) -> tuple[str, ...]:
        """The constraints that it does not keep to."""
        return tuple(name for name, beyond in self.excess.items() if beyond > 0)


class Trial(NamedTuple):
    """A trial to be run."""

    number: int
    params: dict[str, Value]
    root: int
    """The first trial that had these values where it lost its worker, and so did those behind it; else its own number.
    What is left of that one is continued."""
    same: tuple[TrialRow, ...] = ()
    """The trials with the same values that were there before it."""


class Study(Protocol):
    """One sweep in a study storage, worked on by any number of workers that come and go.

    A storage that has answered before and is away is waited for.
    """

    plan: Plan

    def begin(self, trials: int, config: str = "", parent: str = "", versions: Mapping[str, str] | None = None,
              points: Sequence[Mapping[str, Value]] = ()) -> None:
        """Say what the sweep is about, see `Aim`; workers that are there already heed it. Its versions stay those that
        were said first, as soon as a trial is complete or has a worker.

        The plan's points are queued, then `points`, then those of a grid; none that is there already.
        """

    def take_over(self, study: str, rows: Sequence[TrialRow]) -> int:
        """Add complete trials of an earlier study, which count as none of this one's; returns how many were new."""

    def versions(self) -> Mapping[str, str]:
        """What the trials that there are were run with; empty where none is complete or has a worker."""

    def queue(self, points: Sequence[Mapping[str, Value]], aim: Aim) -> None:
        """Instead of `begin`: try these points, too, each once; one that failed is tried again. There are to be as many
        trials as points and `aim.trials` more, which workers wait for."""

    def aim(self) -> Aim:
        """What was said last; ConfigError where nothing was yet."""

    def failed_in_a_row(self) -> list[TrialRow]:
        """The trials that failed since the last one that did not, and since `begin`; the latest last."""

    def join(self) -> None:
        """Become a worker, until `close`.

        Raises:
            OrchestrationError: the storage takes one worker, and there is one.
        """

    def ask(self) -> Trial | None:
        """Lease the next trial: values whose worker was lost first, else what the sampler proposes.

        Returns:
            None where all trials that are wanted are over or have a worker: one may still be lost.

        Raises:
            OrchestrationError: `join` has not been called.
        """

    def tell(self, number: int, values: Mapping[str, float] | None, notes: Mapping[str, str] | None = None,
             excess: Mapping[str, float] = NOTHING) -> bool:
        """Report a trial's objectives by name; None: it failed, as it does with a value that is no finite number, or
        was ended early where a note says so (`ENDED`): it is over and no failure.

        Args:
            number: a trial that this worker has asked for.
            values: objective → value.
            notes: kept with the trial, e.g. its MLflow run id or why it failed.
            excess: constraint → how far beyond it, in points.

        Returns:
            False where the lease was lost: the values are with another worker, and what was told is kept aside.
        """

    def lose(self, number: int, why: str) -> None:
        """Report a trial whose process was killed from outside: whoever asks next queues its values again, as those of
        a worker that was lost."""

    def lead(self, part: str) -> bool | None:
        """Lease the making of something that trials have in common.

        Args:
            part: hexadecimal digits that name it.

        Returns:
            True where it is this worker's to make, until `led`; None where it is another's; False where it is made.
        """

    def led(self, part: str, *, made: bool) -> None:
        """Give that lease back, and tell all workers where it is made."""

    def note(self, number: int, notes: Mapping[str, str]) -> None:
        """Keep notes with a trial that this worker has asked for while it is under way; nothing where its lease was
        lost."""

    def renew(self) -> None:
        """Say that this worker is there; to be called while a trial runs, at least every half minute."""

    def close(self) -> None:
        """Leave: trials that were asked for and not told are queued again."""

    def remaining(self, trials: int | None = None) -> int:
        """How many trials are not over, of so many, or of as many as are wanted. Failed ones are, except those that
        were queued again."""

    def found(self, number: int) -> TrialRow | None:
        """A trial that is over or has lost its worker; None while it runs."""

    def trials(self) -> list[TrialRow]:
        """All trials that were ever asked for, in order."""

    def pareto(self) -> list[TrialRow]:
        """Complete trials within all constraints that no other such one beats in every objective, by the first one."""
