"""What takes the steps of a run, and what each of them must do: the contract of training engines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from sft_core.config.train import TrainSection
from sft_core.train.finish import TrainReport, Until
from sft_core.train.inputs import TrainInputs
from sft_core.train.trainer import Probe


class Engine(Protocol):
    """Trains, or continues what an earlier call left in `out`.

    It takes the steps of the course and no others, writes every event to `out/events.jsonl` before it tells of it,
    heeds SIGTERM and Ctrl-C with a checkpoint, and ends with `finish`: `out/model`, and for LoRA `out/adapter`.
    """

    def __call__(self, inputs: TrainInputs, section: TrainSection, out: Path, *,
                 on_events: Callable[[Path], None] | None = None, sync_every_s: float = 5.0,
                 until: Until | None = None) -> TrainReport:
        """Arguments and errors as of `trainer.train`."""


def engine_of(section: TrainSection, probe: Probe | None = None) -> Engine:
    """TRL where it is asked for, else the own loop, in this process or in several.

    Args:
        section: `engine`, `processes` and `machines` decide.
        probe: run after every validation, by the own loop in one process alone; the configuration refuses it elsewhere.
    """
    if section.engine == "trl":
        from sft_core.train.trl_engine import train as by_trl

        return by_trl
    if section.all_processes > 1:
        from sft_core.train.launch import launch

        return launch
    from sft_core.train.trainer import train

    return partial(train, probe=probe)
