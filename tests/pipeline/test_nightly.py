"""Promotion and the nightly: the champion is re-evaluated; a proved regression fails with its reason."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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
