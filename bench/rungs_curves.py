"""Simulated studies for `bench/rungs.py`: learning curves that cross, and the items answered along them.

A trial has a pace and a strength of training, drawn at random. Alignment rises with the share s of the steps,
fast or slowly, to an end that a middling strength makes highest; strong trials reach their best early and fall back by
up to 20 points. Tax grows with s and with strength; a warm-up adds a bump of up to 8 points at half of the way, which
is gone at the end. An item is right where the model's skill exceeds its difficulty, plus chance of that model at that
item (which stays along the way, as answers do) and of that moment.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import ndtri

from eval_suites.front.points import Objectives, Point
from eval_suites.results import ItemResult, SuiteResult
from eval_suites.statistics.intervals import Floats

TRIALS = 16
SHARES = ((0.25, 0.25), (0.25, 0.5), (0.5, 0.5))
"""Of training, and of the items of every suite, at each look that is tried."""
WHAT = Objectives(("form",), ("facts",))
BASE = 0.7
"""Share of the facts that the base knows."""
MODEL, MOMENT = 0.5, 0.3
"""Spread of the chance of a model at an item, and of a moment, where the difficulty of items has 1."""


def simulated(studies: int, items: int) -> Iterator[tuple[Point, list[list[Point]]]]:
    """Studies as the base and the trials, each as its results at the looks and at the end, on so many items a suite."""
    for seed in range(studies):
        yield _study(np.random.default_rng(seed), items)


def curves(rng: np.random.Generator, share: Floats) -> tuple[Floats, Floats]:
    """Alignment and tax, as shares, of a trial at these shares of its steps."""
    strength, pace = rng.uniform(0, 1), rng.uniform(1.5, 10)
    best = 0.35 + 0.5 * (1 - (2 * strength - 1) ** 2)
    rise = (1 - np.exp(-pace * share)) / (1 - np.exp(-pace))
    fall = 0.2 * max(0.0, strength - 0.6) / 0.4 * np.clip((share - 0.3) / 0.7, 0, 1)
    tax = rng.uniform(0.0, 0.25) * strength * share ** rng.uniform(0.5, 1.5)
    bump = rng.uniform(0, 0.08) * 4 * share * (1 - share)
    return 0.05 + (best - 0.05) * rise - fall, tax + bump


def _study(rng: np.random.Generator, items: int) -> tuple[Point, list[list[Point]]]:
    hard = {suite: rng.normal(size=items) for suite in WHAT.suites}
    order = {suite: rng.permutation(items) for suite in WHAT.suites}
    share = np.array([*(train for train, _ in SHARES), 1.0])
    asked = [*(part for _, part in SHARES), 1.0]
    trials = []
    for number in range(TRIALS):
        alignment, tax = curves(rng, share)
        right = {"form": np.clip(alignment, 0.01, 0.99), "facts": np.clip(BASE - tax, 0.01, 0.99)}
        own = _own(rng, items)
        trials.append([Point(str(number), ({suite: _answers(rng, suite, hard[suite] + own[suite], right[suite][at],
                                                            order[suite][: round(part * items)])
                                            for suite in WHAT.suites},)) for at, part in enumerate(asked)])
    own = _own(rng, items)
    knows = {"form": 0.05, "facts": BASE}
    return Point("base", ({suite: _answers(rng, suite, hard[suite] + own[suite], knows[suite], order[suite])
                           for suite in WHAT.suites},)), trials


def _own(rng: np.random.Generator, items: int) -> dict[str, Floats]:
    return {suite: rng.normal(scale=MODEL, size=items) for suite in WHAT.suites}


def _answers(rng: np.random.Generator, suite: str, hard: Floats, right: float, chosen: Floats) -> SuiteResult:
    """Of a model that is right at this share of all items."""
    spread = np.sqrt(1 + MODEL**2 + MOMENT**2)
    return _result(suite, chosen, hard + rng.normal(scale=MOMENT, size=len(hard)) < spread * ndtri(right))


def _result(suite: str, chosen: Floats, scores: Floats) -> SuiteResult:
    kind = "alignment" if suite == "form" else "capability"
    items = tuple(ItemResult(suite, "q", f"{suite}/{i}", f"{suite}/{i}", float(scores[i]), {}, "", "", "", "",
                             f"{suite} {i}") for i in sorted(map(int, chosen)))
    return SuiteResult(suite, kind, {}, items, 0.0)  # type: ignore[arg-type]
