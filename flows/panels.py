"""In which order, and under which heads, `sft --help` and the reference list the commands: as a user comes to need
them."""

from __future__ import annotations

import typer

PANELS = {
    "Start": ("run", "plan", "doctor", "data", "synth", "config", "model"),
    "Look": ("show", "open", "runs", "compare", "lineage"),
    "Use a model": ("chat", "serve", "export", "push"),
    "Evaluate": ("eval", "suites", "parity", "judge", "human"),
    "Sweep": ("sweep", "sweep-worker", "dashboard", "join"),
    "Registry and nights": ("promote", "rollback", "models", "nightly", "nights", "bisect", "deploy"),
    "Workspace and platform": ("up", "down", "status", "clean", "rm", "reconcile"),
    "Tiny world": ("story", "tiny"),
}
ORDER = tuple(name for names in PANELS.values() for name in names)


def sort_into_panels(app: typer.Typer) -> None:
    """Give every command and group of `app` its head."""
    head = {name: panel for panel, names in PANELS.items() for name in names}
    for command in app.registered_commands:
        command.rich_help_panel = head[command.name or command.callback.__name__]  # type: ignore[union-attr]
    for group in app.registered_groups:
        group.rich_help_panel = head[str(group.name)]
