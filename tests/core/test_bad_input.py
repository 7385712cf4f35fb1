"""Bad input as a user meets it: the stage ends with a clear error, or goes on without the row and tells which one."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from sft_core.config.data import DataSection, SourceSection, TemplateSection
from sft_core.data.curate.chain import curate_here
from sft_core.data.curate.normalise import normalise
from sft_core.data.curate.sketch import sketch
from sft_core.data.examples import load_examples
from sft_core.data.ledger import Ledger
from sft_core.data.prepare import prepare
from sft_core.data.shards import load_rejected
from sft_core.errors import DataError, disk_advice

GOOD = [{"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(5)]


def run(folder: Path, tokenizer: Any, *sources: Any, **settings: Any) -> Ledger:
    out = folder / "out"
    out.mkdir()
    sections = [source if isinstance(source, dict) else {"path": str(source)} for source in sources]
    data = {"max_tokens": 200, "validation_share": 0.0, "duplicates": {"near": False}, **settings, "sources": sections}
    section = DataSection.model_validate(data)
    return prepare(section, TemplateSection(name="chatml"), tokenizer=tokenizer, replay=(), eval_items=(), seed=0,
                   mirror=None, curated=curate_here(section, (), folder / "curated"), out=out)


def messages(*said: tuple[str, Any]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in said]})


@pytest.mark.parametrize(("line", "why", "detail"), [
    ('{"messages": [}', "unreadable", "not JSON: Expecting value"),
    ("\xff", "unreadable", "not UTF-8"),
    ('{"text": "hi"}', "missing_column", "no column messages or conversations, or nothing in it; there are text"),
    (messages(("assistant", "yo")), "role_order", "turn 1 is assistant after start; allowed is system or user"),
    (messages(("user", "hi"), ("user", "hi"), ("assistant", "yo")), "role_order", "turn 2 is user after user"),
    (messages(("user", "hi")), "role_order", "the last turn is user; it must be assistant"),
    (messages(("user", "hi"), ("assistant", " ")), "empty_assistant", "turn 2 has neither content nor tool calls"),
    (messages(("user", "hi"), ("assistant", None)), "empty_assistant", "turn 2 has neither content nor tool calls"),
    (messages(("user", None), ("assistant", "yo")), "wrong_type", "turn 1 (user) is not text but NoneType"),
    (messages(("user", [["hi"]]), ("assistant", "yo")), "wrong_type", "a part of turn 1 has type NoneType"),
    (messages(("user", {"a": {"b": "hi"}}), ("assistant", "yo")), "wrong_type", "turn 1 (user) is not text but dict"),
    ('{"messages": ' + "[" * 3000 + "]" * 3000 + "}", "unreadable", "not JSON: maximum recursion"),
    (messages(("user", "h\0i\0"), ("assistant", "yo")), "unreadable", "NUL beside every character; is the file UTF-16"),
    ('{"messages": "h\0i"}', "unreadable", "Invalid control character"),
    (messages(("user", "x" * 500_000), ("assistant", "yo")), "too_long", "tokens, 200 allowed"),
], ids=lambda value: value[:20] if isinstance(value, str) and len(value) > 300 else None)
def test_one_bad_row_among_good_ones(tmp_path, tokenizer, line, why, detail):
    lines = [json.dumps(row) for row in GOOD]
    text = "\n".join([*lines[:2], line, *lines[2:]])
    (tmp_path / "rows.jsonl").write_bytes(text.encode("latin-1" if line == "\xff" else "utf-8"))
    ledger = run(tmp_path, tokenizer, tmp_path / "rows.jsonl", too_long="drop", max_rejected_share=0.2)
    assert (ledger.read, ledger.sources[0].kept, dict(ledger.sources[0].rejected)) == (6, 5, {why: 1})
    (rejected,) = load_rejected(tmp_path / "out" / "rejected.parquet")
    assert (rejected.origin, rejected.why) == (("rows.jsonl", str(tmp_path / "rows.jsonl"), 3), why)
    assert detail in rejected.detail
    assert len(rejected.detail) < 400
    lines_kept = [e.origin.line for e in load_examples(tmp_path / "out" / "train.parquet")]
    assert lines_kept == [1, 2, 4, 5, 6]


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("sign", ["\0", "\a"])
def test_a_control_character_costs_no_row(tmp_path, read_whole, form, sign):
    """JSON may hold it as an escape, NUL too."""
    rows = [*GOOD[:2], json.loads(messages(("user", f"h{sign}i"), ("assistant", f"y{sign}o")))]
    file = tmp_path / f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text(json.dumps(rows) if form == "json" else "\n".join(map(json.dumps, rows)))
    taken = read_whole(SourceSection(path=str(file)))
    assert not taken.rejected
    done = normalise(taken.conversations[2], ("control",))
    assert [turn.content for turn in done.conversation.turns] == ["hi", "yo"]
    assert [change.kind for change in done.changes] == ["control", "control"]


def test_a_row_of_ten_megabytes(tmp_path, read_whole):
    """Read and checked whole; what it means in tokens is the renderer's matter (a shorter one is too long above)."""
    long = "word " * 2_000_000
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(GOOD[0])}\n{messages(('user', long), ('assistant', 'yo'))}\n"
                                         f'{{"messages": {json.dumps(long)}}}\n')
    taken = read_whole(SourceSection(path=str(tmp_path / "rows.jsonl")))
    assert [len(one.turns[0].content) for one in taken.conversations] == [10, 10_000_000]
    assert sketch(taken.conversations, 3).letters.tolist() == [18, 10_000_002]
    (rejected,) = taken.rejected
    assert rejected.detail.startswith("the list of messages is not JSON")
    assert len(rejected.detail) < 300


