"""One night of a model against its stored results, item by item, with its base as a canary.

The items are the same and the files are checked, so what changes is the model's own, or the environment's: libraries,
kernels, hardware. The base tells which: its files never change. What the model lost less what the base lost on the same
items is the model's own change (difference in differences: Card and Krueger 1994, AER 84:772). A `regression` is a loss
proved beyond the margin whose own part is proved beyond the margin, too; else, and where the base is proved to have
moved, it is `drift`.

Scores have a floor, where that difference misleads: an environment that gives 0 for everything takes 70 points of a
model that had 70 and 5 of a base that had 5 (Athey and Imbens 2006, Econometrica 74:431, of effects on another scale).
So shares are asked, too: of the right answers that were stored, the base must be proved to have kept a larger share
than the model. Where that is not proved, as with a base that has hardly any, a loss is `drift` if the base fell, here,
on another suite or over all of them, or the environment is known to be another one; if neither, it is the model's.
Right answers that were lost are counted, not the scores' fall, so that it holds of suites where guessing scores, too:
there all that is left is guessing again.

A year of nights errs rarely because each night has its share of one error to spend, and so has each claim of a night:
Bonferroni's inequality, which needs no independence (all nights share their stored results). The expected number of
false alarms of a year is at most `FALSE_ALARMS`, over all models, suites and false refusals, as long as the environment
does not drift; of the drifts, one in forty is laid to the model (`WHOSE`). Every suite is judged as a tax is, whatever
its kind: it may fall by the margin. bench/nights.py simulates it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal, NamedTuple

from eval_suites.results import SuiteResult, enough
from eval_suites.statistics.evidence import paired
from eval_suites.statistics.floor import Floor
from eval_suites.statistics.intervals import Evidence
from eval_suites.statistics.pairing import both_asked, pair
from eval_suites.verdict.known import Known
from eval_suites.verdict.outcome import FalseRefusals, Part, SuiteVerdict
from eval_suites.verdict.verdict import compare
from sft_core.config.evaluate import GateSection
from sft_core.errors import EvalError

NIGHTS = 365
FALSE_ALARMS = 0.5
"""Expected number in a year of nights, at most."""
WHOSE = 0.05
"""Two-sided level at which a loss that is proved is laid to the model, over all suites. The loss itself is held to
`FALSE_ALARMS`; at its level the noise of the base would hide most losses that are the model's alone."""
State = Literal["quiet", "drift", "regression", "not_measured"]
Results = Mapping[str, SuiteResult]


class Kept(NamedTuple):
    """Share of its stored score that the model has on the same items tonight, and that the base has of its own, None
    where that is 0. `apart`: the base's is proved to be the larger one. `fell`: the base's loss is proved at `WHOSE`.
    """

    model: float
    base: float | None
    apart: bool
    fell: bool


@dataclass(frozen=True)
class SuiteNight:
    """One suite. `change`: the model against its stored results, `canary`: the base against its own, None where it has
    none to compare; points of both are losses. `own`: the model's loss less the base's. `kept`: None where there is no
    canary, or the scale has no floor."""

    suite: str
    state: State
    change: SuiteVerdict
    canary: SuiteVerdict | None
    own: Part | None
    kept: Kept | None

    @property
    def flip_rate(self) -> float | None:
        """Share of the items with a score on both sides whose score changed."""
        return (self.change.lost + self.change.gained) / self.change.pairs if self.change.pairs else None

    @property
    def coverage(self) -> float:
        """Share of the items asked that have a score tonight."""
        return self.change.scored_tuned / self.change.asked if self.change.asked else 0.0

    @property
    def said(self) -> str:
        """What was found, in words; empty of a quiet suite."""
        return "" if self.state == "quiet" else _told(self)

    def recovered(self, margin: float) -> bool:
        """Measured, and by its estimates within the margin again."""
        rise = self.change.false_refusals.rise.points if self.change.false_refusals else 0.0
        return self.change.points is not None and max(self.change.points, rise or 0.0) <= margin


def level(models: int, refusing: int) -> float:
    """Two-sided level at which each claim of a night is read, so that all nights keep to `FALSE_ALARMS`.

    Args:
        models: how many are guarded; each makes one claim for all its suites (Holm), at half the level to its side.
        refusing: suites with requests that should be answered; each makes one claim more, for every model.
    """
    return 2 * FALSE_ALARMS / (NIGHTS * models * (1 + refusing))


def refusing(stored: Results) -> int:
    """How many suites hold requests that should be answered."""
    return sum(any(item.should_refuse is False for item in one.items) for one in stored.values())


def incomparable(stored: Results, tonight: Results) -> dict[str, str]:
    """Suites that cannot be compared, and why: another protocol, or other words. Those of one side alone are left out:
    answers that a judge has graded are not graded again."""
    found = {}
    for name in stored.keys() & tonight.keys():
        try:
            both_asked(stored[name], tonight[name])
        except EvalError as error:
            found[name] = str(error)
    return found


