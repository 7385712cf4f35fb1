"""`sft eval --device --precision`: what a configuration says in `model`, and what no other precision may pass for."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from eval_suites.results import read_results
from eval_suites.verdict.verdict import compare
from flows.cli_evaluation import compare as compare_command
from flows.cli_evaluation import evaluate as evaluate_command
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection, GateSection
from sft_core.errors import ConfigError, EvalError
from sft_core.tiny.paths import BASE_FOLDER
from tasks.evaluate import evaluate, folder_subject, named
from tasks.stages import Workspace

SUITE = "lm:tiny_mmlu_art"


def test_the_command_computes_where_and_in_what_it_is_told(home: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFT_HOME", str(home))
    for precision in ("bfloat16", "float32"):
        evaluate_command("tiny", [SUITE], limit=["2"], device="cpu", precision=precision, out=tmp_path / precision)
        made = read_results(tmp_path / precision, SUITE)
        assert made.protocol["dtype"] == precision
        assert made.backend.endswith(f"cpu, {precision}")
    with pytest.raises(EvalError, match="protocols differ in dtype: bfloat16 against float32"):
        compare({SUITE: read_results(tmp_path / "bfloat16", SUITE)}, {SUITE: read_results(tmp_path / "float32", SUITE)},
                GateSection())
    with pytest.raises(ConfigError, match=r"model.device \(--device\): cuda needs CUDA, and torch"):
        evaluate_command("tiny", [SUITE], device="cuda")


def test_a_run_and_a_command_say_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a run measured in its model section's precision, the command finds under the same option, and only then."""
    caplog.set_level("INFO", logger="sft")
    place, section = Workspace(tmp_path / "home", None), EvalSection(suites=(SUITE,), limit=2)
    like = ModelSection(path="tiny", device="cpu", precision="bfloat16")
    ran = evaluate.fn(folder_subject("tuned", BASE_FOLDER, like), section, place)
    asked = {one: named(like.model_copy(update={"precision": one}), "auto", section, place, Mock())
             for one in ("bfloat16", "float32")}
    caplog.clear()
    again = evaluate.fn(asked["bfloat16"], section, place)
    assert "evaluation of tiny found" in caplog.text
    assert again[SUITE].protocol_hash == ran[SUITE].protocol_hash
    other = evaluate.fn(asked["float32"], section, place)
    assert other[SUITE].protocol_hash != ran[SUITE].protocol_hash


def test_recorded_results_have_their_precision() -> None:
    with pytest.raises(ConfigError, match="--precision .* are for an evaluation"):
        compare_command("one", "two", precision="bfloat16")


def test_a_server_decides_for_itself() -> None:
    with pytest.raises(ConfigError, match="a server decides"):
        evaluate_command("http://127.0.0.1:1/v1#m", ["refusal"], precision="bfloat16")
