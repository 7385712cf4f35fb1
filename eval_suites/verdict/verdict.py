"""Base results × tuned results → Verdict: what was bought, what it cost, how sure that is, and whether the gate passes.

Capability suites give the tax, base − tuned, in points of 100 (on the scale `log`: percent of perplexity per byte).
Their question is non-inferiority: is the tax at most the margin? Alignment suites give the win, tuned − base. Three
answers are possible each time, one of which is that more items are needed. The very same model under the same protocol,
all of whose items scored alike, is no sample of anything: it is `equal`, with a difference of exactly 0. Intervals are
two-sided of level 1 − alpha and belong to one suite. Claims of a difference (`worse`, `improved`) are made for several
suites at once, so their p-values are adjusted after Holm within the capability and within the alignment suites; the
p-values come from the same intervals. `no_worse` needs no adjustment: the gate asks it of every suite, and each must
hold by itself. A suite that was stopped early is read at the level of its look (`sequential.py`).

A suite is `not_measured`, without a number or a claim, where less than `eval.min_scored` of its items have a score on
both sides. A claim is withdrawn, with a note that says so, where
  more than 5 % of the items have no score on both sides, and it would not hold if they were all counted against it
  (0 or 1, the worst case of Manski 1989; on the scale `log` there is no worst case, so no claim holds). Fewer missing
  items leave the claim, and the note;
  the base, asked again under the same settings, changed its scores (the A/A floor), and the difference is no larger
  than that change: items that changed / items asked again × largest change. A change under another batch size is told
  and withdraws nothing: base and tuned are asked under the same batch policy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from eval_suites.results import ItemResult, SuiteResult, commonest, enough, tally
from eval_suites.statistics.floor import Floor
from eval_suites.statistics.intervals import NOTHING, Evidence, holm, mcnemar_exact
from eval_suites.statistics.pairing import (
    Pairs,
    both_asked,
    check_protocols,
    difference,
    many_missing,
    pair,
    scored_pairs,
    worst_cases,
)
from eval_suites.verdict import gate as policy
from eval_suites.verdict.cut import cut_answers
from eval_suites.verdict.hidden import with_hidden
from eval_suites.verdict.known import NOTHING_KNOWN, Known, Names
from eval_suites.verdict.outcome import OPEN, SHOWN, Check, Outcome, Part, SuiteVerdict, row
from eval_suites.verdict.power import detectable
from eval_suites.verdict.refusing import false_refusals
from eval_suites.verdict.room import room
from eval_suites.verdict.rough import rough
from eval_suites.verdict.sequential import read_at, repeated
from sft_core.config.evaluate import GateSection
from sft_core.errors import EvalError

__all__ = ["SHOWN", "Check", "Outcome", "Part", "SuiteVerdict", "Verdict", "check_protocols", "compare", "pair"]

@dataclass(frozen=True)
class Verdict:
    """All suites and the gate."""

    gate: Literal["pass", "fail", "undecided"]
    reason: str
    alpha: float
    max_tax: float
    suites: tuple[SuiteVerdict, ...]
    checks: tuple[Check, ...] = ()
    names: Names = Names()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for verdict.json."""
        return asdict(self)

    def rows(self) -> list[dict[str, str]]:
        """Table for the terminal and the report: one row per suite, the keys are the heads."""
        rows = [row(s, self.alpha) for s in self.suites]
        if not any(s.false_refusals for s in self.suites):
            rows = [{head: text for head, text in one.items() if head != "false refusals"} for one in rows]
        return rows


class _Weighed(NamedTuple):
    """One suite before the others are known."""

    base: SuiteResult
    tuned: SuiteResult
    both: list[tuple[ItemResult, ItemResult]]  # asked of both, scored or not
    pairs: Pairs
    looks: tuple[int, int] | None
    asked: int  # items asked of either; of a suite that was stopped early, of both
    evidence: Evidence | None
    margin: float  # points
    p: float
    names: Names


