"""Results are found again only while what a suite reads from outside the package is as it was."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from eval_suites.lm_door.data import outside
from eval_suites.suites.suite import suite
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from tasks.evaluate import Subject, evaluate
from tasks.stages import Workspace

TASK = {"task": "sums", "dataset_path": "someone/sums", "test_split": "train", "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}], "metadata": {"version": 1.0}}
CARD = "---\nconfigs:\n- config_name: default\n  data_files: [{split: train, path: train.jsonl}]\n---\n"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A mirror with one data set of sums."""
    folder = tmp_path / "hub" / "someone" / "sums"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    return tmp_path / "hub"


def rows(hub: Path, count: int) -> None:
    (hub / "someone" / "sums" / "train.jsonl").write_text("".join(
        json.dumps({"question": f"{n} + 1?", "choices": [str(n + 1), "0"], "answer": 0}) + "\n" for n in range(count)))


def test_a_changed_task_and_changed_rows_are_asked_anew(hub: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    section = EvalSection(suites=("lm:sums",), include_path=str(own))
    subject = Subject("tiny", ModelSection(path="tiny", device="cpu"), None)
    place = Workspace(tmp_path / "home", hub)

    def asked(**changes: str) -> set[str]:
        (own / "sums.yaml").write_text(yaml.safe_dump(TASK | changes))
        return {item.asked for item in evaluate.fn(subject, section, place)["lm:sums"].items}

    rows(hub, 3)
    first = asked()
    assert len(first) == 3
    shorter = asked(doc_to_text="{{question}}")
    assert len(shorter) == 3
    assert not shorter & first
    rows(hub, 5)
    assert shorter < asked(doc_to_text="{{question}}")


def test_only_what_a_suite_reads_moves_its_stamp(hub: Path, tmp_path: Path) -> None:
    (hub / "openai" / "gsm8k").mkdir(parents=True)
    section = EvalSection(suites=("gsm8k",))

    def stamps() -> list[str]:
        return [outside(suite(name), section, hub) for name in ("gsm8k", "gsm8k@chat", "mmlu", "format", "lm:piqa")]

    rows(hub, 1)
    before = stamps()
    assert stamps() == before
    assert before[0] != outside(suite("gsm8k"), section, None)
    (hub / "openai" / "gsm8k" / "README.md").write_text(CARD)
    assert [a == b for a, b in zip(before, stamps(), strict=True)] == [False, False, True, True, False]
    links = tmp_path / "links" / "openai"
    links.mkdir(parents=True)
    (links / "gsm8k").symlink_to(hub / "openai" / "gsm8k", target_is_directory=True)
    assert outside(suite("gsm8k"), section, tmp_path / "links") == stamps()[0]  # wherever the mirror names it


def test_a_suites_own_scorer_is_another_evaluation_and_the_same_questions(tmp_path: Path) -> None:
    row = {"id": "a", "kind": "any", "cluster": "a", "messages": [{"role": "user", "content": "2 + 2?"}], "expect": {}}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n")
    name = str(tmp_path / "own.yaml")
    Path(name).write_text(yaml.safe_dump({"about": "sums", "kind": "capability", "engine": "generate",
                                          "items": "own.jsonl", "max_new_tokens": 2,
                                          "scorer": "mine.py:f"}))
    section = EvalSection(suites=(name,))
    form = tmp_path / "template.json"
    form.write_text(json.dumps({"name": "x", "jinja": "{{ messages[0]['content'] }}", "stops": ["<|endoftext|>"]}))
    place = Workspace(tmp_path / "home", None)

    def score(value: float) -> float | None:
        (tmp_path / "mine.py").write_text(
            f"from eval_suites.scorers.base import Score\ndef f(expect, answer): return Score({value}, {{}})\n")
        asked = outside(suite(name), section, None)
        found = evaluate.fn(Subject("tiny", ModelSection(path="tiny", device="cpu"), form), section, place)["own"].score
        assert outside(suite(name), section, None) == asked
        return found

    assert [score(1.0), score(0.0), score(1.0)] == [1.0, 0.0, 1.0]


KINDS = ("test.jsonl", "base", "near.py", "deep/late.py", "folder")


@pytest.mark.parametrize("what", KINDS)
def test_what_a_task_of_ones_own_names_elsewhere_is_part_of_it(what: str, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed to as many bytes at the same time of change, as by `cp -p`: asked anew, with what lies there now."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    own, beside, folder = tmp_path / "own", tmp_path / "elsewhere", tmp_path / "folder"
    for one in (own, beside / "deep", folder):
        one.mkdir(parents=True)
    files = {"test.jsonl": beside / "test.jsonl", "base": beside / "base", "near.py": beside / "near.py",
             "deep/late.py": beside / "deep" / "late.py", "folder": folder / "train.jsonl"}
    (folder / "README.md").write_text(CARD)
    data = json.dumps({"question": "1 + 1?", "choices": ["2", "0"], "answer": 0}) + "\n"
    files["test.jsonl"].write_text(data)
    files["folder"].write_text(data)
    files["near.py"].write_text("def text(doc):\n    from deep.late import WORD\n    return f'A{WORD}'\n")
    files["deep/late.py"].write_text("WORD = 'A'\n")
    base = {key: value for key, value in TASK.items() if key not in ("task", "dataset_path")}
    files["base"].write_text(yaml.safe_dump({**base, "doc_to_text": "A{{question}}"}))
    source = {"dataset_path": str(folder)} if what == "folder" else {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"train": str(beside / "*.jsonl")}}}
    text = yaml.safe_dump({"task": "sums", "include": str(files["base"]), **source})
    if what.endswith(".py"):
        text += "doc_to_text: !function near.text\n"
        monkeypatch.syspath_prepend(beside)
        for module in ("near", "deep", "deep.late"):  # of the case before
            monkeypatch.delitem(sys.modules, module, raising=False)
    (own / "sums.yaml").write_text(text)
    section = EvalSection(suites=("lm:sums",), include_path=str(own))
    subject, place = Subject("tiny", ModelSection(path="tiny", device="cpu"), None), Workspace(tmp_path / "home", None)

    def asked() -> tuple[str, set[str]]:
        found = evaluate.fn(subject, section, place)["lm:sums"]
        return outside(suite("lm:sums"), section, None), {item.asked for item in found.items}

    before = asked()
    assert asked() == before
    times = files[what].stat()
    old, new = {"near.py": ("'A{", "'B{"), "deep/late.py": ("'A'", "'B'"), "base": ("A{{", "B{{")}.get(
        what, ("1 + 1", "1 - 1"))
    files[what].write_text(files[what].read_text().replace(old, new))
    os.utime(files[what], ns=(times.st_atime_ns, times.st_mtime_ns))
    after = asked()
    assert after[0] != before[0]
    assert not after[1] & before[1]
