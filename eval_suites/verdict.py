"""Base results × tuned results → Verdict: what was bought, what it cost, how sure that is, and whether the gate passes.

Capability suites give the tax, base − tuned, in points of 100. Their question is non-inferiority: is the tax at most
the margin? Alignment suites give the win, tuned − base. Three answers are possible each time, one of which is that
more items are needed. Intervals are two-sided of level 1 − alpha and belong to one suite. Claims of a difference
(`worse`, `improved`) are made for several suites at once, so their p-values are adjusted after Holm within the
capability and within the alignment suites; the p-values come from the same intervals. `no_worse` needs no adjustment:
the gate asks it of every suite, and each must hold by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from eval_suites.floor import Floor
from eval_suites.intervals import NOTHING, Evidence, Interval, holm, mcnemar_exact
from eval_suites.results import SuiteResult
from eval_suites.stats import paired
from sft_core.config.evaluate import GateSection
from sft_core.errors import EvalError

Outcome = Literal["no_worse", "worse", "improved", "not_proved", "undecided"]
SHOWN = {"no_worse": "no worse", "worse": "worse", "improved": "improved", "not_proved": "not proved",
         "undecided": "undecided"}


class Check(NamedTuple):
    """A condition beside the scores, e.g. the parity certificate; one that did not pass fails the gate."""

    name: str
    passed: bool
    why: str


class Part(NamedTuple):
    """The tax or win on some of the items, in points with its interval; `points` is None without a scored pair."""

    points: float | None
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class SuiteVerdict:
    """One suite. `points`, `low`, `high`: tax (capability) or win (alignment) × 100 with its interval.

    `scored_base` and `scored_tuned` count items with a score, `pairs` those with one on both sides: only they enter.
    `p` is against the margin (capability) or against no difference (alignment), `p_holm` adjusted for the number of
    suites, `p_mcnemar` the exact test of no difference, for independent items scored 0 or 1 only. `lost` and `gained`
    count items whose score fell and rose. `more_items`: how many more would settle it if what was seen is the truth.
    `margin`: the non-inferiority margin in points (capability). `mde`: the smallest difference in points that this
    comparison finds with 80 % power. `looks`: (taken, planned) of a sequential evaluation. `uncontaminated`: the same
    on the items that were not found in the training data, None where none was looked for. `floor`: how far the base
    differs from itself. `notes`: what a reader must know beside the numbers, a sentence each.
    """

    suite: str
    kind: str
    outcome: Outcome
    base: float | None
    tuned: float | None
    points: float | None
    low: float
    high: float
    pairs: int
    scored_base: int
    scored_tuned: int
    asked: int
    lost: int
    gained: int
    p: float
    p_holm: float
    p_mcnemar: float | None
    more_items: int | None
    method: str
    protocol_hash: str
    margin: float = 0.0
    scale: str = "share"
    mde: float | None = None
    looks: tuple[int, int] | None = None
    uncontaminated: Part | None = None
    floor: Floor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """All suites and the gate."""

    gate: Literal["pass", "fail", "undecided"]
    reason: str
    alpha: float
    max_tax: float
    suites: tuple[SuiteVerdict, ...]
    checks: tuple[Check, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for verdict.json."""
        return asdict(self)

    def rows(self) -> list[dict[str, str]]:
        """Table for the terminal and the report: one row per suite, the keys are the heads."""
        return [_table_row(s, self.alpha) for s in self.suites]


class Pairs(NamedTuple):
    """Scores of the items that both sides have a score for, in the order of the base."""

    base: list[float]
    tuned: list[float]
    clusters: list[str]


class _Weighed(NamedTuple):
    base: SuiteResult
    tuned: SuiteResult
    pairs: Pairs
    evidence: Evidence | None
    p: float


def check_protocols(base: SuiteResult, tuned: SuiteResult) -> None:
    """Raises EvalError unless both were asked the same things in the same way."""
    if base.protocol_hash == tuned.protocol_hash:
        return
    keys = sorted(k for k in {*base.protocol, *tuned.protocol} if base.protocol.get(k) != tuned.protocol.get(k))
    said = "; ".join(f"{k}: {str(base.protocol.get(k)):.200} against {str(tuned.protocol.get(k)):.200}" for k in keys)
    raise EvalError(f"the results of suite {base.suite} cannot be compared, their protocols differ in {said}. Evaluate "
                    "both models with the same configuration")


