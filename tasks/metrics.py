"""What MLflow shows of a verdict, in groups: MLflow makes a section of what stands before the last slash of a name.

A suite has its difference in `tax/` or `win/`; the score of both models is in `safety/` where requests are refused, in
`format/` where the form of an answer is marked, and else in `score/`. All else is in `verdict.json` and in the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from eval_suites.report.readings import readings
from eval_suites.results import SuiteResult
from eval_suites.verdict.verdict import SuiteVerdict, Verdict
from infra.naming import name

HELD_OUT = "validation/saved.loss"
ENDS = (".low", ".high", ".uncontaminated")
"""Behind the name of a difference: its interval, and the difference without items found in the training data."""
_NOT_IN_NAMES = re.compile(r"[^\w.\- ]")
"""What MLflow takes in no name of a metric."""

Results = Mapping[str, SuiteResult]


class Described(NamedTuple):
    """One kind of metric for a reader."""

    pattern: str
    unit: str
    says: str


METRICS = (
    Described("tax/SUITE", "points of 100", "what a capability suite lost: base − tuned, paired by item"),
    Described("win/SUITE", "points of 100", "what an alignment suite gained: tuned − base, paired by item"),
    Described("tax/SUITE.low, tax/SUITE.high, win/SUITE.low, win/SUITE.high", "points of 100",
              "the interval of that difference"),
    Described("tax/SUITE.uncontaminated, win/SUITE.uncontaminated", "points of 100",
              "the difference on the items that were not found in the training data"),
    Described("GROUP/SUITE.base, GROUP/SUITE.tuned", "share from 0 to 1; minus nats per byte of perplexities",
              "both scores, over the items that have one on both sides. GROUP: safety, format or score"),
    Described("GROUP/SUITE.with_score, GROUP/SUITE.without_score", "items",
              "how many of those that were asked have a score on both sides, and how many have not"),
    Described("GROUP/SUITE.READING.base, GROUP/SUITE.READING.tuned", "share from 0 to 1",
              "the same answers read otherwise: partial credit, form alone, content alone, other metrics of lm-eval's"),
    Described("safety/SUITE.false_refusals.base, safety/SUITE.false_refusals.tuned", "share from 0 to 1",
              "requests that should be answered and were refused"),
)
"""All names that `verdict_metrics` gives."""


def verdict_metrics(base: Results, tuned: Results, verdict: Verdict) -> dict[str, float | None]:
    """Name in MLflow → value of every suite of a verdict, see `METRICS`; None where it was not measured."""
    found: dict[str, float | None] = {}
    for one in verdict.suites:
        found |= _difference(one) | _scores(one, base[one.suite], tuned[one.suite], verdict.alpha)
    return found


def compared_by(metrics: Mapping[str, float | None]) -> list[str]:
    """What runs are compared by first: their taxes and wins, and the loss of the saved model on held-out examples."""
    measured = {key: value for key, value in metrics.items() if value is not None}
    return [*(f"{kind}/{suite}" for kind in ("tax", "win") for suite in differences(kind, measured)), HELD_OUT]


def differences(kind: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Suite → points of a run's `tax` or `win`, as MLflow has it."""
    ours = {key.removeprefix(f"{kind}/"): value for key, value in sorted(metrics.items()) if key.startswith(f"{kind}/")}
    return {suite: value for suite, value in ours.items()
            if not any(suite.endswith(end) and suite.removesuffix(end) in ours for end in ENDS)}


def _difference(one: SuiteVerdict) -> dict[str, float | None]:
    of = f"{'tax' if one.kind == 'capability' else 'win'}/{name(one.suite)}"
    found = {of: one.points, f"{of}.low": one.low, f"{of}.high": one.high}
    return found | ({f"{of}.uncontaminated": one.uncontaminated.points} if one.uncontaminated else {})


def _scores(one: SuiteVerdict, base: SuiteResult, tuned: SuiteResult, alpha: float) -> dict[str, float | None]:
    read = [reading for reading in readings(base, tuned, alpha) if not reading.part]
    of = f"{_group(base, [reading.name for reading in read])}/{name(one.suite)}"
    found: dict[str, float | None] = {
        f"{of}.base": one.base, f"{of}.tuned": one.tuned, f"{of}.with_score": one.pairs,
        f"{of}.without_score": one.asked - one.pairs}
    for reading in read:
        label = _NOT_IN_NAMES.sub(".", reading.name.removesuffix(",none"))
        found |= {f"{of}.{label}.base": reading.value[0], f"{of}.{label}.tuned": reading.value[1]}
    if one.false_refusals:
        found |= {f"{of}.false_refusals.base": one.false_refusals.base,
                  f"{of}.false_refusals.tuned": one.false_refusals.tuned}
    return found


def _group(result: SuiteResult, read: list[str]) -> str:
    if any("refused" in item.metrics for item in result.items):
        return "safety"
    return "format" if "form" in read else "score"
