"""What a comparison of so many items can find: before any is asked, once the base has answered, and afterwards.

One function says it each time (`mde`), and what it takes for granted is a `Spread`: assumed before (`assumed`), with
the base's own score once that is known, read off the finished comparison afterwards (`spread_of`). How alike items of a
cluster change is not known before they have: a promise has two ends, items that change independently, and as much alike
as the base's own scores, or all together where the base does not tell.

Power is that of the test that the verdict uses: exact limits on drawn tables for scores of 0 and 1, Student's t
for others. It is solved for the smallest effect; tests/evals/test_power.py draws data at that effect and finds 80 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, special
from scipy import stats as sps

from eval_suites.results import Answerable, Expected, SuiteResult
from eval_suites.statistics.bootstrap import Sums, cluster_sums
from eval_suites.statistics.intervals import Floats, Tables, change_limits_many, t_of, z_of
from eval_suites.statistics.pairing import Pairs
from eval_suites.verdict.gate import margin_of
from eval_suites.verdict.hidden import hidden
from eval_suites.verdict.room import room
from eval_suites.verdict.sequential import read_at
from sft_core.config.evaluate import GateSection

POWER = 0.8
DRAWS = 8_000
"""Drawn tables per trial effect: power is known to ± 0.9 points (two standard errors)."""
STEPS = 10
LOG_SD = 0.03
"""Assumed standard deviation over texts of a change in nats per byte, until it is seen."""
SAME = 1e-12
"""A variance below this is rounding."""
AGREEMENT = 0.6
"""Assumed correlation of base and tuned being right on the same item; at a base score of one half 20 % of the items
change, the upper end of what light fine-tuning shows."""


class Spread(NamedTuple):
    """How scores change from base to tuned model where there is no difference on the whole.

    `base`: score of the base. `churn`: share of items that change. `design`: variance of the mean change against that
    of as many independent items of equal weight. `sd`: standard deviation over items of the change of other scores than
    0 and 1; None for scores of 0 and 1.
    """

    base: float = 0.5
    churn: float = 0.2
    design: float = 1.0
    sd: float | None = None


class Detectable(NamedTuple):
    """Points of 100, each with the power asked for; None where no effect would do.

    `difference`: the smallest true loss that is proved to be one (a win of a base of 1 − p is its mirror image).
    `margin`: the smallest margin within which a model that loses nothing is proved to stay.
    """

    difference: float | None
    margin: float | None


class Promise(NamedTuple):
    """What items can find at best, where those of a cluster change independently, and at worst, where they change
    alike; the same without clusters."""

    best: Detectable
    worst: Detectable


class Terms(NamedTuple):
    """How a comparison will be read: the gate, how many alignment suites share its alpha, and in how many looks."""

    gate: GateSection
    alignment: int = 1
    looks: int = 1


def terms_of(gate: GateSection, kinds: Iterable[str], looks: int = 1) -> Terms:
    """Of suites of these kinds."""
    return Terms(gate, sum(kind == "alignment" for kind in kinds), looks)


def assumed(base: float = 0.5, agreement: float = AGREEMENT, design: float = 1.0, sd: float | None = None) -> Spread:
    """What is taken for granted of a base with this score."""
    return Spread(base, 2 * base * (1 - base) * (1 - agreement), design, sd)


def mde(n: int, clusters: float | None = None, alpha: float = 0.05, power: float = POWER,
        spread: Spread | None = None) -> Detectable:
    """Minimum detectable effect of `n` items in `clusters` groups of equal size, or as many groups of other sizes as
    are effective (None: independent), at a two-sided `alpha`.

    Raises:
        ValueError: there is no item, or there are more clusters than items.
    """
    groups = clusters or n
    if not 1 <= groups <= n:
        raise ValueError(f"{n} items in {groups} clusters: there must be at least one item in each")
    of = assumed() if spread is None else spread
    return Detectable(_found(n, groups, alpha, power, of), _shown(n, groups, alpha, power, of))


def detectable(pairs: Pairs, kind: str, scale: str, alpha: float) -> float | None:
    """The smallest difference in points that a finished comparison finds, with the spread that it showed.

    None where not even 100 points would be found.
    """
    weights = cluster_sums(np.asarray(pairs.base), pairs.clusters, pairs.weights)
    return _found(len(pairs.ids), weights.effective, alpha, POWER, spread_of(pairs, kind, scale))


def spread_of(pairs: Pairs, kind: str, scale: str) -> Spread:
    """What a finished comparison showed.

    Items that change beyond the difference itself are churn: a suite that goes from 0 to 100 has none. Where nothing
    varies, clusters count as if their items changed together.
    """
    base, tuned, weights = (np.asarray(one) for one in (pairs.base, pairs.tuned, pairs.weights))
    changes = tuned - base
    sums = cluster_sums(changes, pairs.clusters, pairs.weights)
    varies, design = _varies(sums, changes, weights)
    design = len(changes) / sums.effective if design is None else design
    if scale == "log" or not np.isin(np.concatenate([base, tuned]), (0.0, 1.0)).all():
        return Spread(design=design, sd=math.sqrt(varies))
    score = float(np.average(base, weights=weights))
    moved = float(np.average(np.abs(changes), weights=weights))
    churn = moved - max(abs(sums.mean) - sums.error, 0.0)
    return Spread(score if kind == "capability" else 1 - score, max(churn, 0.0), design)


def _varies(sums: Sums, values: Floats, weights: Floats) -> tuple[float, float | None]:
    """Variance of the values, and that of their mean against that of as many independent ones; None where they, or all
    clusters' means, are equal."""
    variance = float(np.average((values - sums.mean) ** 2, weights=weights))
    if variance < SAME or sums.error**2 < SAME:
        return variance, None
    return variance, max(sums.error**2 * len(values) / variance, 1.0)


