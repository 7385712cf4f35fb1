"""`sft judge` and `sft human` on folders of results, with a fake judge behind real HTTP on loopback."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eval_suites.judge.talk import OPEN_ENDED
from eval_suites.results import ItemResult, SuiteResult, write_results
from flows import console, judging
from infra.servers import free_port
from sft_core.config.evaluate import EndpointSection, JudgeSection
from sft_core.errors import EvalError
from tasks.judge import export_sheets, judge_all, judged
from tasks.stages import Workspace
from tasks.verdict import listed

spec = importlib.util.spec_from_file_location("fake_server", Path(__file__).with_name("fake_server.py"))
fake_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake_server)


def sft(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own: it sets up environment, log and signals of its process."""
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=root, capture_output=True, text=True,
                          env=os.environ | {"SFT_HOME": str(home), "MY_KEY": "sk-mine"}, timeout=120)


def results(text: str) -> SuiteResult:
    items = tuple(ItemResult("open_ended", "t", f"i{n}", f"i{n}", None, {"answered": 1.0}, "q",
                             json.dumps([f"{text} {n}", "more"]), json.dumps({"questions": ["q", "r"]}), "", f"a{n}")
                  for n in range(6))
    return SuiteResult("open_ended", "alignment", {"suite": {"scorer": OPEN_ENDED}}, items, 1.0)


def folder(at: Path, text: str) -> str:
    write_results(at, results(text))
    return str(at)


def better(body: dict, n: int) -> str:
    first, second = re.findall(r"<assistant_[ab]_turn_1>\n(\w*)", body["messages"][0]["content"])
    return "[[A]]" if first == "good" else "[[B]]" if second == "good" else "[[C]]"


def test_a_run_keeps_what_its_judge_agrees_with_and_costs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base, tuned = {"open_ended": results("bad")}, {"open_ended": results("good")}
    with fake_server.serve(better) as (url, _), caplog.at_level("INFO", "sft"):
        section = JudgeSection(endpoint=EndpointSection(url=url, model="fake", price_in=1.0))
        before, after = judged(base, tuned, section, Workspace(tmp_path, None), tmp_path / "run" / "evaluation")
    assert listed(base)[0]["score"] == "waits for a judge", "it said not measured, with exit code 0"
    assert list(before) == list(after) == ["open_ended", "open_ended:pairwise"]
    kept = json.loads((tmp_path / "run" / "evaluation" / "judge.json").read_text())
    assert kept["win_rates"][0]["wins"] == 6
    assert kept["agreement"]["pairs"] == 22
    assert kept["usage"]["cost"] > 0
    assert kept["agreement"]["doubt"] in caplog.text
    assert "its rates say nothing" in kept["agreement"]["doubt"], "it looks for a word that the gold set has not"
    said = r"win rate 100\.0 %.*agreement with the gold set  \d+ % \(\d+ to \d+\), κ .*22 of 22 pairs.*cost 0\.00"
    assert re.search(said, caplog.text, re.S)


def chat(content: str | None = None, **more: object) -> str:
    return json.dumps({"choices": [{"message": {"content": content}, **more}]})


@pytest.mark.parametrize(("failure", "why"), [
    ((400, {}, "no such route"), "HTTP 400: no such route"), ((429, {"Retry-After": "0"}, "slow"), "HTTP 429: slow"),
    ((500, {}, "oops"), "HTTP 500: oops"), ((200, {}, "{gar"), "no chat completion"), ((200, {}, ""), "no chat"),
    ((200, {}, "<html>gateway</html>"), "<html>gateway"), ((200, {}, chat()), "neither words nor a finish_reason"),
    ((200, {}, chat("[[A]]", finish_reason="content_filter")), "withheld"), ("", "no verdict"),
    ((200, {"Content-Length": "900"}, "{"), "complete"), ("I cannot judge.", "no verdict"), (None, "ConnectError")])
