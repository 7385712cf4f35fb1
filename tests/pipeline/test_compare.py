"""`sft compare`, `sft eval --against` and `sft suites`: any two models, the page, and what cannot be compared."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from eval_suites.judge.talk import OPEN_ENDED
from eval_suites.results import ItemResult, SuiteResult, read_results, write_results
from eval_suites.statistics.floor import Floor
from flows.evaluation import Shown, run_comparison, run_evaluation
from infra.tracking import open_tracker
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection, GateSection
from sft_core.errors import ConfigError, EvalError, TrackingError
from sft_core.stage import read_json
from sft_core.tiny.paths import BASE_FOLDER
from tasks.evaluate import alike, named
from tasks.named import named_model
from tasks.record import side_by_side
from tasks.runs import Beside, joined, results_of, write_beside
from tasks.show import check_measured, remarks
from tasks.stages import Workspace
from tasks.verdict import Known, reach_verdict, with_variants

Sft = Callable[..., subprocess.CompletedProcess[str]]
GATE = GateSection()
JINJA = ("{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}")


def result(answers: dict[str, float | None], **changes: str) -> SuiteResult:
    """Answers to a suite `facts`, given by item id."""
    items = tuple(ItemResult("facts", "q", key, key, score, {}, f"prompt of {key}", f"answer <b>{score}</b>", "yes", "",
                             f"asked {key}") for key, score in answers.items())
    return SuiteResult("facts", "capability", {"version": changes.get("version", "1")}, items, 1.0)


def recorded(home: Path, name: str, made: SuiteResult) -> None:
    """A run of that name in the workspace, as far as a comparison reads it."""
    folder = home / "runs" / name
    write_results(folder / "evaluation" / "tuned", made)
    (folder / "run.json").write_text(json.dumps({"name": name, "mlflow_run_id": name * 4}))


def test_two_runs_and_their_flipped_items_on_a_page(sft: Sft, home: Path) -> None:
    recorded(home, "one", result({f"q{n}": 1.0 for n in range(40)}))
    recorded(home, "two", result({f"q{n}": float(n > 29) for n in range(40)}))
    recorded(home, "other", result({"q0": 1.0}, version="2"))
    done = sft("compare", "one", "two", "--flips", "1", "--html", home / "page.html", "--max-tax", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "prompt of q0" in done.stdout
    assert "1 of 30 items that changed" in done.stdout
    assert "Gate: fail" in done.stdout
    page = (home / "page.html").read_text()
    assert (page.count('"change":"lost"'), page.count('"change":"same"')) == (30, 10)

    refused = sft("compare", "one", "other")
    assert refused.returncode == 1
    assert "protocols differ in version: 1 against 2" in refused.stderr
    unknown = sft("compare", "one", "tiny")
    assert unknown.returncode == 1
    assert "--suite" in unknown.stderr


def test_runs_keep_their_floors_and_what_they_were_trained_on(tmp_path: Path) -> None:
    place, tracker = Workspace(tmp_path, None), Mock()
    for name, same, learnt in (("one", 0, ["q1"]), ("two", 2, ["q2", "q3"]), ("old", 0, [])):
        recorded(tmp_path, name, result({"q1": 1.0}))
        if name != "old":
            write_beside(place.runs / name, Beside({"facts": Floor("facts", 8, same, 1, 0.5)}, {"facts": learnt}))
    one, two, old = (results_of(name, place, tracker).beside for name in ("one", "two", "old"))
    assert joined(one, two) == joined(two, one)
    assert joined(one, two).floors["facts"] == Floor("facts", 8, 2, 1, 0.5, "the base of two")
    assert joined(one, two).contaminated == {"facts": ["q1", "q2", "q3"]}
    assert joined(one, old) == Beside({"facts": Floor("facts", 8, 0, 1, 0.5, "the base of one")}, None)


def test_runs_are_compared_with_their_floors_and_without_items_either_was_trained_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SFT_HOME", str(home))
    for name, learnt in (("one", ["q1"]), ("two", ["q2", "q3"])):
        recorded(home, name, result({f"q{n}": 1.0 for n in range(40)}))
        write_beside(home / "runs" / name, Beside({"facts": Floor("facts", 8, 0, 0, 0.0)}, {"facts": learnt}))
    run_comparison(ModelSection(path="one"), "two", GATE, Shown(), None, None)
    said = capsys.readouterr().out
    assert "the base of one" in said
    assert re.search(r"facts .* 40 .* 37\b", said)
    with pytest.raises(ConfigError, match=r"gate.must_improve names \['fact'\] \(did you mean facts\?\)"):
        run_comparison(ModelSection(path="one"), "two", GateSection(must_improve=("fact",)), Shown(), None, None)


def test_runs_are_compared_by_their_own_gate_where_they_agree(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both had gate.max_tax: 10 and were judged by 1, without a word."""
    monkeypatch.setenv("SFT_HOME", str(home))

    def judged(taxes: tuple[float, float], asked: GateSection) -> str:
        for name, tax, made in (("one", taxes[0], 1.0), ("two", taxes[1], 0.0)):
            recorded(home, name, result({f"q{n}": made if n < 2 else 1.0 for n in range(40)}))
            settings = yaml.safe_load(Path("flows/configs/demo.yaml").read_text())
            settings["gate"] = {"max_tax": tax, "must_improve": ["tiny_format"]}
            (home / "runs" / name / "config.yaml").write_text(yaml.safe_dump(settings))
        run_comparison(ModelSection(path="one"), "two", asked, Shown(), None, None)
        return capsys.readouterr().out

    said = judged((30.0, 30.0), GateSection())
    assert "gate     max_tax 30.0, max_false_refusals 10.0, alpha 0.05: that of both runs" in said
    assert "proved to be at most 30 " in said
    said = judged((30.0, 20.0), GateSection())
    assert "max_tax 1.0, max_false_refusals 10.0, alpha 0.05: the default, as the runs' own differ" in said
    given = judged((30.0, 30.0), GateSection(max_tax=2.0))
    assert "max_tax 2.0, max_false_refusals 10.0, alpha 0.05: that of both runs, beside max_tax as given" in given


