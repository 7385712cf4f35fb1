"""This machine takes part in the trainings of a workspace that call for more machines (`train.machines`)."""

from __future__ import annotations

from pathlib import Path

from sft_core.train.launch import help_machines
from tasks.stages import Workspace


def join(place: Workspace) -> None:
    """Take part in one after the other, until a signal asks to stop.

    Raises:
        Interrupted: a signal did.
    """
    help_machines(lambda: _trainings(place.root / "stages" / "train"))


def _trainings(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/out"))
