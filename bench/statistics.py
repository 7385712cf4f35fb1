"""Errors of every interval to either side, simulated over sizes, shares, clusters, weights and kinds of scores.

    python -m bench.statistics [--runs 2000] [--only clusters]

A 95 % interval may miss the truth in 2.5 % of evaluations to each side. Prints one line per case with what it does (in
percent, above and below), its mean width and whether a note warned; ends with 1 where one that nobody is warned of errs
to one side in more than 1.2 × 2.5 + 0.5 % (and two standard errors of the simulation). 2,000 runs: ten minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_suites.statistics.evidence import paired
from eval_suites.statistics.pairing import Pairs
from eval_suites.verdict.rough import rough

Floats = NDArray[np.float64]
ALPHA = 0.05
MOST = 1.2 * 100 * ALPHA / 2 + 0.5
"""Percent of evaluations to one side."""
SIZES = {
    "equal": lambda groups: [8] * groups,
    "mild": lambda groups: [2 + i * 7 % 13 for i in range(groups)],
    "1/√k": lambda groups: [max(1, int(120 / (i + 1) ** 0.5)) for i in range(groups)],
    "1/k": lambda groups: [max(1, 120 // (i + 1)) for i in range(groups)],
}


class Sample(NamedTuple):
    """One simulated evaluation; flat arrays [items]."""

    base: Floats
    tuned: Floats
    clusters: list[str] | None = None
    weights: Floats | None = None
    scale: str = "share"


class Case(NamedTuple):
    """A way of drawing evaluations, and the true mean of tuned − base."""

    name: str
    truth: float
    draw: Callable[[np.random.Generator], Sample]


class Found(NamedTuple):
    """Percent of intervals that lie above the truth and below it, their mean width, and of how many a note warned."""

    above: float
    below: float
    width: float
    warned: float

    def holds(self, runs: int) -> bool:
        """No error to one side is too frequent, by more than chance."""
        return max(self.above, self.below) <= MOST + 2 * 100 * (MOST / 100 / runs) ** 0.5


def beta(rng: np.random.Generator, mean: float, alike: float, size: int) -> Floats:
    """Chances of clusters with this mean and intra-cluster correlation."""
    if alike in (0.0, 1.0) or mean == 0.0:
        return np.full(size, mean) if alike < 1.0 else (rng.random(size) < mean).astype(np.float64)
    strength = 1 / alike - 1
    return rng.beta(mean * strength, (1 - mean) * strength, size)


def independent() -> Iterator[Case]:
    """Right and wrong answers, lost and gained."""
    for n in (20, 100, 400):
        for lost, gained in ((0.01, 0.0), (0.05, 0.0), (0.02, 0.02), (0.1, 0.05), (0.3, 0.3)):
            yield Case(f"independent n={n} lost={lost} gained={gained}", gained - lost,
                       _moved([1] * n, lost, gained, 0.0))


def clusters() -> Iterator[Case]:
    """The same, where the answers of a cluster change alike."""
    for name, sizes in SIZES.items():
        for groups in (15, 30, 60, 100):
            for lost, gained in ((0.01, 0.0), (0.05, 0.0), (0.1, 0.0), (0.2, 0.0), (0.1, 0.05), (0.2, 0.2)):
                for alike in (0.0, 0.05, 0.2, 0.5, 1.0):
                    yield Case(f"clusters {name} groups={groups} lost={lost} gained={gained} alike={alike}",
                               gained - lost, _moved(sizes(groups), lost, gained, alike))


def shocks() -> Iterator[Case]:
    """Clusters that now and then lose at once while the items of all also lose by themselves."""
    for name, sizes in {"20 of 50": [50] * 20, "57 of 35": [35] * 57, "57 like MMLU": SIZES["1/√k"](57)}.items():
        for lost, alike in ((0.02, 0.3), (0.05, 0.5), (0.1, 0.3)):
            for size in (1.0, 0.3):
                yield Case(f"shocks {name} lost={lost} alike={alike} size={size:g}", -lost * size,
                           _shocked(sizes, lost, alike, size))


def weights() -> Iterator[Case]:
    """Independent items of which some stand for others."""
    for n in (100, 500):
        for heavy in (3.0, 10.0):
            for lost in (0.01, 0.02, 0.1):
                yield Case(f"weights n={n} heavy={heavy:g} lost={lost}", -lost, _weighted(n, heavy, lost))
    for n in (100, 300, 1000):
        for share, heavy, often, seldom in ((0.05, 10.0, 0.2, 0.01), (0.2, 4.0, 0.075, 0.01), (0.02, 10.0, 0.25, 0.01)):
            yield Case(f"weights n={n} {share} weigh {heavy:g} and change {often} against {seldom}", 0.0,
                       _volatile(n, share, heavy, (often, seldom)))


def scores() -> Iterator[Case]:
    """Scores between 0 and 1: partial credit that falls, ties and wins, marks of 1 to 10; nats per byte."""
    for n in (30, 100, 300):
        for share in (0.01, 0.1, 0.3):
            yield Case(f"scores .9 to .4 n={n} share={share}", -0.5 * share, _falls(n, share))
        for lost, gained in ((0.02, 0.0), (0.1, 0.1), (0.3, 0.1)):
            yield Case(f"scores 0, ½, 1 n={n} lost={lost} gained={gained}", 0.5 * (gained - lost),
                       _ties(n, lost, gained))
        yield Case(f"scores judged 1 to 10 n={n}", -0.5 / 9, _judged(n))
        yield Case(f"scores nats per byte n={n}", -0.01, _nats(n))


def _moved(sizes: Sequence[int], lost: float, gained: float, alike: float) -> Callable[[np.random.Generator], Sample]:
    names = [str(group) for group, size in enumerate(sizes) for _ in range(size)] if max(sizes) > 1 else None

    def draw(rng: np.random.Generator) -> Sample:
        falls, rises = (np.repeat(beta(rng, mean / 0.5, alike, len(sizes)), sizes) for mean in (lost, gained))
        right, luck = rng.random(len(falls)) < 0.5, rng.random(len(falls))
        return Sample(right.astype(np.float64), np.where(right, luck >= falls, luck < rises).astype(np.float64), names)

    return draw


def _weighted(n: int, heavy: float, lost: float) -> Callable[[np.random.Generator], Sample]:
    def draw(rng: np.random.Generator) -> Sample:
        return Sample(np.ones(n), (rng.random(n) >= lost).astype(np.float64), None,
                      np.where(rng.random(n) < 0.2, heavy, 1.0))

    return draw


def _volatile(n: int, share: float, heavy: float, often: tuple[float, float]
              ) -> Callable[[np.random.Generator], Sample]:
    weights = np.where(np.arange(n) < share * n, heavy, 1.0)
    chance = np.where(weights > 1, *often)

    def draw(rng: np.random.Generator) -> Sample:
        luck = rng.random(n)
        return Sample((luck < chance).astype(np.float64), (luck > 1 - chance).astype(np.float64), None, weights)

    return draw


def _shocked(sizes: Sequence[int], lost: float, alike: float, size: float) -> Callable[[np.random.Generator], Sample]:
    names = [str(group) for group, count in enumerate(sizes) for _ in range(count)]

    def draw(rng: np.random.Generator) -> Sample:
        together = np.repeat(rng.random(len(sizes)), sizes)
        luck = np.where(rng.random(len(names)) < alike, together, rng.random(len(names)))
        return Sample(np.ones(len(names)), np.where(luck < lost, 1.0 - size, 1.0), names)

    return draw


def _falls(n: int, share: float) -> Callable[[np.random.Generator], Sample]:
    return lambda rng: Sample(np.full(n, 0.9), np.where(rng.random(n) < share, 0.4, 0.9))


def _ties(n: int, lost: float, gained: float) -> Callable[[np.random.Generator], Sample]:
    def draw(rng: np.random.Generator) -> Sample:
        luck = rng.random(n)
        return Sample(np.full(n, 0.5), 0.5 + 0.5 * (luck > 1 - gained) - 0.5 * (luck < lost))

    return draw


def _judged(n: int) -> Callable[[np.random.Generator], Sample]:
    def draw(rng: np.random.Generator) -> Sample:
        before = rng.integers(4, 9, n)
        after = before + rng.choice([-2, -1, 0, 1], n, p=[0.2, 0.3, 0.3, 0.2])
        return Sample((before - 1) / 9, (after - 1) / 9)

    return draw


def _nats(n: int) -> Callable[[np.random.Generator], Sample]:
    def draw(rng: np.random.Generator) -> Sample:
        size = rng.lognormal(0.0, 0.5, n)
        return Sample(np.full(n, -1.0), -1.01 + rng.normal(0.0, 0.03, n) / np.sqrt(size), None, size, "log")

    return draw


PARTS = {"independent": independent, "clusters": clusters, "shocks": shocks, "weights": weights, "scores": scores}


def measure(case: Case, runs: int, seed: int = 0) -> Found:
    """Simulate so many evaluations of a case."""
    rng = np.random.default_rng(seed)
    above = below = warned = 0
    width = 0.0
    for _ in range(runs):
        one = case.draw(rng)
        names = one.clusters or [str(i) for i in range(len(one.base))]
        counts = np.ones(len(one.base)) if one.weights is None else one.weights
        evidence = paired(one.base.tolist(), one.tuned.tolist(), one.clusters, counts.tolist(), one.scale)
        assert evidence is not None
        low, high = evidence.bounds(ALPHA, 1.0)
        above += low > case.truth + 1e-12
        below += high < case.truth - 1e-12
        width += high - low
        warned += any(rough(Pairs(one.base.tolist(), one.tuned.tolist(), names, counts.tolist(), names)))
    return Found(100 * above / runs, 100 * below / runs, width / runs, warned / runs)


def main() -> int:
    """Every case of the chosen part."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=2_000)
    arguments.add_argument("--only", choices=PARTS)
    asked = arguments.parse_args()
    failed = 0
    for name, make in PARTS.items():
        for case in make() if asked.only in (None, name) else ():
            found = measure(case, asked.runs)
            bad = not found.holds(asked.runs) and found.warned < 0.5
            failed += bad
            print(f"{case.name:70} above {found.above:5.1f}  below {found.below:5.1f}  width {found.width:.4f}"
                  + f"  a note in {100 * found.warned:.0f} %" * (found.warned > 0) + "  TOO OFTEN" * bad, flush=True)
    print(f"{failed} cases err too often to one side without a note")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