def test_a_run_is_a_model_by_its_name_and_by_the_start_of_its_id(tmp_path: Path) -> None:
    place = Workspace(tmp_path / "home", None)
    recorded(place.root, "one", result({"q0": 1.0}))
    tracker = open_tracker(f"sqlite:///{tmp_path}/mlflow.db", "e", place.root)
    tracked = tracker.start_run("run", "key", {}, "name: one", {})
    (place.runs / "one" / "run.json").write_text(json.dumps({"name": "one", "mlflow_run_id": tracked}))
    (place.runs / "one" / "model").mkdir()
    model = str(place.runs / "one" / "model")
    for name in ("one", "on", tracked, tracked[:8]):
        assert named_model(name, place, lambda: tracker).path == model
    assert named_model("beef", place, lambda: tracker).path == "beef"  # a word: what is registered may be near it
    (tmp_path / "beef00").mkdir()
    unasked = Mock(side_effect=AssertionError("no tracker is needed"))
    for other in ("tiny", "org/name", str(tmp_path / "beef00")):
        assert named_model(other, place, unasked).path == other
    with pytest.raises(TrackingError, match="is no run"):
        named_model("abcdef", place, lambda: tracker)


def test_two_models_are_evaluated_and_compared(sft: Sft, tmp_path: Path) -> None:
    """The base has no chat template: it is asked through that of the other, which came with its training."""
    tuned = tmp_path / "tuned"
    shutil.copytree(BASE_FOLDER, tuned)
    (tuned / "chat_template.jinja").write_text(JINJA)
    done = sft("compare", "tiny", tuned, "--suite", "tiny_refusal", "--limit", "3")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Wins: alignment suites" in done.stdout
    assert "0 / 0" in done.stdout  # the same weights give the same answers


