"""What a comparison of so many items can find, before any of them is asked, and what a finished one could have found.

Power is that of the test that the verdict uses: Newcombe's interval on drawn tables for scores of 0 and 1, Student's t
for others. It is solved for the smallest effect; tests/evals/test_power.py draws data at that effect and finds 80 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy import stats as sps

from eval_suites.results import Expected, SuiteResult
from eval_suites.statistics.intervals import Evidence, Floats, Tables, newcombe_many, t_of, z_of
from eval_suites.verdict.gate import margin_of
from eval_suites.verdict.room import room
from sft_core.config.evaluate import GateSection

POWER = 0.8
DRAWS = 8_000
"""Drawn tables per trial effect: power is known to ± 0.9 points (two standard errors)."""
STEPS = 10
LOG_SD = 0.03
"""Assumed standard deviation over texts of a change in nats per byte, until it is seen."""


class Assumed(NamedTuple):
    """What is taken for granted before anything is seen.

    `base`: score of the base. `agreement`: correlation of base and tuned being right on the same item; it gives the
    discordance 2p(1 − p)(1 − agreement), 20 % of the items at a base score of one half, the upper end of what light
    fine-tuning shows. `alike`: intra-cluster correlation of the changes. `sd`: standard deviation over items of the
    change of other scores than 0 and 1; None for scores of 0 and 1.
    """

    base: float = 0.5
    agreement: float = 0.6
    alike: float = 0.02
    sd: float | None = None


PLAIN = Assumed()


class Detectable(NamedTuple):
    """Points of 100, each with the power asked for; None where no effect would do.

    `difference`: the smallest true loss that is proved to be one (a win of a base of 1 − p is its mirror image).
    `margin`: the smallest margin within which a model that loses nothing is proved to stay.
    """

    difference: float | None
    margin: float | None


def mde(n: int, clusters: int | None = None, alpha: float = 0.05, power: float = POWER,
        assumed: Assumed = PLAIN) -> Detectable:
    """Minimum detectable effect of `n` items in `clusters` groups (None: independent) at a two-sided `alpha`.

    Raises:
        ValueError: there is no item, or there are more clusters than items.
    """
    return Detectable(_found(n, clusters or n, alpha, power, assumed), _shown(n, clusters or n, alpha, power, assumed))


def mde_points(items: int, clusters: int | None = None, kind: str = "capability", scale: str = "share",
               base: float | None = None) -> float | None:
    """The smallest loss (alignment: win) in points found with 80 % power at alpha 0.05, for lists of suites.

    Args:
        items, clusters: how many; independent items without clusters.
        kind, scale: of the suite.
        base: score of the base once it is known, else 0.5.
    """
    start = 0.5 if base is None or scale == "log" else min(max(base, 0.0), 1.0)
    assumed = Assumed(base=start if kind == "capability" else 1 - start, sd=LOG_SD if scale == "log" else None)
    return _found(items, clusters or items, 0.05, POWER, assumed)


def foreseen(base: SuiteResult, gate: GateSection) -> str:
    """What a comparison with these results of the base can find, in a sentence; before the tuned model is asked."""
    scored = [item for item in base.items if item.score is not None]
    if not scored or base.score is None:
        return f"{base.suite}: no item of the base has a score, so nothing can be found"
    return promised(seen(base, gate), gate)


def seen(base: SuiteResult, gate: GateSection) -> Expected:
    """The scored items of a base that was asked."""
    scored = [item for item in base.items if item.score is not None]
    return Expected(base.suite, base.kind, base.scale, len(scored), len({item.cluster for item in scored}), base.score,
                    room(base, gate.alpha))


def promise(asked: Expected, gate: GateSection) -> Detectable:
    """What a comparison over these items can find; a base that nobody has asked is taken to have half of them right."""
    log = asked.scale == "log"
    right = 0.5 if asked.base is None or log else asked.base if asked.kind == "capability" else 1 - asked.base
    return mde(asked.items, asked.clusters, gate.alpha, assumed=Assumed(base=right, sd=LOG_SD if log else None))


def promised(asked: Expected, gate: GateSection) -> str:
    """The same in a sentence."""
    if asked.room:
        return f"{asked.suite}: {asked.room}"
    found = promise(asked, gate)
    change = "loss" if asked.kind == "capability" else "win"
    items = "1 item finds" if asked.items == 1 else f"{asked.items} items find"
    said = f"{asked.suite}: {items} a {change} of " + (
        "no size" if found.difference is None else f"{found.difference:.1f} points")
    if asked.kind == "capability":
        margin = margin_of(asked.suite, gate)
        within = math.inf if found.margin is None else found.margin
        said += f" and can prove a tax of at most {within:.1f}" if within < math.inf else " and can prove no margin"
        said += f", the gate asks for {margin:g}" + (": too few items" if within > margin else "")
    return f"{said} ({100 * POWER:.0f} % power)"


def detectable(evidence: Evidence, alpha: float, power: float = POWER) -> float | None:
    """The same in points for a comparison that was made, with the spread that it showed: (z + z_power) standard errors,
    one of which is the interval's half width by z. None where not even 100 points would be found."""
    low, high = evidence.bounds(alpha, 1.0)
    found = 100 * (high - low) / 2 * (1 + float(sps.norm.ppf(power)) / z_of(alpha))
    return found if found < 100 else None


