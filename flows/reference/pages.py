"""Which reference pages there are."""

from __future__ import annotations

from pathlib import Path

from flows.reference.commands import commands_page
from flows.reference.configuration import configuration_page
from flows.reference.environment import environment_page
from flows.reference.files import files_page
from flows.reference.metrics import metrics_page
from flows.reference.suites import suites_page
from flows.reference.synthesis import synthesis_page

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"


def pages() -> dict[str, str]:
    """File name → Markdown of every page."""
    return {
        "configuration.md": configuration_page(),
        "synthesis.md": synthesis_page(),
        "commands.md": commands_page(),
        "environment.md": environment_page(),
        "files.md": files_page(),
        "metrics.md": metrics_page(),
        "suites.md": suites_page(),
    }
