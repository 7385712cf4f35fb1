"""How often a year of nights wakes somebody for nothing, and how soon it tells of a real loss.

    python -m bench.nights [--json FILE] [--years N] [--losses N]

Simulated, over suites as large and as clustered as those of this repository. A share of the items is shaky: what such
an item scores is drawn anew each night, by a chance of its own, uniform in [0, 1]; a third of them flips from one night
to the next. The stored results are one such draw, too, so all nights of a year share their luck. Each night is judged
as the flow does it, at the level of a champion and a candidate, here shared equally among the suites (Holm is never
stricter).

`false_alarms_per_year`: of one model without any loss, each regression told once until it has recovered, with one
standard error of the simulation. `nights_named`: nights a year on which a suite was named. `before`: the same at 5 % a
night (exact McNemar), as it was. `drift_told_as_regression`: share of suites that model and base lost ten points on.
`weak_base`: share of proved losses that were laid to the model, beside a base that has 10 % right: where it lost as
large a share of them, and where the model lost alone; no change of libraries is known.
`power`: shares of losses of three points on one suite (so many of its items turn wrong for good) that were told by the
end of nights 1, 3 and 7.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.found import write_found
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.statistics.intervals import mcnemar_exact, z_of
from eval_suites.verdict.night import NIGHTS, level, weigh
from sft_core.config.evaluate import GateSection

SUITES = {"mmlu": (570, 57), "gsm8k": (250, 250), "format": (190, 190), "refusal": (128, 64), "multilingual": (128, 32)}
"""Items and clusters."""
SHAKY = {"flips 0 %": 0.0, "flips 1 %": 0.03, "flips 3 %": 0.09}
LEVEL, BEFORE = level(2, 1) / len(SUITES), 0.05
RIGHT, WEAK, LOSS, DRIFT = 0.7, 0.1, 0.03, 0.1
SCREEN = 0.8 * z_of(LEVEL)
"""Standard errors that a loss needs to be looked at closely; a claim needs more."""
POWER_ITEMS, BY = (250, 500, 1000, 2000), (1, 3, 7)
Floats = NDArray[np.float64]


class Suite(NamedTuple):
    """Chance of every item to be right tonight [items], and its cluster."""

    chances: Floats
    clusters: tuple[str, ...]

    def drawn(self, rng: np.random.Generator, chances: Floats | None = None) -> Floats:
        """One night's scores [items]."""
        return (rng.random(len(self.clusters)) < (self.chances if chances is None else chances)).astype(np.float64)

    def result(self, scores: Floats) -> SuiteResult:
        """As an evaluation gives it."""
        return SuiteResult("s", "capability", {}, tuple(
            ItemResult("s", "q", str(at), cluster, float(score), {}, "", "", "", "", "")
            for at, (score, cluster) in enumerate(zip(scores, self.clusters, strict=True))), 0.0)


def suite(rng: np.random.Generator, items: int, clusters: int, shaky: float, right: float = RIGHT) -> Suite:
    """A model on a suite."""
    chances = (rng.random(items) < right).astype(np.float64)
    drawn = rng.random(items) < shaky
    chances[drawn] = rng.random(int(drawn.sum()))
    return Suite(chances, tuple(str(at % clusters) for at in range(items)))


def told(one: Suite, stored: Sequence[Floats], tonight: Sequence[Floats]) -> bool:
    """Whether a night names a regression; model first, then base. Losses that could not be proved are not looked at."""
    change = stored[0] - tonight[0]
    if change.sum() < SCREEN * max(math.sqrt(float(np.abs(change).sum())), 1.0):
        return False
    before, now, base, base_now = (one.result(scores) for scores in (stored[0], tonight[0], stored[1], tonight[1]))
    found, = weigh({"s": before}, {"s": now}, ({"s": base}, {"s": base_now}), GateSection(alpha=LEVEL, max_tax=0.0))
    return found.state == "regression"


class Year(NamedTuple):
    """Alarms that were told, nights that named a suite, and the same nights at 5 %."""

    alarms: int
    named: int
    before: int