def compare(
    base: Mapping[str, SuiteResult], tuned: Mapping[str, SuiteResult], gate: GateSection,
    known: Known = NOTHING_KNOWN,
) -> Verdict:
    """Weigh every suite of the tuned model against the base, then the gate.

    Args:
        base, tuned: suite → results.
        gate: margins, demands and the error probability.
        known: what is known beside the results.

    Raises:
        EvalError: a suite is missing on one side, or protocols differ.
    """
    if missing := sorted(set(base) ^ set(tuned)):
        raise EvalError(f"suites {missing} were run on one of the two models only; run the same suites on both")
    names = known.names.apart
    weighed = [_weigh(base[name], tuned[name], gate, names) for name in tuned]
    found, clean, floor = [], known.contaminated or {}, known.floors or {}
    for one, p_holm, members in zip(weighed, *_holm_by_kind(weighed), strict=True):
        name = one.base.suite
        if one.evidence is None:
            found.append(_not_measured(_judge(one, p_holm, gate, members), one))
            continue
        if _same(one):
            found.append(_equal(_judge(one, p_holm, gate, members)))
            continue
        suite = _with_room(_with_vocabularies(_with_cut(_judge(one, p_holm, gate, members), one), one), one)
        suite = replace(suite, notes=(*suite.notes, *rough(one.pairs)))
        suite = _with_clean(suite, one, gate.alpha, clean[name]) if name in clean else suite
        suite = _with_floor(suite, floor[name], names.the_base) if name in floor else suite
        found.append(with_hidden(_with_missing(suite, one, gate.alpha), one.pairs, read_at(gate.alpha, one.looks)))
    outcome, reason = policy.decide(found, gate, known.checks, names)
    return Verdict(outcome, reason, gate.alpha, gate.max_tax, tuple(found), tuple(known.checks), names)


def _weigh(base: SuiteResult, tuned: SuiteResult, gate: GateSection, names: Names) -> _Weighed:
    both = both_asked(base, tuned)
    pairs, looks, margin = scored_pairs(both), _earlier(base.looks, tuned.looks), policy.margin_of(base.suite, gate)
    asked = len(both) if looks else max(base.n, tuned.n)
    known = enough(len(pairs.ids), asked, max(base.min_scored, tuned.min_scored))
    evidence = difference(pairs, base.kind, base.scale) if known else None
    evidence = repeated(evidence, looks) if evidence else None
    null = margin / 100 if base.kind == "capability" else 0.0
    p = 1.0
    if evidence is not None and (base.kind == "alignment" or evidence.estimate > null):
        p = evidence.p_value(null)
    return _Weighed(base, tuned, both, pairs, looks, asked, evidence, margin, p, names)


def _earlier(one: tuple[int, int] | None, two: tuple[int, int] | None) -> tuple[int, int] | None:
    """The look whose items both sides have."""
    if one is None or two is None:
        return one or two
    return min(one, two, key=lambda looks: looks[0] / looks[1])


def _holm_by_kind(weighed: Sequence[_Weighed]) -> tuple[list[float], list[int]]:
    """Adjusted p-values, and how many suites each was adjusted for."""
    adjusted, sizes = [1.0] * len(weighed), [1] * len(weighed)
    for kind in ("capability", "alignment"):
        members = [i for i, w in enumerate(weighed) if w.base.kind == kind]
        for index, p in zip(members, holm([weighed[i].p for i in members]), strict=True):
            adjusted[index], sizes[index] = p, len(members)
    return adjusted, sizes


def _same(weighed: _Weighed) -> bool:
    """One model by its content, and every item has the same score, or none, on both sides."""
    base, tuned = weighed.base, weighed.tuned
    return bool(base.model) and base.model == tuned.model and bool(weighed.pairs.ids) and (
        all(one.score == two.score for one, two in weighed.both))


def _equal(suite: SuiteVerdict) -> SuiteVerdict:
    return replace(suite, outcome="equal", low=0.0, high=0.0, p=1.0, p_holm=1.0, more_items=0, mde=None)


