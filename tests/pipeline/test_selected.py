"""What is selected can be trained: as many rows as asked for, and none that goes afterwards."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from flows.cli import app
from sft_core.config.experiment import ExperimentConfig
from sft_core.errors import DataError
from tasks.needs import data_lacks
from tasks.prepare import prepare
from tasks.stages import Workspace


def rows(count: int, words: int, name: str) -> list[dict[str, str]]:
    return [{"instruction": f"Tell me of {name} number {at}.",
             "output": " ".join(f"{name}{at}w{n}" for n in range(words)) + "."} for at in range(count)]


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home", None)


def wanted(tmp_path: Path, select: dict[str, Any], **data: Any) -> ExperimentConfig:
    """30 short rows and 20 with too many tokens of `plain`, 25 of `asked`, which may be held out, and 40 of `made`,
    of a word each."""
    sources = []
    for name, some in (("plain", [*rows(30, 6, "b"), *rows(20, 120, "c")]), ("asked", rows(25, 5, "d")),
                       ("made", rows(40, 1, "e"))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        sources.append({"path": str(tmp_path / f"{name}.jsonl"), "name": name, "task": name, "may_be_empty": True})
    return ExperimentConfig.model_validate({
        "name": "selected", "model": {"path": "tiny"}, "template": {"name": "chatml"},
        "train": {"optim": {"lr": 1e-3}},
        "eval": {"suites": ["tiny_refusal"]},
        "data": {"sources": sources, "max_tokens": 200, "select": select, "validation_share": 0.1,
                 "duplicates": {"near": False}, "decontaminate": "off", **data}})


def counts(config: ExperimentConfig, place: Workspace) -> dict[str, dict[str, Any]]:
    return {one["source"]: one for one in prepare.fn(config, place).result["ledger"]["sources"]}


@pytest.mark.parametrize("too_long", ["fail", "drop"])
def test_long_rows_are_not_chosen_however_good_they_are(tmp_path: Path, place: Workspace, too_long: str) -> None:
    found = counts(wanted(tmp_path, {"n": 40, "by": "length"}, too_long=too_long), place)
    assert sum(one["train"] + one["validation"] for one in found.values()) == 40
    assert found["plain"]["train"] + found["plain"]["validation"] == 30
    assert found["plain"]["rejected"] == {"too_long" if too_long == "drop" else "not_selected": 20}


def test_held_out_tasks_stay_whole_and_are_not_counted(tmp_path: Path, place: Workspace) -> None:
    found = counts(wanted(tmp_path, {"n": 35, "by": "length"}, held_out_tasks=["asked"]), place)
    assert found["asked"]["held_out"] == 25
    assert found["plain"]["kept"] + found["made"]["kept"] == 35


def test_sources_that_are_not_chosen_among_stay(tmp_path: Path, place: Workspace) -> None:
    found = counts(wanted(tmp_path, {"n": 10, "by": "length", "sources": ["plain", "asked"]}), place)
    assert {name: one["kept"] for name, one in found.items()} | {"plain": 10} == {"plain": 10, "asked": 0, "made": 40}
    with pytest.raises(DataError, match="data.select.sources names plane, which is no source; there are plain, asked"):
        prepare.fn(wanted(tmp_path, {"n": 10, "sources": ["plane"]}), place)


def test_a_source_that_is_nearly_emptied_is_told(tmp_path: Path, place: Workspace, caplog: pytest.LogCaptureFixture
                                                 ) -> None:
    counts(wanted(tmp_path, {"n": 56, "by": "length"}), place)
    (told,) = (record.getMessage() for record in caplog.records if "leaves" in record.message)
    assert told.startswith("made: the selection by length leaves 1 of 40 rows, and 59 % of all")


def test_too_few_positions_are_told_before_anything_is_read(tmp_path: Path, place: Workspace) -> None:
    config = wanted(tmp_path, {"n": 10}, max_tokens=300)
    assert ["data.max_tokens is 300, but tiny knows 256 positions" in one.what for one in data_lacks(config, place)
            ] == [True]


def test_a_check_of_the_data_stops_where_a_run_would(tmp_path: Path) -> None:
    settings = wanted(tmp_path, {"n": 25, "by": "length"}).model_dump(mode="json", by_alias=True, exclude_unset=True)
    for source in settings["data"]["sources"]:
        source["may_be_empty"] = source["name"] != "made"
    (tmp_path / "selected.yaml").write_text(yaml.safe_dump(settings))

    def checked(*overrides: str) -> Result:
        return CliRunner().invoke(app, ["data", "check", str(tmp_path / "selected.yaml"), *overrides],
                                  env={"SFT_HOME": str(tmp_path / "home")})

    def said(result: Result) -> str:
        assert result.exit_code == 1
        return " ".join(result.output.split())

    assert "DataError: nothing is left of the source made: " in said(checked())
    assert "DataError: none of 115 rows is left" in said(
        checked("--set", "data.quality={drop: [length], least_words: 500}"))
    assert checked("--set", "data.select={n: 25, by: length, sources: [plain]}").exit_code == 0
