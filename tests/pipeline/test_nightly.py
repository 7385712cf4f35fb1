"""Promotion and the nightly: the champion is re-evaluated; a proved regression fails with its reason."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval_suites.results import ItemResult, SuiteResult
from flows import nightly
from sft_core.errors import EvalError, RegressionFound
from tasks.stages import Workspace

Sft = Callable[..., subprocess.CompletedProcess[str]]


def test_nightly_passes_and_fails_on_a_proved_regression(sft: Sft, config: Path, home: Path) -> None:
    missing = sft("nightly")
    assert missing.returncode == 1
    assert "make one with `sft promote RUN --name sft`" in missing.stderr

    assert sft("run", config, "--set", "eval.limit=20", "--set", "train.epochs=0.2", "--set",
               "tracking.registered_model=guarded").returncode == 0
    (run,) = home.glob("runs/*")
    promoted = sft("promote", run.name)
    assert promoted.returncode == 0, promoted.stderr[-2000:]
    assert "of guarded, alias champion" in promoted.stdout  # the model that its candidates are versions of

    same = sft("nightly", "--name", "guarded")
    assert same.returncode == 0, same.stderr[-3000:]
    assert "no proved regression" in same.stdout

    # Make the stored results better than what the model can do: every item was right once.
    file = run / "evaluation" / "tuned" / "tiny_refusal.parquet"
    table = pq.read_table(file)
    perfect = pa.array([1.0] * len(table))
    pq.write_table(table.set_column(table.schema.get_field_index("score"), "score", perfect), file)
    nightly = sft("nightly", "--name", "guarded", "--margin", "5")
    scores = json.loads((run / "verdict.json").read_text())["suites"]
    assert nightly.returncode == 1, scores
    assert "RegressionFound" in nightly.stderr
    assert "tiny_refusal lost" in nightly.stderr


def night(scores: list[float | None], stored: list[float | None], monkeypatch: pytest.MonkeyPatch, place: Path) -> Any:
    """A night that ends with these scores, and the tracker that was told."""
    def result(values: list[float | None]) -> dict[str, SuiteResult]:
        return {"facts": SuiteResult("facts", "capability", {"v": 1}, tuple(
            ItemResult("facts", "q", str(i), str(i), value, {}, "", "", "", "no answer: ConnectError", "")
            for i, value in enumerate(values)), 0.0)}

    tracker = MagicMock()
    for name in ("find", "mirrored", "check_needs", "evaluation_lacks", "folder_subject", "orchestrator"):
        monkeypatch.setattr(nightly, name, MagicMock())
    monkeypatch.setattr(nightly, "evaluate", lambda *_, **__: result(scores))
    nightly.find.return_value.results.return_value = result(stored)
    monkeypatch.setattr(nightly, "reach_verdict", nightly.reach_verdict.fn)
    return tracker, lambda: nightly._compared(nightly.Champion("sft", "champion"), 5.0, Workspace(place, None), tracker)


def test_a_night_that_measures_nothing_is_no_regression_and_no_pass(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It compared the twelve items that were answered, or said that no item was scored, and passed."""
    tracker, run = night([0.0] * 12 + [None] * 52, [1.0] * 64, monkeypatch, tmp_path)
    with pytest.raises(EvalError, match="no proved regression, but facts not measured: 12 of 64 items have a score on "
                                        "both sides.*52 items of tuned without a score, most often.*ConnectError"
                       ) as caught:
        run()
    assert not isinstance(caught.value, RegressionFound)
    assert tracker.finish.call_args.args[1] == "FAILED"
    assert tracker.log_metrics.call_args.args[1] == {"facts/score": None, "facts/scored": 12, "facts/asked": 64}
    assert tracker.start_run.call_args.args[4]["sft.regressions"] == "none"


def test_a_suite_that_was_never_measured_fails_no_night(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Answers that wait for a judge."""
    _, run = night([None] * 8, [None] * 8, monkeypatch, tmp_path)
    assert run()["rows"][0]["outcome"].startswith("not measured")
