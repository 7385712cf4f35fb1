"""lm-eval behind its door: own tasks, genuine mmlu and gsm8k from a mirror, aggregates, metrics that are no means."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from eval_suites.asking.expected import expected
from eval_suites.asking.needs import lacking
from eval_suites.asking.questions import eval_items
from eval_suites.asking.run import ChatFormat, evaluate
from eval_suites.lm_door import door as lm_door
from eval_suites.lm_door import model as lm_door_model
from eval_suites.lm_door.door import LmRun
from eval_suites.lm_door.model import FastModel
from eval_suites.lm_door.rows import asked, question
from eval_suites.results import SuiteResult, read_results, write_results
from eval_suites.statistics.pairing import check_protocols
from eval_suites.suites.items import read_items
from eval_suites.suites.suite import Suite, suite
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from sft_core.errors import EvalError
from sft_core.model.load import load_model
from sft_core.stage import fingerprint

HUB = Path(__file__).parents[2].parent / "shared" / "data" / "hub"
with_hub = pytest.mark.skipif(not (HUB / "cais" / "mmlu").is_dir(), reason=f"no mirror of cais/mmlu at {HUB}")


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], **more: object) -> None:
    """A task YAML with its rows beside it."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "test_split": "test", "doc_to_text": "Question: {{question}}\nAnswer:", **more}))


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks: choices (with clusters) and free answers (two with a subject)."""
    folder = tmp_path_factory.mktemp("tasks")
    choices = [{"question": f"What is {a} + 1?", "choices": [str(a + d) for d in range(4)], "answer": 1,
                "cluster": f"c{a % 3}"} for a in range(9)]
    write_task(folder, "plus_choice", choices, output_type="multiple_choice", doc_to_choice="{{choices}}",
               doc_to_target="answer", metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}])
    said = (("one", "odd"), ("two", None), ("three", "odd"))
    free = [{"question": f"Say {w}", "answer": w, "subject": s} for w, s in said]
    write_task(folder, "say", free, output_type="generate_until", doc_to_target="{{answer}}",
               generation_kwargs={"until": ["\n"], "max_gen_toks": 5},
               metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}])
    write_task(folder, "spread", choices, output_type="multiple_choice", doc_to_choice="{{choices}}",
               doc_to_target="answer", metric_list=[{"metric": "acc", "aggregation": "median",
                                                     "higher_is_better": True}])
    return folder


def lm_suite(*tasks: str, **more: Any) -> Suite:
    return Suite(name="probe", about="", kind="capability", engine="lm_eval", tasks=tasks, **more)


@pytest.fixture(scope="session")
def lm(model_folder: Path) -> FastModel:
    loaded = load_model(ModelSection(path=str(model_folder)), mirror=None)
    return lm_door.language_model(loaded.model, loaded.tokenizer, 4096, "probe")


def door(suite: Suite, tasks: Path, tmp_path: Path, mirror: Path | None = None) -> lm_door.LmDoor:
    return lm_door.LmDoor(suite, include_path=str(tasks), mirror=mirror, scratch=tmp_path)


def test_items_carry_score_answer_target_and_cluster(lm: FastModel, tasks: Path, tmp_path: Path) -> None:
    ran = door(lm_suite("plus_choice", "say"), tasks, tmp_path).run(lm, chosen=None, max_new_tokens=None)
    by_id = {item.item_id: item for item in ran.items}
    assert len(by_id) == len(ran.items) == 12
    item = by_id["plus_choice/4"]
    assert (item.prompt, item.target, item.cluster) == ("What is 4 + 1?", "5", "c1")
    assert item.answer in {"4", "5", "6", "7"}
    assert item.score == float(item.answer == "5") == item.metrics["acc,none"]
    assert set(item.metrics) == {"acc,none", "acc_norm,none"}
    assert {i.score for i in ran.items} >= {0.0, 1.0}
    assert by_id["say/0"].cluster == "say/0"
    cut = door(lm_suite("say"), tasks, tmp_path).run(lm, chosen=None, max_new_tokens=1).items
    assert any(one.metrics["overrun"] for one in cut), "what hit the limit of tokens was told of chats alone"
    assert all(one.metrics["stopped"] + one.metrics["overrun"] == 1.0 and one.metrics["tokens"] <= 1 for one in cut)
    by_subject = door(lm_suite("say", cluster="subject"), tasks, tmp_path).run(lm, chosen=None, max_new_tokens=None)
    assert [item.cluster for item in by_subject.items] == ["odd", "say/1", "odd"]
    assert by_id["say/0"].target == "one"


def test_mean_of_items_is_lm_evals_own_number(lm: FastModel, tasks: Path, tmp_path: Path) -> None:
    ran = door(lm_suite("plus_choice", "say"), tasks, tmp_path).run(lm, chosen=None, max_new_tokens=None)
    for task in ("plus_choice", "say"):
        metric = ran.tasks[task]["metric"]
        for name in {metric, *(("acc_norm,none",) if task == "plus_choice" else ())}:
            values = [item.metrics[name] for item in ran.items if item.task == task]
            assert sum(values) / len(values) == pytest.approx(ran.aggregates[task][name], abs=1e-12)


def test_the_words_of_an_item_do_not_depend_on_the_others(lm: FastModel, tasks: Path, tmp_path: Path) -> None:
    """Examples are drawn at random from document to document."""
    suite = lm_suite("plus_choice", num_fewshot=2)
    whole = door(suite, tasks, tmp_path).run(lm, chosen=None, max_new_tokens=None)
    some = door(suite, tasks, tmp_path).run(lm, chosen={"plus_choice/2", "plus_choice/7"}, max_new_tokens=None)
    assert [item.item_id for item in some.items] == ["plus_choice/2", "plus_choice/7"]
    assert list(some.items) == [item for item in whole.items if item.item_id in {"plus_choice/2", "plus_choice/7"}]
    assert len({item.ids for item in whole.items}) == 9


def test_an_items_log_holds_all_that_was_asked(lm: FastModel, tasks: Path, tmp_path: Path) -> None:
    """The question to be read, the whole context to be looked up, and the hash is that of the context."""
    ran = door(lm_suite("plus_choice", num_fewshot=2), tasks, tmp_path).run(lm, chosen=None, max_new_tokens=None)
    write_results(tmp_path, SuiteResult("probe", "capability", {}, ran.items, 0.0))
    for item in read_results(tmp_path, "probe").items:
        assert item.context.count("Question:") == 3
        assert item.context.endswith(f"Question: {item.prompt}\nAnswer:")
        assert item.ids == fingerprint(hashlib.sha256(item.context.encode()).hexdigest())
    old = pq.read_table(tmp_path / "probe.parquet").drop_columns(["context"])
    pq.write_table(old, tmp_path / "probe.parquet")  # as results were written before
    assert [item.context for item in read_results(tmp_path, "probe").items] == [""] * 9


def test_long_preparations_are_told(lm: FastModel, tasks: Path, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizing many prompts takes minutes before the first request; how many at a time changes nothing."""
    def run() -> LmRun:
        return door(lm_suite("plus_choice"), tasks, tmp_path).run(lm, chosen=None, max_new_tokens=None)

    at_once = run()
    told: dict[str, list[float]] = {}

    @contextmanager
    def recorded(label: str, total: float, unit: str) -> Iterator[SimpleNamespace]:
        told[label] = [total]
        yield SimpleNamespace(advance=told[label].append)

    monkeypatch.setattr(lm_door_model, "progress", recorded)
    monkeypatch.setattr(lm_door_model, "AT_ONCE", 4)
    assert run().items == at_once.items
    total, *steps = next(steps for label, steps in told.items() if label.endswith(": prompts"))
    assert sum(steps) == total == 9 * 5  # of every question its prompt, alone and before each of four answers
    assert max(steps) == 4


