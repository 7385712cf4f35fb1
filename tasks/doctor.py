"""The doctor: a run's own sections and data, prepared as far as a pre-flight needs them, checked by the core."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_core.config.data import SourceSection
from sft_core.config.decontaminate import NOTHING
from sft_core.config.experiment import ExperimentConfig
from tasks.prepare import prepare
from tasks.stages import Done, Workspace
from tasks.train import inputs_of

if TYPE_CHECKING:
    from sft_core.doctor.finding import Finding, Seen

ROWS = 2000
"""Rows read of every source."""


def examine(config: ExperimentConfig, place: Workspace) -> Iterator[Finding]:
    """Every check of the doctor, one after the other, each told as soon as it is done.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
    """
    from sft_core.doctor.examine import Patient
    from sft_core.doctor.examine import examine as examine_core
    from sft_core.doctor.finding import examined

    small, first = cut(config), _Preparation()
    yield examined("prepare", lambda: first.look(small, place))
    with tempfile.TemporaryDirectory(dir=place.scratch, prefix="doctor-") as folder:
        work = Path(folder)
        nothing = Done("", work / "unprepared", {}, reused=False)
        inputs = replace(inputs_of(small, first.done or nothing, place), kept={})
        yield from examine_core(Patient(small.data, small.template, small.train, inputs, first.done is not None, work))


def cut(config: ExperimentConfig, rows: int = ROWS) -> ExperimentConfig:
    """The same experiment on the first `rows` rows of every source, not searched for evaluation items: finding those
    takes longer than all checks."""
    data = config.data.model_copy(update={"sources": _limited(config.data.sources, rows), "decontaminate": NOTHING})
    replay = config.train.replay.model_copy(update={"sources": _limited(config.train.replay.sources, rows)})
    return config.model_copy(update={"data": data, "train": config.train.model_copy(update={"replay": replay})})


class _Preparation:
    """The first check; it keeps what it has prepared."""

    done: Done | None = None

    def look(self, config: ExperimentConfig, place: Workspace) -> Seen:
        """Prepare, and tell the ledger in a sentence."""
        from sft_core.doctor.finding import verdict

        self.done = prepare.fn(config, place)
        ledger: dict[str, Any] = self.done.result["ledger"]
        trained, tokens = (sum(s[name] for s in ledger["sources"]) for name in ("trained_tokens", "tokens"))
        stops = sum(s["stops_trained"] for s in ledger["sources"])
        rejected = ", ".join(f"{why} {number}" for why, number in ledger["rejected"].items()) or "none"
        took = f"found, made in {self.done.seconds:.1f} s: " if self.done.reused and self.done.seconds else ""
        return verdict(stops > 0, f"{took}{ledger['read']:,} rows read (at most {ROWS:,} of a source), not used: "
                       f"{rejected}; {ledger['train_examples']:,} training examples, "
                       f"{100 * trained / tokens:.1f} % of {tokens:,} tokens trained, {stops:,} stops trained")


def _limited(sources: tuple[SourceSection, ...], rows: int) -> tuple[SourceSection, ...]:
    return tuple(s.model_copy(update={"limit": min(s.limit or rows, rows)}) for s in sources)
