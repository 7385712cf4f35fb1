"""Base against tuned, in both orders: the base scores 0.5 on every item, the tuned model 1, 0.5 or 0.

So tuned − base, with the interval of any paired suite, is the win rate above one half. An order that changes the winner
is a tie (Zheng et al. 2023): both orders are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from eval_suites.judge.prompts import VERSION, pair_prompt
from eval_suites.judge.replies import Choice, read_choice
from eval_suites.judge.talk import Judge, Talk, Unjudged, talk_of
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.statistics.pairing import both_asked

PAIRWISE = ":pairwise"
WORTH: Mapping[Choice, float] = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""Of the first of two answers."""


class PairOutcome(NamedTuple):
    """What a pair is worth to the tuned model, 0 to 1, with metrics; None where there is no verdict."""

    worth: float | None
    metrics: dict[str, float]
    why: str


Pair = tuple[Talk, Talk]
"""The base's talk and the tuned model's."""


def judge_pairs(base: SuiteResult, tuned: SuiteResult, judge: Judge) -> tuple[SuiteResult, SuiteResult]:
    """Results of the suite `NAME:pairwise` of both models. Failures of the judge leave items unscored.

    Raises:
        EvalError: the two were not asked the same.
    """
    return as_results(base, tuned, f"{judge.name} {VERSION}", lambda pairs: judged(pairs, judge))


def as_results(base: SuiteResult, tuned: SuiteResult, by: str,
               decide: Callable[[Sequence[Pair]], list[PairOutcome]]) -> tuple[SuiteResult, SuiteResult]:
    """Outcomes of all pairs that can be shown, as results of both models; `by` names who decided."""
    both = both_asked(base, tuned)
    talks = [(talk_of(one), talk_of(two)) for one, two in both]
    shown = [(one, two) for one, two in talks if isinstance(one, Talk) and isinstance(two, Talk)]
    found = iter(decide(shown))
    before, after = [], []
    for (one, two), (left, right) in zip(both, talks, strict=True):
        missing = next((f"{who} has no answer to judge: {talk.why}" for who, talk in (("base", left), ("tuned", right))
                        if isinstance(talk, Unjudged)), None)
        outcome = PairOutcome(None, {}, missing) if missing else next(found)
        name = base.suite + PAIRWISE
        before.append(_row(one, name, None if outcome.worth is None else 0.5, outcome))
        after.append(_row(two, name, outcome.worth, outcome))
    protocol = {"suite": base.suite + PAIRWISE, "answers": dict(base.protocol), "judge": by}
    made = [replace(side, suite=base.suite + PAIRWISE, kind="alignment", protocol=protocol, items=tuple(items),
                    scale="share", looks=None) for side, items in ((base, before), (tuned, after))]
    return made[0], made[1]


def judged(pairs: Sequence[Pair], judge: Judge) -> list[PairOutcome]:
    """The judge's outcome of every pair. Pairs of equal answers are ties and not asked."""
    asked = [pair for pair in pairs if pair[0].answers != pair[1].answers]
    replies = judge.ask([messages for base, tuned in asked
                         for messages in (pair_prompt(tuned, base), pair_prompt(base, tuned))]) if asked else []
    found = iter([_both_orders(base, tuned, replies[2 * i], replies[2 * i + 1])
                  for i, (base, tuned) in enumerate(asked)])
    return [next(found) if base.answers != tuned.answers
            else PairOutcome(0.5, lengths(base, tuned) | {"tie": 1.0, "same": 1.0}, "the answers are equal")
            for base, tuned in pairs]


def lengths(base: Talk, tuned: Talk) -> dict[str, float]:
    """Characters of both, for the length-adjusted win rate."""
    return {"length_base": float(base.length), "length_tuned": float(tuned.length)}


def _row(item: ItemResult, suite: str, score: float | None, outcome: PairOutcome) -> ItemResult:
    return item._replace(suite=suite, score=score, metrics=outcome.metrics, why=outcome.why)


def _both_orders(base: Talk, tuned: Talk, tuned_first: str | Exception, base_first: str | Exception) -> PairOutcome:
    one, two = _read(tuned_first), _read(base_first)
    failed = [said.why for said in (one, two) if isinstance(said, Unjudged)]
    if isinstance(one, Unjudged) or isinstance(two, Unjudged):
        return PairOutcome(None, lengths(base, tuned), "; ".join(dict.fromkeys(failed)))
    worth = (WORTH[one] + 1.0 - WORTH[two]) / 2
    flipped = one == two != "tie"  # the same place won in both orders
    # An order that decides is a tie; a win in one order and a tie in the other is half of each.
    metrics = {"tuned_first": WORTH[one], "base_first": 1.0 - WORTH[two], "tie": float(worth == 0.5),
               "order_decided": float(flipped), "first_won": float(flipped and one == "A")}
    return PairOutcome(worth, lengths(base, tuned) | metrics,
                   f"tuned shown first: {one}; base shown first: {two}. {str(tuned_first)[:300]}")


def _read(reply: str | Exception) -> Choice | Unjudged:
    return Unjudged(f"the judge did not answer: {reply}") if isinstance(reply, Exception) else read_choice(reply)
