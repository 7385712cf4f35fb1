"""Provenance: licences are known or not, never guessed; rows add up; what is forbidden stops; the card is no markup."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sft_core.config.provenance import SourceProvenanceSection
from sft_core.data.provenance.card import data_card
from sft_core.data.provenance.handed import handed, with_ends
from sft_core.data.provenance.manifest import SourceRecord, Step, joined, manifest, parts_of
from sft_core.data.provenance.terms import TABLE, check_use, terms_of, terms_of_generator
from sft_core.errors import DataError

DAY = datetime.date(2026, 11, 30)
FREE = (
    "mit", "MIT License", "Apache License", "apache-2.0", "CC BY 4.0", "cc-by-sa-3.0", "Attribution 4.0 International",
    "GNU GENERAL PUBLIC LICENSE", "LGPL-2.1-or-later", 'BSD 3-Clause "New" or "Revised" License', "CC0 1.0 Universal",
    "The Unlicense", "odc-by", "Mozilla Public License Version 2.0", "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT",
    "gemma", "bigscience-openrail-m", "openrail++", "CC-BY-ND 4.0", "Public domain", "MIT, Apache-2.0", "own")
NOT_FOR_MONEY = (
    "cc-by-nc-4.0", "CC BY-NC 4.0 (not for money)", "Attribution-NonCommercial 4.0 International", "cc-by-nc-nd-3.0",
    "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International", "apple-amlr", "OpenAI terms of use",
    "rows.json: CC BY-NC 4.0 (NON-COMMERCIAL); dolly.json: CC BY-SA 3.0", "MIT, but research only")
UNKNOWN = (None, "", "other", "unknown", "cc", "mine, https://x.y", "MIT for the code, the data is another matter",
           "Apache-2.0 (the loader)", "submit", "PROMITHEUS", "Public domain texts (published before 1929)")


@pytest.mark.parametrize("said", FREE)
def test_known_licences_forbid_nothing(said: str) -> None:
    terms = terms_of(said)
    assert terms is not None
    assert not terms.forbids
    check_use("rows", "commercial", licence=said)


@pytest.mark.parametrize("said", NOT_FOR_MONEY)
def test_a_restriction_counts_wherever_it_is_named(said: str) -> None:
    terms = terms_of(said)
    assert terms is not None
    assert terms.forbids == {"commercial"}
    with pytest.raises(DataError, match="the source rows is under .*, which forbids commercial use"):
        check_use("rows", "commercial", licence=said)
    check_use("rows", "research", licence=said)


def test_a_refusal_is_short_and_says_what_to_name() -> None:
    several = "the texts: CC BY-NC 4.0; rows.json: CC BY-SA 3.0. " + "There is no licence file beside them. " * 20
    with pytest.raises(DataError) as told:
        check_use("rows", "commercial", licence=several)
    assert len(str(told.value)) < 500
    assert "by-nc/4.0/legalcode), and" in str(told.value), "where it is forbidden and nowhere else"
    assert "the `licence:` that is its own, by its identifier" in str(told.value)
    check_use("rows", "commercial", licence="cc-by-sa-3.0")
    with pytest.raises(DataError) as told:
        check_use("rows", "commercial", licence="cc-by-nc-4.0")
    assert "by its identifier" not in str(told.value)


@pytest.mark.parametrize("said", UNKNOWN)
def test_nothing_is_guessed(said: str | None) -> None:
    assert terms_of(said) is None
    with pytest.raises(DataError, match="the licence of the source rows is not known"):
        check_use("rows", "commercial", licence=said)
    check_use("rows", "research", licence=said)


def test_share_alike_and_names_are_asked_for() -> None:
    alike = terms_of("cc-by-sa-4.0")
    assert alike is not None
    assert alike.asks == ("name the authors", "pass adaptations on under the same licence")
    assert len(terms_of("MIT, CC BY 4.0").names) == 2  # type: ignore[union-attr]


def test_makers_of_models_have_terms_too() -> None:
    forbidden = ("gpt-4", "openai/gpt-4o-mini", "text-davinci-003", "Claude 3", "o1-mini")
    for name in forbidden:
        assert terms_of_generator(name).forbids == {"commercial"}, name  # type: ignore[union-attr]
    for name in ("gpt-oss-20b", "EleutherAI/gpt-neo-1.3B", "olmo", "", None):
        assert terms_of_generator(name) is None, name
    assert terms_of_generator("meta-llama/Llama-3.1-8B").names == ("llama3.1",)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="was written by gpt-4, whose maker forbids commercial use of it"):
        check_use("rows", "commercial", licence="mit", generator="gpt-4")


def test_the_table_is_whole() -> None:
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    names = [name for row in table["licences"] for name in row["names"]]
    assert len(names) == len(set(names)) > 80
    for name in names:
        assert terms_of(name) is not None, f"{name} is not found under its own name"
    assert all(row.keys() <= {"names", "forbids", "asks", "see"} and row["see"] for row in table["licences"])
    assert {row["licence"] for row in table["generators"]} <= set(names)


def test_what_files_of_real_data_say(real_data) -> None:
    def said(folder: str) -> str:
        text = real_data(f"{folder}/SOURCE.md").read_text()
        return re.search(r"Licence: (.*)", text)[1]  # type: ignore[index]

    assert terms_of(said("alpaca_subset")).forbids == {"commercial"}  # type: ignore[union-attr]
    assert terms_of(said("gsm8k")).names == ("mit",)  # type: ignore[union-attr]
    assert terms_of(said("self_instruct_seed")) is None  # "upstream licences unverified"


# The manifest


def _record(tmp_path: Path, name: str = "rows", licence: str | None = "mit", **told: Any) -> SourceRecord:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text(told.pop("holds", "{}\n"))
    steps = (Step("read", {}, 10, 9, reasons={"unreadable": 1}), Step("duplicates", {"threshold": 0.9}, 9, 7, 0,
                                                                      {"near_duplicate": 2}))
    return SourceRecord(name, f"data/{name}", None, licence, "README.md", SourceProvenanceSection.model_validate(told),
                        parts_of(folder.glob("*.jsonl"), folder), steps)


def test_rows_add_up(tmp_path: Path) -> None:
    one = _record(tmp_path)
    assert (one.rows_in, one.rows_out) == (10, 7)
    with pytest.raises(DataError, match="the step read of rows does not add up: 10 rows in, 9 out, 0 left out"):
        replace(one, steps=(Step("read", {}, 10, 9),))
    with pytest.raises(DataError, match="9 rows of rows leave the step read and 8 come to duplicates"):
        replace(one, steps=(one.steps[0], replace(one.steps[1], rows_in=8, rows_out=6)))
    both = joined([one, one])
    assert (both.rows_in, both.rows_out, len(both.parts)) == (20, 14, 2)
    assert both.steps[1].reasons == {"near_duplicate": 4}
    with pytest.raises(DataError, match="went through other steps"):
        joined([one, replace(one, steps=one.steps[:1])])


def test_the_fingerprint_is_of_content_and_settings(tmp_path: Path) -> None:
    one = _record(tmp_path)
    first = manifest([one], None, DAY)
    assert manifest([one], None, DAY + datetime.timedelta(1))["fingerprint"] == first["fingerprint"]
    assert json.loads(json.dumps(first)) == first
    scored = manifest([replace(one, scores={"ifd": {"read": {"median": 0.8}}})], None, DAY)
    assert scored["sources"][0]["scores"]["ifd"]["read"]["median"] == 0.8
    assert scored["fingerprint"] == first["fingerprint"], "another machine rounds scores otherwise"
    for other in (_record(tmp_path, holds="{} \n"), replace(one, licence="cc0-1.0"),
                  replace(one, steps=(one.steps[0], replace(one.steps[1], settings={"threshold": 0.8})))):
        assert manifest([other], None, DAY)["fingerprint"] != first["fingerprint"]


def test_a_use_that_one_source_forbids_stops(tmp_path: Path) -> None:
    records = [_record(tmp_path), _record(tmp_path, "poor", "cc-by-nc-4.0"), _record(tmp_path, "odd", "Mine")]
    assert manifest(records, "research", DAY)["sources"][1]["licence"]["forbids"] == ["commercial"]
    assert manifest(records, None, DAY)["use"] is None
    with pytest.raises(DataError, match="the source poor is under cc-by-nc-4.0"):
        manifest(records, "commercial", DAY)


def test_the_card_says_it_all_and_obeys_nothing(tmp_path: Path) -> None:
    evil = _record(tmp_path, "rows", "<img src=x> | [click](http://x.y)\n# Heading", kind="synthetic", generator="m|x",
                   prompt_version="3", sampling={"temperature": 0.7}, date="2026-01-02")
    card = data_card("my *data*", manifest([evil, _record(tmp_path, "more")], "research", DAY))
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head) == {"pretty_name": "my *data*", "license": "other", "size_categories": ["n<1K"],
                                    "tags": ["sft", "synthetic"]}
    for said in ("14 of 20 rows from 2 sources", "2026-01-02", "prompts 3, temperature 0.7", "near\\_duplicate 2",
                 "threshold 0.9", evil.parts[0].sha256, "## Licences", r"m\|x"):
        assert said in body, said
    assert "<img" not in body.replace("\\<", "")
    assert "[click]" not in body.replace("\\[", "")
    assert "\n# Heading" not in body
    rows = [line for line in body.splitlines() if "click" in line]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in rows] == [6], "one row of five cells"
    only = data_card("x", manifest([_record(tmp_path)], None, DAY))
    assert "license: mit" in only


def test_the_way_of_the_rows_goes_on_to_training_and_adds_up(tmp_path: Path) -> None:
    record = _record(tmp_path)
    curated = [{"name": "rows", "steps": list(record.to_dict()["steps"])}]
    (end,) = ends = handed(curated, {"sources": [
        {"source": "rows", "rejected": {"unreadable": 1, "near_duplicate": 2, "too_long": 1}, "held_out": 1,
         "validation": 2, "train": 3, "train_examples": 5}]}, {"rows": 4})
    (told,) = with_ends(curated, ends)
    whole = replace(record, steps=tuple(Step(**step) for step in told["steps"]), handed=end)  # it checks each step
    assert (whole.steps[-1].rows_out, end.rows) == (3, 3)
    assert [dict(step.reasons) for step in whole.steps[2:]] == [{"too_long": 1}, {"item": 1}, {"validation": 2}]
    said = ("Of 7 curated rows 1 are left out in rendering (too_long 1), 1 are items of held-out tasks, 2 are for "
            "validation, and 3 give 5 training examples, of which 4 are used in training.")
    made = manifest([replace(record, handed=end)], None, DAY)
    assert said in data_card("c", made)
    assert "| rows | 7 | too\\_long 1 | 1 | 2 | 3 | 5 | 4 |" in data_card("c", made)
    plain = manifest([record], None, DAY)
    assert "held-out" not in data_card("c", plain)
    assert plain["fingerprint"] == made["fingerprint"], "it stands for the curated rows, whatever a run makes of them"


def test_only_models_have_generators() -> None:
    with pytest.raises(ValidationError, match="generator is of what a model wrote, and kind is human"):
        SourceProvenanceSection.model_validate({"kind": "human", "generator": "gpt-4"})
    with pytest.raises(ValidationError):
        SourceProvenanceSection.model_validate({"kind": "robot"})