def _judge(weighed: _Weighed, p_holm: float, gate: GateSection, members: int) -> SuiteVerdict:
    base, tuned, both, pairs, looks, asked, evidence, margin, p, names = weighed
    alpha = gate.alpha
    interval = evidence.interval(alpha) if evidence else NOTHING
    low, high = 100 * interval.low, 100 * interval.high
    outcome: Outcome = "not_measured"
    if interval.estimate is not None:
        outcome = _outcome(base.kind, (low, high), p_holm < alpha, margin)
    least = max(base.min_scored, tuned.min_scored)
    before, after = (tally([sides[i] for sides in both]) for i in (0, 1))
    scored = [sides for sides in both if None not in (sides[0].score, sides[1].score)]
    means = [tally([sides[i] for sides in scored]).score if evidence else None for i in (0, 1)]
    changes = [two - one for one, two in zip(pairs.base, pairs.tuned, strict=True)]
    refusals = false_refusals(both, gate.max_false_refusals, read_at(alpha, looks), least)
    claim = alpha / members if base.kind == "alignment" else alpha
    return SuiteVerdict(
        suite=base.suite, kind=base.kind, outcome=outcome, base=means[0], tuned=means[1],
        points=None if interval.estimate is None else 100 * interval.estimate, low=low, high=high,
        pairs=len(changes), scored_base=before.scored, scored_tuned=after.scored, asked=asked,
        lost=sum(c < 0 for c in changes), gained=sum(c > 0 for c in changes), p=p, p_holm=p_holm,
        p_mcnemar=_mcnemar(pairs, looks), more_items=_more(weighed, p_holm, outcome, alpha), method=interval.method,
        protocol_hash=base.protocol_hash, margin=margin if base.kind == "capability" else 0.0, scale=base.scale,
        mde=detectable(pairs, base.kind, base.scale, read_at(claim, looks)) if evidence else None, looks=looks,
        room=room(base, alpha, names.the_base), false_refusals=refusals, min_scored=least,
        level=after.held_to(least).score,
        notes=(f"false refusals: {refusals.doubt}",) if refusals and refusals.doubt else ())


def _not_measured(suite: SuiteVerdict, weighed: _Weighed) -> SuiteVerdict:
    """With the most frequent reason of each side for having no score."""
    sides = [(who, [item.why for item in side.items if item.score is None])
             for who, side in zip(weighed.names, (weighed.base, weighed.tuned), strict=True)]
    notes = [f"{len(whys)} items of {who} without a score, {commonest(whys)}" for who, whys in sides if whys]
    return replace(suite, notes=(*suite.notes, *notes))


def _outcome(kind: str, points: tuple[float, float], claimed: bool, margin: float) -> Outcome:
    """A difference is claimed on the adjusted p-value, which is never below the interval's own claim."""
    low, high = points
    if kind == "capability":
        if high <= margin:
            return "no_worse"
        return "worse" if claimed and low > margin else "undecided"
    if not claimed or low <= 0 <= high:
        return "not_proved"
    return "improved" if low > 0 else "worse"


def _mcnemar(pairs: Pairs, looks: tuple[int, int] | None) -> float | None:
    """The exact test holds for independent items of equal weight that are right or wrong, looked at once."""
    independent = len(set(pairs.clusters)) == len(pairs.clusters) and not pairs.weighted
    if not pairs.base or not independent or looks or not {*pairs.base, *pairs.tuned} <= {0.0, 1.0}:
        return None
    both = list(zip(pairs.base, pairs.tuned, strict=True))
    return mcnemar_exact(both.count((1.0, 0.0)), both.count((0.0, 1.0)))


def _more(weighed: _Weighed, p_holm: float, outcome: Outcome, alpha: float) -> int | None:
    """To claim a difference takes the level that Holm leaves to this suite; to show `no_worse` takes alpha."""
    evidence, kind = weighed.evidence, weighed.base.kind
    if evidence is None or outcome not in OPEN:
        return None
    margin = weighed.margin / 100

    def margin_settled(low: float, high: float) -> bool:
        return high <= margin or low > margin

    def sign_settled(low: float, high: float) -> bool:
        return low > 0 or high < 0

    settled: Callable[[float, float], bool] = margin_settled if kind == "capability" else sign_settled
    return evidence.more_items(alpha * weighed.p / p_holm, settled)


def _with_cut(suite: SuiteVerdict, weighed: _Weighed) -> SuiteVerdict:
    note = cut_answers(weighed.both, weighed.names)
    return replace(suite, notes=(*suite.notes, note)) if note else suite


def _with_vocabularies(suite: SuiteVerdict, weighed: _Weighed) -> SuiteVerdict:
    """Scores are of texts, or per byte of them, so that tokenizers may differ; what is per token may not."""
    base, tuned = weighed.base.vocabulary, weighed.tuned.vocabulary
    if not base or not tuned or base == tuned:
        return suite
    note = f"{' and '.join(weighed.names)} have different vocabularies; " + (
        "compared is what a byte of text costs, as perplexities per token cannot be" if suite.scale == "log" else
        "compared are answers as text, but a limit in tokens cuts them at other lengths")
    return replace(suite, notes=(*suite.notes, note))


