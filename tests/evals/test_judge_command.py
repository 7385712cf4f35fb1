"""`sft judge` and `sft human` on folders of results, with a fake judge behind real HTTP on loopback."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval_suites.results import ItemResult, SuiteResult, write_results
from flows.cli import app

spec = importlib.util.spec_from_file_location("fake_server", Path(__file__).with_name("fake_server.py"))
fake_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake_server)


def folder(at: Path, text: str) -> str:
    items = tuple(ItemResult("open_ended", "t", f"i{n}", f"i{n}", None, {"answered": 1.0}, "q",
                             json.dumps([f"{text} {n}", "more"]), json.dumps({"questions": ["q", "r"]}), "", f"a{n}")
                  for n in range(6))
    write_results(at, SuiteResult("open_ended", "alignment", {"v": 1}, items, 1.0))
    return str(at)


def test_judge_and_human(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MY_KEY", "sk-mine")
    a, b, shell = folder(tmp_path / "a", "bad"), folder(tmp_path / "b", "good"), CliRunner()

    def say(body: dict, n: int) -> str:
        first, second = re.findall(r"<assistant_[ab]_turn_1>\n(\w*)", body["messages"][0]["content"])
        return "[[A]]" if first == "good" else "[[B]]" if second == "good" else "[[C]]"

    with fake_server.serve(say) as (url, seen):
        command = ["judge", a, b, "--endpoint", url, "--model", "fake", "--key-env", "MY_KEY", "--price-in", "1",
                   "--out", str(tmp_path / "out")]
        ran = shell.invoke(app, command)
        assert ran.exit_code == 0, ran.output
        asked = len(seen)
        assert shell.invoke(app, command).exit_code == 0
        assert len(seen) == asked, "kept answers are not asked again"
        assert seen[0]["key"] == "Bearer sk-mine"
    found = json.loads((tmp_path / "out" / "judge.json").read_text())
    assert found["win_rates"][0]["wins"] == 6
    assert found["usage"]["kept"] == asked
    assert found["agreement"]["pairs"] == 22
    assert "sk-mine" not in ran.output + (tmp_path / "out" / "judge.json").read_text()

    assert shell.invoke(app, ["human", "export", a, b, "--out", str(tmp_path / "sheets")]).exit_code == 0
    assert (tmp_path / "sheets" / "open_ended.html").exists()
    sheet = tmp_path / "sheets" / "open_ended.csv"
    rows = list(csv.DictReader(sheet.open()))
    with sheet.open("w") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": "A" if "good" in row["answer_a"] else "B"} for row in rows)
    ran = shell.invoke(app, ["human", "import", a, b, str(sheet)])
    assert ran.exit_code == 0, ran.output
    assert "100.0 %" in ran.output


def test_a_judge_that_cannot_be_used_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    a = folder(tmp_path / "a", "x")
    ran = CliRunner().invoke(app, ["judge", a, a, "--endpoint", "http://127.0.0.1:1/v1", "--model", "m", "--mode", "x"])
    assert ran.exit_code == 2
