"""What the front of a sweep claims, simulated: points of which the truth is known, their items drawn again and again.

    python -m bench.front [--runs 200] [--only curve] [--items 400] [--json FILE]

Prints one line per case. A claim "proved dominated" is false where the other point is better in neither objective, or
worse by the tolerance or more in the one that it is not better in. 200 runs of all cases: an hour on one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from bench.found import write_found
from eval_suites.front.choice import choose
from eval_suites.front.differences import difference
from eval_suites.front.front import Front, front
from eval_suites.front.points import Objectives, Point, Terms
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.statistics.intervals import Floats

WHAT = Objectives(("a1", "a2"), ("c1", "c2"))
TERMS = Terms(alpha=0.05, tolerance=1.0)
MAX_TAX = 2.0
POINTS, ITEMS, PER_CLUSTER = 8, 400, 5
BINS = (0.0, 0.1, 0.4, 0.6, 0.9, 1.0 + 1e-9)


class Truth(NamedTuple):
    """True alignment and kept capability of every point, in shares; the first one is the base."""

    alignment: Floats
    kept: Floats

    def dominates(self, better: int, worse: int, tolerance: float) -> bool:
        """Better in one objective and worse by less than the tolerance, a share, in the other."""
        gain, saving = (row[better] - row[worse] for row in (self.alignment, self.kept))
        return bool((gain > 0 and saving > -tolerance) or (saving > 0 and gain > -tolerance))

    def on_front(self, at: int) -> bool:
        """No other one is at least as good in both and better in one."""
        gain, saving = self.alignment - self.alignment[at], self.kept - self.kept[at]
        return not bool(((gain >= 0) & (saving >= 0) & ((gain > 0) | (saving > 0))).any())


class Kind(NamedTuple):
    """How items are drawn: answers are right or wrong, or have scores in between; items come alone or in clusters."""

    binary: bool
    clusters: bool


KINDS = {"binary": Kind(True, False), "clustered": Kind(True, True), "continuous": Kind(False, True)}


def equal(rng: np.random.Generator) -> Truth:
    """All alike: any claim is false but that of a difference within the tolerance, and none is better."""
    return Truth(np.full(POINTS, 0.5), np.full(POINTS, 0.7))


def edge(rng: np.random.Generator) -> Truth:
    """Each one is 4 points better than the one before, for a tax that is larger by exactly the tolerance."""
    step = np.arange(POINTS)
    return Truth(0.35 + 0.04 * step, 0.8 - TERMS.tolerance / 100 * step)


def curve(rng: np.random.Generator) -> Truth:
    """As in a sweep: more training buys alignment at a growing tax, and some settings are better than others."""
    effort = rng.random(POINTS)
    alignment = 0.4 + 0.3 * np.sqrt(effort) - 0.05 * rng.random(POINTS)
    kept = 0.7 - 0.05 * effort**2 - 0.03 * rng.random(POINTS) * effort
    alignment[0], kept[0] = 0.4, 0.7
    return Truth(alignment, kept)


def scatter(rng: np.random.Generator) -> Truth:
    """Alignment and tax have nothing to do with each other, so that few points are on the front."""
    return Truth(0.4 + 0.3 * rng.random(POINTS), 0.65 + 0.1 * rng.random(POINTS))


TRUTHS: Mapping[str, Callable[[np.random.Generator], Truth]] = {
    "equal": equal, "edge": edge, "curve": curve, "scatter": scatter}


def drawn(truth: Truth, kind: Kind, rng: np.random.Generator, items: int) -> list[Point]:
    """The points' results on a sample of items, the same ones for all."""
    suites = {suite: _scores(truth.alignment if suite in WHAT.alignment else truth.kept, kind, rng, items)
              for suite in WHAT.suites}
    return [Point("base" if at == 0 else str(at), ({name: _result(name, rows[at], kind)
                                                   for name, rows in suites.items()},), "" if at else "base")
            for at in range(len(truth.alignment))]


def _scores(means: Floats, kind: Kind, rng: np.random.Generator, items: int) -> Floats:
    """Scores [points, items] with these true means: easy and hard items, clusters that are so too, and models that are
    good at different clusters."""
    points, groups = len(means), math.ceil(items / PER_CLUSTER) if kind.clusters else items
    cluster = np.arange(items) // PER_CLUSTER if kind.clusters else np.arange(items)
    common, own = rng.normal(size=groups) * 0.7, rng.normal(size=(points, groups)) * 0.4
    latent = common[cluster] + own[:, cluster] + rng.normal(size=items) * 0.7 + rng.normal(size=(points, items)) * 0.6
    spread = math.sqrt(0.7**2 + 0.4**2 + 0.7**2 + 0.6**2)
    if kind.binary:
        return np.asarray((latent + spread * ndtri(means)[:, None] > 0).astype(np.float64))
    return np.asarray(ndtr(latent + math.sqrt(1 + spread**2) * ndtri(means)[:, None]))


