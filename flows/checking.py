"""A configuration, and all that it needs, looked at before anything is started: every problem at once, with its line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from infra.databases import check_driver, is_sql
from infra.settings import Settings
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import Examined, LoadedConfig, examine
from sft_core.config.telling import Lack
from sft_core.errors import ConfigError
from tasks.mirror import mirrored
from tasks.needs import check_needs, run_lacks
from tasks.stages import Workspace

Look = Callable[[ExperimentConfig, Workspace], list[Lack]]


def checked(path: Path, overrides: list[str], settings: Settings, look: Look = run_lacks) -> LoadedConfig:
    """The configuration, once it is known that it is valid and that all it needs is here: model, data, suites,
    drivers of its databases, packages, its judge. What will be fetched from the hub is told.

    Args:
        look: what is looked at; `path_lacks` for a look at the run without its judge and packages.

    Raises:
        ConfigError: with all that is wrong.
    """
    found, lacks = _examined(path, overrides, settings, look)
    if found.problems:
        found.check([one for one in lacks if one.state != "fetched"])
    check_needs(one._replace(what=said) for one, said in zip(lacks, found.where(lacks), strict=True))
    assert found.config is not None, "nothing was wrong with it"
    return LoadedConfig(found.config, found.text)


def looked_at(path: Path, overrides: list[str], settings: Settings) -> list[str]:
    """Check a configuration for `sft config check`; returns what could not be looked up, and what will be fetched.

    Raises:
        ConfigError: with all that is wrong.
    """
    found, lacks = _examined(path, overrides, settings, run_lacks)
    if found.problems or any(one.state == "missing" for one in lacks):
        found.check([one for one in lacks if one.state != "fetched"])
    return [f"{said}{'; not checked' if one.state == 'unsure' else ''}"
            for one, said in zip(lacks, found.where(lacks), strict=True)]


def _examined(path: Path, overrides: list[str], settings: Settings, look: Look) -> tuple[Examined, list[Lack]]:
    found = examine(path, overrides)
    if found.config is None:
        return found, []
    lacks = [*_drivers(found.config, settings)]
    place = Workspace(settings.workspace, settings.mirror)
    try:
        place = mirrored(place, found.config.data.mirror)
    except ConfigError as error:
        lacks.append(Lack(("data", "mirror"), str(error)))
    return found, [*lacks, *look(found.config, place)]


def _drivers(config: ExperimentConfig, settings: Settings) -> Iterator[Lack]:
    tracking, search = config.tracking.uri or settings.mlflow_uri, config.search
    asked = [(("tracking", "uri"), "tracking.uri or MLFLOW_TRACKING_URI", tracking)] if is_sql(tracking) else []
    if storage := search and (search.storage or settings.study_storage):
        asked.append((("search", "storage"), "search.storage or SFT_STUDY_STORAGE", storage))
    for key, setting, url in asked:
        try:
            check_driver(setting, url)
        except ConfigError as error:
            yield Lack(key, str(error))
