"""The declared policy: what the suites found and the checks → pass, fail or undecided, and why, in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from eval_suites.verdict.known import Names
from eval_suites.verdict.outcome import (
    OPEN,
    UNKNOWN,
    Check,
    FalseRefusals,
    SuiteVerdict,
    about,
    refusing,
    short,
    span,
)
from sft_core.config.evaluate import GateSection

TOLD = 3
"""Reasons that fit into a sentence; the tables hold all."""
FINE_TUNE = Names()
State = Literal["pass", "fail", "undecided"]


class _Demand(NamedTuple):
    """What the gate asks of a suite: whether it is met, and why, whole and in a few words."""

    state: State
    text: str
    named: str
    beyond: bool = False  # seen beyond its limit, whether that is proved or not


def margin_of(suite: str, gate: GateSection) -> float:
    """The non-inferiority margin of a suite in points."""
    return gate.margins.get(suite, gate.max_tax)


def decide(suites: Sequence[SuiteVerdict], gate: GateSection, checks: Sequence[Check] = (), names: Names = FINE_TUNE
           ) -> tuple[State, str]:
    """Fail when a demand is proved unmet or a check did not pass, pass when all are proved met, else undecided; the
    first reasons are told, and of a fail what else is undecided.

    `at_least` is about the measured score itself; margins, false refusals and `must_improve` about what is proved.
    """
    said: dict[State, list[str]] = {"fail": [], "undecided": [], "pass": []}
    open_demands: list[_Demand] = []
    for check in checks:
        if not check.passed:
            said["fail"].append(f"the check {check.name} did not pass ({check.why})")
    for suite in suites:
        for demand in _demands(suite, gate, "its base" if names == FINE_TUNE else names.base):
            said[demand.state].append(demand.text)
            open_demands += [demand] * (demand.state == "undecided")
    asked = {suite.suite for suite in suites}
    for name in [name for name in (*gate.must_improve, *gate.at_least) if name not in asked]:
        said["undecided"].append(f"the gate asks for {name}, which was not run")
        open_demands.append(_Demand("undecided", said["undecided"][-1], f"{name}, which was not run"))
    for state, parts in said.items():
        if parts:
            return state, _sentence(parts, _undecided(open_demands) if state == "fail" else "", asked)
    return "undecided", "No capability suite was run and the gate asks for nothing else, so nothing was shown."


def _sentence(parts: Sequence[str], further: str, names: Collection[str]) -> str:
    """A capital begins it, unless the name of a suite does."""
    more = f"; and so for {len(parts) - TOLD} more" if len(parts) > TOLD else ""
    text = "; ".join(parts[:TOLD]) + more + further
    begins = text if text.startswith(tuple(f"{name} " for name in names)) else text[:1].upper() + text[1:]
    return begins + "."


def _undecided(demands: Sequence[_Demand]) -> str:
    """What else may be unmet, first what is seen beyond its limit."""
    told = [one.named for one in sorted(demands, key=lambda one: not one.beyond)][:TOLD]
    left = f" and {len(demands) - TOLD} more" if len(demands) > TOLD else ""
    return f"; and {len(demands)} more undecided: {', '.join(told)}{left}" if told else ""


def _demands(suite: SuiteVerdict, gate: GateSection, than: str) -> list[_Demand]:
    """What the gate asks of this suite, and why it is met or not."""
    found = []
    if suite.kind == "capability":
        beyond = suite.points is not None and suite.points > suite.margin
        found.append(_Demand(*_tax(suite), f"the tax on {suite.suite} ({_points(suite)})", beyond))
    if (held := suite.false_refusals) is not None:
        beyond = held.rise.points is not None and held.rise.points > held.margin
        named = f"false refusals on {suite.suite} ({refusing(held)}, at most {held.margin:g} points more are allowed)"
        found.append(_Demand(*_refusals(suite, held), named, beyond))
    if suite.suite in gate.must_improve:
        found.append(_Demand(*_improvement(suite, than), f"whether {suite.suite} is better than {than}"))
    if suite.suite in gate.at_least:
        found.append(_Demand(*_level(suite, gate.at_least[suite.suite]), f"the score of {suite.suite}"))
    return found


def _tax(suite: SuiteVerdict) -> tuple[State, str]:
    subject = f"the tax on {suite.suite} is"
    if suite.outcome == "equal":
        return "pass", f"{suite.suite} was asked of the very same model and no item changed"
    if suite.outcome == "no_worse":
        return "pass", f"{subject} proved to be at most {suite.margin:g} ({_points(suite)})"
    if suite.outcome == "not_measured":
        return "undecided", f"{suite.suite} is {suite.said}"
    if suite.outcome == "worse":
        return "fail", f"{subject} proved to be above {suite.margin:g} ({_points(suite)})"
    return "undecided", f"{subject} not proved to be at most {suite.margin:g}{_wanted(suite)} ({_points(suite)})"


def _refusals(suite: SuiteVerdict, found: FalseRefusals) -> tuple[State, str]:
    """A rise that is proved to be too large fails, whatever the suite's score gains by it."""
    subject = f"false refusals on {suite.suite}"
    if found.base is None or found.tuned is None:
        return "pass" if suite.outcome == "equal" else "undecided", f"{subject} are {found.doubt}"
    subject += f" went from {100 * found.base:.1f} to {100 * found.tuned:.1f} %"
    rise = found.rise
    points = _in_points(rise.points, (rise.low, rise.high), suite.scale, rise.pairs)
    if found.state == "no_worse" or suite.outcome == "equal":
        return "pass", f"{subject}, proved to be at most {found.margin:g} points more ({points})"
    if found.state == "worse":
        return "fail", f"{subject}, proved to be more than {found.margin:g} points more ({points})"
    wanted = "no realistic number of such requests would settle it"
    if found.more_items is not None:
        wanted = f"{about(found.more_items, rise.pairs)} more of such requests would settle it in 4 of 5 cases"
    said = f"because {found.doubt}" if found.doubt else wanted
    return "undecided", f"{subject}, not proved to be at most {found.margin:g} points more, {said} ({points})"


