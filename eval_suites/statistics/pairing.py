"""The same items under two models: pairs of scores, and the evidence in them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from eval_suites.results import ItemResult, SuiteResult
from eval_suites.statistics.evidence import paired, rate
from eval_suites.statistics.intervals import Evidence
from sft_core.errors import EvalError

MISSING = 0.05
"""Share of items without a score on both sides above which a claim must survive their worst case."""


class Pairs(NamedTuple):
    """Scores of the items that both sides have a score for, in the order of the base."""

    base: list[float]
    tuned: list[float]
    clusters: list[str]
    weights: list[float]
    ids: list[str]

    @property
    def weighted(self) -> bool:
        """Some items count more than others."""
        return len(set(self.weights)) > 1

    def without(self, ids: Collection[str]) -> Pairs:
        """The pairs of other items; a variant of an item (`ID~VARIANT`) goes with it."""
        kept = [i for i, name in enumerate(self.ids) if name not in ids and name.rpartition("~")[0] not in ids]
        return Pairs(*([column[i] for i in kept] for column in self))  # type: ignore[arg-type]


def check_protocols(base: SuiteResult, tuned: SuiteResult) -> None:
    """Raises EvalError unless both were asked the same things in the same way."""
    if base.protocol_hash == tuned.protocol_hash:
        return
    keys = sorted(k for k in {*base.protocol, *tuned.protocol} if base.protocol.get(k) != tuned.protocol.get(k))
    said = "; ".join(f"{k}: {str(base.protocol.get(k)):.200} against {str(tuned.protocol.get(k)):.200}" for k in keys)
    hint = ", or through one template (`sft eval --template`)" if "template" in keys else ""
    raise EvalError(f"the results of suite {base.suite} cannot be compared, their protocols differ in {said}. Evaluate "
                    f"both models with the same configuration{hint}")


def both_asked(base: SuiteResult, tuned: SuiteResult) -> list[tuple[ItemResult, ItemResult]]:
    """The items that were asked of both, scored or not, in the order of the base.

    Raises:
        EvalError: the protocols or scales differ, or an item was not asked in the same words.
    """
    check_protocols(base, tuned)
    if base.scale != tuned.scale:
        raise EvalError(f"the results of suite {base.suite} cannot be compared: scores on the scale {base.scale} "
                        f"against {tuned.scale}. Evaluate both models again")
    after = {item.item_id: item for item in tuned.items}
    both = [(item, after[item.item_id]) for item in base.items if item.item_id in after]
    if other := [one.item_id for one, two in both if one.asked != two.asked]:
        raise EvalError(f"{len(other)} items of suite {base.suite} were not asked in the same words (first: "
                        f"{other[0]}); evaluate both models with the same items and examples")
    return both


def pair(base: SuiteResult, tuned: SuiteResult) -> Pairs:
    """Pair by item id; an item without a score on either side is left out, not counted as zero.

    Raises:
        EvalError: the protocols or scales differ, or an item was not asked in the same words.
    """
    return scored_pairs(both_asked(base, tuned))


def scored_pairs(both: Collection[tuple[ItemResult, ItemResult]]) -> Pairs:
    """Those with a score on both sides."""
    found = [(one.score, two.score, one.cluster, one.weight, one.item_id) for one, two in both
             if one.score is not None and two.score is not None]
    return _columns(found)


def common(base: SuiteResult, tuned: SuiteResult) -> tuple[SuiteResult, SuiteResult]:
    """Both on the items that were asked of both, where one without a score on either side has none on the other: what
    is told of them side by side is then of the same items.

    Raises:
        EvalError: the protocols or scales differ, or an item was not asked in the same words.
    """
    both, least = both_asked(base, tuned), max(base.min_scored, tuned.min_scored)
    missing = {one.item_id for one, two in both if None in (one.score, two.score)}
    sides = (tuple(item._replace(score=None) if item.item_id in missing else item for item in side)
             for side in ([pair[at] for pair in both] for at in (0, 1)))
    one, two = (replace(result, items=items, min_scored=least)
                for result, items in zip((base, tuned), sides, strict=True))
    return one, two


def filled(both: Collection[tuple[ItemResult, ItemResult]], base: float, tuned: float) -> Pairs:
    """All of them, where a score that is missing is taken for `base` or `tuned`."""
    return _columns([(base if one.score is None else one.score, tuned if two.score is None else two.score, one.cluster,
                      one.weight, one.item_id) for one, two in both])


def many_missing(scored: int, asked: int) -> bool:
    """Whether so many items have no score that a claim must survive their worst case."""
    return asked - scored > MISSING * asked


def worst_cases(both: Collection[tuple[ItemResult, ItemResult]], kind: str, scale: str) -> list[Evidence]:
    """What `difference` would find if missing scores were 0 or 1, whichever is worst for one bound, and for the other.
    None on the scale `log`, where nothing is the worst, and without items."""
    ends = ((0.0, 1.0), (1.0, 0.0)) if scale != "log" else ()
    found = [difference(filled(both, *scores), kind, scale) for scores in ends]
    return [one for one in found if one is not None]


def _columns(rows: list[tuple[float, float, str, float, str]]) -> Pairs:
    return Pairs([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows], [r[3] for r in rows],
                 [r[4] for r in rows])


def difference(pairs: Pairs, kind: str, scale: str) -> Evidence | None:
    """Evidence of the tax, base − tuned (capability), or of the win, tuned − base (alignment). None without pairs."""
    sides = (pairs.tuned, pairs.base) if kind == "capability" else (pairs.base, pairs.tuned)
    return paired(*sides, pairs.clusters, pairs.weights, scale)


def mean_score(result: SuiteResult) -> Evidence | None:
    """The score of one model by itself, with its clusters and weights. None where too few items have a score."""
    if result.score is None:
        return None
    scored = [(item.score, item.cluster, item.weight) for item in result.items if item.score is not None]
    return rate([s for s, _, _ in scored], [c for _, c, _ in scored], [w for _, _, w in scored], result.scale)
