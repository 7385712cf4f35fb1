"""Limits of a search: what their texts say, what is no limit, and how far beyond one a run is."""

import math
from pathlib import Path

import pytest
import yaml

from sft_core.config.constraints import constraint
from sft_core.config.file import load
from sft_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SUITES = {"mmlu": {"tuned": 0.5, "tax": 1.5}, "format": {"tuned": 0.75, "win": 20.0},
          "dark": {"tuned": math.nan, "tax": None}}
FOUND = {"alignment": 40.0, "tax": 3.0}


@pytest.mark.parametrize(("text", "excess"), [
    ("tax.mmlu <= 1.0", 0.5), ("tax.mmlu≤2", -0.5), ("score.format >= 0.8", 5.0), ("win.format ≥ 25", 5.0),
    ("tax <= 2", 1.0), ("alignment >= 50", 10.0), ("alignment >= 40", 0.0), ("tax.dark <= 1", None),
    ("score.dark >= 0.5", None),
    ("tax.format <= 1", None),
])
def test_how_far_beyond_a_limit_a_run_is(text: str, excess: float | None) -> None:
    found = constraint(text).excess(SUITES, FOUND)
    assert found == (None if excess is None else pytest.approx(excess, abs=1e-12))


@pytest.mark.parametrize("text", ["", "tax", "tax.mmlu < 1", "tax <= nan", "tax <= much", "score >= 0.8", "win >= 1",
                                  "alignment.mmlu >= 1", "speed <= 2"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no limit; write tax\.SUITE"):
        constraint(text)


@pytest.mark.parametrize(("limits", "said"), [
    (["tax.tiny_mmul <= 1"], r"search.constraints names \['tiny_mmul'\] \(did you mean tiny_mmlu\?\)"),
    (["tax <= 2", "tax ≤ 2.0"], "names a limit twice"),
    (["tax = 2"], "is no limit"),
    (["score.tiny_format >= 80"], r"'score.tiny_format >= 80': a score is a share from 0 to 1; did you mean 0.8\?"),
    (["score.tiny_format <= -1"], "share from 0 to 1"),
    (["tax <= 1", "score.tiny_format >= 0.8", "tax >= 2"], "tax <= 1 and tax >= 2 exclude each other; take one out"),
])
def test_limits_of_a_file(tmp_path: Path, limits: list[str], said: str) -> None:
    data = yaml.safe_load((ROOT / "flows/configs/sweep.yaml").read_text(encoding="utf-8"))
    data["search"]["constraints"] = limits
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        load(file)
    assert str(caught.value).count("search.constraints") == 1