def _with_room(suite: SuiteVerdict, weighed: _Weighed) -> SuiteVerdict:
    """A claim about a base that had nothing to lose is told as such; without a claim the outcome says it.

    So is a floor that nobody knows.
    """
    notes = [suite.room] if suite.room and suite.outcome not in OPEN else []
    if suite.kind == "capability" and weighed.base.chance is None and not suite.room:
        notes.append("what guessing scores is not known, as its scorer is the suite's own: "
                     f"{weighed.names.the_base} may have nothing to lose; its items can say it (chance: 0.25 of one of "
                     "four choices, 0 where there are none)")
    return replace(suite, notes=(*suite.notes, *notes))


def _with_clean(suite: SuiteVerdict, weighed: _Weighed, alpha: float, ids: Collection[str]) -> SuiteVerdict:
    """Beside all items, those that were not found in the training data."""
    rest = weighed.pairs.without(set(ids))
    evidence = difference(rest, suite.kind, suite.scale)
    if evidence is None:
        return replace(suite, uncontaminated=Part(None, 100 * NOTHING.low, 100 * NOTHING.high, 0), notes=(
            *suite.notes, "every item was found in the training data"))
    span = repeated(evidence, weighed.looks).interval(alpha)
    part = Part(100 * evidence.estimate, 100 * span.low, 100 * span.high, evidence.items)
    suite = replace(suite, uncontaminated=part)
    if suite.outcome in OPEN or _outcome(suite.kind, (part.low, part.high), True, suite.margin) == suite.outcome:
        return suite
    return replace(suite, notes=(*suite.notes, (
        f"the {part.pairs} items not found in the training data do not show it by themselves ({part.points:+.1f} "
        f"points, {part.low:+.1f} to {part.high:+.1f})")))


def _with_floor(suite: SuiteVerdict, floor: Floor, base: str) -> SuiteVerdict:
    """Beside the scores, how far the base differs from itself; a difference within that is not claimed."""
    suite = replace(suite, floor=floor)
    if floor.batch:
        suite = replace(suite, notes=(*suite.notes, (
            f"under another batch size {floor.batch} of {floor.items} items of {floor.of or base} changed their "
            f"score, by up to "
            f"{100 * floor.worst:.3g} points")))
    if not floor.same:
        return suite
    noise = 100 * floor.worst * floor.same / floor.items
    note = (f"{floor.of or base} does not repeat itself: under the same settings {floor.same} of {floor.items} "
            f"items changed their score, up to {noise:.1f} points of the suite")
    beyond = abs((suite.points or 0.0) - (suite.margin if suite.kind == "capability" else 0.0))
    if suite.outcome in ("worse", "improved") and beyond <= noise:
        return _withdrawn(suite, f"{note}, so that no smaller difference is claimed")
    return replace(suite, notes=(*suite.notes, note))


def _with_missing(suite: SuiteVerdict, weighed: _Weighed, alpha: float) -> SuiteVerdict:
    """What the items without a score on both sides could change."""
    missing = suite.asked - suite.pairs
    if not missing or not suite.pairs:
        return suite
    many = many_missing(suite.pairs, suite.asked)
    note = f"{missing} of {suite.asked} items have no score on both sides"
    if suite.outcome in OPEN:
        return replace(suite, notes=(*suite.notes, note)) if many else suite
    worst = _worst_case(weighed, alpha)
    if worst is not None and _outcome(suite.kind, worst, True, suite.margin) == suite.outcome:
        told = f"{note}; it would hold with all of them counted against it"
        return replace(suite, worst=worst, notes=(*suite.notes, told)) if many else suite
    span = "" if worst is None else f" ({worst[0]:+.1f} to {worst[1]:+.1f} points)"
    note += f"; {SHOWN[suite.outcome]!r} would not hold with all of them counted against it{span}"
    return _withdrawn(suite, note) if many else replace(suite, notes=(*suite.notes, note))


def _worst_case(weighed: _Weighed, alpha: float) -> tuple[float, float] | None:
    """The interval in points if missing scores were 0 or 1, whichever is worst for the bound. None on scale `log`."""
    found = worst_cases(weighed.both, weighed.base.kind, weighed.base.scale)
    unseen = weighed.asked - len(weighed.both)
    if unseen or not found:
        return None
    bounds = [repeated(evidence, weighed.looks).bounds(alpha, 1.0) for evidence in found]
    return 100 * min(low for low, _ in bounds), 100 * max(high for _, high in bounds)


def _withdrawn(suite: SuiteVerdict, note: str) -> SuiteVerdict:
    """The claim, taken back for a reason that more items like these would not cure."""
    return replace(suite, outcome="undecided" if suite.kind == "capability" else "not_proved", more_items=0,
                   notes=(*suite.notes, note))