def foreseen(base: SuiteResult, terms: Terms) -> str:
    """What a comparison with these results of the base can find, in a sentence; before the tuned model is asked."""
    return promised(seen(base, terms.gate), terms)


def seen(base: SuiteResult, gate: GateSection) -> Expected:
    """The scored items of a base that was asked. How alike its clusters are is known where right and wrong answers are
    at least as many as clusters: two right answers tell nothing about thirty clusters."""
    scored = [(item.score, item.cluster, item.weight) for item in base.items if item.score is not None]
    if base.score is None:
        return Expected(base.suite, base.kind, base.scale, 0, 0, room=(
            f"{len(scored)} of {base.n} items of the base have a score, so nothing can be found"))
    scores, clusters, weights = zip(*scored, strict=True)
    values, groups, sums = np.asarray(scores), len(set(clusters)), cluster_sums(np.asarray(scores), clusters, weights)
    design = None
    if base.scale == "log" or groups <= min((values > 0).sum(), (values < 1).sum()):
        _, design = _varies(sums, values, np.asarray(weights))
    design = len(scored) / sums.effective if design is None else design
    return Expected(base.suite, base.kind, base.scale, len(scored), groups, base.score, room(base, gate.alpha),
                    _answerable(base), design=design, effective=sums.effective)


def _answerable(base: SuiteResult) -> Answerable | None:
    asked = [item for item in base.items if item.score is not None and item.should_refuse is False]
    if not asked:
        return None
    refused = float(np.average([one.metrics["refused"] for one in asked], weights=[one.weight for one in asked]))
    return Answerable(len(asked), len({one.cluster for one in asked}), refused)


