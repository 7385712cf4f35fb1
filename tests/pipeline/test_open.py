"""`sft open`: the page of what was named, and the list of a workspace whose parts may be missing or broken."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from sft_core.errors import ConfigError, TrackingError
from sft_core.stage import write_json
from tasks.pages.index import page_of, write_index
from tasks.stages import Workspace

DEMO = Path(__file__).resolve().parents[2] / "flows" / "configs" / "demo.yaml"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A run that is done, one that was killed before it was anything, a sweep, a damaged sweep, nights."""
    done = {"gate": {"outcome": "pass"}, "seconds": {"training": 12.0, "saving": 1.0}}
    for name, summary in (("demo-1a", done), ("demo-1b", None), ("evil \x1b[1m<b>", done)):
        write_json(tmp_path / "runs" / name / "run.json", {"run_id": "1"})
        if summary:
            write_json(tmp_path / "runs" / name / "summary.json", summary)
            (tmp_path / "runs" / name / "report.html").write_text("the page", encoding="utf-8")
    for name in ("grid", "torn"):
        (tmp_path / "sweeps" / name).mkdir(parents=True)
        (tmp_path / "sweeps" / name / "sweep.html").write_text("the page", encoding="utf-8")
    write_json(tmp_path / "sweeps" / "grid" / "front.json", {"says": "proposed: trial 3", "points": [1, 2, 3]})
    (tmp_path / "sweeps" / "torn" / "front.json").write_text("{", encoding="utf-8")
    (tmp_path / "trends" / "helper").mkdir(parents=True)
    (tmp_path / "trends" / "helper" / "trend.html").write_text("the page", encoding="utf-8")
    return Workspace(tmp_path, None)


def test_the_list_leads_to_every_page_there_is(place: Workspace) -> None:
    text = write_index(place).read_text("utf-8")
    links = re.findall(r'<a href="([^"#]+)"', text)
    assert sorted(links) == ["runs/demo-1a/report.html", "runs/evil%20%1B%5B1m%3Cb%3E/report.html",
                             "sweeps/grid/sweep.html", "sweeps/torn/sweep.html", "trends/helper/trend.html"]
    assert '<td class="text">demo-1b</td>' in text
    assert "stopped" in text
    assert "proposed: trial 3" in text
    assert "\x1b" not in text
    assert "evil ␛[1m&lt;b&gt;" in text


@pytest.mark.parametrize(("name", "page"), [
    ("demo-1a", "runs/demo-1a/report.html"), ("ev", "runs/evil \x1b[1m<b>/report.html"),
    ("grid", "sweeps/grid/sweep.html"), ("helper", "trends/helper/trend.html")])
def test_a_page_is_found_by_name(place: Workspace, name: str, page: str) -> None:
    assert page_of(name, place) == place.root / page


@pytest.mark.parametrize(("name", "said"), [
    ("demo-1b", "the run demo-1b has no page: it is not done; `sft show demo-1b` says"),
    ("", "'' is no run, sweep or guarded model"),
    ("nothing", "there are demo-1a, evil .*, grid, torn, helper; `sft open` alone"),
    ("demo-", "'demo-' is the beginning of several runs in .*: demo-1a, demo-1b; give more")])
def test_what_has_no_page_is_said(place: Workspace, name: str, said: str) -> None:
    with pytest.raises((ConfigError, TrackingError), match=said):
        page_of(name, place)


def test_runs_stand_with_what_they_are_compared_by(place: Workspace) -> None:
    """Who looked for the run of the least tax had to open each one."""
    run = place.runs / "demo-1a"
    done = {"gate": {"outcome": "pass"}, "seconds": {"training": 12.0, "saving": 1.0}}
    write_json(run / "summary.json", {**done, "suites": {"facts": {"tax": 1.25}, "form": {"win": 40.0}}})
    shutil.copy(DEMO, run / "config.yaml")
    text = write_index(place).read_text("utf-8")
    table = text[text.index('id="all-runs"'):text.index('id="sweeps"')]
    heads = re.findall(r"<th [^>]*>(.*?)</th>", table)
    assert heads == ["run", "state", "gate", "tax", "win", "learning rate", "λ", "training", "last change"]
    (line,) = (one for one in table.split("<tr>") if ">demo-1a</a>" in one)
    assert re.findall(r"<td[^>]*>(.*?)</td>", line)[3:5] == ["1.2", "40.0"]
    assert "stopped: <code>sft show demo-1b</code>" in table


def test_a_page_that_was_deleted_is_gone_and_not_to_come(place: Workspace) -> None:
    """A run that was done was called not done."""
    (place.runs / "demo-1a" / "report.html").unlink()
    with pytest.raises(ConfigError, match=r"the page of the run demo-1a is gone; `sft run .*demo-1a/config.yaml` wr"):
        page_of("demo-1a", place)
    write_json(place.runs / "demo-1b" / "rungs" / "ended.json", {})
    with pytest.raises(ConfigError, match="demo-1b has no page: its sweep ended it early"):
        page_of("demo-1b", place)


def test_the_command_says_where_the_page_is(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFT_HOME", str(place.root))
    done = CliRunner().invoke(app, ["open", "grid", "--no-browser"])
    assert done.output == f"{place.root / 'sweeps/grid/sweep.html'}\n"
    assert not (place.root / "index.html").exists()
    done = CliRunner().invoke(app, ["open", "--no-browser"])
    assert done.output == f"{place.root / 'index.html'}\n"
    assert (place.root / "index.html").exists()
