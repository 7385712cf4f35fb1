"""What a pairwise comparison comes to: win rate with its interval, adjusted for length, ties, position bias."""

from __future__ import annotations

from typing import NamedTuple

from eval_suites.judge.lengths import Adjusted, length_adjusted, unadjusted
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.statistics.evidence import paired
from eval_suites.statistics.intervals import Interval, clopper_pearson
from eval_suites.statistics.pairing import pair


class WinRate(NamedTuple):
    """Of the tuned model, in [0, 1]; a tie is half a win. `order_decided`: share of the pairs shown in both orders
    where the same place won twice, and `first_share` that of those where it was the first place. None: no such pairs.

    Where too few pairs were judged (`SuiteResult.min_scored`) there are counts and no rates.
    """

    suite: str
    pairs: int
    wins: int
    ties: int
    losses: int
    unscored: int
    rate: Interval | None
    adjusted: Adjusted | None
    order_decided: Interval | None
    first_share: Interval | None
    unadjusted: str = "–"  # why there is no adjusted rate

    def row(self) -> dict[str, object]:
        """As a row of a table."""
        return {"suite": self.suite, "win rate": "not measured" if self.rate is None else _percent(self.rate),
                "length-adjusted": _percent(self.adjusted.rate) if self.adjusted else self.unadjusted,
                "judged": f"{self.pairs} of {self.pairs + self.unscored}",
                "wins": self.wins, "ties": self.ties, "losses": self.losses,
                "order decided": _percent(self.order_decided)}


def win_rate(base: SuiteResult, tuned: SuiteResult, alpha: float = 0.05) -> WinRate:
    """Summary of the results of `judge_pairs` or of people's labels.

    Raises:
        EvalError: the two are no pair.
    """
    scored = [item for item in tuned.items if item.score is not None]
    counts = (tuned.suite, len(scored), sum((item.score or 0.0) > 0.5 for item in scored),
              sum(item.score == 0.5 for item in scored), sum((item.score or 0.0) < 0.5 for item in scored),
              tuned.n - len(scored))
    pairs = pair(base, tuned)
    evidence = paired(pairs.base, pairs.tuned, pairs.clusters, pairs.weights)
    if tuned.score is None or evidence is None:
        return WinRate(*counts, None, None, None, None)
    span = evidence.interval(alpha)
    rate = Interval(evidence.estimate + 0.5, max(span.low + 0.5, 0.0), min(span.high + 0.5, 1.0), span.items,
                    span.method)
    known = ([item.score or 0.0 for item in scored], _metric(scored, "length_base"), _metric(scored, "length_tuned"),
             [item.cluster for item in scored])
    adjusted = length_adjusted(*known, rate, alpha)
    decided = [item for item in scored if "order_decided" in item.metrics]
    flipped = [item for item in decided if item.metrics["order_decided"]]
    return WinRate(*counts, rate, adjusted, _exact(len(flipped), len(decided), alpha),
                   _exact(round(sum(_metric(flipped, "first_won"))), len(flipped), alpha), unadjusted(*known))


def _exact(hits: int, of: int, alpha: float) -> Interval | None:
    return Interval(hits / of, *clopper_pearson(hits, of, alpha), of, "exact") if of else None


def _metric(items: list[ItemResult], name: str) -> list[float]:
    return [item.metrics.get(name, 0.0) for item in items]


def _percent(span: Interval | None) -> str:
    if span is None or span.estimate is None:
        return "–"
    return f"{100 * span.estimate:.1f} % ({100 * span.low:.1f} to {100 * span.high:.1f})"
