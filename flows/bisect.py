"""`sft bisect`: which difference between two runs accounts for what the second one lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flows import console
from flows.experiment import sft_experiment
from flows.place import connect, workspace
from infra.contract import Tracker
from infra.orchestrator import outcome
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import ConfigError
from tasks.bisect import Part, Results, is_proved, kept, loss, lost_suite, parts_of, said, smallest, with_parts, written
from tasks.lineage import read_lineage
from tasks.runs import RECORD, Recorded, find
from tasks.stages import Workspace

TAG = "sft.bisect"


class Asked(NamedTuple):
    """Two runs, the second of which has lost on a suite; both as they were recorded."""

    a: Recorded
    b: Recorded
    configs: tuple[ExperimentConfig, ExperimentConfig]
    before: Results
    suite: str

    @property
    def name(self) -> str:
        """Of all runs that are made for this question."""
        return f"bisect-{self.a.run_id[:6]}-{self.b.run_id[:6]}"


def run_bisect(first: str, second: str, suite: str | None) -> list[str]:
    """`sft bisect`: print what differs and what of it accounts for the loss; returns the latter.

    Raises:
        EvalError: no loss is proved. TrackingError: a run is not there, or has no lineage.
    """
    place, tracker = workspace(), connect()
    a, b = (find(one, place, tracker, RECORD) for one in (first, second))
    before, after = a.results(), b.results()
    found = lost_suite(before, after, suite)
    configs = (a.config().config, b.config().config)
    asked = Asked(a, b, configs, before, found.suite)
    parts, fixed = parts_of(*configs), kept(read_lineage(a), read_lineage(b))
    console.lines(f"{b.name} against {a.name}: {said(found)}",
                  *(f"  {part.told()}" for part in parts), *(f"  {one} (cannot be put back)" for one in fixed))
    if lost([], asked, place, tracker):
        return _left(fixed, f"{a.name} itself, run again here, has lost it too")
    if not parts or not lost(parts, asked, place, tracker):
        return _left(fixed, f"nothing that can be put into {a.name} makes it lose that")
    cause = parts if len(parts) == 1 else smallest(parts, lambda some: lost(some, asked, place, tracker))
    which = "this alone" if len(cause) == 1 else "these together, and by none of them alone"
    console.lines(f"accounted for by {which}:", *(f"  {part.told()}" for part in cause))
    return [part.told() for part in cause]


def lost(parts: Sequence[Part], asked: Asked, place: Workspace, tracker: Tracker) -> bool:
    """Whether A with these parts of B has lost what B has, proved item by item; a run like any other, with a tag."""
    words = ", ".join(part.source or part.place for part in parts) or "nothing"
    try:
        config = with_parts(*asked.configs, parts, asked.name)
    except ConfigError as error:
        console.lines(f"with {words} of B: no run, as they do not fit without the others: {error}")
        return False
    summary = outcome(sft_experiment, str(written(config, place)), [])
    tracker.set_tags(summary["mlflow_run_id"], {TAG: f"{asked.a.name} {asked.b.name}", f"{TAG}.parts": words})
    after = Recorded(summary["run"], summary["mlflow_run_id"], Path(summary["folder"])).results()
    found = loss(asked.before, after, asked.suite)
    console.lines(f"with {words} of B ({summary['run']}): {said(found)}")
    return is_proved(found)


def _left(fixed: Sequence[str], why: str) -> list[str]:
    console.lines(f"{why}; what is left:", *(f"  {one}" for one in fixed or ["nothing that was recorded: chance, or "
                                                                             "the machine"]))
    return list(fixed)
