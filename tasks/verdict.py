"""The stage `verdict`: base results × tuned results → what was bought, what it cost, and whether the gate passes."""

from __future__ import annotations

from collections.abc import Mapping

from prefect import task
from prefect.cache_policies import NO_CACHE

from eval_suites.flips import flips
from eval_suites.results import SuiteResult
from eval_suites.stats import rate
from eval_suites.verdict import Verdict, compare
from sft_core.config.evaluate import GateSection


@task(name="verdict", cache_policy=NO_CACHE)
def judge(base: Mapping[str, SuiteResult], tuned: Mapping[str, SuiteResult], gate: GateSection) -> Verdict:
    """Compare paired results under the declared gate.

    Raises:
        EvalError: the protocols of base and tuned differ.
    """
    return compare(base, tuned, gate)


def regressions(verdict: Verdict) -> list[str]:
    """Every suite that is proved worse, each with its numbers; `points` of a capability suite are its tax."""
    found = []
    for one in verdict.suites:
        if one.outcome == "worse":
            loss = one.points if one.kind == "capability" else -(one.points or 0.0)
            low, high = (one.low, one.high) if one.kind == "capability" else (-one.high, -one.low)
            found.append(f"{one.suite} lost {loss:.1f} points ({low:.1f} to {high:.1f}) over {one.pairs} items")
    return found


def listed(results: Mapping[str, SuiteResult]) -> list[dict[str, object]]:
    """One row per suite with its score and 95 % interval, items clustered as the suite says."""
    rows: list[dict[str, object]] = []
    for name, result in results.items():
        scored = [item for item in result.items if item.score is not None]
        evidence = rate([float(item.score or 0.0) for item in scored], [item.cluster for item in scored])
        span = evidence.interval(0.05) if evidence else None
        rows.append({
            "suite": name, "score": "–" if result.score is None else f"{100 * result.score:.1f}",
            "95 % interval": f"{100 * span.low:.1f} to {100 * span.high:.1f}" if span else "–",
            "items": result.n, "unscored": result.tally.unscored, "protocol": result.protocol_hash[:8],
        })
    return rows


def changed_items(a: SuiteResult, b: SuiteResult, most: int) -> tuple[list[dict[str, object]], int]:
    """The first items whose score changed from `a` to `b`, losses first, and how many there are in all."""
    found = flips(a, b)
    rows: list[dict[str, object]] = [
        {"item": flip.item_id, "score": f"{flip.base:g} → {flip.tuned:g}", "prompt": flip.prompt[-200:],
         "first": flip.base_answer[:120], "second": flip.tuned_answer[:120], "target": flip.target[:80]}
        for flip in found[:most]
    ]
    return rows, len(found)