def weigh(stored: Results, tonight: Results, canary: tuple[Results, Results], gate: GateSection, *,
          elsewhere: bool = False, floors: Mapping[str, Floor] | None = None) -> list[SuiteNight]:
    """Every suite that both nights can be compared on.

    Args:
        stored, tonight: the model's results by suite.
        canary: the base's, stored and of tonight; suites are missing where it could not be asked.
        gate: `alpha` is the night's `level`, `max_tax` and `max_false_refusals` the margin.
        elsewhere: libraries, hardware or the code that asks are others now: a loss that no canary can tell of is then
            laid to them.
        floors: how far the base differs from itself, as the run found it.
    """
    change, moved = _taxes(stored, tonight, gate, floors), _taxes(*canary, gate, floors)
    elsewhere |= any(one.outcome == "worse" for one in moved.values()) or _fell(
        *([side[name] for name, one in moved.items() if one.outcome != "not_measured"] for side in canary))
    found = []
    for name, one in change.items():
        base, own, kept = moved.get(name), None, None
        if base is not None and base.outcome == "not_measured":
            base = None
        if base is not None and one.outcome != "not_measured":
            sides = stored[name], tonight[name], canary[0][name], canary[1][name]
            own, kept = _part(_own(*sides), WHOSE / len(change)), _kept(*sides, WHOSE / len(change))
        state = _state(one, base, (own, kept), gate, elsewhere=elsewhere)
        found.append(SuiteNight(name, state, one, base, own, kept))
    return found


def _taxes(stored: Results, tonight: Results, gate: GateSection, floors: Mapping[str, Floor] | None
           ) -> dict[str, SuiteVerdict]:
    """Losses of the suites that can be compared, whatever their kind."""
    names = sorted((stored.keys() & tonight.keys()) - incomparable(stored, tonight).keys())
    sides = [{name: replace(side[name], kind="capability") for name in names} for side in (stored, tonight)]
    return {one.suite: one for one in compare(sides[0], sides[1], gate, Known(floors=floors)).suites}


def _own(stored: SuiteResult, tonight: SuiteResult, base_stored: SuiteResult, base_tonight: SuiteResult
         ) -> Evidence | None:
    """Evidence of the model's loss less the base's, over the items that all four have a score of.

    Half of it is a difference of two means of scores, so what holds of paired scores holds of it. Where the base did
    not move, it is the model's loss, which has exact limits.
    """
    others = [{item.item_id: item.score for item in one.items} for one in (tonight, base_stored, base_tonight)]
    rows = [(item.score, after, before, now, item.cluster, item.weight) for item in stored.items
            for after, before, now in [[side.get(item.item_id) for side in others]]
            if None not in (item.score, after, before, now)]
    least = max(stored.min_scored, tonight.min_scored)
    if not rows or not enough(len(rows), min(stored.n, tonight.n), least):
        return None
    was, now, base_was, base_now, clusters, weights = (list(column) for column in zip(*rows, strict=True))
    if base_was == base_now:
        return paired(now, was, clusters, weights, stored.scale)
    halves = [[(one + two) / 2 for one, two in zip(*both, strict=True)] for both in ((now, base_was), (was, base_now))]
    half = paired(halves[0], halves[1], clusters, weights, stored.scale)
    assert half is not None  # there are rows
    return half._replace(estimate=2 * half.estimate, bounds=lambda alpha, grow: tuple(
        2 * end for end in half.bounds(alpha, grow)))  # type: ignore[arg-type, return-value]


def _kept(stored: SuiteResult, tonight: SuiteResult, base_stored: SuiteResult, base_tonight: SuiteResult, alpha: float
          ) -> Kept | None:
    """The difference of two shares that were lost, by the limits of each (Zou and Donner 2008, Statistics in Medicine
    27:1693), as if they were independent; what befalls both alike makes it vary less."""
    lost = _lost_share(stored, tonight, alpha)
    if lost is None or stored.scale == "log":
        return None
    base = _lost_share(base_stored, base_tonight, alpha)
    if base is None:
        return Kept(1.0 - lost.estimate, None, apart=False, fell=False)
    distance = math.hypot(lost.estimate - lost.low, base.high - base.estimate)
    return Kept(1.0 - lost.estimate, 1.0 - base.estimate, apart=lost.estimate - base.estimate > distance,
                fell=_fell([base_stored], [base_tonight]))


