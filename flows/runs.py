"""`sft runs`: the runs of this workspace."""

from __future__ import annotations

import json

from flows import console
from infra.settings import Settings
from tasks.listing import listed_runs
from tasks.stages import Workspace


def show_runs(settings: Settings, last: int, *, as_json: bool) -> None:
    """Print the latest runs, as a table or as JSON."""
    found = listed_runs(Workspace(settings.workspace, settings.mirror))
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
            console.lines(f"continue {one.name}: sft run {one.config}")
