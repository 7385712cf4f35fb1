"""A night against the stored results: the model's own loss told from the environment's, and how seldom a year errs."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from bench.nights import power, year
from eval_suites.results import SuiteResult
from eval_suites.verdict.night import FALSE_ALARMS, NIGHTS, SuiteNight, incomparable, level, weigh
from sft_core.config.evaluate import GateSection

Scores = Sequence[float | None]
Make = Callable[..., SuiteResult]
GATE = GateSection(alpha=level(1, 0), max_tax=2.0, max_false_refusals=2.0)
RIGHT = [1.0] * 200


def lost(items: int, first: int = 0) -> list[float | None]:
    """So many of 200 right answers are wrong now."""
    return [0.0 if first <= at < first + items else 1.0 for at in range(200)]


@pytest.fixture
def weighed(make_result: Make) -> Callable[..., SuiteNight]:
    """One suite on one night; everything was right when it was stored."""

    def weigh_it(tuned: Scores, base: Scores | None, *, elsewhere: bool = False) -> SuiteNight:
        stored, base_tonight = {"facts": make_result(RIGHT)}, {} if base is None else {"facts": make_result(base)}
        found, = weigh(stored, {"facts": make_result(tuned)}, (stored, base_tonight), GATE, elsewhere=elsewhere)
        return found

    return weigh_it


@pytest.mark.parametrize(("tuned", "base", "state"), [
    (lost(0), lost(0), "quiet"), (lost(3), lost(0), "quiet"),  # three of 200 are no proof
    (lost(30), lost(0), "regression"), (lost(30), lost(2, first=100), "regression"),  # the base moved by its noise
    (lost(30), lost(30), "drift"), (lost(30), lost(30, first=100), "drift"),  # both fell, on the same items or others
    (lost(0), lost(30), "drift"), (lost(60), lost(20), "regression"),  # beyond what the base lost
    ([None] * 100 + RIGHT[:100], lost(0), "not_measured"),
    (lost(30), None, "regression"),
])
def test_who_moved(weighed: Callable[..., SuiteNight], tuned: Scores, base: Scores | None, state: str) -> None:
    found = weighed(tuned, base)
    assert found.state == state
    assert bool(found.said) == (state != "quiet")


def test_the_sentence_says_by_how_much(weighed: Callable[..., SuiteNight]) -> None:
    both = weighed(lost(60), lost(20))
    assert both.own is not None
    assert both.own.points == pytest.approx(20.0)
    assert both.own.low < 20.0 < both.own.high
    assert "facts lost 30.0 points" in both.said
    assert "over 200 items, the base 10.0: the model's own part is 20.0" in both.said
    assert (both.flip_rate, both.coverage) == (0.3, 1.0)
    alone = weighed(lost(30), None, elsewhere=True)
    assert alone.state == "drift", "without a canary, other libraries are taken for the cause"
    assert "the base was not measured, so the environment may have done it" in alone.said
    assert not both.recovered(2.0)
    assert weighed(lost(3), lost(0)).recovered(2.0)


def some(right: int, first: int = 0) -> list[float | None]:
    """So many of 200 answers are right."""
    return [1.0 if first <= at < first + right else 0.0 for at in range(200)]


ZERO = some(0)


@pytest.mark.parametrize(("stored", "tonight", "elsewhere", "state"), [
    ((some(140), some(55)), (ZERO, ZERO), False, "drift"),  # a scorer that gives 0 for everything
    ((some(140), some(8)), (ZERO, ZERO), False, "drift"),  # whatever little the base had is gone, too
    ((some(140), some(55)), (ZERO, some(55)), False, "regression"),  # the model alone is broken
    ((some(140), some(55)), (ZERO, some(55)), True, "regression"),  # and other libraries are no excuse for it
    ((some(140), some(55)), (some(20), some(47)), False, "regression"),  # both: far more than the base's share
    ((some(140), some(55)), (some(112), some(44)), False, "drift"),  # a fifth of each
    ((some(195), ZERO), (ZERO, ZERO), False, "regression"),  # no canary, and nothing known that could have done it
    ((some(195), ZERO), (ZERO, ZERO), True, "drift"),
    ((some(195), some(2)), (some(165), some(2)), True, "drift"),  # two right answers that stay prove nothing
    ((some(195), some(2)), (some(165), some(2)), False, "regression"),
    ((some(160), some(54)), (some(50), some(48, first=40)), True, "drift"),  # of four choices: guesses are what is left
])
def test_a_base_near_its_floor_cannot_lose_as_much(make_result: Make, stored: tuple[Scores, Scores],
                                                   tonight: tuple[Scores, Scores], elsewhere: bool, state: str) -> None:
    was, now = ([{"facts": make_result(scores)} for scores in side] for side in (stored, tonight))
    found, = weigh(was[0], now[0], (was[1], now[1]), GATE, elsewhere=elsewhere)
    assert found.state == state
    told = found.kept is not None and not found.kept.apart
    assert told == ("the environment may have done it" in found.said)


def test_a_base_that_fell_on_another_suite_tells_of_this_one(make_result: Make) -> None:
    stored = {"facts": make_result(some(195), "facts"), "b": make_result(some(140), "b")}
    base = {"facts": make_result(ZERO, "facts"), "b": make_result(some(140), "b")}
    gone = {"facts": make_result(ZERO, "facts"), "b": make_result(ZERO, "b")}
    assert [one.state for one in weigh(stored, gone, (base, gone), GATE)] == ["drift", "drift"]
    assert [one.state for one in weigh(stored, gone, (base, base), GATE)] == ["regression", "regression"]
    del base["facts"]
    assert [one.state for one in weigh(stored, gone, (base, gone), GATE)] == ["drift", "drift"]


def test_a_base_that_fell_a_little_on_every_suite_tells_of_each(make_result: Make) -> None:
    """Three of 20 right answers are no proof, 15 of 100 are; the model lost as large a share."""
    stored, tonight, base, fell = ({name: make_result(some(right), name) for name in "abcde"}
                                   for right in (140, 110, 20, 17))
    for now, state in ((fell, "drift"), (base, "regression")):
        assert {one.state for one in weigh(stored, tonight, (base, now), GATE)} == {state}


def test_false_refusals_of_a_base_that_refuses_most_cannot_rise_as_much(make_result: Make) -> None:
    """Whatever refuses everything raises the model's from 0 and the base's from 90 %."""

    def asked(refused: int) -> dict[str, SuiteResult]:
        result = make_result([float(at >= refused) for at in range(200)])
        return {"facts": replace(result, items=tuple(
            item._replace(target='{"refuse": false}', metrics={"refused": float(at < refused)})
            for at, item in enumerate(result.items)))}

    gate = GATE.model_copy(update={"max_tax": 100.0})
    for base, state in ((200, "drift"), (180, "regression")):
        found, = weigh(asked(0), asked(200), (asked(180), asked(base)), gate)
        assert found.state == state
    for elsewhere in (True, False):
        found, = weigh(asked(0), asked(200), (asked(200), asked(200)), gate, elsewhere=elsewhere)
        assert found.state == ("drift" if elsewhere else "regression")


def test_alignment_suites_may_fall_by_the_margin_too(make_result: Make) -> None:
    """A verdict claims any proved fall of a win; a night only one beyond its margin."""
    stored = {"facts": make_result(RIGHT, kind="alignment")}
    gate = GATE.model_copy(update={"max_tax": 30.0})
    for allowed, state in ((gate, "quiet"), (GATE, "regression")):
        found, = weigh(stored, {"facts": make_result(lost(30), kind="alignment")}, (stored, stored), allowed)
        assert found.state == state


def test_another_protocol_is_named_and_spoils_no_other_suite(make_result: Make) -> None:
    stored = {"a": make_result(RIGHT, "a"), "b": make_result(RIGHT, "b"), "a:graded": make_result(RIGHT, "a:graded")}
    tonight = {"a": make_result(RIGHT, "a", protocol={"engine": "transformers 9"}), "b": make_result(RIGHT, "b")}
    assert [one.suite for one in weigh(stored, tonight, ({}, {}), GATE)] == ["b"]
    assert "their protocols differ in engine" in incomparable(stored, tonight)["a"]


def test_a_year_of_nights_keeps_to_its_number() -> None:
    """The chance of all claims of a night, each at half its level, times the nights."""
    for models, refusing in ((1, 0), (3, 2)):
        assert NIGHTS * models * (1 + refusing) * level(models, refusing) / 2 == pytest.approx(FALSE_ALARMS)


def test_noise_wakes_nobody_and_a_loss_does_at_once() -> None:
    """A little of `python -m bench.nights`: suites of 128 to 570 items, 9 % of them shaky."""
    noise = year(np.random.default_rng(5), 0.09, 60)
    assert (noise.alarms, noise.named) == (0, 0)
    assert noise.before > 0, "at 5 % a night it did"
    assert power(2, 1000, 0.0) == {"night 1": 1.0, "night 3": 1.0, "night 7": 1.0}