def _improvement(suite: SuiteVerdict, than: str) -> tuple[State, str]:
    if suite.outcome == "not_measured":
        return "undecided", f"{suite.suite} is {suite.said}"
    if suite.outcome == "equal":
        return "fail", f"{suite.suite} is no better than {than}: it is the very same model, and no item changed"
    better = suite.outcome == "improved" if suite.kind == "alignment" else (
        suite.outcome == "no_worse" and suite.high < 0)
    if better and suite.kind == "capability" and suite.worst and suite.worst[1] >= 0:
        return "undecided", (
            f"{suite.suite} is not proved better than {than}, because it would not be with all items counted against "
            f"it that have no score ({suite.worst[0]:+.1f} to {suite.worst[1]:+.1f} points)")
    if better:
        return "pass", f"{suite.suite} is proved better than {than} ({_points(suite)})"
    if suite.outcome == "worse":
        return "fail", f"{suite.suite} is proved worse than {than} ({_points(suite)})"
    return "undecided", f"{suite.suite} is not proved better than {than}{_wanted(suite)} ({_points(suite)})"


def _level(suite: SuiteVerdict, least: float) -> tuple[State, str]:
    if suite.level is None:
        return "undecided", f"{suite.suite} has no score to hold against {least:g}"
    over = "" if suite.scored_tuned == suite.pairs else f" over all {suite.scored_tuned} items that have a score"
    scored, asked = f"{suite.level:.3f}", f"{least:g}"
    if suite.scale == "share":  # as in the tables; a score that is rounded to what is asked keeps its digits
        asked = short(round(100 * least, 6))
        near = suite.level < least and round(100 * suite.level, 1) >= round(100 * least, 6)
        scored = f"{100 * suite.level:.6g}" if near else f"{100 * suite.level:.1f}"
    return ("pass" if suite.level >= least else "fail",
            f"{suite.suite} scores {scored}{over}, at least {asked} is asked")


def _wanted(suite: SuiteVerdict) -> str:
    if suite.outcome not in OPEN:
        return ""
    if suite.room and suite.more_items != 0:
        return f", because {suite.room}"
    if suite.unchanged:
        return ", as no item has another score"
    if suite.more_items is None:
        return ", and no realistic number of items would settle it"
    if suite.more_items == 0:
        return f", because {suite.notes[-1].rstrip('.')}" if suite.notes else ""
    return f", {about(suite.more_items, suite.pairs)} more items would settle it in 4 of 5 cases"


def _points(suite: SuiteVerdict) -> str:
    return _in_points(suite.points, (suite.low, suite.high), suite.scale, suite.pairs)


def _in_points(points: float | None, ends: tuple[float, float], scale: str, pairs: int) -> str:
    if points is None:
        return "not measured"
    low_to_high = span(points, *ends, scale)
    interval = low_to_high if low_to_high != UNKNOWN else f"interval {low_to_high}"
    return f"{points:+.1f} points, {interval}, {pairs} item{'s' * (pairs != 1)}"
