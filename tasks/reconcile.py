"""What Prefect, MLflow and Optuna show, made to agree with the folders of the workspace, which are the truth.

Each step finds what disagrees and mends it, or only says it. All of it can be done again and beside other commands:
what is under way is left alone, a run is looked at under its own lock, and a point that is sent twice is one point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from infra import naming
from infra.alive import Note, bury, noted
from infra.contract import Tracker
from infra.events import Mark, Standing, batches, load_mark, save_mark
from infra.stored import look_after
from infra.stores import store_of
from infra.study_contract import TrialRow
from sft_core.config.file import load
from sft_core.errors import ConfigError, DamagedFile, OrchestrationError, SftError
from sft_core.locks import try_exclusive
from sft_core.masking import masked
from sft_core.stage import read_json
from tasks.experiment import FOLLOWED, run_key
from tasks.mirror import mirrored
from tasks.prepare import prepared_stage
from tasks.stages import Done, Workspace
from tasks.train import trained_stage


class Finding(NamedTuple):
    """What disagreed, and what was done about it; `todo`: it is for a person, or for `--record`."""

    kind: str  # `process`, `metrics`, `run`, `trial` or `elsewhere`
    what: str
    did: str
    todo: bool = False

    @property
    def line(self) -> str:
        """For a terminal."""
        return f"{self.what}: {self.did}"


class Reconciling(NamedTuple):
    """Where, and whether anything is changed."""

    place: Workspace
    tracker: Tracker
    dry: bool

    def did(self, words: str) -> str:
        """What is said of something that was done."""
        return f"would be {words}" if self.dry else words


def notes(asked: Reconciling, close: Callable[[Note], bool]) -> list[Finding]:
    """What killed processes left open in Prefect and MLflow, closed."""
    found: list[Finding] = []

    def closed(note: Note) -> bool:
        over = not asked.dry and close(note)
        what = f"the {note.kind} run {note.run_id or note.key} of a process that is gone"
        left = f"stays open, because {note.where or 'Prefect'} does not answer or is not the one that is configured"
        found.append(Finding("process", what, asked.did("closed") if over or asked.dry else left, not over))
        return over

    bury(asked.place.root, closed)
    return found


def runs(asked: Reconciling) -> Iterator[Finding]:
    """The runs of this workspace against what the tracker has of them, under whatever address it was when they were
    recorded: an id of MLflow is nowhere twice."""
    recorded = {file.parent: read_json(file, "mlflow_run_id", "mlflow_uri")
                for file in sorted(asked.place.runs.glob("*/run.json"))}
    there = asked.tracker.standings([run["mlflow_run_id"] for run in recorded.values()])
    here, elsewhere = store_of(asked.tracker.shown, asked.place.root), dict[str, list[str]]()
    for folder, run in recorded.items():
        store = run.get("mlflow_store") or store_of(run["mlflow_uri"], asked.place.root)
        if run["mlflow_run_id"] not in there and store != here:
            elsewhere.setdefault(store, []).append(folder.name)
        elif (handle := try_exclusive(folder / "lock")) is not None:  # else it is under way
            with handle:
                yield from _run(asked, folder, run["mlflow_run_id"], there.get(run["mlflow_run_id"]))
    for store, names in elsewhere.items():
        yield Finding("elsewhere", f"{len(names)} runs recorded elsewhere ({', '.join(names[:3])} …)" if names[3:] else
                      f"recorded elsewhere ({', '.join(names)})", f"in {store}, and {asked.tracker.shown} has none of "
                      "them; sft reconcile with MLFLOW_TRACKING_URI set to that store looks there", True)


def _run(asked: Reconciling, folder: Path, run_id: str, standing: Standing | None) -> Iterator[Finding]:
    what, finished = f"run {folder.name}", (folder / "summary.json").exists()
    if standing is None:
        yield Finding("run", what, f"is not in {asked.tracker.shown}; sft reconcile --record records it anew", True)
        return
    if missing := _missing(folder, run_id, standing):
        points, mark = missing
        if not asked.dry:
            save_mark(folder / FOLLOWED, mark)
        sent = asked.dry or asked.tracker.follow(run_id, _events(folder), folder / FOLLOWED, last=True)
        yield Finding("metrics", what, asked.did(f"sent {points} points that MLflow lacked") if sent else
                      f"MLflow lacks {points} points and does not take them now; repeat this when it is well", not sent)
    if finished and standing.status != "FINISHED":
        yield Finding("run", what, f"is done, and {standing.status} in MLflow, because it was ended while it was "
                      "recorded; sft reconcile --record records it anew", True)
    elif standing.status == "RUNNING" and run_id not in {note.run_id for note in noted(asked.place.root)}:
        if not asked.dry:
            asked.tracker.finish(run_id, "KILLED")
        yield Finding("process", what, asked.did("ended as KILLED: it was RUNNING in MLflow without a process"))


def _events(folder: Path) -> Path:
    """Of the training of a run; the link is there as soon as it is recorded, and stays when the model is removed."""
    return (folder / "model").resolve().parent / "events.jsonl"


def _missing(folder: Path, run_id: str, standing: Standing) -> tuple[int, Mark] | None:
    """How many points of a run's events the store lacks, and the mark from where they are sent."""
    if not (folder / "model").is_symlink():
        return None  # training is not over: the run's own command goes on with it
    mark = load_mark(folder / FOLLOWED, run_id)
    if any(standing.steps.get(naming.name(key), -1) < step for key, step in mark.steps.items()):
        mark = Mark(run_id, steps={key: standing.steps.get(naming.name(key), -1) for key in mark.steps})
    points = sum(len(some) for some, _ in batches(_events(folder), mark))
    return (points, mark) if points else None