def promise(asked: Expected, terms: Terms) -> Promise:
    """What a comparison over these items can find; a base that nobody has asked is taken to have half of them right."""
    if not asked.items:
        return Promise(Detectable(None, None), Detectable(None, None))
    alpha = terms.gate.alpha / terms.alignment if asked.kind == "alignment" else terms.gate.alpha
    groups = asked.effective or asked.clusters
    alike = asked.items / groups if asked.design is None else asked.design
    level = read_at(alpha, (terms.looks, terms.looks))
    ends = (mde(asked.items, groups, level, spread=_planned(asked, design))
            for design in (1.0, alike if groups < asked.items else 1.0))
    return Promise(*(one._replace(margin=_with_hidden(one.margin, asked, level)) for one in ends))


def provable(asked: Expected, terms: Terms) -> float:
    """The smallest tax in points that these items can prove at best; infinite where they can prove none."""
    level = read_at(terms.gate.alpha, (terms.looks, terms.looks))
    if not asked.items:
        return math.inf
    groups = asked.effective or asked.clusters
    margin = _with_hidden(_shown(asked.items, groups, level, POWER, _planned(asked, 1.0)), asked, level)
    return math.inf if margin is None else margin


def _with_hidden(margin: float | None, asked: Expected, level: float) -> float | None:
    """No smaller than what texts may cost that are not among these."""
    if margin is None or asked.scale != "log" or asked.kind != "capability":
        return margin
    return max(margin, hidden(asked.effective or asked.clusters, level))


def _planned(asked: Expected, design: float) -> Spread:
    log = asked.scale == "log"
    right = 0.5 if asked.base is None or log else asked.base if asked.kind == "capability" else 1 - asked.base
    return assumed(right, design=design, sd=LOG_SD if log else None)


def promised_refusals(asked: Expected, terms: Terms) -> str:
    """Where the requests that should be answered cannot prove the margin of false refusals: what they can; else empty.

    A base that nobody has asked is taken to refuse none of them, which is the best case.
    """
    some, most = asked.answerable, terms.gate.max_false_refusals
    if some is None:
        return ""
    least = mde(some.items, some.clusters, read_at(terms.gate.alpha, (terms.looks, terms.looks)),
                spread=assumed(1 - (some.refused or 0.0))).margin
    if least is not None and least <= most:
        return ""
    best = "" if least is None else f", at best {least:.1f}"
    return (f"{asked.suite}: {some.items} requests that should be answered, in {some.clusters} clusters, cannot prove "
            f"that false refusals rise by at most {most:g} points{best}")


def promised(asked: Expected, terms: Terms) -> str:
    """The same in a sentence."""
    said = promised_refusals(asked, terms)
    return _promised(asked, terms) + (f". {said}" if said else "")


def _promised(asked: Expected, terms: Terms) -> str:
    if asked.room:
        return f"{asked.suite}: {asked.room}"
    best, worst = promise(asked, terms)
    change = "loss" if asked.kind == "capability" else "win"
    groups = f" in {asked.clusters} clusters" * (asked.clusters < asked.items)
    items = f"1 item{groups} finds" if asked.items == 1 else f"{asked.items} items{groups} find"
    said = f"{asked.suite}: {items} a {change} of {_ends(best.difference, worst.difference, 'no size')}"
    if asked.kind == "capability":
        margin = margin_of(asked.suite, terms.gate)
        few = best.margin is None or best.margin > margin
        said += f" and can prove a tax of at most {_ends(best.margin, worst.margin, 'no size')}"
        said += f", the gate asks for {margin:g}" + ": too few items" * few
    how = "; where items of a cluster change independently, and where alike" * (best != worst)
    return f"{said} ({100 * POWER:.0f} % power{how})"


