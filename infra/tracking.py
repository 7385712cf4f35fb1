"""The only door to MLflow: runs, metrics, artifacts, tables; the registry is `registry.py`.

Everything here can be repeated: a run is found again by its `run_key`, parameters and equal metrics are not logged
twice, artifacts replace themselves, a model folder of the same content keeps its version. So a stage that was killed
while it recorded is simply recorded again. `follow` never raises; all else raises `TrackingError`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from infra import events as event_file
from infra import naming, runs_view
from infra.addresses import absolute_uri
from infra.contract import ERROR, NOTHING_ASKED, Keep, TrackedRun, Tracker
from infra.databases import is_absent, is_sql, try_connection, why_not
from infra.door import FAILURES, door
from infra.linking import linked, local_folder
from infra.reach import require_mlflow
from infra.registry import MlflowRegistry
from sft_core.errors import TrackingError
from sft_core.locks import exclusive
from sft_core.masking import masked

log = logging.getLogger(__name__)

RUN_KEY = "sft.run_key"
KIND, TRAINING, GUESSED = "mlflow.experimentKind", "custom_model_development", "_inferred"
"""Tag of an experiment that says which view MLflow opens it in, ours, and how what MLflow guessed ends."""
LONGEST_PARAM = 500
"""Longer values are in the config artifact only; MLflow would cut them silently at 6000."""
PARAMS_PER_CALL = 100
RUNS_PER_CALL = 200
RETRY_AFTER_S = 30.0
"""After a failure `follow` leaves the server alone for so long: training must not wait for it at every step."""


def open_tracker(uri: str, experiment: str, workspace: Path, *, make: bool = True, artifacts: str | None = None
                 ) -> Tracker:
    """Connect, and make the database and the experiment where they are missing.

    Args:
        uri: MLflow tracking URI: `sqlite:///…`, `http(s)://…` or whatever else MLflow takes, except a plain folder.
        experiment: MLflow experiment.
        workspace: folder for locks, downloaded models, and with a database for artifacts.
        make: off for a look at what was recorded: nothing is made, and where there is no store nothing is found.
        artifacts: where those of a database are, as a URI; None: `mlartifacts` in the workspace.

    Raises:
        ConfigError: a driver is missing. TrackingError: within seconds, the server or the store cannot be used.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = absolute_uri(uri) or uri
    scheme = urlsplit(uri).scheme
    if scheme in {"", "file"}:
        raise TrackingError(f"the tracking URI {uri!r} is a folder, which MLflow no longer takes; use "
                            f"sqlite:///{workspace / 'mlflow.db'} or the http:// address of an MLflow server")
    require_mlflow(uri, workspace)
    # MLflow's own default for a database is ./mlruns, wherever that is.
    kept = (workspace / "mlartifacts").absolute().as_uri() if artifacts is None else artifacts.rstrip("/")
    place = f"{kept}/{quote(experiment)}" if is_sql(uri) else None
    if not make and is_absent(uri):
        return MlflowTracker(uri, "", workspace)
    with door(uri, "open the store", make=make), exclusive(workspace / "locks" / "tracker"):
        if scheme == "sqlite":
            _make_database(Path(uri.removeprefix("sqlite:///")))
        elif is_sql(uri):
            try_connection(uri)
        # Under the lock, because several processes that meet an empty database all make its tables and all fail.
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return MlflowTracker(uri, _experiment_id(client, experiment, place, make=make), workspace)


