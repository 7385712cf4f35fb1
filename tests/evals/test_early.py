"""A model under way is hopeless where that is proved of what it costs, or against another; not for what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from bench.rungs import Replay, Seen, Tally, Whole
from eval_suites.front.early import hopeless
from eval_suites.front.points import Objectives, Point, Terms
from eval_suites.results import SuiteResult
from sft_core.config.constraints import constraint

Make = Callable[..., SuiteResult]
WHAT = Objectives(("format",), ("facts",))
LOW, HALF, HIGH = [0.0] * 1000, [0.0, 1.0] * 500, [1.0] * 1000


@pytest.fixture
def point(make_result: Make) -> Callable[..., Point]:
    def make(name: str, form: Sequence[float | None], facts: Sequence[float | None]) -> Point:
        found = {suite: replace(make_result(row, suite=suite), kind=kind) for suite, row, kind in (
            ("format", form, "alignment"), ("facts", facts, "capability"))}
        return Point(name, ({suite: replace(result, items=tuple(
            item._replace(asked=f"{suite} {item.asked}") for item in result.items))
            for suite, result in found.items()},))

    return make


@pytest.mark.parametrize(("facts", "limit", "said"), [
    (HALF, "tax <= 2", "proved beyond tax <= 2"), (HALF, "tax.facts <= 60", ""), (HALF, "score.facts >= 0.8", "proved"),
    (HALF, "score.facts >= 0.45", ""), (HIGH, "alignment >= 50", ""), (HIGH, "score.format >= 0.8", ""),
    (HIGH, "win.format >= 5", ""), (HALF, "tax >= 70", "")])
def test_only_a_limit_on_what_training_costs_is_proved_broken_before_the_end(
        facts: list[float], limit: str, said: str, point: Callable[..., Point]) -> None:
    base, mine = point("base", LOW, HIGH), point("mine", LOW, facts)
    found = hopeless(mine, [], base, WHAT, [constraint(limit)], Terms(0.01))
    assert found.startswith(said) if said else not found


def test_a_point_is_hopeless_where_another_is_proved_to_dominate_it(point: Callable[..., Point]) -> None:
    base, mine = point("base", LOW, HIGH), point("mine", HALF, HIGH)
    lossy = point("lossy", [1.0, None] * 150 + [1.0, 0.0] * 350, [None] * 100 + [0.0] * 250 + HIGH[350:])
    assert hopeless(mine, [lossy], base, Objectives(("format",), ("format",)), [], Terms(0.01)) == ""
    assert hopeless(lossy, [], base, WHAT, [constraint("score.facts >= 0.77")], Terms(0.01)) == ""
    better, dearer = point("trial 3", HIGH, HIGH), point("trial 4", HIGH, HALF)
    assert hopeless(mine, [dearer, better], base, WHAT, [], Terms(0.01)) == "proved dominated by trial 3"
    assert hopeless(mine, [dearer, mine], base, WHAT, [], Terms(0.01)) == ""
    assert hopeless(mine, [better], base, WHAT, [], Terms(1e-30)) == ""


def test_a_replay_counts_what_is_paid_for_and_who_is_lost(point: Callable[..., Point]) -> None:
    """The fifth trial falls behind and catches up; the sixth does not."""
    good, behind = point("good", HIGH, HIGH), point("behind", HALF, HIGH)
    trials = [*[Seen((good,), good)] * 4, Seen((behind,), good), Seen((behind,), behind)]
    study = Replay(Whole(tuple(trials), point("base", LOW, HIGH), WHAT, ((0.25, 0.5),)))
    found = study.tally(0.05, 5.0, (0,))
    assert found == Tally(trained=4.5, evaluated=4 + 6 * 0.5, looks=6, false=1, front=5, ended=2, trials=6)
    assert found.plain()["false_stops_pct"] == 20.0


def test_a_replay_under_a_limit_ends_who_is_beyond_it_and_counts_only_who_keeps_it(point: Callable[..., Point]) -> None:
    """The fifth trial is beyond it at the look and at the end, the sixth only at the look."""
    good, dear = point("good", HALF, HIGH), point("dear", HIGH, HALF)
    trials = [*[Seen((good,), good)] * 4, Seen((dear,), dear), Seen((dear,), good)]
    whole = Whole(tuple(trials), point("base", LOW, HIGH), WHAT, ((0.25, 0.5),))
    assert Replay(whole).tally(0.05, 1.0, (0,))[3:] == (0, 6, 0, 6)
    assert Replay(whole, constraint("tax <= 5")).tally(0.05, 1.0, (0,))[3:] == (1, 5, 2, 6)
