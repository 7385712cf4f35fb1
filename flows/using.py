"""Models put to use: exported, and sent to the hub."""

from __future__ import annotations

from pathlib import Path

from flows import console
from flows.place import look, workspace
from sft_core.config.data import ModelSection
from tasks.export import Sending, Shape, export_told, push_told
from tasks.mirror import asked_mirror


def run_export(model: ModelSection, out: Path, shape: Shape, mirror: Path | None) -> None:
    """Export a model and print what was written."""
    for line in export_told(model, out, shape, asked_mirror(workspace(), mirror), look):
        console.lines(line)


def run_push(model: ModelSection, sending: Sending, shape: Shape, mirror: Path | None) -> None:
    """Send a model to the hub and print what went."""
    for line in push_told(model, sending, shape, asked_mirror(workspace(), mirror), look):
        console.lines(line)