def _result(suite: str, scores: Floats, kind: Kind) -> SuiteResult:
    items = tuple(ItemResult(suite, "q", str(n), str(n // PER_CLUSTER if kind.clusters else n), score, {}, "", "", "",
                             "", f"{suite} {n}") for n, score in enumerate(scores.tolist()))
    return SuiteResult(suite, "alignment" if suite in WHAT.alignment else "capability", {}, items, 0.0)


class Run(NamedTuple):
    """What one simulated sweep claimed, against the truth."""

    false: int
    proved: int
    to_prove: int
    """Points that are truly dominated by more than twice the tolerance."""
    missed: list[tuple[bool, bool]]
    """Per point and objective, whether the truth lies below the interval against the base, and whether above it."""
    chances: list[tuple[float, bool]]
    """Per point its chance, and whether it is on the true front."""
    curse: float | None
    """Points by which the search's estimate of the chosen one's alignment is above the truth."""
    fresh: float | None
    """The same of as many other items."""
    lost: float | None
    """Points of alignment that the best true one within the tax has more than the chosen one."""
    over: bool
    """The chosen one's true tax is above the limit."""


def simulate(truth: Truth, kind: Kind, rng: np.random.Generator, items: int) -> Run:
    """Draw items, place the points, choose one, and ask it other items."""
    points = drawn(truth, kind, rng, items)
    found = front(points, WHAT, TERMS)
    claims = [(at, int(name) if name != "base" else 0) for at, one in enumerate(found.points)
              for name in one.dominated_by]
    clear = [at for at in range(len(points)) if any(
        truth.dominates(other, at, 0.0) and truth.alignment[other] - truth.alignment[at] > 2 * TERMS.tolerance / 100
        for other in range(len(points)))]
    chosen = _chosen(found)
    return Run(
        sum(not truth.dominates(better, worse, TERMS.tolerance / 100) for worse, better in claims),
        len({worse for worse, _ in claims} & set(clear)), len(clear), list(_missed(points, truth)),
        [(one.chance, truth.on_front(at)) for at, one in enumerate(found.points)],
        *_fate(points, chosen, truth, drawn(truth, kind, rng, items)))


def _chosen(found: Front) -> int | None:
    one = choose(found, MAX_TAX)
    return None if one is None else int(one.name)


def _missed(points: Sequence[Point], truth: Truth) -> Iterator[tuple[bool, bool]]:
    for at in range(1, len(points)):
        found = difference(points[0], points[at], WHAT)
        gain, tax = truth.alignment[at] - truth.alignment[0], truth.kept[0] - truth.kept[at]
        for evidence, true in ((found.alignment, gain), (found.tax, tax)):
            low, high = evidence.bounds(TERMS.alpha, 1.0)
            yield bool(true < low), bool(true > high)


def _fate(points: Sequence[Point], chosen: int | None, truth: Truth, others: Sequence[Point]
          ) -> tuple[float | None, float | None, float | None, bool]:
    if chosen is None:
        return None, None, None, False
    true = 100 * (truth.alignment - truth.alignment[0])
    tax = 100 * (truth.kept[0] - truth.kept)
    said, fresh = (100 * difference(side[0], side[chosen], WHAT).alignment.estimate - float(true[chosen])
                   for side in (points, others))
    within = [at for at in range(1, len(points)) if tax[at] <= MAX_TAX]
    best = max((float(true[at]) for at in within), default=float(true[chosen]))
    return said, fresh, best - float(true[chosen]), bool(tax[chosen] > MAX_TAX)


def summed(runs: Sequence[Run]) -> dict[str, object]:
    """Percent and points over all runs of a case."""
    missed = np.array([pair for run in runs for pair in run.missed])
    told = [pair for run in runs for pair in run.chances]
    bins = {f"{low:.1f} to {min(high, 1):.1f}": [on for chance, on in told if low <= chance < high]
            for low, high in zip(BINS, BINS[1:], strict=False)}
    to_prove = sum(run.to_prove for run in runs)

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(float(np.mean(known)), 2) if known else None

    return {
        "runs": len(runs), "sweeps with a false claim, %": 100 * float(np.mean([run.false > 0 for run in runs])),
        "clearly dominated points proved so, %": 100 * sum(run.proved for run in runs) / to_prove if to_prove else None,
        "truth below the interval, %": 100 * float(missed[:, 0].mean()),
        "truth above the interval, %": 100 * float(missed[:, 1].mean()),
        "chance → on the true front, %": {name: [round(100 * float(np.mean(on)), 1), len(on)] if on else None
                                          for name, on in bins.items()},
        "chosen: estimate above the truth, points": mean([run.curse for run in runs]),
        "chosen: the same on other items": mean([run.fresh for run in runs]),
        "chosen: below the best within the tax": mean([run.lost for run in runs]),
        "chosen: true tax above the limit, %": 100 * float(np.mean([run.over for run in runs])),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--only", default="", help="cases whose name contains this, e.g. curve or clustered")
    parser.add_argument("--items", type=int, default=ITEMS, help="per suite")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {}
    for name, kind in KINDS.items():
        for truth, make in TRUTHS.items():
            if given.only in (case := f"{truth}, {name}"):
                rng = np.random.default_rng(0)
                found[case] = summed([simulate(make(rng), kind, rng, given.items) for _ in range(given.runs)])
                print(case, found[case], flush=True)
    write_found(given.json, found)


if __name__ == "__main__":
    main()
