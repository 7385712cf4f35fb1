"""What a model came out of: source files → prepared data → configuration → base → weights → evaluation → verdict, each
with its hash. Written beside the run (`lineage.json`), and looked at again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from infra.contract import Keep, Tracker
from infra.naming import differences, digest_of, file_digests, told
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import DataError, ModelError, TrackingError
from sft_core.stage import file_digest, fingerprint, read_json, write_json
from tasks.experiment import Experiment
from tasks.facts import LINEAGE
from tasks.inputs import sources_of
from tasks.runs import Recorded
from tasks.stages import Done, Workspace
from tasks.versions import made_with

PARTS = ("sources", "prepared", "config", "base", "model", "evaluation", "made_with", "gate")
OK, CHANGED, ABSENT = "ok", "changed", "not here"


def write_lineage(run: Experiment, prepared: Done, trained: Done, place: Workspace) -> Mapping[str, Any]:
    """Write what the model of a run came out of; the run folder is complete but for this and its summary. Returns what
    will be read of it.

    Raises:
        ModelError: the base is gone.
    """
    from sft_core.model.load import model_identity
    from sft_core.train.inputs import data_digest

    base, verdict = model_identity(run.config.model, place.mirror), read_json(run.folder / "verdict.json")
    files = file_digests(trained.folder / "model")
    evaluation = {label: {name: read_json(run.folder / "evaluation" / label / name)["protocol_hash"]
                          for name in sorted(one.name for one in (run.folder / "evaluation" / label).glob("*.json"))}
                  for label in ("base", "tuned")}
    found = {
        "sources": prepared.result["sources"],
        "prepared": {"fingerprint": prepared.fingerprint, "digest": data_digest(prepared.folder)},
        "config": {"sha256": file_digest(run.folder / "config.yaml")},
        "base": {"path": run.config.model.path, "digest": base["digest"], "files": base["files"]},
        "model": {"digest": digest_of(files), "files": files},
        "evaluation": {"protocols": evaluation, "files": file_digests(run.folder / "evaluation")},
        "made_with": trained.result.get("made_with"),  # None of a training that is older than this record
        "gate": {"outcome": verdict["gate"], "reason": verdict["reason"]},
    }
    write_json(run.folder / LINEAGE, found)
    written: Mapping[str, Any] = read_json(run.folder / LINEAGE, *PARTS)
    return written


def read_lineage(run: Recorded) -> Mapping[str, Any]:
    """What the model of a recorded run came out of.

    Raises:
        TrackingError: the run has no such record: it did not come to its end, or is older than it.
        DamagedFile: it is no record any more.
    """
    try:
        found: Mapping[str, Any] = read_json(run.folder / LINEAGE, *PARTS)
    except FileNotFoundError as error:
        raise TrackingError(f"the run {run.name} has no {LINEAGE} in {run.folder}: it is not done, or was recorded "
                            "before there was one; give its command again, which finishes it and records it") from error
    return found


def short(lineage: Mapping[str, Any]) -> dict[str, str]:
    """The chain as one digest for each part, by the names that MLflow's tags have."""
    made = lineage["made_with"] or {}
    return {"sft.data": lineage["prepared"]["digest"], "sft.config": lineage["config"]["sha256"],
            "sft.base": lineage["base"]["digest"], "sft.results": fingerprint(lineage["evaluation"]),
            "sft.commit": str(made.get("commit") or "not known")}


def enrol(tracker: Tracker, run_id: str, model: Path, name: str, how: Keep, lineage: Mapping[str, Any]) -> str:
    """Make a run's model a version of a registered model that says what it came out of; returns the version.

    Raises:
        TrackingError: the tracker refuses.
    """
    version = tracker.register(run_id, model, name, how)
    tracker.note(name, version, short(lineage))
    return version


class Looked(NamedTuple):
    """A hash of a lineage that was looked at here: `ok`, `changed` or `not here`, and what is otherwise."""

    part: str
    recorded: str
    state: str
    said: str = ""


