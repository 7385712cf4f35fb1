"""Looks at a trial under way: trained up to a share of its steps, asked a share of the items, compared with the others.

The worker starts a process for each look, keeps what it found with the trial in the study, and ends the trial where a
further process says that it is proved hopeless: so the worker itself holds neither a model nor a connection.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from eval_suites.front.differences import alignment_of, difference
from eval_suites.front.early import DIVERGED, bounds_cost, hopeless
from eval_suites.front.points import Objectives, Point, Terms
from eval_suites.results import SuiteResult, write_results
from infra.orchestrator import stage_task
from infra.study_contract import Study, Trial, TrialRow
from sft_core.config.evaluate import EvalSection, suite_name
from sft_core.config.experiment import ExperimentConfig, RungsSection, SearchSection
from sft_core.errors import EvalError, TrackingError
from sft_core.locks import exclusive
from sft_core.stage import write_json
from tasks.experiment import Experiment
from tasks.front import objectives
from tasks.listing import ENDED
from tasks.named import Opener
from tasks.runs import results_in
from tasks.stages import Done, Workspace
from tasks.trial import Known, Order, Place, TrialOutcome, answered

log = logging.getLogger("sft")
Results = Mapping[str, SuiteResult]


class Rung(NamedTuple):
    """One look at a trial: after which share of its steps, and which share of the items of which suites is asked."""

    train: float
    items: float
    suites: tuple[str, ...]
    what: Objectives

    @property
    def name(self) -> str:
        """`25 %`: the share of the steps."""
        return f"{100 * self.train:g} %"

    @property
    def folder(self) -> str:
        """Where a run keeps what was found, in its folder and in MLflow."""
        return f"rungs/{100 * self.train:g}"

    @property
    def key(self) -> str:
        """The note of a trial: results under the same key are of the same items at the same share."""
        return f"rung {self.name}, {100 * self.items:g} % of the items"

    def asked(self, section: EvalSection) -> EvalSection:
        """The evaluation of this look."""
        suites = tuple(one for one in section.suites if suite_name(one) in self.suites)
        return section.model_copy(update={"suites": suites, "share": section.share * self.items})


def rungs_of(search: SearchSection) -> list[Rung]:
    """All looks at a trial, in order."""
    if search.rungs is None:
        return []
    what = objectives(search)
    judged = {*what.suites, *(one.suite for one in search.limits if one.suite)}
    suites = tuple(sorted(judged | {name.rpartition(":")[0] for name in judged}))  # open-ended ones by both names
    return [Rung(train, items, suites, what)
            for train, items in zip(search.rungs.train, search.rungs.items, strict=True)]


def told(rungs: RungsSection) -> str:
    """What will become of trials, in a sentence."""
    looks = ", ".join(f"{100 * train:g} % of the steps (on {100 * items:g} % of the items)"
                      for train, items in zip(rungs.train, rungs.items, strict=True))
    ends = (f"from trial {rungs.min_trials} on one that is proved hopeless there is ended (alpha "
            f"{rungs.alpha:g})") if rungs.end else "none is ended there"
    return f"each trial is looked at after {looks}; {ends}"


# In the process of a look


@stage_task("record-rung")
def record_rung(run: Experiment, trained: Done, base: Results, tuned: Results, rung: Rung) -> dict[str, Any]:
    """Write what a look found into the run's folder and MLflow, and close the run there: nobody may come back to it.

    Raises:
        TrackingError: the tracker refuses.
    """
    for folder, results in (("rungs/base", base), (rung.folder, tuned)):
        for result in results.values():
            write_results(run.folder / folder, result)
    values = _values(Point("base", (base,)), Point(run.name, (tuned,)), rung.what)
    losses = [loss for _, loss in trained.result["validation"]]
    run.tracker.log_artifacts(run.run_id, run.folder / rung.folder, rung.folder)
    run.tracker.log_metrics(run.run_id, {f"rung/{name}": value for name, value in (values or {}).items()},
                            trained.result["steps"])
    run.tracker.finish(run.run_id)
    return {"run": run.name, "mlflow_run_id": run.run_id, "paused": True, "values": values,
            "losses": [losses[0], losses[-1]] if losses else None}


def _values(base: Point, point: Point, what: Objectives) -> dict[str, float] | None:
    """The objectives in points; None where a suite has no score."""
    try:
        return {"alignment": 100 * alignment_of(point, what).estimate,
                "tax": 100 * difference(base, point, what).tax.estimate}
    except EvalError as error:
        log.warning("nothing can be said of the trial here: %s", error)
        return None


# In the worker


class Climber(NamedTuple):
    """What a worker lets trials rise with."""

    study: Study
    place: Place
    workspace: Workspace
    tracker: Opener
    look: Callable[..., int]
    """The work of the process of a look: gets its order, and `rung`."""


def climb(trial: Trial, config: ExperimentConfig, by: Climber) -> TrialOutcome | None:
    """Let a trial rise from look to look; what it came to where it failed or was ended on the way, None where it may go
    to its end."""
    assert config.search is not None, "the sweep checks that"
    for rung in rungs_of(config.search):
        name = f"trial-{trial.number:03d}.rung-{100 * rung.train:g}"
        found = answered(name, _known(trial, by), config, by.place, partial(by.look, rung=rung), by.study.renew)
        if isinstance(found, TrialOutcome):
            return found
        if not found["paused"]:  # trained to its end by somebody already
            return None
        if found["values"] is None:
            continue
        by.study.note(trial.number, {rung.key: json.dumps(found)})
        if why := _verdict(trial, found, config, rung, by):
            said = f"at {rung.name}: {why}"
            write_json(by.workspace.runs / found["run"] / ENDED, {"ended": said})
            return TrialOutcome(None, "", found["run"], found["mlflow_run_id"], ended=said)
    return None


def _verdict(trial: Trial, found: Mapping[str, Any], config: ExperimentConfig, rung: Rung, by: Climber) -> str:
    """Why a trial is to be ended; empty where it may go on."""
    search = config.search
    assert search is not None and search.rungs is not None, "there are looks"  # noqa: PT018
    own = dict(by.study.plan.points[0]) == trial.params
    if not search.rungs.end or own or trial.number < search.rungs.min_trials:
        return ""
    rivals = tuple(_Seen.of(row, rung) for row in by.study.trials()
                   if row.number != trial.number and rung.key in row.notes)
    question = _Question(_Seen("this trial", found), rivals, rung, search, by.workspace, by.tracker)
    name = f"trial-{trial.number:03d}.rung-{100 * rung.train:g}.verdict"
    said = answered(name, _known(trial, by), config, by.place, partial(_decide, question), by.study.renew)
    if isinstance(said, TrialOutcome):
        log.warning("trial %d goes on, as it could not be compared at %s: %s", trial.number, rung.name, said.why)
        return ""
    return str(said["why"])


def _known(trial: Trial, by: Climber) -> Known:
    return Known(by.place.folder.name, trial.number)


# In a process that compares


class _Seen(NamedTuple):
    """What a look found of a trial."""

    name: str
    found: Mapping[str, Any]

    @staticmethod
    def of(row: TrialRow, rung: Rung) -> _Seen:
        return _Seen(f"trial {row.number}", json.loads(row.notes[rung.key]))

    def ahead_of(self, other: _Seen, tolerance: float) -> bool:
        """By the estimates, whether it may be proved to dominate the other."""
        mine, theirs = self.found["values"], other.found["values"]
        gain, saving = mine["alignment"] - theirs["alignment"], theirs["tax"] - mine["tax"]
        return bool(max(gain, saving) > 0 and min(gain, saving) > -tolerance)

    def point(self, rung: Rung, place: Workspace, tracker: Opener) -> Point:
        """Its results, from this machine or from the tracker.

        Raises:
            TrackingError: they are in neither.
        """
        folder = place.runs / self.found["run"] / rung.folder
        if not folder.is_dir():
            run_id = self.found["mlflow_run_id"]
            kept = place.scratch / "downloaded" / run_id
            with exclusive(kept.with_suffix(".lock")):
                if not (folder := kept / rung.folder).is_dir():
                    folder = tracker().download(run_id, rung.folder, kept)
        return Point(self.name, (results_in(folder),))


class _Question(NamedTuple):
    mine: _Seen
    rivals: Sequence[_Seen]
    rung: Rung
    search: SearchSection
    workspace: Workspace
    tracker: Opener


def _decide(question: _Question, order: Order) -> int:
    """The work of a process."""
    write_json(order.answer, {"why": verdict_on(question)})
    return 0


def verdict_on(question: _Question) -> str:
    """Why the trial is proved hopeless; empty where it is not.

    `search.rungs.alpha` is shared out among the looks, and in each among all rivals and limits (Bonferroni).
    """
    mine, rivals, rung, search, place, tracker = question
    assert search.rungs is not None, "there are looks"
    before, now = mine.found["losses"] or (0.0, 0.0)
    if now - before > DIVERGED:
        return f"its loss on the held-out rows is {now:.2f} nats per token, and that of the base {before:.2f}"
    base = Point("base", (results_in(place.runs / mine.found["run"] / "rungs" / "base"),))
    limits = [limit for limit in search.limits if bounds_cost(limit, base)]
    claims = len(search.rungs.train) * max(1, len(rivals) + len(limits))
    points = []
    for rival in rivals:
        if rival.ahead_of(mine, search.tolerance):
            try:
                points.append(rival.point(rung, place, tracker))
            except TrackingError as error:
                log.warning("%s is left out of the comparison at %s: %s", rival.name, rung.name, error)
    return hopeless(mine.point(rung, place, tracker), points, base, rung.what, limits,
                    Terms(search.rungs.alpha / claims, search.tolerance))