def _make_database(file: Path) -> None:
    """MLflow's tables in SQLite, whole or not at all: what a full disk left of them, no later start could use."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    draft.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{draft}").search_experiments(max_results=1)
    draft.rename(file)


class MlflowTracker(MlflowRegistry):
    """One experiment in one MLflow store; without an id no experiment yet. Made by `open_tracker`."""

    def __init__(self, uri: str, experiment_id: str, workspace: Path) -> None:
        self.uri = uri
        self.shown = masked(uri)  # for people and files: without its password
        self.workspace = workspace
        self.experiment_id = experiment_id
        self.pages = naming.pages_of(self.shown, experiment_id)
        self._retry_at = 0.0
        self._followed = set[str]()

    def start_run(self, name: str, run_key: str, params: Mapping[str, object], config_text: str,
                  tags: Mapping[str, str], parent_run_id: str | None = None) -> str:
        digest = hashlib.sha256(config_text.encode()).hexdigest()
        wanted = {**tags, RUN_KEY: run_key, "sft.config_sha256": digest}
        if parent_run_id:
            wanted["mlflow.parentRunId"] = parent_run_id
        lock = self.workspace / "locks" / f"run-{hashlib.sha256(run_key.encode()).hexdigest()[:16]}"
        with door(self.uri, f"start the run {name}"), exclusive(lock):
            found = self._of_key(run_key)
            run = found[0] if found else self._client.create_run(self.experiment_id, tags=wanted, run_name=name)
            run_id = str(run.info.run_id)
            if found:
                self._client.update_run(run_id, status="RUNNING", name=name)
                self.set_tags(run_id, wanted | dict.fromkeys({ERROR} & run.data.tags.keys(), ""))  # it goes on
            self._log_params(run, params)
            self._client.log_text(run_id, config_text, "config.yaml")
        return run_id

    def follow(self, run_id: str, events: Path, offset_file: Path, *, last: bool = False) -> bool:
        if not last and time.monotonic() < self._retry_at:
            return False
        try:
            require_mlflow(self.uri)
            # What was sent and not noted, as its process was killed between, may be in the file with other times now.
            before = {} if run_id in self._followed else _last_steps(self._client.get_run(run_id))
            for points, mark in event_file.batches(events, event_file.load_mark(offset_file, run_id)):
                named = [Metric(naming.name(p.key), *p[1:]) for p in points]
                if new := [one for one in named if one.step > before.get(one.key, -1)]:
                    self._client.log_batch(run_id, metrics=new)
                event_file.save_mark(offset_file, mark)
            self._followed.add(run_id)
        except (TrackingError, *FAILURES) as error:
            if not self._retry_at:
                log.warning("metrics are not sent for now, training goes on and they are kept in %s: %s", events,
                            why_not(error))
            self._retry_at = time.monotonic() + RETRY_AFTER_S
            return False
        self._retry_at = 0.0
        return True

    def log_metrics(self, run_id: str, metrics: Mapping[str, float | None], step: int = 0) -> None:
        with door(self.uri, "log metrics"):
            data = self._client.get_run(run_id).data
            there = data.metrics
            # Of two values of a step MLflow shows the later one; the clock may have been put back between them.
            wanted = {naming.name(key): float(value) for key, value in metrics.items() if value is not None}
            before = [one.timestamp for one in data.to_proto().metrics if one.key in wanted]
            now = max([int(time.time() * 1000), *(one + 1 for one in before)])
            new = [(key, value) for key, value in wanted.items() if repr(there.get(key)) != repr(value)]  # nan is nan
            self._client.log_batch(run_id, metrics=[Metric(key, value, now, step) for key, value in new])

    def log_artifacts(self, run_id: str, source: Path, path: str = "") -> None:
        with door(self.uri, f"save {source}"):
            if source.is_dir():
                self._client.log_artifacts(run_id, str(source), path or None)
            else:
                self._client.log_artifact(run_id, str(source), path or None)

    def log_table(self, run_id: str, file: str, columns: Mapping[str, Sequence[object]]) -> None:
        frame = pd.DataFrame(dict(columns))
        folder, _, _ = file.rpartition("/")
        with door(self.uri, f"save the table {file}"):
            there = {entry.path for entry in self._client.list_artifacts(run_id, folder or None)}
            if file in there:  # MLflow's log_table would append to it
                self._client.log_text(run_id, frame.to_json(orient="split", index=False), file)
            else:
                self._client.log_table(run_id, data=frame, artifact_file=file)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        with door(self.uri, "set tags"):
            self._client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def describe(self, run_id: str, said: str, files: Sequence[str] = (), inputs: Sequence[naming.Input] = (),
                 derived: Mapping[str, object] = NOTHING_ASKED) -> None:
        page = f"#/experiments/{self.experiment_id}/runs/{run_id}/artifacts"
        links = " · ".join(f"[{file}]({page}/{quote(file)}{naming.RUNS_FIRST})" for file in files)
        used = [DatasetInput(Dataset(one.name, one.digest, "local", json.dumps({"uri": one.source}),
                                     profile=json.dumps(dict(one.profile))), [InputTag("mlflow.data.context", one.use)])
                for one in inputs]
        with door(self.uri, "describe the run"):
            self._client.set_tag(run_id, naming.SHOWN_AS["note"], f"{said}\n\n{links}".strip())
            if used:
                self._client.log_inputs(run_id, used)
            self._log_params(self._client.get_run(run_id), derived)

    def arrange(self, metrics: Sequence[str]) -> None:
        with door(self.uri, "arrange the list of runs"):
            before = self._client.get_experiment(self.experiment_id).tags.get(runs_view.TAG)
            view = runs_view.runs_view([naming.name(metric) for metric in metrics], before)
            if view is not None and view != before:
                self._client.set_experiment_tag(self.experiment_id, runs_view.TAG, view)

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        with door(self.uri, "finish the run"):
            self._client.set_terminated(run_id, status)

    def log_model(self, run_id: str, model_folder: Path, how: Keep) -> None:
        files = naming.file_digests(model_folder)
        said = {"folder": str(model_folder.resolve()), "machine": platform.node(), "files": files,
                "digest": naming.digest_of(files)}
        with door(self.uri, f"save {model_folder}"):
            self._client.log_dict(run_id, said, "model.json")
            place = local_folder(self._client.get_run(run_id).info.artifact_uri)
            if how != "copy" and place is not None and linked(model_folder, place / "model"):
                return
            if how != "link":
                self._client.log_artifacts(run_id, str(model_folder), "model")

    def delete_run(self, run_id: str) -> None:
        with door(self.uri, f"delete the run {run_id}"):
            self._client.delete_run(run_id)

    def find_run(self, ref: str) -> TrackedRun:
        with door(self.uri, f"look for the run {ref}"):
            everywhere = [e.experiment_id for e in self._client.search_experiments()]
            named = self._search(f"attributes.run_name = '{naming.quoted(ref)}'", 1, everywhere)
            is_prefix = re.fullmatch(r"[0-9a-f]{6,32}", ref)
            found = named or (self._search(f"attributes.run_id LIKE '{ref}%'", 2, everywhere) if is_prefix else [])
            if len(found) == 1:
                return _info(found[0])
            latest = ", ".join(f"{run.name} ({run.run_id[:8]})" for run in map(_info, self._search("", 5, everywhere)))
        what = "is the start of several run ids" if found else "is no run (name, id or id prefix)"
        raise TrackingError(f"{ref} {what} in {self.uri}; the latest runs: {latest or 'none yet'}")

    def runs_of(self, run_key: str) -> list[TrackedRun]:
        with door(self.uri, f"look for the run {run_key}"):
            return [_info(run) for run in self._of_key(run_key)]

    def standings(self, run_ids: Sequence[str]) -> dict[str, event_file.Standing]:
        found: dict[str, event_file.Standing] = {}
        with door(self.uri, "look at the runs"):
            everywhere = [e.experiment_id for e in self._client.search_experiments()]
            for first in range(0, len(run_ids), RUNS_PER_CALL):
                asked = ", ".join(f"'{one}'" for one in run_ids[first:first + RUNS_PER_CALL])
                for run in self._search(f"attributes.run_id IN ({asked})", RUNS_PER_CALL, everywhere):
                    found[run.info.run_id] = event_file.Standing(run.info.status, _last_steps(run))
        return found

    def points(self, run_id: str, metric: str) -> int:
        with door(self.uri, f"look at {metric} of run {run_id}"):
            return len(self._client.get_metric_history(run_id, naming.name(metric)))

    def recent(self, limit: int, tags: Mapping[str, str] = NOTHING_ASKED) -> list[TrackedRun]:
        condition = " and ".join(f"tags.`{key}` = '{naming.quoted(value)}'" for key, value in tags.items())
        with door(self.uri, "list the runs"):
            return [_info(run) for run in self._search(condition, limit)]

    def download(self, run_id: str, artifact_path: str, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        with door(self.uri, f"download {artifact_path} of run {run_id}"):
            return Path(self._client.download_artifacts(run_id, artifact_path, str(folder)))

    def artifacts(self, run_id: str) -> frozenset[str]:
        with door(self.uri, f"list the artifacts of run {run_id}"):
            return frozenset(entry.path for entry in self._client.list_artifacts(run_id))

    def _of_key(self, run_key: str) -> list[Run]:
        return self._search(f"tags.`{RUN_KEY}` = '{naming.quoted(run_key)}'", 9)

    def _search(self, condition: str, limit: int, experiments: list[str] | None = None) -> list[Run]:
        ids = experiments or list(filter(None, [self.experiment_id]))
        return list(self._client.search_runs(ids, condition, max_results=limit, order_by=["start_time DESC"]))

    def _log_params(self, run: Run, params: Mapping[str, object]) -> None:
        wanted = {naming.name(key): naming.plain_text(value) for key, value in params.items()}
        wanted = {key: text for key, text in wanted.items() if len(text) <= LONGEST_PARAM}
        there = run.data.params
        if changed := sorted(key for key in wanted.keys() & there.keys() if wanted[key] != there[key]):
            # MLflow refuses to change a parameter; the config artifact is replaced and says the truth.
            log.warning("run %s was opened with other values of %s; its config.yaml has the new ones",
                        run.info.run_id, ", ".join(changed))
        new = [Param(key, text) for key, text in wanted.items() if key not in there]
        for start in range(0, len(new), PARAMS_PER_CALL):
            self._client.log_batch(run.info.run_id, params=new[start:start + PARAMS_PER_CALL])


def _experiment_id(client: MlflowClient, name: str, artifacts: str | None, *, make: bool) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifacts, {KIND: TRAINING})) if make else ""
    if found.lifecycle_stage != "active":
        raise TrackingError(f"the MLflow experiment {name} is deleted; restore it (mlflow experiments restore -x "
                            f"{found.experiment_id}) or set tracking.experiment to another name")
    kind = found.tags.get(KIND, GUESSED)
    if kind.endswith(GUESSED) and client.search_runs([found.experiment_id], f"tags.`{RUN_KEY}` != ''", max_results=1):
        client.set_experiment_tag(found.experiment_id, KIND, TRAINING)  # ours, of before it was set
    return str(found.experiment_id)


def _last_steps(run: Run) -> dict[str, int]:
    return {one.key: one.step for one in run.data.to_proto().metrics}


def _info(run: Run) -> TrackedRun:
    info, data = run.info, run.data
    started_s = info.start_time / 1000
    return TrackedRun(info.run_id, info.run_name, info.status, started_s, data.params, data.metrics, data.tags)