def look_again(run: Recorded, lineage: Mapping[str, Any], place: Workspace) -> Iterator[Looked]:
    """Every hash of a lineage against what is here now."""
    config = run.config().config
    yield from _sources(config, lineage, place)
    yield _prepared(lineage["prepared"], place)
    yield _one("configuration", lineage["config"]["sha256"], run.folder / "config.yaml")
    yield _base(config, lineage["base"], place)
    yield _files("model", lineage["model"]["digest"], lineage["model"]["files"], run.folder / "model")
    yield _files("evaluation", fingerprint(lineage["evaluation"]), lineage["evaluation"]["files"],
                 run.folder / "evaluation")
    yield from _computing(lineage["made_with"])


def _sources(config: ExperimentConfig, lineage: Mapping[str, Any], place: Workspace) -> Iterator[Looked]:
    from sft_core.data.sources import source_files

    for (source, _), recorded in zip(sources_of(config), lineage["sources"], strict=True):
        part, digest = f"source {recorded['name']}", digest_of(recorded["files"])
        try:
            now = source_files(source, scratch=place.scratch, mirror=place.mirror)
        except DataError as error:
            yield Looked(part, digest, ABSENT, str(error))
            continue
        wrong = told(differences(recorded["files"], now))
        yield Looked(part, digest, CHANGED if wrong else OK, wrong)


def _prepared(recorded: Mapping[str, str], place: Workspace) -> Looked:
    from sft_core.train.inputs import data_digest

    stage = place.stages.open("prepare", recorded["fingerprint"])
    if stage.take() is None:
        return Looked("prepared data", recorded["digest"], ABSENT, f"no finished stage {stage.folder}")
    same = data_digest(stage.work) == recorded["digest"]
    return Looked("prepared data", recorded["digest"], OK if same else CHANGED, "" if same else str(stage.work))


def _one(part: str, recorded: str, file: Path) -> Looked:
    same = file_digest(file) == recorded
    return Looked(part, recorded, OK if same else CHANGED, "" if same else str(file))


def _base(config: ExperimentConfig, recorded: Mapping[str, Any], place: Workspace) -> Looked:
    from sft_core.model.load import model_identity

    try:
        now = model_identity(config.model, place.mirror)
    except ModelError as error:
        return Looked("base model", recorded["digest"], ABSENT, str(error))
    wrong = told(differences(recorded["files"], now["files"]))
    return Looked("base model", recorded["digest"], CHANGED if wrong else OK, wrong)


def _files(part: str, digest: str, recorded: Mapping[str, str], folder: Path) -> Looked:
    if not folder.exists():
        return Looked(part, digest, ABSENT, f"no folder {folder}")
    wrong = told(differences(recorded, file_digests(folder)))
    return Looked(part, digest, CHANGED if wrong else OK, wrong)


def _computing(recorded: Mapping[str, Any] | None) -> Iterator[Looked]:
    """Code and libraries: where others are here, those of the run are not; nothing of the run has changed."""
    if recorded is None:
        yield Looked("code and libraries", "not known", ABSENT, "trained before they were recorded")
        return
    now = made_with()
    said = f"commit {recorded['commit'] or 'not known'}" + ("" if recorded["clean"] in (True, None) else ", with edits")
    for part, name, shown in (("code", "code", said), ("libraries", "libraries", fingerprint(recorded["libraries"]))):
        other = [f"{key} {now[name].get(key, 'none')} here, {value} then" for key, value in recorded[name].items()
                 if now[name].get(key) != value]
        yield Looked(part, shown, ABSENT if other else OK, told(other))


def check_model(run: Recorded, lineage: Mapping[str, Any]) -> None:
    """Raises TrackingError where the files of a run's model are not those that were recorded; it names them."""
    looked = _files("model", lineage["model"]["digest"], lineage["model"]["files"], run.model())
    if looked.state != OK:
        raise TrackingError(f"the model of the run {run.name} in {run.model().resolve()} is not the one that was "
                            f"evaluated: {looked.said}; restore the files, or remove that folder's stage and give the "
                            f"run's command again, `sft run {run.folder / 'config.yaml'}`")