def pair(base: SuiteResult, tuned: SuiteResult) -> Pairs:
    """Pair by item id; an item without a score on either side is left out, not counted as zero.

    Raises:
        EvalError: the protocols differ, or an item was not asked in the same words.
    """
    check_protocols(base, tuned)
    after = {item.item_id: item for item in tuned.items}
    both = [(item, after[item.item_id]) for item in base.items if item.item_id in after]
    if other := [one.item_id for one, two in both if one.asked != two.asked]:
        raise EvalError(f"{len(other)} items of suite {base.suite} were not asked in the same words (first: "
                        f"{other[0]}); evaluate both models with the same items and examples")
    scored = [(one, two) for one, two in both if one.score is not None and two.score is not None]
    return Pairs([float(one.score or 0.0) for one, _ in scored], [float(two.score or 0.0) for _, two in scored],
                 [one.cluster for one, _ in scored])


def compare(
    base: Mapping[str, SuiteResult], tuned: Mapping[str, SuiteResult], gate: GateSection, *,
    contaminated: Mapping[str, Collection[str]] | None = None, floors: Mapping[str, Floor] | None = None,
    checks: Sequence[Check] = (),
) -> Verdict:
    """Weigh every suite of the tuned model against the base, then the gate.

    Args:
        base, tuned: suite → results.
        gate: margins, demands and the error probability.
        contaminated: suite → ids of items that were found in the training data.
        floors: suite → how far the base differs from itself.
        checks: conditions beside the scores.

    Raises:
        EvalError: a suite is missing on one side, or protocols differ.
    """
    if missing := sorted(set(base) ^ set(tuned)):
        raise EvalError(f"suites {missing} were run on one of the two models only; run the same suites on both")
    weighed = [_weigh(base[name], tuned[name], gate) for name in tuned]
    adjusted = _holm_by_kind(weighed)
    suites = tuple(_judge(w, p, gate) for w, p in zip(weighed, adjusted, strict=True))
    outcome, reason = _gate(suites, gate)
    return Verdict(outcome, reason, gate.alpha, gate.max_tax, suites, tuple(checks))


def _weigh(base: SuiteResult, tuned: SuiteResult, gate: GateSection) -> _Weighed:
    pairs = pair(base, tuned)
    # Either way the difference is written so that its sign is that of `points`: tax or win.
    sides = (pairs.tuned, pairs.base) if base.kind == "capability" else (pairs.base, pairs.tuned)
    evidence = paired(*sides, pairs.clusters)
    null = gate.max_tax / 100 if base.kind == "capability" else 0.0
    p = 1.0
    if evidence is not None and (base.kind == "alignment" or evidence.estimate > null):
        p = evidence.p_value(null)
    return _Weighed(base, tuned, pairs, evidence, p)


def _holm_by_kind(weighed: Sequence[_Weighed]) -> list[float]:
    adjusted = [1.0] * len(weighed)
    for kind in ("capability", "alignment"):
        members = [i for i, w in enumerate(weighed) if w.base.kind == kind]
        for index, p in zip(members, holm([weighed[i].p for i in members]), strict=True):
            adjusted[index] = p
    return adjusted


def _judge(weighed: _Weighed, p_holm: float, gate: GateSection) -> SuiteVerdict:
    base, tuned, pairs, evidence, p = weighed
    interval = evidence.interval(gate.alpha) if evidence else NOTHING
    outcome = _outcome(base.kind, interval, p_holm, gate)
    changes = [after - before for before, after in zip(pairs.base, pairs.tuned, strict=True)]
    return SuiteVerdict(
        suite=base.suite, kind=base.kind, outcome=outcome, base=base.score, tuned=tuned.score,
        points=None if interval.estimate is None else 100 * interval.estimate, low=100 * interval.low,
        high=100 * interval.high, pairs=len(changes), scored_base=base.tally.scored, scored_tuned=tuned.tally.scored,
        asked=base.n, lost=sum(c < 0 for c in changes), gained=sum(c > 0 for c in changes), p=p, p_holm=p_holm,
        p_mcnemar=_mcnemar(pairs), more_items=_more(weighed, p_holm, outcome, gate), method=interval.method,
        protocol_hash=base.protocol_hash)


def _outcome(kind: str, interval: Interval, p_holm: float, gate: GateSection) -> Outcome:
    """A difference is claimed on the adjusted p-value, which is never below the interval's own claim."""
    if interval.estimate is None:
        return "undecided"
    claimed = p_holm < gate.alpha
    if kind == "capability":
        if 100 * interval.high <= gate.max_tax:
            return "no_worse"
        return "worse" if claimed and 100 * interval.low > gate.max_tax else "undecided"
    if not claimed:
        return "not_proved"
    return "improved" if interval.estimate > 0 else "worse"


def _mcnemar(pairs: Pairs) -> float | None:
    """The exact test holds for independent items that are right or wrong."""
    independent = len(set(pairs.clusters)) == len(pairs.clusters)
    if not pairs.base or not independent or not {*pairs.base, *pairs.tuned} <= {0.0, 1.0}:
        return None
    both = list(zip(pairs.base, pairs.tuned, strict=True))
    return mcnemar_exact(both.count((1.0, 0.0)), both.count((0.0, 1.0)))


