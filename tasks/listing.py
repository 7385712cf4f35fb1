"""The runs of a workspace for a person: done, under way or stopped. Read from their folders alone, hence at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sft_core.errors import DamagedFile
from sft_core.locks import is_held
from sft_core.stage import read_json, write_json
from tasks.stages import Workspace

PARENT, SWEEP = "parent_run_id", "sweep.json"
ENDED = "rungs/ended.json"
"""In the folder of a run: the trial was ended early, and why."""


class Listed(NamedTuple):
    """One run. `state`: `done`, `under way`, `ended early` (a trial, see tasks/rungs.py), or `stopped`, which continues
    when its command, or that of its sweep, is given again."""

    name: str
    state: str
    gate: str
    step: int | None  # optimiser steps that the tracker was told of
    trained_s: float | None
    saved_s: float | None  # the model written, read back and measured
    changed_s: float  # seconds since 1970; whoever only looks takes the lock, which is no change
    model: str  # `there`, `removed` or nothing
    config: Path
    sweep: str  # name of the study that it is a trial of

    def row(self) -> dict[str, object]:
        """For a table."""
        return {"run": self.name, "sweep": self.sweep, "state": self.state, "gate": self.gate, "steps": self.step,
                "training": _seconds(self.trained_s), "saving": _seconds(self.saved_s), "model": self.model,
                "last change": datetime.fromtimestamp(self.changed_s).isoformat(" ", "minutes")}


def listed_runs(place: Workspace) -> list[Listed]:
    """All runs of the workspace, the one that changed last first."""
    sweeps = _sweeps(place)
    found = [_listed(file.parent, sweeps) for file in place.runs.glob("*/run.json")]
    return sorted(found, key=lambda one: -one.changed_s)


def listed_run(folder: Path, place: Workspace) -> Listed:
    """One run by its folder, which may be a downloaded one."""
    return _listed(folder, _sweeps(place))


def _sweeps(place: Workspace) -> dict[str, str]:
    return {str(_read(file).get(PARENT)): file.parent.name for file in (place.root / "sweeps").glob(f"*/{SWEEP}")}


def note_sweep(folder: Path, parent_run_id: str) -> None:
    """Note in a sweep's folder of this workspace which MLflow run its trials name as theirs."""
    write_json(folder / SWEEP, {PARENT: parent_run_id})


def _listed(folder: Path, sweeps: Mapping[str, str]) -> Listed:
    summary, model = _read(folder / "summary.json", "gate", "seconds"), folder / "model"
    done = bool(summary)
    over = "done" if done else "ended early" if (folder / ENDED).exists() else "stopped"
    state = "under way" if is_held(folder / "lock") else over
    steps = _read(folder / "followed.json").get("steps", {})
    changed = max(file.lstat().st_mtime for file in folder.iterdir() if file.exists() and file.name != "lock")
    return Listed(folder.name, state, summary["gate"]["outcome"] if done else "", steps.get("train/loss"),
                  summary["seconds"]["training"] if done else None, summary["seconds"].get("saving") if done else None,
                  changed,
                  ("there" if model.exists() else "removed") if model.is_symlink() else "", folder / "config.yaml",
                  sweeps.get(_read(folder / "run.json").get(PARENT) or "", ""))


def _seconds(took: float | None) -> str:
    return "" if took is None else f"{took:.0f} s"


def _read(file: Path, *wanted: str) -> Mapping[str, Any]:
    try:
        return dict(read_json(file, *wanted))
    except (FileNotFoundError, DamagedFile):
        return {}
