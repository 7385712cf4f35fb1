"""The registry of the door to MLflow: versions of models, aliases, and files that are what was registered."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion

from infra import naming
from infra.contract import Keep, Registered, Resolved, Tracker
from infra.databases import is_absent
from infra.door import door
from infra.linking import linked, local_folder
from sft_core.errors import TrackingError
from sft_core.locks import exclusive

DIGEST, FILES = "sft.digest", "sft.files"
"""Tags of a version: SHA-256 of its folder, and of every file the start of its own."""


class MlflowRegistry(Tracker):
    """The registered models of one MLflow store; each call of a tracker that concerns them."""

    uri: str
    workspace: Path

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)  # which makes a database that is not there

    def register(self, run_id: str, model_folder: Path, name: str, how: Keep = "auto") -> str:
        files = naming.file_digests(model_folder)
        digest = naming.digest_of(files)
        with door(self.uri, f"register {model_folder} as {name}"), exclusive(self.workspace / "locks" / "registry"):
            if not self._client.search_registered_models(_named(name)):
                self._client.create_registered_model(name)
            for known in self._client.search_model_versions(f"{_named(name)} and run_id = '{run_id}'"):
                if known.tags.get(DIGEST) == digest:
                    self._restore(known, model_folder, how)
                    return str(known.version)
            tags = {DIGEST: digest}
            experiment = self._client.get_run(run_id).info.experiment_id
            model = self._client.create_logged_model(experiment, "model", run_id, tags, model_type="hf")
            self._put(model.model_id, local_folder(model.artifact_location), model_folder, how)
            self._client.finalize_logged_model(model.model_id, "READY")
            # Not models:/ID as the source: MLflow would look that up in the process's global store, not in this one.
            version = self._client.create_model_version(
                name, model.artifact_location, run_id, tags | {FILES: json.dumps(naming.shortened(files))},
                model_id=model.model_id)
        return str(version.version)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        with door(self.uri, f"set the alias {alias} of {name}"):
            self._client.set_registered_model_alias(name, alias, version)

    def drop_alias(self, name: str, alias: str) -> None:
        with door(self.uri, f"remove the alias {alias} of {name}"):
            self._client.delete_registered_model_alias(name, alias)

    def aliases(self, name: str) -> dict[str, str]:
        if is_absent(self.uri):
            return {}
        with door(self.uri, f"read the registered model {name}"):
            found = self._client.search_registered_models(_named(name))
            return {alias: str(version) for alias, version in found[0].aliases.items()} if found else {}

    def resolve_alias(self, name: str, alias: str) -> Resolved:
        with door(self.uri, f"read the registered model {name}"):
            found = self._client.search_registered_models(_named(name))
        aliases = self.aliases(name)
        if alias not in aliases:
            have = f"its aliases are {sorted(aliases)}" if found else "there is no registered model of that name"
            raise TrackingError(f"{name}@{alias} is not in the registry of {self.uri}: {have}; make one "
                                f"with `sft promote RUN --name {name}`")
        with door(self.uri, f"download {name}@{alias}"):
            where = f"{_named(name)} and version_number = {aliases[alias]}"
            there = self._client.search_model_versions(where)
            if not there:
                raise TrackingError(f"{name}@{alias} points at version {aliases[alias]}, which was deleted in the "
                                    f"registry; `sft models {name}` shows those there are, `sft promote RUN --name "
                                    f"{name} --alias {alias}` points it at another run's model")
            folder = self._folder_of(there[0])
        if wrong := _differences(there[0].tags, folder):
            raise TrackingError(f"the files of {name}@{alias} (version {aliases[alias]}) in {folder} are not those "
                                f"that were registered: something has changed {wrong}; restore them, or make the model "
                                "again: remove the train stage of its run, give the run's command, and "
                                f"`sft promote RUN --name {name} --alias {alias}`")
        return Resolved(aliases[alias], str(there[0].run_id), folder)

    def registered(self, name: str | None = None) -> list[Registered]:
        if is_absent(self.uri):
            return []
        with door(self.uri, "list the registered models"):
            asked = _named(name) if name else None
            return [Registered(model.name, str(one.version), str(one.run_id),
                               tuple(alias for alias, version in model.aliases.items() if version == one.version),
                               local_folder(self._client.get_model_version_download_uri(model.name, one.version)),
                               one.tags, one.creation_timestamp / 1000)
                    for model in _all(self._client.search_registered_models, asked)
                    for one in _all(self._client.search_model_versions, _named(model.name))]

    def note(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        with door(self.uri, f"set tags of version {version} of {name}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, value)

    def forget(self, version: Registered) -> None:
        with door(self.uri, f"forget {version.name} {version.version}"), \
                exclusive(self.workspace / "locks" / "registry"):
            if version.version in self.aliases(version.name).values():
                raise TrackingError(f"version {version.version} of {version.name} has an alias by now; it stays")
            self._client.delete_model_version(version.name, version.version)
            if version.folder is not None:
                shutil.rmtree(version.folder, ignore_errors=True)

    def _put(self, model_id: str, place: Path | None, model_folder: Path, how: Keep) -> None:
        if how == "copy" or place is None or not linked(model_folder, place):
            self._client.log_model_artifacts(model_id, str(model_folder))

    def _restore(self, version: ModelVersion, model_folder: Path, how: Keep) -> None:
        """The files of a version, once more, where the store is a folder and they are not what was registered."""
        place = local_folder(self._client.get_model_version_download_uri(version.name, version.version))
        if place is not None and _differences(version.tags, place):
            shutil.rmtree(place, ignore_errors=True)
            self._put(version.model_id, place, model_folder, how)

    def _folder_of(self, version: ModelVersion) -> Path:
        location = self._client.get_model_version_download_uri(version.name, version.version)
        if version.model_id:
            location = self._client.get_logged_model(version.model_id).artifact_location
        if (folder := local_folder(str(location))) is None:
            key = hashlib.sha256(f"{version.name} {version.version} {location}".encode()).hexdigest()[:16]
            folder = self.workspace / "registry" / key
            with exclusive(self.workspace / "locks" / f"registry-{key}"):
                self._fetch(str(location), folder)
        return folder

    def _fetch(self, location: str, folder: Path) -> None:
        if folder.is_dir():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            place = download_artifacts(artifact_uri=location, dst_path=scratch, tracking_uri=self.uri)
            Path(place).rename(folder)


def _named(name: str) -> str:
    return f"name = '{naming.quoted(name)}'"


def _all(search: Callable[..., Any], condition: str | None) -> Iterator[Any]:
    """All pages of what a search finds; MLflow gives 100 models at a time."""
    token = None
    while True:
        page = search(condition, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _differences(tags: Mapping[str, str], folder: Path) -> str:
    """Which files of a version's folder are other ones than its tags say; empty where none is."""
    now = naming.file_digests(folder)
    if naming.digest_of(now) == tags.get(DIGEST, ""):
        return ""
    return naming.told(naming.differences(json.loads(tags.get(FILES, "{}")), naming.shortened(now)))
