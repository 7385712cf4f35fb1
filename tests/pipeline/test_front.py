"""The front of a sweep out of recorded runs: whose results count, and what the table and the picture say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from eval_suites.front.points import Point
from eval_suites.results import ItemResult, SuiteResult, write_results
from infra import pareto
from infra.contract import TrackedRun, Tracker
from infra.study_contract import TrialRow
from sft_core.config.evaluate import GateSection
from sft_core.config.experiment import SearchSection
from sft_core.config.file import load
from sft_core.config.followups import FollowUp, as_searched, followed, suffix
from sft_core.errors import TrackingError
from tasks.followups import confirmation, confirming, points_with, varied
from tasks.front import AXES, Kept, dots, front_of, note, points_of, texts
from tasks.pages.sweep import Sweep, write_sweep_page
from tasks.proposal import confirmed, proposed
from tasks.stages import Workspace

SEARCH = SearchSection.model_validate({
    "space": {"lr": {"low": 0, "high": 1}}, "alignment": ["format"], "capability": ["facts"],
    "constraints": ["tax <= 5"]})
FACTS = ([1.0] * 7 + [0.0] * 3) * 100
POOR, GOOD = [0.0, 1.0] * 200, [1.0, 1.0] * 190 + [0.0, 1.0] * 10


def record(folder: Path, formats: Sequence[float], facts: Sequence[float] = FACTS) -> None:
    """A run with results of its base, which is poor, and of its own model."""
    for label, scores in (("base", (POOR, FACTS)), ("tuned", (formats, facts))):
        for (suite, kind), row in zip({"format": "alignment", "facts": "capability"}.items(), scores, strict=True):
            items = tuple(ItemResult(suite, "q", f"q/{n}", f"q/{n}", score, {"x": 1.0}, "", f"answer {n}", "", "",
                                     f"{suite} {n}") for n, score in enumerate(row))
            write_results(folder / "evaluation" / label, SuiteResult(suite, kind, {}, items, 1.0))
    (folder / "run.json").write_text(json.dumps({"mlflow_run_id": ""}))
    (folder / "summary.json").write_text("{}")


def trial(number: int, alignment: float, tax: float = 0.0, beyond: float = -1.0, **notes: str) -> TrialRow:
    return TrialRow(number, "COMPLETE", {"lr": number / 10}, {"alignment": alignment, "tax": tax}, notes,
                    {"tax <= 5": beyond})


def remote(folder: Path) -> Tracker:
    """A tracker that knows the run `abc`, whose artifacts lie there."""
    tracker = mock.create_autospec(Tracker, instance=True)

    def find_run(ref: str) -> TrackedRun:
        if ref != "abc":
            raise TrackingError(f"no run {ref!r}")
        return TrackedRun(ref, ref, "FINISHED", 0.0, {}, {}, {})

    tracker.find_run.side_effect = find_run
    tracker.artifacts.return_value = frozenset({"evaluation", "model"})
    tracker.download.side_effect = lambda _, name, to: shutil.copytree(folder / name, to / name, dirs_exist_ok=True)
    return tracker


def test_points_are_those_whose_results_can_be_had(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Workspace(tmp_path / "home", None)
    record(place.runs / "r0", POOR)
    record(place.runs / "r1", GOOD)
    record(tmp_path / "away", [1.0] * 400, [0.0] * 100 + FACTS[100:])
    (tmp_path / "away" / "model").mkdir()
    begun = place.runs / "r3"  # here, until its worker was lost; another machine finished it
    begun.mkdir()
    (begun / "run.json").write_text(json.dumps({"mlflow_run_id": "abc"}))
    rows = [trial(0, 50.0, run="r0"), trial(1, 97.5, run="r1"), trial(2, 97.5, run="r1"),
            trial(3, 100.0, 7.0, 2.0, run="r3", run_id="abc"), trial(4, 99.0, run="r4", run_id="nowhere")]
    tracker = remote(tmp_path / "away")
    points = points_of(rows, {"lr": 0.1}, SEARCH, place, tracker)
    assert [(point.name, point.role, point.feasible) for point in points] == [
        ("base", "base", True), ("0", "", True), ("1", "default", True), ("3", "", False)]
    item = points[1].results[0]["format"].items[1]
    assert (item.score, item.answer, item.metrics) == (1.0, "", {}), "hundreds of models are held at once"
    assert [call.args[1] for call in tracker.download.call_args_list] == ["evaluation"], "no model is fetched"
    assert "trial 4 is in the table with its values only" in caplog.text

    found = front_of(points, SEARCH, GateSection())
    table = {row["trial"]: row for row in pareto.table(rows, AXES, texts(found, rows, rows, "1"))}
    assert list(table) == ["0", "1 ★ default proposed", "2 = 1 ★ default proposed", "3", "4", "base"]
    assert table["0"]["proved dominated by"].startswith("1 (p ")
    assert table["0"]["not told from"] == "base"
    first, same = table["1 ★ default proposed"], table["2 = 1 ★ default proposed"]
    assert same | {"trial": "", "lr": ""} == first | {"trial": "", "lr": ""}
    assert (table["3"]["state"], table["3"]["chance to be on the front"]) == ("breaks tax <= 5", "—")
    assert table["3"][AXES["alignment"]].startswith("100.0 (")
    assert table["4"][AXES["alignment"]] == "99"
    assert table["base"][AXES["tax"]] == "0"

    assert found
    proposal = proposed(found, points, rows, SEARCH, GateSection())
    assert proposal
    assert proposal.sentence.startswith(
        "proposed: trial 1 (lr 0.1): alignment gain over the base +47.5 (42.4 to 52.5) points, tax against the base "
        "0.0 (-0.4 to 0.4): proved better at a tax of at most 1 (p ")
    other = Point("on others", ({suite: replace(result, items=result.items[:80])
                                 for suite, result in points[2].results[0].items()},))
    said = confirmed(proposal, points[0], other, SEARCH, GateSection())
    assert said.startswith("trial 1 (lr 0.1), confirmed on 160 items that the search did not see: alignment gain over "
                           "the base +50.0 (")
    assert "base 0.0 (-4.5 to 4.5): proved better, a tax of at most 1 is undecided (p 0.9; about " in said
    assert said.endswith("the search had said a gain of +47.5 and a tax of 0.0")
    facts = other.results[0]["facts"]
    lossy = replace(facts, items=tuple(item._replace(score=None) for item in facts.items[:8]) + facts.items[8:])
    few = Point("lossy", ({**other.results[0], "facts": lossy},))
    said = confirmed(proposal, points[0], few, SEARCH, GateSection())
    assert "; 8 of 80 items of facts have no score on both sides and are counted either way; the search had" in said

    drawn = {dot.name: dot for dot in dots(found, rows, rows)}
    assert sorted(drawn) == ["0", "1", "3", "4", "base"], "those of one run are drawn once"
    assert [name for name, dot in drawn.items() if dot.on_front] == ["1"]
    assert [name for name, dot in drawn.items() if dot.faded] == ["base", "0", "3"]
    sweep = Sweep("s", proposal.sentence, note(found), list(drawn.values()), AXES, list(table.values()), {}, {})
    page = write_sweep_page(sweep, tmp_path).read_text("utf-8")
    assert all(said in page for said in ("<h1>Sweep s</h1>", proposal.sentence, "1 ★ default proposed"))
    assert "src=" not in re.sub(r"<script.*?</script>", "", page, flags=re.S), "it needs no other file"
    kept = json.loads(Kept("s", "1", "well").write(tmp_path, found, rows).read_text())
    assert (kept["proposed"], kept["tolerance"], kept["points"][1]["name"]) == ("1", 1.0, "0")
    assert set(kept["points"][1]["dominated_by"]) == {"1"}
    assert kept["points"][1]["values"] == {"lr": 0.0}
    assert [(one["name"], one["measured"]["alignment"]) for one in kept["others"]] == [("2", 97.5), ("4", 99.0)]


def test_a_base_beyond_a_limit_beats_no_trial(tmp_path: Path) -> None:
    place = Workspace(tmp_path, None)
    record(place.runs / "r0", POOR)
    search = SEARCH.model_copy(update={"constraints": ("alignment >= 60",)})
    points = points_of([trial(0, 50.0, run="r0")], {}, search, place, remote(tmp_path))
    assert [point.feasible for point in points] == [False, True]


def test_what_follows_a_search_joins_its_points_and_confirms_one(tmp_path: Path) -> None:
    config = as_searched(load(Path("flows/configs/sweep.yaml"), [
        "search.interpolate=[0.25, 0.5]", "search.seeds=1", "search.confirm=0.5"]).config)
    assert config.eval.held_back == 0.5
    rows = [trial(0, 50.0, run="r0"), trial(1, 97.5, run="r1")]
    planned = varied(rows, config)
    assert [suffix(one, config) for one in planned[:2] + planned[4:5]] == ["-a025", "-a050", "-s1"]
    asked = followed(config, {"train.optim.lr": 0.002}, planned[3]._replace(part="held_back"))
    assert (asked.name, asked.train.optim.lr, asked.train.interpolate) == ("sweep-t001-a050-confirm", 0.002, 0.5)
    assert (asked.eval.part, asked.eval.held_back, asked.seed) == ("held_back", 0.5, 0)

    place, tracker, search = Workspace(tmp_path, None), remote(tmp_path), SEARCH
    config = config.model_copy(update={"search": search})
    for name, formats in (("r0", POOR), ("r1", POOR), ("half", GOOD), ("again", GOOD), ("c0", POOR), ("c1", GOOD)):
        record(tmp_path / "runs" / name, formats)
    points = points_of(rows, {}, search, place, tracker)

    def done(number: int, one: FollowUp, run: str) -> TrialRow:
        return TrialRow(number, "COMPLETE", one._asdict(), {"alignment": 1.0, "tax": 0.0}, {"run": run})

    later = [done(0, planned[3], "half"), done(1, planned[5], "again")]
    both = points_with(points, later, config, place, tracker)
    assert [(point.name, len(point.results)) for point in both] == [("base", 1), ("0", 1), ("1", 2), ("1-a050", 1)]
    found = front_of(both, search, config.gate)
    assert found is not None
    proposal = proposed(found, both, rows, search, config.gate)
    assert proposal is not None
    assert (proposal.name, proposal.label) == ("1-a050", "trial 1 (lr 0.1), 0.5 of its way from the base")
    asks = confirming(["1-a050", "0"], later, config)
    assert asks == [planned[3]._replace(part="held_back"), FollowUp(0, 1.0, 0, "held_back")]
    later += [done(2, asks[0], "c1"), done(3, asks[1], "c0")]
    said = confirmation(proposal, ["0"], later, config, place, tracker)
    assert "1 of its way" not in said
    assert ", confirmed on 1,400 items that the search did not see: alignment gain over the base +47.5 (" in said
    assert "; against the default configuration on the same items: alignment gain +47.5 (" in said
    failed = later[:2] + [TrialRow(2, "FAIL", asks[0]._asdict(), None, {"why": "a full disk"})]
    assert "could not be confirmed: a full disk; give the same command again" in confirmation(
        proposal, [], failed, config, place, tracker)
