"""Finds recorded runs again: by the name of their folder in the workspace, or through the tracker."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eval_suites.results import SuiteResult, read_results
from eval_suites.statistics.floor import Floor, larger
from infra.contract import Tracker
from infra.naming import told
from sft_core.config.evaluate import GateSection
from sft_core.config.file import LoadedConfig, load
from sft_core.errors import ConfigError, EvalError, TrackingError
from sft_core.locks import exclusive
from sft_core.stage import read_json, write_json
from tasks.stages import Workspace

REPORT = "report.html"
"""The page of a run, in its folder."""
EVENTS = "events.jsonl"
"""In the folder of a run: a link to what its training tells, in the stage that it trains in or was found in."""
RUN_ID = re.compile("[0-9a-f]{6,32}")
RESULTS = frozenset({"config.yaml", "evaluation"})
RECORD = RESULTS | {"lineage.json", "verdict.json"}
WHOLE = RECORD | {"model"}
ALL = WHOLE | {"data", "ledger.json", "summary.json", "training.json"}
"""Parts of a run that can be fetched."""


class Recorded(NamedTuple):
    """A recorded run. `folder` holds config.yaml, verdict.json, evaluation/ and model/."""

    name: str
    run_id: str
    folder: Path

    def config(self) -> LoadedConfig:
        """The configuration that the run was made with."""
        return load(self.folder / "config.yaml")

    @property
    def finished(self) -> bool:
        """Whether it came to its end in this workspace."""
        return (self.folder / "summary.json").exists()

    def gate(self) -> GateSection | None:
        """The gate of its configuration; None where that is not there, or cannot be read any more."""
        with suppress(ConfigError):
            return self.config().config.gate
        return None

    def model(self) -> Path:
        """The run's model folder.

        Raises:
            TrackingError: it is not there.
        """
        folder = self.folder / "model"
        if folder.exists():
            return folder
        if self.finished:
            raise TrackingError(f"the model of the run {self.name} was removed: {folder} leads nowhere; give the run's "
                                f"command again, or `sft run {self.folder / 'config.yaml'}`")
        raise TrackingError(f"the run {self.name} has no model in {folder}: it is not done, or keeps its model where "
                            "it was made (tracking.store_models: link); finish it with its command, or "
                            f"`sft run {self.folder / 'config.yaml'}`, or set tracking.store_models: copy there")

    def results(self, label: str = "tuned", *, texts: bool = True) -> dict[str, SuiteResult]:
        """Per-item results of the run, `tuned` or `base`, by suite; see `read_results`.

        Raises:
            EvalError: the run has none, because it did not get that far.
        """
        folder = self.folder / "evaluation" / label
        if not (found := results_in(folder, texts=texts)):
            raise EvalError(f"the run {self.name} has no {label} results in {folder}; finish it first: give its "
                            "command again")
        return found

    def beside(self) -> Beside:
        """What was found out beside the results; nothing of a run that is too old to have kept it."""
        file = self.folder / "evaluation" / "beside.json"
        if not file.exists():
            return Beside({}, None)
        kept = read_json(file, "floors", "contaminated")
        floors = {name: Floor(*row)._replace(of=f"the base of {self.name}") for name, row in kept["floors"].items()}
        return Beside(floors, kept["contaminated"], kept.get("versions", {}))


def results_in(folder: Path, *, texts: bool = True) -> dict[str, SuiteResult]:
    """All results in a folder by suite, see `read_results`; nothing where there are none."""
    names = [read_json(file, "suite")["suite"] for file in sorted(folder.glob("*.json"))]
    return {name: read_results(folder, name, texts=texts) for name in names}


class Beside(NamedTuple):
    """What a run found out beside its results, for comparisons with other runs.

    `floors`: suite → how far its base differs from itself. `contaminated`: suite → ids of items in its training data,
    None where none was looked for. `versions`: what the models were asked with, empty where that is not known.
    """

    floors: Mapping[str, Floor]
    contaminated: Mapping[str, Sequence[str]] | None
    versions: Mapping[str, str] = {}


def write_beside(folder: Path, found: Beside) -> None:
    """Write it into a run folder."""
    write_json(folder / "evaluation" / "beside.json", {
        "floors": {name: list(floor) for name, floor in found.floors.items()}, "contaminated": found.contaminated,
        "versions": dict(found.versions)})


def joined(one: Beside, two: Beside) -> Beside:
    """Of two runs: per suite the larger floor, and what either was trained on."""
    floors = {name: larger(one.floors.get(name), two.floors.get(name)) for name in {*one.floors, *two.floors}}
    a, b = one.contaminated, two.contaminated
    return Beside({name: floor for name, floor in floors.items() if floor}, None if a is None or b is None else {
        name: sorted({*a.get(name, ()), *b.get(name, ())}) for name in {*a, *b}})


class Found(NamedTuple):
    """The tuned model of a recorded run: what it is called, its results, and what the run knows beside them."""

    name: str
    results: dict[str, SuiteResult]
    beside: Beside
    gate: GateSection | None  # None of a run whose configuration is not there, or cannot be read any more


def find(reference: str, place: Workspace, tracker: Tracker, parts: frozenset[str] = WHOLE) -> Recorded:
    """The run with this folder name, MLflow run id, MLflow run name, or the start of a folder's name or an id.

    Of one that is not in the workspace these parts are downloaded from the tracker.

    Raises:
        TrackingError: there is none, or there are several; the message lists runs.
    """
    local, reference = local_runs(place.runs), in_full(reference, place)
    if reference in local:
        return local[reference]
    tracked = tracker.find_run(reference)
    mine = next((run for run in local.values() if run.run_id == tracked.run_id), None)
    if mine is not None and (mine.finished or "evaluation" not in tracker.artifacts(tracked.run_id)):
        return mine  # else it was begun here, and another machine finished it
    folder = place.scratch / "downloaded" / tracked.run_id
    with exclusive(folder.with_suffix(".lock")):
        for artifact in parts & tracker.artifacts(tracked.run_id):
            tracker.download(tracked.run_id, artifact, folder)
    return Recorded(tracked.name, tracked.run_id, folder)


def run_of_trial(notes: Mapping[str, str], place: Workspace, tracker: Tracker) -> Recorded:
    """The run that the notes of a trial name, with its results: of this workspace where it was finished here, else from
    the tracker.

    Raises:
        TrackingError: it is in neither.
    """
    folder = place.runs / notes.get("run", "")
    if notes.get("run") and (mine := Recorded(folder.name, notes.get("run_id", ""), folder)).finished:
        return mine
    return find(notes.get("run_id", ""), place, tracker, RESULTS)


def in_full(reference: str, place: Workspace) -> str:
    """The whole name of the one run of the workspace whose name begins so; the reference itself where none does.

    Raises:
        TrackingError: several do.
    """
    there = sorted(file.parent.name for file in place.runs.glob("*/run.json"))
    some = [name for name in there if reference and name.startswith(reference)]
    if len(some) > 1 and reference not in some:
        raise TrackingError(f"{reference!r} is the beginning of several runs in {place.root}: {told(some)}; give more "
                            "of the name")
    return some[0] if len(some) == 1 else reference


def is_run(reference: str, place: Workspace) -> bool:
    """Whether a name is one of a run, or can only be the id of one."""
    return reference in local_runs(place.runs) or bool(
        RUN_ID.fullmatch(reference) and not Path(reference).exists())


def results_of(reference: str, place: Workspace, tracker: Tracker) -> Found:
    """Name and results of the tuned model of a recorded run, given as for `find` or as models:/NAME@ALIAS.

    Raises:
        EvalError: it is no recorded run, or has no results; says what else can be done.
        TrackingError: the registry does not know the model, or the tracker cannot be asked.
    """
    if reference.startswith("models:/"):
        name, _, alias = reference.removeprefix("models:/").partition("@")
        run = find(tracker.resolve_alias(name, alias or "champion").run_id, place, tracker)
        return Found(reference, run.results(), run.beside(), run.gate())
    if reference == "tiny" or Path(reference).is_dir():
        raise EvalError(f"{reference} is a model and no recorded run, so it has no results yet; say with --suite what "
                        "to evaluate on both")
    try:
        run = find(reference, place, tracker)
    except TrackingError as error:
        raise EvalError(f"{error}. A folder, a hub id or tiny can be compared too: say with --suite what to evaluate"
                        ) from error
    return Found(run.name, run.results(), run.beside(), run.gate())


def link_to(link: Path, target: Path) -> None:
    """Make the link point there, from where it is: a workspace may be moved or copied."""
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))


def local_runs(runs: Path) -> Mapping[str, Recorded]:
    """The runs of this workspace by folder name."""
    found = {}
    for file in sorted(runs.glob("*/run.json")):
        run_id = read_json(file, "mlflow_run_id")["mlflow_run_id"]
        found[file.parent.name] = Recorded(file.parent.name, run_id, file.parent)
    return found