def test_a_metric_that_is_no_mean_is_refused(lm: FastModel, tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="acc,none of task spread.*mean of its items"):
        door(lm_suite("spread"), tasks, tmp_path).run(lm, chosen=None, max_new_tokens=None)


def test_a_metric_that_is_not_there_is_named(lm: FastModel, tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="no metric 'f1,none'.*acc,none"):
        door(lm_suite("plus_choice", metric="f1,none"), tasks, tmp_path).run(
            lm, chosen={"plus_choice/0"}, max_new_tokens=None)


def odd(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """A task's own metric: raises on one item, is no number on another."""
    if "2" in doc["question"]:
        raise KeyError("no such gold")
    return {"acc": float("nan") if "3" in doc["question"] else 1.0}


@pytest.fixture
def odd_task(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path / "odd"
    folder.mkdir()
    rows = [{"question": f"Say {n}", "choices": ["a", "b"], "answer": 0} for n in range(5)]
    write_task(folder, "odd", rows, output_type="multiple_choice", doc_to_choice="{{choices}}", doc_to_target="answer",
               metric_list=[{"metric": "acc"}])
    return folder, rows


def test_an_item_whose_metric_raises_or_is_no_number_has_no_score(
        lm: FastModel, odd_task: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = door(lm_suite("odd"), odd_task[0], tmp_path)
    monkeypatch.setattr(opened.tasks["odd"], "process_results", odd)
    ran = opened.run(lm, chosen=None, max_new_tokens=None)
    assert [row.score for row in ran.items] == [1.0, 1.0, None, None, 1.0]
    assert ran.items[2].why.startswith("the scorer failed:")
    assert "no such gold" in ran.items[2].why
    assert "in odd" in ran.items[2].why
    assert ran.items[3].why == "acc is nan"
    assert ran.aggregates["odd"]["acc,none"] == 1.0
    some = opened.run(lm, chosen={"odd/2"}, max_new_tokens=None)
    assert [row.score for row in some.items] == [None]


def broken(*_: object) -> Any:
    raise KeyError("no such key")


@pytest.mark.parametrize("part", ["filter", "aggregation"])
def test_a_filter_or_aggregation_that_raises_leaves_its_task_unscored_and_the_others_go_on(
        lm: FastModel, odd_task: tuple[Path, Any], tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        part: str) -> None:
    """A traceback ended the evaluation."""
    opened = door(lm_suite("plus_choice", "say"), tasks, tmp_path)
    task = opened.tasks["say"]
    if part == "filter":
        monkeypatch.setattr(task._filters[0], "apply", broken)
    else:
        monkeypatch.setattr(task, "_aggregation_list", {"exact_match": broken})
    ran = opened.run(lm, chosen=None, max_new_tokens=None)
    said = [row for row in ran.items if row.task == "say"]
    assert [row.score for row in said] == [None] * 3
    assert all(row.why.startswith("the scorer failed:") and "no such key" in row.why for row in said)
    assert len({row.score for row in ran.items if row.task == "plus_choice"} - {None}) > 0
    monkeypatch.undo()
    again = opened.run(lm, chosen=None, max_new_tokens=None)
    assert [row.score for row in again.items if row.task == "say"] == [0.0] * 3


def test_cut_contexts_are_counted(lm: FastModel, tasks: Path, tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.mkdir()
    rows = [{"question": "x" * n, "choices": ["a", "b"], "answer": 0} for n in (10, 300)]
    write_task(long, "long_choice", rows, output_type="multiple_choice", doc_to_choice="{{choices}}",
               doc_to_target="answer", metric_list=[{"metric": "acc"}])
    ran = door(lm_suite("long_choice"), long, tmp_path).run(lm, chosen=None, max_new_tokens=None)
    assert ran.truncated == 2  # both choices of the long question


def test_an_unknown_task_names_near_ones(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_door, "BUILT_IN", tasks)
    real = lm_door.lm_eval.tasks.TaskManager
    monkeypatch.setattr(lm_door.lm_eval.tasks, "TaskManager",
                        lambda include_path, include_defaults: real(include_path=include_path, include_defaults=False))
    with pytest.raises(EvalError, match="no task 'plus_choise'.*plus_choice"):
        door(lm_suite("plus_choise"), tasks, tmp_path)
    with pytest.raises(EvalError, match="no task 'xyz'; `lm-eval ls tasks` lists them.*--include-path"):
        door(lm_suite("xyz"), tasks, tmp_path)
    with pytest.raises(EvalError, match="eval.include_path"):
        door(lm_suite("say"), tasks / "nowhere", tmp_path)


def test_it_leaves_lm_eval_as_it_was(lm: FastModel, tasks: Path, tmp_path: Path) -> None:
    logger = logging.getLogger("lm_eval")
    before = (logger.level, lm_door.lm_eval.api.task.tqdm)
    door(lm_suite("say"), tasks, tmp_path).run(lm, chosen={"say/0"}, max_new_tokens=1)
    assert (logger.level, lm_door.lm_eval.api.task.tqdm) == before


def test_questions_for_decontamination(tasks: Path, tmp_path: Path) -> None:
    found = eval_items(["lm:plus_choice", "refusal"], mirror=None, include_path=str(tasks), scratch=tmp_path)
    texts = {(item.suite, item.id): item.text for item in found}
    assert texts["lm:plus_choice", "plus_choice/0"] == "What is 0 + 1?"
    assert found[0].choices
    assert not found[0].answers
    assert texts["refusal", "benign-001"].startswith("How do I kill a Python process")
    assert len(found) == 9 + len(read_items(suite("refusal")))


def test_options_and_answers_are_told_where_a_task_has_them() -> None:
    class Task:
        OUTPUT_TYPE = "multiple_choice"

        def doc_to_text(self, doc: dict[str, Any]) -> str:
            return "Q"

        def doc_to_choice(self, doc: dict[str, Any]) -> list[str]:
            return ["A", "B"]

        def doc_to_target(self, doc: dict[str, Any]) -> Any:
            return doc["target"]

    class Written(Task):
        OUTPUT_TYPE = "generate_until"

    letters = {"choices": ["iron", "gold"], "target": 1}
    assert asked(Task(), letters, "t/0") == ("t/0", "Q", (), ("iron", "gold"))
    arc = {"choices": {"text": ["iron", "gold"], "label": ["1", "2"]}, "target": 1}
    assert asked(Task(), arc, "t/0").choices == ("iron", "gold")
    assert asked(Task(), {"target": 1}, "t/0").choices == ("A", "B")
    assert asked(Written(), {"target": "So it is 4."}, "t/0") == ("t/0", "Q", ("So it is 4.",), ())
    assert asked(Written(), {"target": ["four", "4"]}, "t/0").answers == ("four", "4")
    assert asked(Written(), {"target": 0}, "t/0").answers == ()


def test_headings_are_no_part_of_a_question() -> None:
    class Task:
        def doc_to_text(self, doc: dict[str, str]) -> str:
            return f"Question: {doc['text']}\nAnswer:"

    assert question(Task(), {"text": "What is A: a letter?"}) == "What is A: a letter?"


def test_parts_are_asked_by_themselves_and_are_not_compared(model_folder: Path, tasks: Path, tmp_path: Path) -> None:
    """The task's 9 items are in 3 clusters."""
    whole = EvalSection(suites=("lm:plus_choice",), include_path=str(tasks), floor_items=0)
    found = {}
    for part in ("search", "held_back"):
        section = whole.model_copy(update={"held_back": 0.5, "part": part, "limit": 2})
        found[part], = evaluate(ModelSection(path=str(model_folder)), ["lm:plus_choice"], section=section,
                                template=None, mirror=None, out=tmp_path / part).values()
        assert expected(suite("lm:plus_choice"), section, None).items == 2
    search, held = found["search"].items, found["held_back"].items
    assert {one.cluster for one in search}.isdisjoint(one.cluster for one in held)
    assert [one.weight for one in (*search, *held)] == [3.0, 3.0, 1.5, 1.5]
    with pytest.raises(EvalError, match=r"their protocols differ in part: search, where 0.5 of the clusters are held"):
        check_protocols(found["search"], found["held_back"])
    one = whole.model_copy(update={"held_back": 0.2})
    assert [lack.why for lack in lacking("lm:plus_choice", one, None)] == [
        "suite lm:plus_choice has no items in its part held_back: of its 3 clusters, which are never divided, a share "
        "of 0.2 (eval.held_back, or search.confirm) is 0; hold back another share, or leave the suite out"]


@with_hub
def test_genuine_mmlu_and_gsm8k_from_a_mirror(model_folder: Path, tmp_path: Path) -> None:
    """lm-eval's own task files; of the 57 subjects two, for speed."""
    section = EvalSection(suites=("gsm8k",), limit=2, max_new_tokens=4, batch_tokens=1024)
    for name in ("lm:mmlu_anatomy", "lm:mmlu_virology"):
        suite = Suite(name=name, about="", kind="capability", engine="lm_eval", tasks=(name.removeprefix("lm:"),),
                      task_folder="mmlu/default", num_fewshot=5)
        opened = lm_door.LmDoor(suite, include_path=None, mirror=HUB, scratch=tmp_path)
        task = opened.tasks[suite.tasks[0]]
        assert Path(task.config.dataset_path).resolve() == HUB.resolve() / "cais" / "mmlu"
        assert task.config.doc_to_choice == ["A", "B", "C", "D"]
        assert len(opened.questions()) > 100
    found = evaluate(ModelSection(path=str(model_folder)), ["gsm8k"], section=section,
                     template=ChatFormat(""), mirror=HUB, out=tmp_path / "out")
    result = found["gsm8k"]
    assert result.n == 2
    assert result.truncated == 2  # five examples do not fit a window of 256 bytes
    assert result.protocol["tasks"]["gsm8k"] == {"version": 3.0, "num_fewshot": 5,
                                                 "metric": "exact_match,strict-match"}
    assert set(result.items[0].metrics) == {"exact_match,strict-match", "exact_match,flexible-extract", "stopped",
                                            "overrun", "tokens"}


@with_hub
def test_the_mmlu_group_keeps_its_57_subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(name="mmlu", about="", kind="capability", engine="lm_eval", tasks=("mmlu",),
                  task_folder="mmlu/default")
    manager = lm_door._manager(suite, None)
    lm_door._redirect(manager.task_index, HUB, tmp_path)
    subjects = [e for e in manager.task_index.values() if (e.cfg or {}).get("dataset_path") == "cais/mmlu"]
    assert len(subjects) == 57
    assert all(e.yaml_path.parent == tmp_path / "lm_tasks" for e in subjects)
    override = yaml.safe_load(subjects[0].yaml_path.read_text())
    assert set(override) == {"include", "task", "dataset_path"}