def _fell(stored: Sequence[SuiteResult], tonight: Sequence[SuiteResult]) -> bool:
    """Whether a loss over all items of these suites together is proved at `WHOSE`; suites without a floor are left out.
    """
    pairs = [pair(was, now) for was, now in zip(stored, tonight, strict=True) if was.scale == "share"]
    before, after, weights = ([value for one in pairs for value in column(one)] for column in (
        attrgetter("base"), attrgetter("tuned"), attrgetter("weights")))
    loss = paired(after, before, [f"{at}/{name}" for at, one in enumerate(pairs) for name in one.clusters], weights)
    return loss is not None and loss.bounds(WHOSE, 1.0)[0] > 0.0


class _Share(NamedTuple):
    estimate: float
    low: float
    high: float


def _lost_share(stored: SuiteResult, tonight: SuiteResult, alpha: float) -> _Share | None:
    """How much of the stored score is gone, item by item; what other items gained does not count. None of no score."""
    pairs = pair(stored, tonight)
    had = sum(score * weight for score, weight in zip(pairs.base, pairs.weights, strict=True)) / (
        sum(pairs.weights) or 1.0)
    left = list(map(min, pairs.base, pairs.tuned))
    if had <= 0.0 or (gone := paired(left, pairs.base, pairs.clusters, pairs.weights)) is None:
        return None
    low, high = gone.bounds(alpha, 1.0)
    return _Share(gone.estimate / had, max(low, 0.0) / had, min(high / had, 1.0))


def _part(evidence: Evidence | None, alpha: float) -> Part | None:
    if evidence is None:
        return None
    low, high = evidence.bounds(alpha, 1.0)
    return Part(100 * evidence.estimate, 100 * low, 100 * high, evidence.items)


def _state(change: SuiteVerdict, base: SuiteVerdict | None, whose: tuple[Part | None, Kept | None], gate: GateSection,
           *, elsewhere: bool) -> State:
    if change.outcome == "not_measured":
        return "not_measured"
    lost, refuses = change.outcome == "worse", change.refuses_more
    if base is None:
        return "quiet" if not (lost or refuses) else "drift" if elsewhere else "regression"
    if lost and _is_own(*whose, gate.max_tax, elsewhere=elsewhere):
        return "regression"
    if refuses and _own_refusals(change.false_refusals, base.false_refusals, elsewhere=elsewhere
                                 ) > gate.max_false_refusals:
        return "regression"
    moved = base.outcome == "worse" or base.high < -base.margin or base.refuses_more
    return "drift" if lost or refuses or moved else "quiet"


def _is_own(own: Part | None, kept: Kept | None, margin: float, *, elsewhere: bool) -> bool:
    """Whether a loss is the model's own: by its points, and by its share or as nothing else is suspected."""
    if own is None or own.low <= margin:
        return False
    return kept is None or kept.apart or not (kept.fell or elsewhere)


def _own_refusals(change: FalseRefusals | None, base: FalseRefusals | None, *, elsewhere: bool) -> float:
    """Least points by which false refusals rose, less what the base's rose by: in points, or in its share of what there
    was left to refuse, if that is more. A base that refused everything says nothing, as if there were none."""
    if change is None:
        return 0.0
    if base is None or base.base is None:
        return change.rise.low
    risen, room = max(base.rise.points or 0.0, 0.0), 1.0 - base.base
    if room <= 0.0:
        return -math.inf if elsewhere else change.rise.low
    return change.rise.low - risen * max(1.0, (1.0 - (change.base or 0.0)) / room)


def _lost(one: SuiteVerdict) -> str:
    """E.g. `lost 4.0 points (1.2 to 7.0) over 250 items`; false refusals beside it where they are what is proved."""
    points = f"lost {one.points:.1f} points ({one.low:.1f} to {one.high:.1f}) over {one.pairs} items"
    if one.refuses_more and one.false_refusals:
        rise = one.false_refusals.rise
        points += f", its false refusals rose by {rise.points:.1f} ({rise.low:.1f} to {rise.high:.1f})"
    return points


def _told(one: SuiteNight) -> str:
    if one.state == "not_measured":
        return f"{one.suite} {one.change.said}" + "".join(f"; {note}" for note in one.change.notes)
    said = f"{one.suite} {_lost(one.change)}"
    if one.canary is None:
        return f"{said}; the base was not measured, so the environment may have done it"
    own = "is not measured" if one.own is None else f"is {one.own.points:.1f} ({one.own.low:.1f} to {one.own.high:.1f})"
    said = f"{said}, the base {one.canary.points:.1f}: the model's own part {own}"
    if one.kept is None or one.kept.apart or one.own is None or one.own.low <= 0.0:
        return said
    if one.kept.base is None:
        return f"{said}; the base had nothing to lose here, so the environment may have done it"
    return (f"{said}; of the score it had it kept {100 * one.kept.model:.0f} %, the base {100 * one.kept.base:.0f} % "
            "of its own, which is not proved to be more: the environment may have done it")
