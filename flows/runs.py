"""`sft runs`: the runs of this workspace."""

from __future__ import annotations

import json

from flows import console
from infra.settings import Settings
from sft_core.errors import ConfigError
from tasks.listing import listed_runs
from tasks.stages import Workspace


def show_runs(settings: Settings, last: int, sweep: str | None = None, *, as_json: bool) -> None:
    """Print the latest runs, or trials of a sweep, as a table or as JSON.

    Raises:
        ConfigError: no run here is a trial of that sweep.
    """
    found = listed_runs(Workspace(settings.workspace, settings.mirror))
    if sweep is not None:
        there = sorted({one.sweep for one in found} - {""})
        found = [one for one in found if one.sweep == sweep]
        if not found:
            raise ConfigError(f"no run in {settings.workspace} is a trial of the sweep {sweep}; there are trials of "
                              f"{', '.join(there) or 'none'}")
    if as_json:
        print(json.dumps([{**one._asdict(), "config": str(one.config)} for one in found[:last]], indent=2))
        return
    console.table(f"Runs in {settings.workspace}", [one.row() for one in found[:last]])
    if not found:
        console.lines(f"there is no run in {settings.workspace} yet; sft run flows/configs/demo.yaml makes one")
    if len(found) > last:
        console.lines(f"the {last} of {len(found)} that changed last; --last shows more")
    for one in found[:last]:
        if one.state == "stopped":
            how = f"sft sweep-worker {one.sweep}" if one.sweep else f"sft run {one.config}"
            console.lines(f"continue {one.name}: {how}")