def trials(asked: Reconciling, storage: str | None) -> Iterator[Finding]:
    """Trials of the sweeps of this workspace, in its journals and in a storage, against their workers and MLflow.

    Args:
        storage: of sweeps that are in a database; None: there is none.
    """
    root = asked.place.root
    kept: list[tuple[str, str | None]] = [(one.stem, None) for one in sorted((root / "studies").glob("*.log"))]
    if storage:
        kept += [(one.name, storage) for one in sorted((root / "sweeps").glob("*/"))]
    for name, where in kept:
        try:
            looked = look_after(name, root, where, mend=not asked.dry)
        except ConfigError:  # it has not begun, or is in the other place
            continue
        except OrchestrationError as error:
            yield Finding("trial", f"the sweeps in {masked(where or name)}", f"could not be looked at: {error}", True)
            return
        for number in looked.lost:
            yield Finding("trial", f"trial {number} of {name}", asked.did(
                "queued again, as its worker is gone") + f"; sft sweep-worker {name} takes it up")
        yield from _recorded(asked, name, looked.rows)


def _recorded(asked: Reconciling, name: str, rows: Sequence[TrialRow]) -> Iterator[Finding]:
    """Complete trials of other machines that MLflow does not have whole; those of this one are found as its runs."""
    told = {row.number: row.notes["run_id"] for row in rows if row.values and row.notes.get("run_id")
            and not (asked.place.runs / row.notes.get("run", "")).is_dir()}
    there = asked.tracker.standings(sorted(set(told.values())))
    for number, run_id in told.items():
        status = there[run_id].status if run_id in there else "not there"
        if status != "FINISHED":
            yield Finding("trial", f"trial {number} of {name}", f"is complete, and its run {run_id} is {status} in "
                          f"{asked.tracker.shown}; sft reconcile --record on the machine that ran it records it anew",
                          todo=True)


class Again(NamedTuple):
    """A run that is to be recorded anew: its configuration, and the MLflow run of the sweep that it is a trial of."""

    name: str
    config: Path
    parent: str | None


def to_record(asked: Reconciling, found: list[Finding]) -> tuple[list[Again], list[Finding]]:
    """The runs among what was found whose stages are all there, so that recording them computes nothing; and of the
    others, why not."""
    again, cannot = [], []
    for one in found:
        if one.kind == "run":
            folder = asked.place.runs / one.what.removeprefix("run ")
            try:
                run = read_json(folder / "run.json", "key", "parent_run_id")
                whole = _is_whole(folder, run["key"], run["parent_run_id"], asked.place)
            except (SftError, DamagedFile) as error:
                whole, said = False, str(error)
            else:
                said = "its stages are gone, or other code made them, so that it would be computed again"
            if whole:
                again.append(Again(folder.name, folder / "config.yaml", run["parent_run_id"]))
            else:
                cannot.append(one._replace(did=f"is not recorded anew: {said}; sft run {folder / 'config.yaml'}"))
    return again, cannot


def _is_whole(folder: Path, key: str, parent: str | None, place: Workspace) -> bool:
    config = load(folder / "config.yaml").config
    place = mirrored(place, config.data.mirror)
    prepared = prepared_stage(config, place)
    if (result := prepared.result()) is None or run_key(config, prepared.fingerprint, parent) != key:
        return False
    done = Done(prepared.fingerprint, prepared.work, result, reused=True)
    return trained_stage(config, done, place).result() is not None
