"""What is told of a long stage: how much of the whole is done, also when a part of it was done before."""

import logging

import pytest

from sft_core import progress as room
from sft_core.progress import progress
from sft_core.train.step import Losses


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(room, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(room, "LONGEST_SILENCE_S", 0.0)
    monkeypatch.setattr(logging.getLogger("sft"), "propagate", True)
    caplog.set_level(logging.INFO, "sft")
    return caplog


def test_a_stage_that_goes_on_counts_what_was_done_before(told: pytest.LogCaptureFixture) -> None:
    with progress("training", 380, "steps", begun=43) as bar:
        bar.advance(2, loss=0.5)
    first, line = told.messages
    assert first == "training: continuing after 43 of 380 steps"
    assert line.startswith("training: 45 of 380 steps, ")
    assert line.endswith("loss 0.5")


def test_a_stage_that_begins_says_nothing_of_going_on(told: pytest.LogCaptureFixture) -> None:
    with progress("training", 380, "steps") as bar:
        bar.advance()
    assert [line.split(",")[0] for line in told.messages] == ["training: 1 of 380 steps"]


def test_the_time_left_is_not_that_of_the_first_step(told: pytest.LogCaptureFixture,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step compiles, fills caches and starts threads: ten times the others."""
    now = [100.0]
    monkeypatch.setattr("sft_core.progress.time.monotonic", lambda: now[0])
    with progress("training", 12, "steps") as bar:
        for seconds in (30.0, 3.0, 3.0):
            now[0] += seconds
            bar.advance()
    first, second, third = told.messages
    assert first == "training: 1 of 12 steps, the first one, which says nothing of the others"
    assert second.startswith("training: 2 of 12 steps, 0.3 steps/s, about 30 s left")
    assert third.startswith("training: 3 of 12 steps, 0.3 steps/s, about 27 s left")


def test_the_time_left_follows_the_pace_of_the_last_minute(told: pytest.LogCaptureFixture,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("sft_core.progress.time.monotonic", lambda: now[0])
    with progress("training", 200, "steps") as bar:
        for seconds in [10.0] * 20 + [1.0] * 80:
            now[0] += seconds
            bar.advance()
    assert "1.0 steps/s, about 100 s left" in told.messages[-1]


def test_a_long_stage_is_told_of_often_at_first_and_then_seldom(told: pytest.LogCaptureFixture,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of a line each ten seconds would be 8,640 lines on Prefect's page."""
    now = [100.0]
    monkeypatch.setattr(room, "LINE_EVERY_S", 10.0)
    monkeypatch.setattr(room, "LONGEST_SILENCE_S", 120.0)
    monkeypatch.setattr("sft_core.progress.time.monotonic", lambda: now[0])
    with progress("training", 86_400, "steps") as bar:
        for _ in range(86_400):
            now[0] += 1.0
            bar.advance()
    assert [float(line.split()[1]) for line in told.messages[:4]] == [10, 20, 30, 40]
    assert 86_400 / 120 <= len(told.messages) < 800


def test_the_log_has_the_lines_also_beside_a_bar(told: pytest.LogCaptureFixture,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("training", 3, "steps") as bar:
        bar.advance(1, **Losses(1.5, 1.0, 0.5, None).told(), **{"tokens/s": 1234.0})
        bar.advance(1, **Losses(1.0, 1.0, None, None).told())
    first, second = told.records
    assert first.getMessage().endswith("loss 1.5 sft 1 replay 0.5 tokens/s 1234")
    assert second.getMessage().endswith("loss 1")
    assert first.name == "sft.progress", "the terminal leaves it out: it has the bar"