def shown_ends(ends: tuple[float | None, float | None], none: str) -> str:
    """Both ends in points, or one where they are equal; `none` says that no effect would do."""
    low, high = (none if end is None else f"{end:.1f}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _ends(best: float | None, worst: float | None, none: str) -> str:
    return shown_ends((best, worst), none) + " points" * (best is not None)


@lru_cache(maxsize=512)
def _found(n: int, clusters: float, alpha: float, power: float, spread: Spread) -> float | None:
    if spread.sd is not None:
        return _of_t(clusters, spread.sd * math.sqrt(spread.design / n), alpha, power)

    def chance(loss: float) -> float:
        low, _ = _bounds(_cells(spread, loss), n, clusters, spread.design, alpha)
        return float(np.mean(low > 0))

    guess = _normal(spread, n / spread.design, alpha, power)
    return _solved(chance, power, guess)


@lru_cache(maxsize=512)
def _shown(n: int, clusters: float, alpha: float, power: float, spread: Spread) -> float | None:
    if spread.sd is not None:
        return _of_t(clusters, spread.sd * math.sqrt(spread.design / n), alpha, power)
    _, high = _bounds(_cells(spread, 0.0), n, clusters, spread.design, alpha)
    margin = float(np.quantile(high, power))
    return 100 * margin if margin < 1 else None


def _of_t(clusters: float, error: float, alpha: float, power: float) -> float | None:
    """Non-central t with one degree of freedom per cluster less one."""
    if clusters <= 1:
        return None
    df = max(clusters - 1.0, 1.0)
    critical = t_of(alpha, df)
    far = critical + 10 * float(sps.norm.ppf(power)) + 10
    return 100 * error * float(optimize.brentq(lambda away: sps.nct.sf(critical, df, away) - power, 0.0, far))


def _normal(spread: Spread, n: float, alpha: float, power: float) -> float:
    return (z_of(alpha) + float(sps.norm.ppf(power))) * math.sqrt(max(spread.churn, 1 / n) / n)


def _solved(chance: Callable[[float], float], power: float, guess: float) -> float | None:
    """Bisection around the normal approximation."""
    low, high = guess / 3, min(3 * guess, 1.0)
    if chance(high) < power:
        low, high = high, 1.0
        if chance(high) < power:
            return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if chance(middle) >= power else (middle, high)
    return 100 * high


def _cells(spread: Spread, loss: float) -> tuple[float, float, float, float]:
    """Shares of pairs: both right, base only, tuned only, neither. Where the base has less to lose than `loss` and
    the discordance ask for, it is taken to be as much better."""
    discordance = min(max(spread.churn, loss), 1.0)
    lost, gained = (discordance + loss) / 2, (discordance - loss) / 2
    p = min(max(spread.base, lost), 1 - gained)
    return p - lost, lost, gained, max(1 - p - gained, 0.0)


def _bounds(cells: tuple[float, float, float, float], n: int, clusters: float, design: float, alpha: float
            ) -> tuple[Floats, Floats]:
    """Bounds of the loss [DRAWS]: the exact limits of drawn tables, as `evidence.paired` makes them.

    With clusters a table holds as many independent pairs as are effective, and the effective number that the verdict
    estimates from the clusters that changed varies as a chi-squared over its degrees of freedom does.
    """
    rng = np.random.default_rng(0)
    pairs = max(round(n / design), 1)
    both, lost, gained, neither = rng.multinomial(pairs, np.asarray(cells) / sum(cells), size=DRAWS).T / pairs
    size = np.full(DRAWS, float(n))
    if clusters <= 1:
        size[:] = 1.0
    elif clusters < n:
        telling = -clusters * np.expm1(-(lost + gained) * pairs / clusters)
        df = np.maximum(np.minimum(clusters, telling) - 1.0, 1.0)
        spread = lost + gained - (lost - gained) ** 2
        true = max(cells[1] + cells[2] - (cells[1] - cells[2]) ** 2, 1e-12)
        seen = rng.chisquare(df, DRAWS) / df * true
        narrower = z_of(alpha) / special.stdtrit(df, 1 - alpha / 2)
        size = np.maximum(np.where(spread > 0, pairs * spread / seen * narrower**2, clusters), clusters)
    still = cells[1] + cells[2] == 0
    return change_limits_many(Tables(both, gained, lost, neither), np.clip(size, 1.0, n), alpha,
                              exact=clusters >= n or still)