def test_items_of_both_models_are_written(home: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SFT_HOME", str(home))
    section, out = EvalSection(suites=("tiny_refusal",), limit=1, max_new_tokens=2, floor_items=0), home / "items"
    run_evaluation(ModelSection(path="tiny"), section, "auto", "tiny", Shown(out=out), None)
    assert read_results(out, "tiny_refusal").items == read_results(out / "base", "tiny_refusal").items
    assert f"{out / 'base'} (of tiny)" in " ".join(capsys.readouterr().out.split())


def test_models_without_a_template_take_the_other_ones(tmp_path: Path) -> None:
    place, section = Workspace(tmp_path / "home", None), EvalSection(suites=("tiny_refusal",))
    own = []
    for name, jinja in (("one", JINJA), ("two", JINJA.replace(": ", ">"))):
        shutil.copytree(BASE_FOLDER, tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text(jinja)
        own.append(named(ModelSection(path=str(tmp_path / name)), "auto", section, place, Mock()))
    bare = named(ModelSection(path="tiny"), "auto", section, place, Mock())
    assert bare.template != own[0].template
    assert alike(bare, own[0]) == (bare._replace(template=own[0].template), own[0])
    assert alike(own[0], bare) == (own[0], bare._replace(template=own[0].template))
    assert alike(*own) == tuple(own)  # which is refused later: these are two protocols
    assert alike(bare, bare) == (bare, bare)
    unasked = named(ModelSection(path="tiny"), "auto", EvalSection(suites=("tiny_mmlu",)), place, Mock())
    assert alike(unasked, own[0]) == (unasked, own[0])


def test_a_template_that_writes_no_stop_is_asked_through(tmp_path: Path) -> None:
    """It cannot be trained without template.stop; what ends the answers of a model is in its generation config."""
    shutil.copytree(BASE_FOLDER, tmp_path / "one")
    jinja = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (tmp_path / "one" / "chat_template.jinja").write_text(jinja)
    place, section = Workspace(tmp_path / "home", None), EvalSection(suites=("tiny_refusal",))
    asked = named(ModelSection(path=str(tmp_path / "one")), "auto", section, place, Mock())
    assert read_json(asked.template) == {"name": "model", "stops": [], "jinja": jinja}


def test_suites_say_what_can_be_run_here(sft: Sft, tmp_path: Path) -> None:
    (tmp_path / "hub" / "openai" / "gsm8k").mkdir(parents=True)
    done = sft("suites", "--json", "--mirror", tmp_path / "hub")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["suite"]: row for row in json.loads(done.stdout)}
    assert (rows["mmlu"]["items"], rows["mmlu"]["protocol"]) == (14042, "completion, 5-shot, acc,none")
    assert "cais/mmlu" in rows["mmlu"]["here"]
    assert "--mirror (SFT_MIRROR)" in rows["mmlu"]["here"]
    assert rows["gsm8k"]["here"] == "ready"
    assert (rows["tiny_refusal"]["items"], rows["tiny_refusal"]["here"]) == (240, "ready")
    assert rows["xstest"]["here"] == "needs xstest/xstest_prompts.csv below --data-path (eval.data_path)"
    assert 0 < rows["mmlu"]["detectable"] < rows["tiny_refusal"]["detectable"]


@pytest.mark.parametrize("ids", [["q1"], ["q1", "q9"]])
def test_contaminated_items_take_their_variants_along(ids: list[str]) -> None:
    asked = result({"q1": 1.0, "q1~typos": 0.0, "q10": 1.0, "q2~case": 0.0})
    assert with_variants(ids, asked) == {"q1", "q1~typos"}
    found = reach_verdict.fn({"facts": asked}, {"facts": asked}, GATE, Known({"facts": ids, "absent": ["x"]}))
    clean = found.suites[0].uncontaminated
    assert clean is not None
    assert clean.pairs == 2


def test_items_of_a_suite_are_clean_or_not_also_where_it_is_judged() -> None:
    plain = result({"q1": 1.0, "q2": 0.0, "q3": 1.0})
    sides = {name: replace(plain, suite=name) for name in ("facts", "facts:pairwise", "facts:graded", "other")}
    found = reach_verdict.fn(sides, sides, GATE, Known({"facts": ["q1"]})).suites
    assert [one.uncontaminated and one.uncontaminated.pairs for one in found] == [2, 2, 2, 3]
    assert reach_verdict.fn(sides, sides, GATE).suites[0].uncontaminated is None


def test_a_single_model_says_what_its_scores_leave_out() -> None:
    whole, part = result({"a": 1.0}), result({"a": 1.0, "b": None, "c": None})
    part = replace(part, truncated=3, items=tuple(item._replace(why="the judge is down") if item.score is None else item
                                                  for item in part.items))
    assert remarks({"whole": whole}) == []
    said = remarks({"part": part})
    assert said[0] == "part: 2 of 3 items without a score, which are no zeros: the judge is down"
    assert said[1] == "part: not measured: 1 of 3 items were scored, at least 80 % must be (eval.min_scored)"
    assert "part: 3 requests were longer than the model's context" in said[2]


def test_a_suite_of_which_too_little_was_scored_is_an_error() -> None:
    def silent(metrics: dict[str, float], *whys: str) -> SuiteResult:
        whole = result(dict.fromkeys(map(str, range(len(whys))), None))
        return replace(whole, items=tuple(item._replace(metrics=metrics, why=why)
                                          for item, why in zip(whole.items, whys, strict=True)))

    down = silent({}, "HTTP 400: request 17", "ConnectError", "HTTP 400: request 9")
    with pytest.raises(EvalError, match=r"^one: not measured: 0 of 3 items were scored, at least 80 % must be "
                                        r"\(eval.min_scored\); most often \(2 times\): HTTP 400: request 17$"):
        check_measured({"one": down, "two": result({"a": 1.0})})
    assert remarks({"one": down}) == [
        "one: 2 of 3 items without a score, which are no zeros: HTTP 400: request 17",
        "one: 1 of 3 items without a score, which are no zeros: ConnectError"]
    check_measured({"one": replace(down, min_scored=0.0), "two": result({"a": 1.0, "b": 0.0})})
    waiting = replace(silent({"answered": 1.0}, "not judged"), protocol={"suite": {"scorer": OPEN_ENDED}})
    check_measured({"open": waiting})
    with pytest.raises(EvalError, match="0 of 1 items were answered"):
        check_measured({"open": replace(waiting, items=tuple(i._replace(metrics={}) for i in waiting.items))})


def test_a_single_model_says_what_other_forms_of_the_questions_cost() -> None:
    plain = result({"a": 1.0, "b": 1.0, "a~typos": 0.0, "b~typos": 1.0})
    items = tuple(item._replace(task="typos" if "~" in item.item_id else "clean", cluster=item.item_id[0])
                  for item in plain.items)
    said, = remarks({"part": replace(plain, items=items)})
    assert re.fullmatch(r"part: typos costs \+50\.0 \(-\d+\.\d to \+\d+\.\d\) points, paired over 2 items", said)


def test_a_single_model_says_its_refusal_rates_corrected_for_the_scorers_errors() -> None:
    plain = result({str(number): float(number >= 2) for number in range(20)})
    items = tuple(item._replace(task="benign", target='{"refuse": false}',
                                metrics={"refused": 1.0 - (item.score or 0.0)}) for item in plain.items)
    said, = remarks({"safe": replace(plain, items=items)})
    assert re.fullmatch(r"safe: benign: false refusals 10\.0 % as scored; \d+\.\d to \d+\.\d % corrected for "
                        r"the scorer's errors on labelled models \(Bayesian, with a prior; median \d+\.\d\)", said)
    judged = replace(plain, items=items, protocol={**plain.protocol, "refusal_scorer": "judge"})
    said, = remarks({"safe": judged})
    assert said.endswith("10.0 % as scored, not corrected: no calibration of this scorer")


def test_the_table_has_both_models_and_leaves_unasked_items_empty() -> None:
    columns = side_by_side(result({"a": 1.0, "b": None}), result({"a": 0.0, "c": 1.0}))
    assert columns["item_id"] == ["a", "b", "c"]
    assert columns["base_score"] == [1.0, None, None]
    assert columns["tuned_score"] == [0.0, None, 1.0]
    assert columns["tuned_answer"] == ["answer <b>0.0</b>", None, "answer <b>1.0</b>"]
    assert columns["prompt"] == ["prompt of a", "prompt of b", "prompt of c"]
