"""The Alpaca configuration on real rows and the genuine MMLU and GSM8K of lm-eval, with a small random Llama."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.random_llama import build

Sft = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
ROWS = SHARED / "alpaca_subset" / "random_9k.json"

pytestmark = pytest.mark.skipif(
    not (ROWS.is_file() and (SHARED / "hub" / "cais" / "mmlu").is_dir()),
    reason="needs ../shared/data with alpaca_subset and hub, which are not part of the project",
)


def test_alpaca_rows_lora_and_genuine_tasks(sft: Sft, tmp_path: Path, home: Path) -> None:
    sample = tmp_path / "rows.json"
    sample.write_text(json.dumps(json.loads(ROWS.read_text(encoding="utf-8"))[:120]))
    build(tmp_path / "llama", [sample], vocab=1000, hidden=64, layers=2)
    changes = {
        "model.path": tmp_path / "llama", "data.sources": f"[{{path: {sample}, format: alpaca}}]",
        "data.max_tokens": 512, "train.rows_per_step": 4, "train.micro_rows": 2, "eval.limit": 1,
        "eval.max_new_tokens": 2, "train.optim.lr": 1e-3,
    }
    sets = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    done = sft("run", ROOT / "flows" / "configs" / "alpaca.yaml", *sets, SFT_MIRROR=str(SHARED / "hub"))
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = home.glob("runs/*")
    suites = {row["suite"]: row for row in json.loads((run / "verdict.json").read_text())["suites"]}
    assert suites["mmlu"]["pairs"] == 57  # one item of each genuine subject
    assert suites["gsm8k"]["pairs"] == 1
    assert {"format", "refusal"} <= set(suites)
    assert suites["mmlu"]["outcome"] == "undecided"  # one item a subject proves nothing, and the verdict says so
    (ledger,) = json.loads((run / "ledger.json").read_text())["sources"]
    assert ledger["read"] == 120
    assert ledger["kept"] + sum(ledger["rejected"].values()) == 120
    assert 0.2 < ledger["trained_share"] < 0.95
