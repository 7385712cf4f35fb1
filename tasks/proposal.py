"""What a sweep proposes, in a sentence; and what becomes of it on items that the search did not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eval_suites.front.choice import Limits, Proof, choose, prove
from eval_suites.front.front import Front
from eval_suites.front.points import Point
from infra.study_contract import TrialRow
from sft_core.config.evaluate import GateSection
from sft_core.config.experiment import SearchSection
from tasks.front import objectives, span

NOBODY = ("no trial is proposed: none that has results here keeps to the limits and is not below the base in "
          "alignment, or the base is proved to dominate every one that does")


class Proposal(NamedTuple):
    """The point that a sweep proposes: its name, what it is called in a sentence, and its proof on the search's items.
    """

    name: str
    label: str
    proof: Proof
    sentence: str


def proposed(found: Front, points: Sequence[Point], rows: Sequence[TrialRow], search: SearchSection, gate: GateSection
             ) -> Proposal | None:
    """The point to propose (`eval_suites.front.choice.choose`); None where there is none (`NOBODY`)."""
    chosen = choose(found, gate.max_tax)
    if chosen is None:
        return None
    by_name = {point.name: point for point in points}
    proof = prove(by_name["base"], by_name[chosen.name], objectives(search), Limits(gate.alpha, gate.max_tax))
    label = called(chosen.name, rows)
    costs = [one.name for one in found.points if one.name in chosen.not_told_from and one.role != "base"]
    notes = [f"; not told from {', '.join(costs)}"] * bool(costs)
    if (proof.tax.estimate or 0.0) > gate.max_tax:
        notes.append(f"; no trial has a tax of at most {gate.max_tax:g}, this one has the least")
    return Proposal(chosen.name, label, proof, f"proposed: {label}: {_told(proof, gate)}{''.join(notes)}; the items "
                                               "that chose it flatter it")


def confirmed(searched: Proposal, base: Point, point: Point, search: SearchSection, gate: GateSection) -> str:
    """What other items say of the point that the search proposed, and by how much the search flattered it.

    Args:
        searched: by the search's own items.
        base, point: their results on items that the search did not see.
        search, gate: objectives and limits.

    Raises:
        EvalError: one has no score in a suite, or they were not asked the same in the same way.
    """
    what = objectives(search)
    proof = prove(base, point, what, Limits(gate.alpha, gate.max_tax))
    items = sum(len(point.averaged(suite).items) for suite in what.suites)
    gain, tax = ((before.estimate or 0.0) for before in (searched.proof.gain, searched.proof.tax))
    return (f"{searched.label}, confirmed on {items:,} items that the search did not see: {_told(proof, gate)}; the "
            f"search had said a gain of {gain:+z.1f} and a tax of {tax:z.1f}")


def called(name: str, rows: Sequence[TrialRow]) -> str:
    """What a point is called in a sentence: a trial with the values that it was given."""
    number, _, share = name.partition("-a")
    params = next((row.params for row in rows if str(row.number) == number), None)
    if params is None:
        return name
    values = (f"{field.rpartition('.')[2]} {value:.3g}" if isinstance(value, float) else
              f"{field.rpartition('.')[2]} {value}" for field, value in params.items())
    way = f", {int(share) / 100:g} of its way from the base" if share else ""
    return f"trial {number} ({', '.join(values)}){way}"


def _told(proof: Proof, gate: GateSection) -> str:
    gain = span(proof.gain, "+")
    missing = f"; {proof.missing}" if proof.missing else ""
    return (f"alignment gain over the base {gain} points, tax against the base {span(proof.tax)}: "
            f"{_state(proof, gate)}{missing}")


def _state(proof: Proof, gate: GateSection) -> str:
    p, most = f"p {proof.p:.2g}", f"a tax of at most {gate.max_tax:g}"
    if proof.state == "proved":
        return f"proved better at {most} ({p})"
    if proof.state == "refuted":
        what = "worse than the base" if proof.gain.high < 0 else f"to cost more than {gate.max_tax:g}"
        return f"proved {what} ({p})"
    more = "no number of items would settle it" if proof.more is None else f"about {proof.more:,} more items"
    left = f"{p}; {more}"
    if proof.gain.low > 0:
        return f"proved better, {most} is undecided ({left})"
    if proof.tax.high < gate.max_tax:
        return f"{most} is proved, better is undecided ({left})"
    return f"undecided ({left})"