def _design_effect(n: int, clusters: int, assumed: Assumed) -> float:
    if not 1 <= clusters <= n:
        raise ValueError(f"{n} items in {clusters} clusters: there must be at least one item in each")
    return 1 + (n / clusters - 1) * assumed.alike


@lru_cache(maxsize=512)
def _found(n: int, clusters: int, alpha: float, power: float, assumed: Assumed) -> float | None:
    design = _design_effect(n, clusters, assumed)
    if assumed.sd is not None:
        return _of_t(clusters, assumed.sd * math.sqrt(design / n), alpha, power)

    def chance(loss: float) -> float:
        low, _ = _bounds(_cells(assumed, loss), n, clusters, design, alpha)
        return float(np.mean(low > 0))

    guess = _normal(assumed, n / design, alpha, power)
    return _solved(chance, power, guess)


@lru_cache(maxsize=512)
def _shown(n: int, clusters: int, alpha: float, power: float, assumed: Assumed) -> float | None:
    design = _design_effect(n, clusters, assumed)
    if assumed.sd is not None:
        return _of_t(clusters, assumed.sd * math.sqrt(design / n), alpha, power)
    _, high = _bounds(_cells(assumed, 0.0), n, clusters, design, alpha)
    margin = float(np.quantile(high, power))
    return 100 * margin if margin < 1 else None


def _of_t(clusters: int, error: float, alpha: float, power: float) -> float | None:
    """Non-central t with one degree of freedom per cluster less one."""
    if clusters < 2:
        return None
    df, critical = clusters - 1, t_of(alpha, clusters - 1)
    far = critical + 10 * float(sps.norm.ppf(power)) + 10
    return 100 * error * float(optimize.brentq(lambda away: sps.nct.sf(critical, df, away) - power, 0.0, far))


def _normal(assumed: Assumed, n: float, alpha: float, power: float) -> float:
    discordance = 2 * assumed.base * (1 - assumed.base) * (1 - assumed.agreement)
    return (z_of(alpha) + float(sps.norm.ppf(power))) * math.sqrt(max(discordance, 1 / n) / n)


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


def _cells(assumed: Assumed, loss: float) -> tuple[float, float, float, float]:
    """Shares of pairs: both right, base only, tuned only, neither. Where the base has less to lose than `loss` and
    the discordance ask for, it is taken to be as much better."""
    p = assumed.base
    discordance = max(2 * p * (1 - p) * (1 - assumed.agreement), loss)
    lost, gained = (discordance + loss) / 2, (discordance - loss) / 2
    p = min(max(p, lost), 1 - gained)
    return p - lost, lost, gained, max(1 - p - gained, 0.0)


def _bounds(cells: tuple[float, float, float, float], n: int, clusters: int, design: float, alpha: float
            ) -> tuple[Floats, Floats]:
    """Bounds of the loss [DRAWS]: Newcombe's on drawn tables, as `stats.paired` makes them.

    With clusters a table holds as many independent pairs as are effective, and the effective number that the verdict
    estimates from the clusters varies as a chi-squared over its degrees of freedom does.
    """
    rng = np.random.default_rng(0)
    pairs = max(round(n / design), 1)
    both, lost, gained, neither = rng.multinomial(pairs, np.asarray(cells) / sum(cells), size=DRAWS).T / pairs
    size = np.full(DRAWS, float(n))
    if clusters == 1:
        size[:] = 1.0
    elif clusters < n:
        df = clusters - 1
        spread = lost + gained - (lost - gained) ** 2
        true = max(cells[1] + cells[2] - (cells[1] - cells[2]) ** 2, 1e-12)
        seen = rng.chisquare(df, DRAWS) / df * true
        size = np.where(spread > 0, pairs * spread / seen * (z_of(alpha) / t_of(alpha, df)) ** 2, clusters)
    return newcombe_many(Tables(both, gained, lost, neither), np.clip(size, 1.0, n), z_of(alpha))
