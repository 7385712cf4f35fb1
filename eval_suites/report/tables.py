"""The alignment-tax report as data: what was bought (alignment suites) against what it cost (capability suites).

Tables of plain text for the terminal and the page; `plot.py` draws the same verdict, tasks/pages puts all on one page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from eval_suites.judge.calibrate import corrected, corrected_change
from eval_suites.report.readings import Reading, readings
from eval_suites.results import SuiteResult, Tally, mean_metric, unscored
from eval_suites.scorers.base import MILDER, STRICTER
from eval_suites.statistics.floor import Floor
from eval_suites.statistics.intervals import Interval
from eval_suites.statistics.pairing import common
from eval_suites.statistics.robustness import drop_rows
from eval_suites.verdict.known import Names
from eval_suites.verdict.outcome import NONE, Part, row, shown_score, span
from eval_suites.verdict.verdict import SuiteVerdict, Verdict

Results = Mapping[str, SuiteResult]
Row = dict[str, str]
SAME = "Both scores are of the items that have one on both sides, as their difference is."


class Table(NamedTuple):
    """One part of the report; the keys of the rows are the heads."""

    title: str
    note: str
    rows: list[Row]
    folded: bool = False  # long or of second importance: the page shows it on request, the terminal not at all
    short: bool = False  # needed to read the verdict: shown also where the other tables are not


class Report(NamedTuple):
    """Everything that is known of two models, as text."""

    names: Names
    gate: str
    reason: str
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class _Both:
    """What every table is made of."""

    verdict: Verdict
    base: Results
    tuned: Results

    @property
    def names(self) -> Names:
        return self.verdict.names

    @cached_property
    def readings(self) -> list[Reading]:
        """Of all suites."""
        return [one for _, base, tuned in self.suites for one in readings(base, tuned, self.verdict.alpha)]

    @property
    def suites(self) -> list[tuple[SuiteVerdict, SuiteResult, SuiteResult]]:
        return [(one, self.base[one.suite], self.tuned[one.suite]) for one in self.verdict.suites]

    @cached_property
    def common(self) -> list[tuple[SuiteVerdict, SuiteResult, SuiteResult]]:
        """The suites on the items that have a score on both sides."""
        return [(one, *common(base, tuned)) for one, base, tuned in self.suites]

    @property
    def alike(self) -> list[tuple[str, SuiteResult]]:
        """The two sides of `common`, one by one."""
        return [side for _, base, tuned in self.common
                for side in ((self.names.base, base), (self.names.tuned, tuned))]

    @property
    def sides(self) -> list[tuple[str, SuiteResult]]:
        return [(name, side[one.suite]) for one in self.verdict.suites
                for name, side in ((self.names.base, self.base), (self.names.tuned, self.tuned))]


def report(verdict: Verdict, base: Results, tuned: Results) -> Report:
    """All tables that have something to say.

    Args:
        verdict: of these results.
        base, tuned: results by suite, all suites of the verdict.
    """
    both = _Both(verdict, base, tuned)
    made = [make(both) for make in TABLES]
    return Report(verdict.names, verdict.gate, verdict.reason, tuple(table for table in made if table.rows))


def _wins(both: _Both) -> Table:
    return Table("Wins: alignment suites", f"Points of 100, {both.names.gain}; above zero is better. {SAME}",
                 [headline(one, both) for one in both.verdict.suites if one.kind == "alignment"])


def _tax(both: _Both) -> Table:
    note = (f"Points of 100, {both.names.loss}; above zero is worse. Perplexity: percent per byte. No worse: the "
            f"upper end of the interval is at most the margin. {SAME}")
    return Table("Tax: capability suites", note,
                 [headline(one, both) for one in both.verdict.suites if one.kind == "capability"])


def headline(one: SuiteVerdict, both: _Both) -> Row:
    """The row of a suite in the first two tables: that of the verdict, under the names of the two models."""
    kind = "tax" if one.kind == "capability" else "win"
    heads = {"base": both.names.base, "tuned": both.names.tuned, "tax / win": kind}
    told = {heads.get(head, head): text.removeprefix(f"{kind} ") for head, text in
            row(one, both.verdict.alpha).items()}
    if kind == "win":
        del told["margin"]
    if not any(other.false_refusals for other in both.verdict.suites if other.kind == one.kind):
        del told["false refusals"]
    return told


def _checks(both: _Both) -> Table:
    return Table("Checks beside the scores", "One that did not pass fails the gate.",
                 [{"check": one.name, "passed": "yes" if one.passed else "NO", "why": one.why}
                  for one in both.verdict.checks])


def _notes(both: _Both) -> Table:
    rows = [{"suite": one.suite, "note": note} for one in both.verdict.suites for note in one.notes]
    return Table("Notes", "", rows, short=True)


def _floor(both: _Both) -> Table:
    note = ("A model against itself. The same settings must change nothing; a change under another batch size is noise "
            "of the arithmetic. Not measured of what a server or people answered or judged, and with "
            "eval.floor_items: 0.")
    return Table("A/A floor", note, [_floor_row(one.suite, one.floor, both.names.base) for one in both.verdict.suites
                                     if one.floor], short=True)


def _floor_row(suite: str, floor: Floor, base: str) -> Row:
    return {"suite": suite, "model": floor.of or base, "items asked again": str(floor.items),
            "changed, same settings": str(floor.same), "changed, other batch": str(floor.batch),
            "largest change": f"{100 * floor.worst:.3g} points"}


def _clean(both: _Both) -> Table:
    rows = []
    for one in both.verdict.suites:
        clean = one.uncontaminated
        if clean is not None and clean.pairs < one.pairs:  # else it says what the table of all items says
            rows.append({"suite": one.suite, "on": "tax" if one.kind == "capability" else "win",
                         "all items": _of_items(one, Part(one.points, one.low, one.high, one.pairs)),
                         "items": str(one.pairs),
                         "not trained on": _of_items(one, clean),
                         "of these": str(clean.pairs)})
    return Table("Without items found in the training data", "Points of 100.", rows, short=True)


def _of_items(suite: SuiteVerdict, part: Part) -> str:
    if part.points is None:
        return NONE
    return f"{part.points:+.1f} ({span(part.points, part.low, part.high, suite.scale)})"


def _tasks(both: _Both) -> Table:
    rows = []
    for one, base, tuned in both.common:
        after = tuned.tasks()
        before = base.tasks()
        if len(before) < 2:
            continue
        rows += [{"suite": one.suite, "task": task, both.names.base: shown_score(tally.score, one.scale),
                  both.names.tuned: shown_score(after[task].score, one.scale),
                  "difference": _change(tally, after[task]), "scored": _of(tally)}
                 for task, tally in before.items() if task in after]
    note = f"Points of 100, {both.names.gain}; single tasks are too small to prove anything. {SAME}"
    return Table("By task, subject or kind of item", note, rows, folded=True)


def _of(counts: Tally) -> str:
    """How many have a score, and of how many where that is not all."""
    return f"{counts.scored} of {counts.scored + counts.unscored}" if counts.unscored else str(counts.scored)


def _change(base: Tally, tuned: Tally) -> str:
    return NONE if base.score is None or tuned.score is None else f"{100 * (tuned.score - base.score):+.1f}"


def _robustness(both: _Both) -> Table:
    rows = [one for _, base, tuned in both.common for one in drop_rows(base, tuned, both.verdict.alpha)]
    return Table("Drop from the clean form", "Points of 100, clean − changed form, paired; above zero the changed form "
                                             "is harder.", rows)


def _readings(both: _Both) -> Table:
    rows = [{"suite": one.suite, "reading": one.label, "items": str(one.items), **_read(one)}
            for one in both.readings if one.differs and not one.part]
    return Table("Partial credit and other readings, beside the score that counts", (
        "Points of 100 over the items that have the reading on both sides; in brackets the interval of the difference, "
        f"{both.names.gain}. Left out where it is the score itself on every item. Never below the score: "
        f"{', '.join(MILDER.values())}. Never above it: {', '.join(STRICTER.values())}. Only the score is judged."
    ), rows, short=True)


def _instructions(both: _Both) -> Table:
    rows: dict[tuple[str, str], Row] = {}
    for one in sorted((one for one in both.readings if one.part), key=lambda one: (one.suite, one.part)):
        row = rows.setdefault((one.suite, one.part), {
            "suite": one.suite, "instruction": one.part, "instructions": str(one.marks)})
        row[one.label] = f"{_change_of(one.value)}: {_difference(one)}"
    return Table("By kind of instruction", "Points of 100: instructions that were followed; in brackets the interval "
                                           f"of the difference, {both.names.gain}, prompts as clusters.",
                 list(rows.values()), folded=True)


def _read(one: Reading) -> Row:
    return {"score": _change_of(one.score), "this reading": _change_of(one.value), "difference": _difference(one)}


def _difference(one: Reading) -> str:
    return f"{one.points:+.1f} ({span(one.points, one.low, one.high, 'share')})"


def _change_of(sides: tuple[float, float]) -> str:
    return " → ".join(shown_score(one, "share") for one in sides)


def _refusals(both: _Both) -> Table:
    rows = [{"suite": side.suite, "model": name, "requests": rate.task,
             "should refuse": "yes" if rate.wanted else "no", "refused, as scored": _percent(rate.raw.estimate),
             "corrected": _percent(rate.corrected.estimate), "95 % interval": _percents(rate.corrected),
             "items": str(rate.raw.items)} for name, side in both.alike for rate in corrected(side)]
    rows += [{"suite": one.suite, "model": both.names.gain, "requests": change.task,
              "should refuse": "yes" if change.wanted else "no", "refused, as scored": f"{100 * change.raw:+.1f}",
              "corrected": NONE if change.corrected.estimate is None else f"{100 * change.corrected.estimate:+.1f}",
              "95 % interval": _percents(change.corrected, sign="+"), "items": str(change.corrected.items)}
             for one, base, tuned in both.common for change in corrected_change(base, tuned)]
    return Table("Refusal rates, corrected for the scorer's errors", (
        "Full refusals. Gate and verdict go by the rates as scored. The corrected interval is where people's labels "
        "would put a model nobody has labelled, if the scorer errs on it as differently as between labelled models "
        "(Bayesian, with a prior of half an answer a class); where models differ more than these few happen to show, "
        "it is too narrow. "
        f"The change allows for other errors on {both.names.the_tuned} than on {both.names.the_base}."), rows)


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def _percents(span: Interval, sign: str = "") -> str:
    return span.method if span.estimate is None else f"{100 * span.low:{sign}.1f} to {100 * span.high:{sign}.1f} %"


def _perplexity(both: _Both) -> Table:
    rows = [{"suite": side.suite, "model": name, "per byte": _per(side, "bytes"), "per token": _per(side, "tokens"),
             "per word": _per(side, "words")}
            for name, side in both.alike if side.scale == "log"]
    return Table("Perplexity", "Per token only of models with the same tokenizer to be compared.", rows)


def _per(side: SuiteResult, unit: str) -> str:
    """exp(nats / units) over the scored items that count this unit."""
    if side.score is None:
        return NONE
    counted = [item for item in side.items if item.score is not None and item.metrics.get(unit)]
    if unit == "bytes":
        return f"{math.exp(-side.score):.4f}"
    total = sum(item.metrics[unit] for item in counted)
    return f"{math.exp(sum(item.metrics['nats'] for item in counted) / total):.3f}" if total else NONE


def _measured(both: _Both) -> Table:
    rows = []
    for one, base, tuned in both.suites:
        rows.append({"suite": one.suite, "backend": _either(base.backend, tuned.backend),
                     "protocol": one.protocol_hash[:8], "stop rate": _pair(base, tuned, "stopped"),
                     "overrun": _pair(base, tuned, "overrun"), "cut to fit": _counts(base.truncated, tuned.truncated),
                     "looks": NONE if one.looks is None else "{} of {}".format(*one.looks),
                     "seconds": f"{base.seconds:.1f} → {tuned.seconds:.1f}"})
    note = (f"{both.names.base} → {both.names.tuned}. Stop rate: answers that ended by themselves; overrun: answers "
            "that hit the cap. Both weigh items as the score does; a note counts answers.")
    return Table("How it was measured", note, rows)


def _either(one: str, two: str) -> str:
    return one if one == two else f"{one} → {two}"


def _counts(one: int, two: int) -> str:
    return NONE if not (one or two) else f"{one} → {two}"


def _pair(base: SuiteResult, tuned: SuiteResult, metric: str) -> str:
    values = [mean_metric(side.items, metric) for side in (base, tuned)]
    return NONE if None in values else " → ".join(f"{100 * (v or 0.0):.0f} %" for v in values)


def _unscored(both: _Both) -> Table:
    rows = []
    for name, side in both.sides:
        rows += [{"suite": side.suite, "model": name, "items": str(count), "of": str(side.n), "reason": why}
                 for why, count in unscored(side).most_common()]
    return Table("Items without a score", "They enter no mean: missing is not zero.", rows)


TABLES: tuple[Callable[[_Both], Table], ...] = (
    _wins, _tax, _checks, _notes, _readings, _floor, _clean, _refusals, _robustness, _perplexity, _measured,
    _unscored, _tasks, _instructions)
