"""What libraries log of a flow, and who need not read it."""

import logging
import signal

import pytest

from flows.logs import tame
from infra.settings import use_prefect
from sft_core.stopping import stop_on_signals


@pytest.fixture
def flow_runs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """Prefect's logger of flow runs, heard by the test."""
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    tame()
    logger = logging.getLogger("prefect.flow_runs")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "disabled", False)
    return logger


def test_nobody_is_sent_to_a_server_that_ends_with_the_command(flow_runs: logging.Logger,
                                                               caplog: pytest.LogCaptureFixture,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("SFT_TEMPORARY_PREFECT", "")
    flow_runs.warning("View at http://127.0.0.1:4200/runs/1")
    use_prefect("http://127.0.0.1:5000/api")
    flow_runs.warning("View at http://127.0.0.1:5000/runs/2")
    assert caplog.messages == ["View at http://127.0.0.1:4200/runs/1"]


def test_ctrl_c_is_no_crash(flow_runs: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    crash = "Crash detected! Execution was interrupted by an unexpected exception: KeyboardInterrupt"
    with stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        flow_runs.error(crash)
    assert caplog.messages == []
    flow_runs.error(crash)
    assert caplog.messages == [crash]
