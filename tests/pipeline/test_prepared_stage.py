"""What redoes the preparation of data and the training on it, and what does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import load
from sft_core.errors import ModelError
from tasks.prepare import prepare, prepared_stage
from tasks.stages import Workspace
from tasks.train import trained_stage

SMALL: dict[str, Any] = {
    "name": "small", "model": {"path": "tiny"}, "template": {"name": "chatml"}, "train": {"optim": {"lr": 1.0e-3}}}


def stamp(config: Path, home: Path, **changes: Any) -> str:
    """The fingerprint with other fields of the data section, of its source, or of the replay source."""
    settings = yaml.safe_load(config.read_text())
    settings["train"]["replay"]["sources"][0] |= changes.pop("replay", {})
    settings["data"]["sources"][0] |= changes.pop("source", {})
    settings["data"] |= changes
    return prepared_stage(ExperimentConfig.model_validate(settings), Workspace(home, None)).fingerprint


@pytest.mark.parametrize("change", [
    {"pack": False}, {"source": {"weight": 2.0}}, {"replay": {"weight": 0.5}}, {"source": {"streaming": True}},
])
def test_what_only_training_reads_does_not_redo_it(config: Path, home: Path, change: dict[str, Any]) -> None:
    assert stamp(config, home, **change) == stamp(config, home)


@pytest.mark.parametrize("change", [
    {"max_tokens": 100}, {"validation_share": 0.1}, {"decontaminate": "off"}, {"decontaminate": "report"},
    {"source": {"limit": 119}},
    {"replay": {"limit": 59}}, {"source": {"name": "other"}}, {"source": {"roles": {"BOT": "assistant"}}},
])
def test_what_it_depends_on_redoes_it(config: Path, home: Path, change: dict[str, Any]) -> None:
    assert stamp(config, home, **change) != stamp(config, home)


def test_more_tokens_than_the_base_has_positions_are_refused_before_anything_runs(config: Path, home: Path) -> None:
    assert stamp(config, home, max_tokens=256)
    with pytest.raises(ModelError, match=r"data.max_tokens is 257, but tiny knows 256 positions"):
        stamp(config, home, max_tokens=257)


def test_what_was_lost_or_cut_off_is_made_again(config: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of every step: what comes behind it would miss rows without a word."""
    wanted = load(config, ["eval.suites=[tiny_refusal]"]).config
    prepare.fn(wanted, Workspace(home, None))
    files = sorted((home / "stages").glob("*/*/out/*.parquet"))
    before = {file: file.read_bytes() for file in files}
    steps = {file.parts[-4]: file for file in files if not file.name.startswith("rejected")}
    assert {"read", "normalise", "facts", "curate", "prepare"} <= steps.keys()
    for cut, file in enumerate(steps.values()):
        file.unlink()
        if cut % 2:
            file.write_bytes(before[file][:100])
    prepare.fn(wanted, Workspace(home, None))
    assert {file: file.read_bytes() for file in files} == before
    assert {record.args[0] for record in caplog.records if "made again" in record.message} == steps.keys()
    caplog.clear()
    prepare.fn(wanted, Workspace(home, None))
    assert "made again" not in caplog.text


QUESTION = "Which of the many rivers of the world is the longest of them all, please?"


def trained(tmp_path: Path, home: Path, suites: list[str], **changes: Any) -> str:
    """The fingerprint of training on a row that asks QUESTION, and on others."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"instruction": text, "output": "The Nile."}) + "\n" for text in
                            (QUESTION, *(f"Name the river with the number {n}." for n in range(9)))))
    source, mixture = changes.pop("source", {}), changes.pop("mixture", None)
    config = ExperimentConfig.model_validate({**yaml.safe_load(yaml.safe_dump(SMALL)), "data": {
        "sources": [{"path": str(data), **source}], "max_tokens": 64, "duplicates": {"near": False},
        "mixture": mixture}, "eval": {"suites": suites}, **changes})
    place = Workspace(home, None)
    return trained_stage(config, prepare.fn(config, place), place).fingerprint


def my_suite(folder: Path, question: str, name: str = "mine") -> str:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text(json.dumps({
        "id": "a", "kind": "bare", "cluster": "c", "messages": [{"role": "user", "content": question}],
        "expect": {"answers": ["Nile"]}}) + "\n")
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({
        "about": "Mine.", "kind": "alignment", "engine": "generate", "items": f"{name}.jsonl", "max_new_tokens": 8}))
    return str(folder / f"{name}.yaml")


def test_another_suite_trains_again_only_where_the_examples_differ(tmp_path: Path, home: Path) -> None:
    """To add or to rename a suite trained the same weights again; one that drops a row must still do so."""
    before = trained(tmp_path, home, ["tiny_mmlu"])
    other = my_suite(tmp_path / "a", "What stands on nobody's list of any rivers at all?")
    assert trained(tmp_path, home, ["tiny_mmlu", other]) == before
    assert trained(tmp_path, home, [my_suite(tmp_path / "a", "Quite another question, is it not?", "new")]) == before
    assert trained(tmp_path, home, ["tiny_mmlu", my_suite(tmp_path / "b", QUESTION)]) != before
    unread = {**SMALL["train"], "replay": {"sources": [{"path": "tiny:replay"}]}}
    assert trained(tmp_path, home, ["tiny_mmlu"], train=unread) == before
    assert trained(tmp_path, home, ["tiny_mmlu"], train={**SMALL["train"], "epochs": 2}) != before


def test_a_mixture_trains_again_on_the_same_examples(tmp_path: Path, home: Path) -> None:
    """And is told apart from no mixture, by its own fields and by those of its sources."""
    before = trained(tmp_path, home, ["tiny_mmlu"])
    mixed = trained(tmp_path, home, ["tiny_mmlu"], mixture={"size": 4, "by": "rows"})
    assert len({before, mixed, trained(tmp_path, home, ["tiny_mmlu"], mixture={"size": 5, "by": "rows"}),
                trained(tmp_path, home, ["tiny_mmlu"], source={"epochs": 2.0})}) == 4
    assert len(list((home / "stages/prepare").iterdir())) == 1


def test_a_probe_that_can_stop_a_run_is_part_of_it(tmp_path: Path, home: Path) -> None:
    """Its items decide what is learned; those of one that only tells do not."""
    def with_probe(question: str, metric: str) -> str:
        mine = my_suite(tmp_path / "a", question)
        return trained(tmp_path, home, ["tiny_mmlu"], train={
            **SMALL["train"], "probe": {"suites": [mine]}, "stopping": {"metric": metric}})

    assert with_probe("One question?", "mine") != with_probe("Two questions?", "mine")
    assert with_probe("One question?", "validation_loss") == with_probe("Two questions?", "validation_loss")
