"""The runs that follow a search: which there are, as points of a second study, and what their results say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from eval_suites.front.choice import Limits, prove
from eval_suites.front.front import Front
from eval_suites.front.points import Point
from infra.contract import Tracker
from infra.plans import Dimension, Plan
from infra.study_contract import Study, TrialRow
from sft_core.config.evaluate import Part
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.followups import FollowUp, suffix
from sft_core.config.search import LONGEST_TRIAL
from sft_core.config.section import MOST
from sft_core.errors import EvalError, TrackingError
from sft_core.stage import fingerprint
from tasks.front import front_of, objectives, points_of, span
from tasks.proposal import NOBODY, Proposal, confirmed, proposed
from tasks.runs import run_of_trial
from tasks.stages import Workspace

log = logging.getLogger("sft")
PARTS: tuple[Part, ...] = ("search", "held_back")
SPACE = {"trial": Dimension(0, LONGEST_TRIAL, whole=True), "interpolate": Dimension(0.0, 1.0),
         "seed": Dimension(0, MOST - 1, whole=True), "part": Dimension(choices=PARTS)}


def after(plan: Plan) -> Plan:
    """The study of the runs that follow a sweep; its trials are `FollowUp`s, and none is sampled."""
    return Plan(f"{plan.name}-after", SPACE, plan.objectives, fingerprint("after", plan.identity()), "random",
                plan.seed, only_queued=True)


def wanted(config: ExperimentConfig) -> bool:
    """Whether anything follows the search of this configuration."""
    search = config.search
    return search is not None and bool(search.confirm or search.interpolate or search.seeds)


def varied(front: Sequence[TrialRow], config: ExperimentConfig) -> list[FollowUp]:
    """The trials of the front on their way from the base, and under further seeds."""
    assert config.search is not None, "the sweep checks that"
    between = [FollowUp(row.number, share, config.seed) for row in front for share in config.search.interpolate]
    again = [FollowUp(row.number, config.train.interpolate, config.seed + 1 + more)
             for row in front for more in range(config.search.seeds)]
    return between + again


def confirming(names: Sequence[str], after_rows: Sequence[TrialRow], config: ExperimentConfig) -> list[FollowUp]:
    """The points of these names (`points_with`), each asked what is held back."""
    between = {_name(one, config): one for one in map(_told, after_rows) if one.part == "search"}
    found = [between.get(name) or FollowUp(int(name), config.train.interpolate, config.seed) for name in names]
    return [one._replace(part="held_back") for one in dict.fromkeys(found)]


def points_with(points: Sequence[Point], after_rows: Sequence[TrialRow], config: ExperimentConfig,
                place: Workspace, tracker: Tracker) -> list[Point]:
    """The points of a sweep with what followed: further seeds join their trial's point, models on the way to a trial
    are points of their own (`5-a050`). Whose results cannot be had is told in the log.
    """
    found = {point.name: point for point in points}
    for row, one in ((row, _told(row)) for row in after_rows if row.values):
        if one.part != "search" or str(one.trial) not in found:
            continue
        try:
            results = run_of_trial(row.notes, place, tracker).results(texts=False)
        except (EvalError, TrackingError) as error:
            log.warning("%s of trial %d is no part of the front: %s", suffix(one, config), one.trial, error)
            continue
        if one.seed == config.seed:
            found[_name(one, config)] = Point(_name(one, config), (results,), "", not row.broken)
        else:
            trial = found[str(one.trial)]
            found[trial.name] = Point(trial.name, (*trial.results, results), trial.role, trial.feasible)
    return list(found.values())


class Found(NamedTuple):
    """What a sweep ends with: its front, which point it proposes, and the last word on that."""

    front: Front | None
    default: tuple[str, ...]  # the name of the default configuration's point, where it was tried
    proposal: Proposal | None
    says: str


def placed(study: Study, followed: Sequence[TrialRow], config: ExperimentConfig, place: Workspace, tracker: Tracker
           ) -> Found:
    """All points of a search and of what followed it, compared, and which of them is proposed."""
    assert config.search is not None, "the sweep checks that"
    rows = study.trials()
    points = points_of(rows, next(iter(study.plan.points), {}), config.search, place, tracker)
    points = points_with(points, followed, config, place, tracker)
    found = front_of(points, config.search, config.gate)
    proposal = proposed(found, points, rows, config.search, config.gate) if found else None
    default = tuple(point.name for point in points if point.role == "default")
    return Found(found, default, proposal, proposal.sentence if proposal else NOBODY)


def confirmation(searched: Proposal, default: Sequence[str], after_rows: Sequence[TrialRow], config: ExperimentConfig,
                 place: Workspace, tracker: Tracker) -> str:
    """What the held-back items say of the proposed point, against the base and against the default configuration.

    Args:
        searched: the point, as the search's own items have it.
        default: name of the default configuration's point, where it was tried.
    """
    asked = {_name(one, config): row for row, one in ((row, _told(row)) for row in after_rows) if one.part != "search"}
    row = asked.get(searched.name)
    if row is None or row.values is None:
        return (f"{searched.label} could not be confirmed: {row.notes.get('why') if row else 'it was not asked'}; give "
                "the same command again")
    try:
        return _against(searched, row, [asked[name] for name in default if name in asked], config, place, tracker)
    except (EvalError, TrackingError) as error:
        return f"{searched.label} is not confirmed, as its results are not here: {error}"


def _against(searched: Proposal, row: TrialRow, default: Sequence[TrialRow], config: ExperimentConfig,
             place: Workspace, tracker: Tracker) -> str:
    assert config.search is not None, "the sweep checks that"
    run = run_of_trial(row.notes, place, tracker)
    point = Point(searched.name, (run.results(),))
    said = confirmed(searched, Point("base", (run.results("base"),), "base"), point, config.search, config.gate)
    for other in (one for one in default if one is not row and one.values):
        theirs = Point("default", (run_of_trial(other.notes, place, tracker).results(),))
        against = prove(theirs, point, objectives(config.search), Limits(config.gate.alpha, config.gate.max_tax))
        said += (f"; against the default configuration on the same items: alignment gain "
                 f"{span(against.gain, '+')}, tax {span(against.tax)}")
    return said


def _told(row: TrialRow) -> FollowUp:
    return FollowUp(**row.params)  # type: ignore[arg-type]  # of the fields of SPACE


def _name(one: FollowUp, config: ExperimentConfig) -> str:
    return f"{one.trial}{suffix(one._replace(part='search'), config)}"
