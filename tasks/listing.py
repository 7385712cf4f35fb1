"""The runs of a workspace for a person: done, under way or stopped. Read from their folders alone, hence at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sft_core.errors import DamagedFile
from sft_core.locks import is_held
from sft_core.stage import read_json
from tasks.stages import Workspace


class Listed(NamedTuple):
    """One run. `state`: `done`, `under way`, or `stopped`, which continues when its command is given again."""

    name: str
    state: str
    gate: str
    step: int | None  # optimiser steps that the tracker was told of
    trained_s: float | None
    saved_s: float | None  # the model written, read back and measured
    changed_s: float  # seconds since 1970
    model: str  # `there`, `removed` or nothing
    config: Path

    def row(self) -> dict[str, object]:
        """For a table."""
        return {"run": self.name, "state": self.state, "gate": self.gate, "steps": self.step,
                "training": _seconds(self.trained_s), "saving": _seconds(self.saved_s), "model": self.model,
                "last change": datetime.fromtimestamp(self.changed_s).isoformat(" ", "minutes")}


def listed_runs(place: Workspace) -> list[Listed]:
    """All runs of the workspace, the one that changed last first."""
    found = [_listed(file.parent) for file in place.runs.glob("*/run.json")]
    return sorted(found, key=lambda one: -one.changed_s)


def _listed(folder: Path) -> Listed:
    summary, model = _read(folder / "summary.json", "gate", "seconds"), folder / "model"
    done = bool(summary)
    state = "under way" if is_held(folder / "lock") else "done" if done else "stopped"
    steps = _read(folder / "followed.json").get("steps", {})
    changed = max(file.stat().st_mtime for file in folder.iterdir() if file.exists())
    return Listed(folder.name, state, summary["gate"]["outcome"] if done else "", steps.get("train/loss"),
                  summary["seconds"]["training"] if done else None, summary["seconds"].get("saving") if done else None,
                  changed,
                  ("there" if model.exists() else "removed") if model.is_symlink() else "", folder / "config.yaml")


def _seconds(took: float | None) -> str:
    return "" if took is None else f"{took:.0f} s"


def _read(file: Path, *wanted: str) -> Mapping[str, Any]:
    try:
        return dict(read_json(file, *wanted))
    except (FileNotFoundError, DamagedFile):
        return {}
