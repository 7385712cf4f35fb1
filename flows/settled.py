"""`sft run` of what has been run: its verdict once more, without a flow."""

from __future__ import annotations

import logging
from time import localtime, strftime

from flows import console
from flows.place import connect, workspace
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import ConfigError
from tasks.settled import SETTLED, settled

log = logging.getLogger("sft")


def told_again(config: ExperimentConfig) -> bool:
    """Whether a run of this configuration is whole and nothing it hangs on has changed; then it is shown.

    Raises:
        GateFailed: `gate.enforce` is on and the gate did not pass.
    """
    try:
        place = workspace(config)
    except ConfigError:  # told where the run is looked at
        return False
    summary = settled(config, place, lambda: connect(config.tracking, make=False))
    if summary is None:
        return False
    since = (place.runs / summary["run"] / SETTLED).stat().st_mtime
    log.info("run %s: found whole, recorded on %s; nothing it hangs on has changed", summary["run"],
             strftime("%Y-%m-%d %H:%M", localtime(since)))
    console.experiment(summary, config)
    return True
