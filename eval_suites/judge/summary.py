"""What a pairwise comparison comes to: win rate with its interval, at equal length, ties, position bias."""

from __future__ import annotations

from typing import NamedTuple

from eval_suites.judge.lengths import Controlled, length_controlled
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.statistics.evidence import paired
from eval_suites.statistics.intervals import Interval
from eval_suites.statistics.pairing import pair


class WinRate(NamedTuple):
    """Of the tuned model, in [0, 1]; a tie is half a win. `order_decided`: share of the pairs shown in both orders
    where the same place won twice, and `first_share` that of those where it was the first place. None: no such pairs.
    """

    suite: str
    pairs: int
    wins: int
    ties: int
    losses: int
    unscored: int
    rate: Interval | None
    controlled: Controlled | None
    order_decided: float | None
    first_share: float | None

    def row(self) -> dict[str, object]:
        """As a row of a table."""
        controlled = self.controlled
        return {"suite": self.suite, "win rate": _percent(self.rate),
                "at equal length": _percent(controlled.interval) if controlled else "–",
                "wins": self.wins, "ties": self.ties, "losses": self.losses, "unscored": self.unscored,
                "order decided": "–" if self.order_decided is None else f"{100 * self.order_decided:.0f} %"}


def win_rate(base: SuiteResult, tuned: SuiteResult, alpha: float = 0.05) -> WinRate:
    """Summary of the results of `judge_pairs` or of people's labels.

    Raises:
        EvalError: the two are no pair.
    """
    pairs = pair(base, tuned)
    evidence = paired(pairs.base, pairs.tuned, pairs.clusters, pairs.weights)
    span = evidence.interval(alpha) if evidence else None
    rate = Interval((span.estimate or 0.0) + 0.5, max(span.low + 0.5, 0.0), min(span.high + 0.5, 1.0), span.items,
                    span.method
                    ) if span else None
    scored = [item for item in tuned.items if item.score is not None]
    controlled = length_controlled(
        [item.score or 0.0 for item in scored], _metric(scored, "length_base"), _metric(scored, "length_tuned"),
        [item.cluster for item in scored], alpha)
    decided = [item for item in scored if "order_decided" in item.metrics]
    flipped = [item for item in decided if item.metrics["order_decided"]]
    return WinRate(
        tuned.suite, len(scored), sum((item.score or 0.0) > 0.5 for item in scored),
        sum(item.score == 0.5 for item in scored), sum((item.score or 0.0) < 0.5 for item in scored),
        tuned.n - len(scored), rate, controlled, len(flipped) / len(decided) if decided else None,
        sum(_metric(flipped, "first_won")) / len(flipped) if flipped else None)


def _metric(items: list[ItemResult], name: str) -> list[float]:
    return [item.metrics.get(name, 0.0) for item in items]


def _percent(span: Interval | None) -> str:
    if span is None or span.estimate is None:
        return "–"
    return f"{100 * span.estimate:.1f} % ({100 * span.low:.1f} to {100 * span.high:.1f})"