def _more(weighed: _Weighed, p_holm: float, outcome: Outcome, gate: GateSection) -> int | None:
    """To claim a difference takes the level that Holm leaves to this suite; to show `no_worse` takes alpha."""
    evidence, kind = weighed.evidence, weighed.base.kind
    if evidence is None or outcome not in ("undecided", "not_proved"):
        return None
    margin = gate.max_tax / 100
    alpha = gate.alpha * weighed.p / p_holm

    def margin_settled(low: float, high: float) -> bool:
        return high <= margin or low > margin

    def sign_settled(low: float, high: float) -> bool:
        return low > 0 or high < 0

    settled: Callable[[float, float], bool] = margin_settled if kind == "capability" else sign_settled
    return evidence.more_items(alpha, settled)


def _gate(suites: Sequence[SuiteVerdict], gate: GateSection) -> tuple[Literal["pass", "fail", "undecided"], str]:
    """Fail when a demand is proved unmet, pass when all are proved met, else undecided; the first reason is told.

    `at_least` is about the measured score itself; `max_tax` and `must_improve` about what is proved.
    """
    failed: list[str] = []
    waiting: list[str] = []
    met: list[str] = []
    for suite in suites:
        for state, text in _demands(suite, gate):
            {"fail": failed, "undecided": waiting, "pass": met}[state].append(text)
    if failed:
        return "fail", _sentence(failed)
    if waiting:
        return "undecided", _sentence(waiting)
    if not met:
        return "undecided", "No capability suite was run and the gate asks for nothing else, so nothing was shown."
    return "pass", _sentence(met)


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "."


def _demands(suite: SuiteVerdict, gate: GateSection) -> list[tuple[str, str]]:
    """(pass, fail or undecided; why) for each demand of the gate on this suite."""
    found = []
    if suite.kind == "capability":
        state = {"no_worse": "pass", "worse": "fail"}.get(suite.outcome, "undecided")
        said = {"pass": f"proved to be at most {gate.max_tax:g}", "fail": f"proved to be above {gate.max_tax:g}",
                "undecided": f"not proved to be at most {gate.max_tax:g}{_wanted(suite)}"}[state]
        found.append((state, f"the tax on {suite.suite} is {said} ({_points(suite)})"))
    if suite.suite in gate.must_improve:
        better = suite.points is not None and suite.outcome == "improved"
        if suite.kind == "capability":
            better = suite.high < 0
        worse = suite.outcome == "worse"
        state = "pass" if better else "fail" if worse else "undecided"
        said = {"pass": "is proved better", "fail": "is proved worse",
                "undecided": f"is not proved better{_wanted(suite)}"}[state]
        found.append((state, f"{suite.suite} {said} than its base ({_points(suite)})"))
    if suite.suite in gate.at_least:
        least = gate.at_least[suite.suite]
        if suite.tuned is None:
            found.append(("undecided", f"{suite.suite} has no score to hold against {least:g}"))
        else:
            state = "pass" if suite.tuned >= least else "fail"
            found.append((state, f"{suite.suite} scores {suite.tuned:.3f}, at least {least:g} is asked"))
    return found


def _wanted(suite: SuiteVerdict) -> str:
    if suite.outcome not in ("undecided", "not_proved"):
        return ""
    if suite.more_items is None:
        return ", and no realistic number of items would settle it"
    return f", about {suite.more_items:,} more items would settle it"


def _points(suite: SuiteVerdict) -> str:
    if suite.points is None:
        return "no item was scored on both sides"
    return f"{suite.points:+.1f} points, {suite.low:+.1f} to {suite.high:+.1f}, {suite.pairs} items"


def _table_row(suite: SuiteVerdict, alpha: float) -> dict[str, str]:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    items = f"{suite.pairs}" if suite.pairs == suite.asked else f"{suite.pairs} of {suite.asked}"
    outcome = SHOWN[suite.outcome]
    if suite.outcome in ("undecided", "not_proved") and suite.more_items is not None:
        outcome += f", about {suite.more_items:,} more items"
    return {
        "suite": suite.suite,
        "base": share(suite.base),
        "tuned": share(suite.tuned),
        "tax / win": "–" if suite.points is None else f"{'tax' if suite.kind == 'capability' else 'win'} "
                                                      f"{suite.points:+.1f}",
        f"{100 * (1 - alpha):g} % interval": f"{suite.low:+.1f} to {suite.high:+.1f}",
        "p (Holm)": f"{suite.p_holm:.2g}",
        "lost / gained": f"{suite.lost} / {suite.gained}",
        "items": items,
        "outcome": outcome,
    }