def year(rng: np.random.Generator, shaky: float, nights: int = NIGHTS) -> Year:
    """Nights without a loss."""
    alarms, named, before = 0, np.zeros(nights, bool), np.zeros(nights, bool)
    for items, clusters in SUITES.values():
        model, base = (suite(rng, items, clusters, shaky) for _ in range(2))
        stored = [one.drawn(rng) for one in (model, base)]
        known = False
        for night in range(nights):
            tonight = [one.drawn(rng) for one in (model, base)]
            change = stored[0] - tonight[0]
            worse = told(model, stored, tonight)
            lost, gained = int((change > 0).sum()), int((change < 0).sum())
            alarms, named[night] = alarms + (worse and not known), named[night] or worse
            before[night] |= lost > gained and mcnemar_exact(lost, gained) < BEFORE
            known = worse or (known and lost > gained)
    return Year(alarms, int(named.sum()), int(before.sum()))


def years(count: int, shaky: float) -> dict[str, Any]:
    """What so many years of nights without a loss do."""
    rng = np.random.default_rng(0)
    found = np.array([year(rng, shaky) for _ in range(count)])
    alarms, named, before = found.mean(axis=0)
    return {"false_alarms_per_year": [round(float(alarms), 3), round(float(found[:, 0].std() / math.sqrt(count)), 3)],
            "nights_named": round(float(named), 3), "before": round(float(before), 1)}


def drift(times: int, shaky: float) -> float:
    """Share of drifts of all suites that were told as a regression: what the environment costs falls on both alike."""
    rng, wrong = np.random.default_rng(2), []
    for items, clusters in SUITES.values():
        for _ in range(times):
            both = [suite(rng, items, clusters, shaky) for _ in range(2)]
            stored, kept = [one.drawn(rng) for one in both], (rng.random(items) > DRIFT / RIGHT).astype(np.float64)
            wrong.append(told(both[0], stored, [one.drawn(rng, one.chances * kept) for one in both]))
    return round(float(np.mean(wrong)), 3)


def weak(nights: int, shaky: float, *, alone: bool) -> float | None:
    """Share of the proved losses that were laid to the model, beside a base that has little to lose: as large a share
    of its right answers as of the model's, or nothing where the model is `alone`. None where none was proved."""
    rng, states = np.random.default_rng(3), []
    for _ in range(nights):
        sides: tuple[dict[str, SuiteResult], ...] = ({}, {}, {}, {})
        for name, (items, clusters) in SUITES.items():
            kept = (rng.random(items) > DRIFT / RIGHT).astype(np.float64)
            for at, (share, left) in enumerate(((RIGHT, kept), (WEAK, np.ones(items) if alone else kept))):
                one = suite(rng, items, clusters, shaky, share)
                for side, chances in zip(sides[2 * at:2 * at + 2], (one.chances, one.chances * left), strict=True):
                    side[name] = replace(one.result(one.drawn(rng, chances)), suite=name)
        states += [found.state for found in weigh(sides[0], sides[1], sides[2:], GateSection(
            alpha=level(2, 1), max_tax=0.0)) if found.change.outcome == "worse"]
    return round(states.count("regression") / len(states), 3) if states else None


def power(losses: int, items: int, shaky: float) -> dict[str, float]:
    """Share of losses told by the end of a night."""
    rng = np.random.default_rng(1)
    nights = []
    for _ in range(losses):
        model, base = (suite(rng, items, items, shaky) for _ in range(2))
        stored = [one.drawn(rng) for one in (model, base)]
        worse = model.chances.copy()
        right = np.flatnonzero(worse == 1.0)
        worse[rng.choice(right, min(round(LOSS * items), len(right)), replace=False)] = 0.0
        nights.append(next((night for night in range(1, max(BY) + 1) if told(
            model, stored, [model.drawn(rng, worse), base.drawn(rng)])), max(BY) + 1))
    return {f"night {by}": round(float(np.mean([night <= by for night in nights])), 2) for by in BY}


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--years", type=int, default=200)
    parser.add_argument("--losses", type=int, default=50)
    given = parser.parse_args()
    found: dict[str, Any] = {"level": LEVEL}
    for name, shaky in SHAKY.items():
        found[name] = years(given.years, shaky) | {
            "drift_told_as_regression": drift(given.losses, shaky),
            "weak_base": {"both": weak(given.losses, shaky, alone=False),
                          "alone": weak(given.losses, shaky, alone=True)},
            "power": {f"{items} items": power(given.losses, items, shaky) for items in POWER_ITEMS}}
        write_found(given.json, found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