@pytest.mark.parametrize("mode", ["pairwise", "single"])
def test_a_judge_that_fails_says_why_and_leaves_no_result(
    tmp_path: Path, failure: object, why: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was a dash and exit code 0."""
    base, tuned, place = {"open_ended": results("bad")}, {"open_ended": results("good")}, Workspace(tmp_path, None)
    with fake_server.serve(lambda body, n: failure) as (url, _):
        where = url if failure is not None else f"http://127.0.0.1:{free_port()}/v1"
        section = JudgeSection(mode=mode, endpoint=EndpointSection(url=where, model="fake", retries=0))
        found = judge_all(base, tuned, section, place)
        judged(base, tuned, section, place, tmp_path / "run")
    name = "open_ended:pairwise" if mode == "pairwise" else "open_ended:graded"
    assert len(found.failures()) == (2 if mode == "pairwise" else 3)
    whose = [name] if mode == "pairwise" else [f"{name} of base", f"{name} of tuned"]
    for said, who in zip(found.failures()[:-1], whose, strict=True):
        assert said.startswith(f"{who}: not measured: 0 of 6 items were judged, at least 80 % must be")
        assert re.search(r"most often \(6 times\): ", said)
        assert why in said
    assert "agreement with the gold set not measured: 0 of 22 pairs" in found.failures()[-1]
    assert not found.measured.base
    assert json.loads((tmp_path / "run" / "judge.json").read_text())["not_measured"] == found.failures()
    assert "0 of 6 items were judged" in caplog.text, "a run goes on and says it"


def test_judge_and_human(tmp_path: Path) -> None:
    home = tmp_path / "home"
    a, b = folder(tmp_path / "a", "bad"), folder(tmp_path / "b", "good")

    ill, answered = True, 0

    def say(body: dict, n: int) -> object:
        nonlocal answered
        if ill and n % 3:
            return (400, {}, "ill")
        answered += 1
        return better(body, n)

    with fake_server.serve(say) as (url, seen):
        command = ["judge", a, b, "--endpoint", url, "--model", "fake", "--key-env", "MY_KEY", "--price-in", "1",
                   "--out", str(tmp_path / "out")]
        failed = sft(home, *command)
        assert failed.returncode == 1
        assert "open_ended:pairwise: not measured: " in failed.stderr
        assert "HTTP 400: ill" in failed.stderr
        assert re.search(r"without\s+a\s+verdict\s+are\s+kept.*judge\.jsonl", failed.stderr, re.S)
        assert "not measured" in failed.stdout
        assert not list((tmp_path / "out").rglob("*"))
        ill, kept = False, answered
        ran = sft(home, *command)
        assert ran.returncode == 0, (ran.stdout + ran.stderr)
        assert answered == 56, "kept answers are not asked again"
    found = json.loads((tmp_path / "out" / "judge.json").read_text())
    assert found["win_rates"][0]["wins"] == 6
    assert found["usage"]["kept"] == kept > 0
    assert found["agreement"]["pairs"] == 22
    assert "sk-mine" not in (ran.stdout + ran.stderr) + (tmp_path / "out" / "judge.json").read_text()

    assert sft(home, "human", "export", a, b, "--out", str(tmp_path / "sheets")).returncode == 0
    assert (tmp_path / "sheets" / "open_ended.html").exists()
    sheet = tmp_path / "sheets" / "open_ended.csv"
    rows = list(csv.DictReader(sheet.open()))
    with sheet.open("w") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": "A" if "good" in row["answer_a"] else "B"} for row in rows)
    ran = sft(home, "human", "import", a, b, str(sheet))
    assert ran.returncode == 0, (ran.stdout + ran.stderr)
    assert "100.0 %" in (ran.stdout + ran.stderr)


def test_people_are_told_of_pairs_without_a_label_and_of_how_far_they_agree(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of six labels gave a win rate; of several sheets the last one's raters were told, without names."""
    monkeypatch.setattr(console.console, "width", 400)
    monkeypatch.setattr(judging, "workspace", lambda: Workspace(tmp_path, None))
    monkeypatch.setattr(judging, "look", lambda: None)
    a, b = folder(tmp_path / "a", "bad"), folder(tmp_path / "b", "good")
    judging.run_export(a, b, tmp_path / "sheets", 0)
    rows = list(csv.DictReader((tmp_path / "sheets" / "open_ended.csv").open()))

    def filled(name: str, labels: int) -> Path:
        with (tmp_path / name).open("w") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "label": "A" * (n < labels)} for n, row in enumerate(rows))
        return tmp_path / name

    judging.run_import(a, b, [filled("ann.csv", 6), filled("ben.csv", 4), filled("cy.csv", 2)], 0)
    shown = "".join(capsys.readouterr().out.split())
    assert "6of6" in shown
    assert all(one in shown for one in ("ann.csv", "ben.csv", "cy.csv", "4of4pairs"))
    with pytest.raises(EvalError, match=r"not measured.*open_ended:pairwise: 2 of 6 pairs have a label"):
        judging.run_import(a, b, [tmp_path / "cy.csv"], 0)
    assert "2of6" in "".join(capsys.readouterr().out.split())


def test_sheets_stay_in_their_folder_whatever_their_suite_is_called(tmp_path: Path) -> None:
    """Results may come from elsewhere; a suite that is open-ended is known by them, also where its file is not."""
    name, out = "../mine/open.yaml", tmp_path / "here" / "sheets"
    base, tuned = ({name: replace(results(text), suite=name)} for text in ("bad", "good"))
    sheets = export_sheets(base, tuned, out, 0)
    assert [(path.parent, path.suffix) for path in sheets] == [(out, ".csv"), (out, ".html")]
    assert all(path.name.startswith("mine-open.yaml-") for path in sheets)


def test_a_judge_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", "x")
    ran = sft(tmp_path / "home", "judge", a, a, "--endpoint", "http://127.0.0.1:1/v1", "--model", "m", "--mode", "x")
    assert ran.returncode == 2
