"""Where a command works: the workspace and the tracker that its configuration and the settings name. Without Prefect,
which takes a second."""

from __future__ import annotations

from infra.contract import Tracker
from infra.settings import read_settings
from infra.shared_stages import shared_stages
from sft_core.config.experiment import ExperimentConfig, TrackingSection
from tasks.mirror import mirrored
from tasks.stages import Workspace


def workspace(config: ExperimentConfig | None = None) -> Workspace:
    """The workspace that the settings name, with the configuration's mirror in front.

    Raises:
        ConfigError: `data.mirror` names a folder that is not there, or there is no server to share stages on.
    """
    settings = read_settings()
    elsewhere = shared_stages(settings, config.tracking.uri if config else None)
    here = Workspace(settings.workspace, settings.mirror, elsewhere, settings.address, settings.dask)
    return mirrored(here, config.data.mirror if config else None)


def connect(tracking: TrackingSection | None = None, *, make: bool = True) -> Tracker:
    """Open the tracker that the configuration, the environment or the workspace names; without `make` for a look.

    Raises:
        TrackingError: it cannot be reached.
    """
    from infra.tracking import open_tracker  # brings MLflow, a second that only some commands need

    settings, section = read_settings(), tracking or TrackingSection()
    return open_tracker(section.uri or settings.mlflow_uri, section.experiment, settings.workspace, make=make,
                        artifacts=settings.artifacts)


def look() -> Tracker:
    """The tracker for commands that only look: they make neither a store nor an experiment."""
    return connect(make=False)
