"""What is told of a long stage: how much of the whole is done, also when a part of it was done before."""

import logging

import pytest

from sft_core import progress as room
from sft_core.progress import progress


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(room, "LINE_EVERY_S", 0.0)
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
