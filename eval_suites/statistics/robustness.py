"""What another form of the question, or another language, costs: paired drops from the clean form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from eval_suites.results import ItemResult, SuiteResult, enough
from eval_suites.statistics.evidence import paired

CLEAN_TASKS = ("clean", "en")
"""What the other tasks of a suite are compared with: the form without a change, or English."""


class Drop(NamedTuple):
    """A variant's mean score beside that of the same items in their clean form.

    `points` is 100 · (clean − score): above zero the variant is worse. The interval is paired; None where fewer than
    `min_scored` of the items have a score in both forms.
    """

    variant: str
    clean: float | None
    score: float | None
    points: float | None
    low: float | None
    high: float | None
    items: int  # pairs with both scores


def drops(result: SuiteResult, alpha: float = 0.05) -> list[Drop]:
    """Every variant's drop, largest first; empty for a suite without variants.

    The clean form and the variants of an item share their cluster, by which they are paired. Intervals have level
    1 − alpha each: with many variants some leave zero out by chance.
    """
    tasks: dict[str, dict[str, ItemResult]] = {}
    for item in result.items:
        tasks.setdefault(item.task, {})[item.cluster] = item
    clean = next((tasks.pop(name) for name in CLEAN_TASKS if name in tasks), None)
    if clean is None:
        return []
    found = [_drop(name, clean, items, alpha, result.min_scored) for name, items in tasks.items()]
    return sorted(found, key=lambda drop: -(drop.points if drop.points is not None else -101.0))


def _drop(name: str, clean: Mapping[str, ItemResult], items: Mapping[str, ItemResult], alpha: float,
          least: float) -> Drop:
    pairs = [(before.score, after.score, before.weight) for cluster, after in items.items()
             if (before := clean.get(cluster)) is not None]
    scored = [(before, after, weight) for before, after, weight in pairs if before is not None and after is not None]
    if not scored or not enough(len(scored), len(pairs), least):
        return Drop(name, None, None, None, None, None, len(scored))
    befores, afters, weights = (list(column) for column in zip(*scored, strict=True))
    evidence = paired(afters, befores, None, weights)
    assert evidence is not None  # there are pairs
    interval = evidence.interval(alpha)
    total = sum(weights)
    mean = [sum(w * s for w, s in zip(weights, scores, strict=True)) / total for scores in (befores, afters)]
    return Drop(name, mean[0], mean[1], 100 * evidence.estimate, 100 * interval.low, 100 * interval.high, len(scored))


def drop_rows(base: SuiteResult, tuned: SuiteResult, alpha: float = 0.05) -> list[dict[str, str]]:
    """The drops of two models side by side, as text, in the order of the tuned model's; empty without variants."""
    before = {drop.variant: drop for drop in drops(base, alpha)}
    return [{"suite": tuned.suite, "form": after.variant, "items": str(after.items),
             "base": shown_drop(before.get(after.variant)), "tuned": shown_drop(after)}
            for after in drops(tuned, alpha)]


def shown_drop(drop: Drop | None) -> str:
    """Points and their interval."""
    if drop is None or drop.points is None:
        return "–"
    return f"{drop.points:+.1f} ({drop.low:+.1f} to {drop.high:+.1f})"
