"""Three calls of a notebook: what they give, kept for the next call, without any server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows.steps import Data, evaluate, prepare, train
from sft_core.errors import ConfigError
from tests.pipeline.conftest import SMALL


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # nobody is there, and nobody is asked
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return file


def test_three_calls_come_to_a_verdict_and_are_kept(configured: Path, tmp_path: Path) -> None:
    data = prepare(configured, {"train.epochs": 0.5})
    assert data.config.train.epochs == 0.5
    assert {row["use"] for row in data.ledger} == {"train", "replay"}
    told: list[Path] = []
    model = train(data, told.append)
    assert (model.folder / "model.safetensors").exists()
    assert json.loads(told[-1].read_text().splitlines()[-1])["event"] == "end"
    result = evaluate(model)
    assert [one.suite for one in result.verdict.suites] == list(data.config.eval.suites)
    assert result.rows[0]["suite"] == data.config.eval.suites[0]
    shown = result._repr_html_()
    assert f"<b>Gate: {result.verdict.gate}.</b>" in shown
    assert "<td" in shown
    assert "Wins and tax" in result.write_page(tmp_path / "page.html").read_text("utf-8")
    again = prepare(configured, {"train.epochs": 0.5})
    assert (again.done.reused, train(again).done.reused) == (True, True)
    assert evaluate(train(again)).verdict == result.verdict


def test_what_is_wrong_is_said_before_anything_begins(configured: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        prepare(configured, {"train.epochs": -1})
    with pytest.raises(ConfigError):
        prepare("nosuch")
    assert Data._fields == ("config", "place", "done")