def test_the_share_of_bad_rows_ends_the_stage_and_they_can_be_read(tmp_path, tokenizer):
    lines = [json.dumps(row) for row in GOOD] + ["broken", messages(("assistant", "yo"))]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    said = (r"2 of 7 rows cannot be used, more than data.max_rejected_share = 0.25 allows; all that was rejected: "
            r"role_order 1, unreadable 1; `sft data show CONFIG --rejected`.*data.repair puts turns into order")
    with pytest.raises(DataError, match=said):
        run(tmp_path, tokenizer, tmp_path / "rows.jsonl", max_rejected_share=0.25)
    assert [one.origin.line for one in load_rejected(tmp_path / "out" / "rejected.parquet")] == [6, 7]


def test_an_unknown_speaker_is_told_with_the_line_that_maps_it(tmp_path, read_whole):
    (tmp_path / "rows.jsonl").write_text(f'{messages(("user", "hi"), ("bot", "yo"))}\n')
    (rejected,) = read_whole(SourceSection(path=str(tmp_path / "rows.jsonl"))).rejected
    assert rejected.detail.startswith("turn 2 is from 'bot', and known are system, ")
    assert rejected.detail.endswith('for example `roles: {"bot": assistant}`')


@pytest.mark.parametrize(("error", "said"), [
    (OSError(errno.ENOSPC, "full"), "free some space"), (RuntimeError("of torch"), "free some space"),
    (OSError(errno.EACCES, "no"), "may be written"), (OSError(errno.ENOENT, "gone"), "may be written")])
def test_what_to_do_hangs_on_why_nothing_could_be_written(error, said):
    assert said in disk_advice(error)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("x.jsonl", "", "is empty"), ("x.json", "[]", "empty array"), ("x.csv", "prompt,completion\n", "holds no rows"),
    ("x.jsonl", '{"said": [{"role": "user"}]}', "set columns: {messages: said}"),
    ("x.json", '[{"prompt": "a", "completion": "b"', "not valid JSON"), ("x.md", "hello", "unknown kind"),
])
def test_a_source_that_gives_nothing(tmp_path, tokenizer, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        run(tmp_path, tokenizer, tmp_path / name)


def test_a_folder_and_a_path_with_nothing_behind(tmp_path, tokenizer):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.md").write_text("hello")
    with pytest.raises(DataError, match="holds no data file"):
        run(tmp_path, tokenizer, tmp_path / "data")
    with pytest.raises(DataError, match="there is no nowhere.jsonl"):
        run(tmp_path / "data", tokenizer, "nowhere.jsonl")


def test_a_mapped_column_that_is_not_there(tmp_path, tokenizer):
    (tmp_path / "x.jsonl").write_text('{"instruction": "hi", "output": "yo"}\n')
    source = {"path": str(tmp_path / "x.jsonl"), "format": "alpaca", "columns": {"output": "response"}}
    with pytest.raises(DataError, match="missing_column 1"):
        run(tmp_path, tokenizer, source)
    (rejected,) = load_rejected(tmp_path / "out" / "rejected.parquet")
    assert rejected.detail == "no column response, or nothing in it; there are instruction, output"


@pytest.mark.parametrize("field", [{"columns": {"outptu": "response"}}, {"roles": {"BOT": "assistent"}},
                                   {"weight": 0}, {"weight": -1.0}])
def test_a_section_that_means_nothing(field):
    with pytest.raises(ValidationError):
        SourceSection.model_validate({"path": "x.jsonl", **field})


def test_a_mapped_column_that_no_row_has_is_told(tmp_path, write_jsonl, caplog):
    path = write_jsonl([{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(9)])
    with pytest.raises(DataError, match="rows.jsonl: columns maps completion to nosuch, which none of its 9 rows has"):
        curate_here(DataSection.model_validate({"max_tokens": 99, "sources": [
            {"path": str(path), "columns": {"completion": "nosuch"}}]}), (), tmp_path / "one")
    curate_here(DataSection.model_validate({"max_tokens": 99, "sources": [
        {"path": str(path), "columns": {"tools": "nosuch"}}]}), (), tmp_path / "two")
    assert "columns maps tools to nosuch, which none of its 9 rows has" in caplog.text
