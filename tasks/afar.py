"""Training by processes of their own, in the log of the flow run: they write to the terminal, and Prefect does not hear
them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.watching import only_to_prefect

EVERY_S = 30.0
TAIL_BYTES = 4096
"""Of the events: some steps."""
TERMS = ("loss", "sft", "replay", "kl", "tokens_per_s")


class Afar:
    """A follower of training events that also tells now and then how far they are."""

    def __init__(self, follow: Callable[[Path], None]) -> None:
        self._follow, self._said = follow, time.monotonic()

    def __call__(self, events: Path) -> None:
        """Called every few seconds with the events written so far."""
        self._follow(events)
        if time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            with suppress(OSError, ValueError):  # cut off meanwhile, as a run does that goes on: told the next time
                if said := told(events):
                    only_to_prefect(said)


def told(events: Path) -> str:
    """How far training is; empty where it has made no step of late."""
    with events.open("rb") as file:
        steps = json.loads(file.readline())["steps"]
        file.seek(max(0, events.stat().st_size - TAIL_BYTES))
        tail = file.read().split(b"\n")[1:-1]  # neither a line that began before, nor one that has no end yet
    found: list[Mapping[str, Any]] = [one for one in map(json.loads, tail) if one["event"] == "step"]
    if not found:
        return ""
    last = found[-1]
    terms = ", ".join(f"{name} {last[name]:.4g}" for name in TERMS if last[name] is not None)
    return f"training: {last['step']} of {steps} steps, {terms}"
