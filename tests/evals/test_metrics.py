"""Names of a verdict in MLflow: few groups, every suite in the one of its kind, differences found again by suite."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from eval_suites.results import SuiteResult
from eval_suites.verdict.verdict import compare
from sft_core.config.evaluate import GateSection
from tasks.metrics import METRICS, differences, verdict_metrics


def told(suite: str, make_result: Callable[..., SuiteResult], kind: str, **metrics: float) -> dict[str, float | None]:
    base, tuned = (
        replace(result, items=tuple(item._replace(metrics={**metrics}) for item in result.items))
        for result in (make_result([0.0] * 9 + [1.0], suite=suite, kind=kind),
                       make_result([1.0] * 10, suite=suite, kind=kind)))
    return verdict_metrics({suite: base}, {suite: tuned}, compare({suite: base}, {suite: tuned}, GateSection()))


@pytest.mark.parametrize(("kind", "metrics", "group"), [
    ("alignment", {"refused": 0.0}, "safety"), ("alignment", {"form": 1.0}, "format"), ("capability", {}, "score")])
def test_a_suite_is_in_the_group_of_its_kind(
        make_result: Callable[..., SuiteResult], kind: str, metrics: dict[str, float], group: str) -> None:
    found = told("s", make_result, kind, **metrics)
    difference = "win" if kind == "alignment" else "tax"
    assert {name.partition("/")[0] for name in found} == {group, difference}
    assert (found[f"{group}/s.base"], found[f"{group}/s.tuned"]) == (0.1, 1.0)
    assert abs(found[f"{difference}/s"] or 0.0) == pytest.approx(90.0)


def test_every_name_is_described(make_result: Callable[..., SuiteResult]) -> None:
    patterns = [re.sub("GROUP|SUITE|READING", r"[^/]+", one.replace(".", r"\.")) for kind in METRICS
                for one in kind.pattern.split(", ")]
    for name in told("s", make_result, "alignment", form=1.0, partial=0.5):
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_differences_are_found_again_by_suite(make_result: Callable[..., SuiteResult]) -> None:
    found = told("s", make_result, "alignment") | told("mmlu@chat", make_result, "alignment")
    kept = {name: value for name, value in found.items() if value is not None}
    suites = differences("win", kept)
    assert len(suites) == 2
    assert suites["s"] == pytest.approx(90.0)
    assert differences("win", {"win/a.low": 3.0}) == {"a.low": 3.0}  # a suite of that name
    assert differences("tax", kept) == {}
