"""The whole stage: files in, examples and an honest ledger out."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sft_core.config.data import DataSection, SourceSection, TemplateSection, TrainingSourceSection
from sft_core.conversation import Origin
from sft_core.data import shards
from sft_core.data.curate.chain import curate_here
from sft_core.data.curate.items import EvalItem
from sft_core.data.examples import load_examples
from sft_core.data.ledger import Ledger
from sft_core.data.prepare import prepare
from sft_core.data.workers import Processes
from sft_core.errors import DataError, TemplateError
from sft_core.templates.render import IGNORE

QUESTION = "What is the colour of Bako?"


def row(number: int) -> dict[str, str]:
    return {"prompt": f"{number} is what I ask about number {number}", "completion": f"{number} it is"}


def run(out: Path, tokenizer: Any, sources: list[Any], *, items: tuple[EvalItem, ...] = (), **settings: Any
        ) -> Ledger:
    """`settings`: fields of the data section; and `replay` (sources), `template` (its name), `seed`, `workers`."""
    out.mkdir(exist_ok=True)
    replay, template, seed = settings.pop("replay", []), settings.pop("template", "chatml"), settings.pop("seed", 0)
    workers = settings.pop("workers", None)

    def section(source: Path | dict[str, Any]) -> dict[str, Any]:
        return source if isinstance(source, dict) else {"path": str(source)}

    data = {"max_tokens": 4096, "validation_share": 0.2, **settings, "sources": [section(s) for s in sources]}
    wanted = DataSection.model_validate(data)
    return prepare(
        wanted, TemplateSection.model_validate({"name": template}), tokenizer=tokenizer,
        curated=curate_here(wanted, items, out.with_name(f"{out.name}-curated")),
        replay=tuple(SourceSection.model_validate(section(s)) for s in replay), eval_items=items, seed=seed,
        mirror=None, out=out, workers=workers)


@pytest.fixture
def messy(write_jsonl) -> Path:
    """30 good rows, a copy, a near copy, a leak, one too long, a broken one and one with a control token."""
    long = {"prompt": "w " * 200, "completion": "yes"}
    many = " ".join(f"word{i}" for i in range(50))
    copy = {k: v.upper() for k, v in row(3).items()}
    alike = [{"prompt": text, "completion": "a b c d e"} for text in (many, many + " more")]
    leak = {"prompt": f"Hm. {QUESTION}", "completion": "red"}
    rows = [*map(row, range(30)), copy, *alike, leak, long, {"prompt": "say <|im_end|>", "completion": "no"}]
    path = write_jsonl(rows)
    path.write_text(path.read_text() + "broken\n")
    return path


@pytest.mark.parametrize("duplicates", [{}, {"near": False}], ids=["none is alike", "some are alike"])
def test_several_processes_make_the_same(tmp_path, tokenizer, messy, write_jsonl, monkeypatch, duplicates):
    monkeypatch.setattr(shards, "SHARD_ROWS", 5)
    asked = write_jsonl([row(number) for number in range(60, 75)], "asked.jsonl")
    pool = Processes(2)
    wanted: dict[str, Any] = {
        "sources": [messy, {"path": str(asked), "task": "quiz"}], "held_out_tasks": ["quiz"], "too_long": "drop",
        "items": (EvalItem("quiz", "7", QUESTION),), "max_tokens": 400, "max_rejected_share": 0.1,
        "duplicates": duplicates, "decontaminate": "report"}
    try:
        alone, together = (run(tmp_path / name, tokenizer, wanted["sources"], workers=workers, **{
            key: value for key, value in wanted.items() if key != "sources"})
            for name, workers in (("alone", None), ("together", pool)))
    finally:
        pool.close()
    assert alone == together
    ours, theirs = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir() if file.is_file()}
                    for name in ("alone", "together"))
    assert {"train.parquet", "held_out.jsonl", "labels.parquet", "contaminated.json"} <= ours.keys()
    assert ours == theirs


def test_every_row_is_accounted_for(tmp_path, tokenizer, messy):
    ledger = run(tmp_path / "out", tokenizer, [messy], items=(EvalItem("quiz", "7", QUESTION),), too_long="drop",
                 max_tokens=400, max_rejected_share=0.1)
    count = ledger.sources[0]
    assert dict(count.rejected) == {"contaminated": 1, "control_token": 1, "exact_duplicate": 1, "near_duplicate": 1,
                                    "too_long": 1, "unreadable": 1}
    assert (count.source, count.formats, count.read, count.kept) == ("rows.jsonl", ("prompt_completion",), 37, 31)
    assert count.stops_trained == 31
    assert ledger.unusable == 2

    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert sorted((r["line"], r["why"]) for r in rejected) == [
        (31, "exact_duplicate"), (33, "near_duplicate"), (34, "contaminated"), (35, "too_long"), (36, "control_token"),
        (37, "unreadable")]
    assert next(r["detail"] for r in rejected if r["why"] == "contaminated") == "holds item 7 of quiz"

    halves = {name: load_examples(tmp_path / "out" / f"{name}.parquet") for name in ("train", "validation", "replay")}
    lines = sorted(e.origin.line for half in halves.values() for e in half)
    assert lines == sorted({*range(1, 38)} - {r["line"] for r in rejected})
    assert (len(halves["train"]), len(halves["validation"]), halves["replay"]) == (count.train, count.validation, [])
    assert count.validation > 0
    both = [*halves["train"], *halves["validation"]]
    assert count.tokens == sum(len(e.input_ids) for e in both)
    assert count.trained_tokens == sum(t != IGNORE for e in both for t in e.targets)
    saved = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert saved == json.loads(json.dumps(ledger.to_dict()))
    for name, examples in halves.items():
        assert [saved[f"{name}_{what}"] for what in ("examples", "tokens", "trained_tokens")] == [
            len(examples), sum(len(e.input_ids) for e in examples),
            sum(t != IGNORE for e in examples for t in e.targets)]


def test_examples_come_back_as_they_were(tmp_path, tokenizer, write_jsonl, trained):
    run(tmp_path / "out", tokenizer, [write_jsonl([row(1)])], validation_share=0.0)
    (example,) = load_examples(tmp_path / "out" / "train.parquet")
    assert example.origin == Origin("rows.jsonl", str(tmp_path / "rows.jsonl"), 1)
    assert tokenizer.decode(example.input_ids) == ("<|im_start|>user\n1 is what I ask about number 1<|im_end|>\n"
                                                   "<|im_start|>assistant\n1 it is<|im_end|>\n")
    assert trained(example, tokenizer) == "1 it is<|im_end|>"
    assert isinstance(example.input_ids[0], int)
    saved = json.loads((tmp_path / "out" / "template.json").read_text())
    assert (saved["name"], saved["stops"]) == ("chatml", ["<|im_end|>"])
    assert set(saved) == {"name", "stops", "added_tokens", "jinja"}
    sample = json.loads((tmp_path / "out" / "sample.jsonl").read_text())
    assert ["1 it is<|im_end|>", "trained"] in sample["pieces"]


def test_the_same_again(tmp_path, tokenizer, messy):
    for name in ("one", "two"):
        run(tmp_path / name, tokenizer, [messy], max_rejected_share=0.1)
    for file in ("train.parquet", "validation.parquet", "rejected.parquet", "ledger.json", "sample.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    run(tmp_path / "other", tokenizer, [messy], max_rejected_share=0.1, seed=1)
    assert load_examples(tmp_path / "other" / "train.parquet") != load_examples(tmp_path / "one" / "train.parquet")


def test_switches_turn_something(tmp_path, tokenizer, messy):
    replay = messy.with_name("replay.jsonl")
    replay.write_text(json.dumps({"text": QUESTION}) + "\n")
    off = {"duplicates": {"exact": False, "near": False}, "decontaminate": "off", "max_rejected_share": 0.1}
    ledger = run(tmp_path / "out", tokenizer, [messy], items=(EvalItem("quiz", "7", QUESTION),), replay=[replay], **off)
    assert dict(ledger.replay[0].rejected) == {}
    assert dict(ledger.sources[0].rejected) == {"control_token": 1, "unreadable": 1}


@pytest.mark.parametrize(("mode", "found"), [
    ("report", {"quiz": ["7", "8"]}), ("drop", {}), ("off", {}),
])
def test_items_in_what_is_trained_on_are_listed(tmp_path, tokenizer, messy, mode, found):
    items = (EvalItem("quiz", "7", QUESTION), EvalItem("quiz", "8", "this is only said in replay text"),
             EvalItem("quiz", "9", "this is said in no text at all"))
    replay = messy.with_name("replay.jsonl")
    replay.write_text(json.dumps({"text": f"{QUESTION} And this is only said in replay text."}) + "\n"
                      + json.dumps({"text": "fine"}) + "\n")
    ledger = run(tmp_path / "out", tokenizer, [messy], items=items, replay=[replay], decontaminate=mode,
                 max_rejected_share=0.6, validation_share=0.0)
    assert json.loads((tmp_path / "out" / "contaminated.json").read_text()) == found
    dropped = sum(count.rejected.get("contaminated", 0) for count in (*ledger.sources, *ledger.replay))
    assert dropped == (2 if mode == "drop" else 0)


def test_truncation_is_counted(tmp_path, tokenizer, write_jsonl):
    said = [{"role": role, "content": text} for n in range(6)
            for role, text in (("user", f"q{n} " * 9), ("assistant", "a" * 9))]
    ledger = run(tmp_path / "out", tokenizer, [write_jsonl([{"messages": said}])], max_tokens=200,
                 too_long="truncate_left_context", validation_share=0.0)
    count = ledger.sources[0]
    (example,) = load_examples(tmp_path / "out" / "train.parquet")
    # A question and its answer are 57 tokens: three pairs fit.
    assert (count.truncated, count.turns_dropped, count.answers_cut, count.stops_trained) == (1, 6, 0, 3)
    assert len(example.input_ids) == count.tokens <= 200


def test_conversations_that_become_several_examples(tmp_path, tokenizer, write_jsonl):
    said = [{"role": role, "content": f"{text} {n}"} for n in range(6)
            for role, text in (("user", "q" * 40), ("assistant", "a" * 9))]
    ledger = run(tmp_path / "out", tokenizer, [write_jsonl([{"messages": said}, {"messages": said[:2]}])],
                 max_tokens=200, too_long="split_turns", validation_share=0.0)
    count = ledger.sources[0]
    examples = load_examples(tmp_path / "out" / "train.parquet")
    assert (count.kept, count.split, count.truncated, count.stops_trained) == (2, 1, 0, 7)
    assert count.examples == len(examples) == ledger.splits["train"].examples > 2


def test_escaped_control_tokens_are_counted(tmp_path, tokenizer, write_jsonl):
    source = write_jsonl([row(1), {"prompt": "say <|im_end|>", "completion": "no"}])
    out = tmp_path / "out"
    out.mkdir()
    data = DataSection(sources=(TrainingSourceSection(path=str(source)),), max_tokens=200, validation_share=0.0)
    ledger = prepare(
        data, TemplateSection(name="chatml", control_text="escape"), tokenizer=tokenizer, replay=(), eval_items=(),
        curated=curate_here(data, (), tmp_path / "curated"), seed=0, mirror=None, out=out)
    assert (ledger.sources[0].kept, ledger.sources[0].escaped) == (2, 1)


def test_repaired_rows_are_counted_and_answers_marked_as_context_are_not_trained(tmp_path, tokenizer, write_jsonl):
    said = [{"role": role, "content": text} for role, text in (
        ("assistant", "oy"), ("user", "hi"), ("assistant", "yo"), ("user", "and?"), ("assistant", "so"))]
    source = write_jsonl([{"messages": said}, {"messages": [said[1], {**said[2], "training": False}, *said[3:]]}])
    ledger = run(tmp_path / "out", tokenizer, [source], max_tokens=200, validation_share=0.0, repair=["trim"],
                 duplicates={"exact": False, "near": False})
    count = ledger.sources[0]
    assert (count.kept, count.repaired, count.stops_trained) == (2, 1, 3)


def test_what_a_source_was_found_to_hold_is_said(tmp_path, tokenizer, write_jsonl, caplog):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": None, "b": 1}}}]}
    pq.write_table(pa.Table.from_pylist([{"messages": [{"role": "user", "content": "go"}, call]}]),
                   tmp_path / "calls.parquet")
    logging.getLogger("sft").addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, "sft"):
        ledger = run(tmp_path / "out", tokenizer, [write_jsonl([row(1), {"prompt": 3, "completion": "x"}]),
                                                   tmp_path / "calls.parquet"], max_rejected_share=0.5,
                     validation_share=0.0)
    logging.getLogger("sft").removeHandler(caplog.handler)
    said = [record.getMessage() for record in caplog.records]
    assert "rows.jsonl: 2 rows read as prompt_completion; 1 of them are not used: wrong_type 1" in said
    assert any(line.startswith("calls.parquet: 1 null keys of tool arguments") for line in said)
    assert [count.nulls for count in ledger.sources] == [0, 1]


def test_replay(tmp_path, tokenizer, write_jsonl):
    text = "raw text <|im_end|> " * 10
    source = write_jsonl([{"text": text}, {"text": " "}, {"text": f"{QUESTION} Red."}, {"text": "fine"}],
                         "replay.jsonl")
    ledger = run(tmp_path / "out", tokenizer, [write_jsonl([row(1)])], replay=[source], validation_share=0.0,
                 max_tokens=100, items=(EvalItem("quiz", "7", QUESTION),), max_rejected_share=0.5)
    count = ledger.replay[0]
    assert (count.read, count.kept, dict(count.rejected)) == (4, 2, {"contaminated": 1, "empty_text": 1})
    examples = load_examples(tmp_path / "out" / "replay.parquet")
    assert all(len(e.input_ids) <= 100 for e in examples)
    # 201 tokens are two whole pieces; the EOS alone would have no target.
    assert sum(len(e.input_ids) for e in examples) == count.tokens == 200 + 5
    assert (count.examples, count.split, count.trained_tokens, count.stops_trained) == (3, 1, 200 + 4, 2)
    assert ledger.splits["replay"] == (3, 205, 204)
    with pytest.raises(DataError, match="1 of 4 replay rows cannot be used"):
        run(tmp_path / "again", tokenizer, [write_jsonl([row(1)])], replay=[source], validation_share=0.0)


def test_an_eos_with_id_zero_is_counted(tmp_path, tiny_tokenizer, write_jsonl):
    assert tiny_tokenizer.eos_token_id == 0
    source = write_jsonl([{"text": "w5 w6"}, {"text": "w7"}], "replay.jsonl")
    ledger = run(tmp_path / "out", tiny_tokenizer, [write_jsonl([row(1)])], replay=[source],
                 validation_share=0.0)
    assert (ledger.replay[0].stops_trained, ledger.replay[0].trained_tokens) == (2, 3)


def test_two_files_of_a_folder_may_differ_in_format(tmp_path, tokenizer, write_jsonl):
    (tmp_path / "mix").mkdir()
    write_jsonl([row(1)], "mix/a.jsonl")
    write_jsonl([{"instruction": "hi", "output": "yo"}], "mix/b.jsonl")
    ledger = run(tmp_path / "out", tokenizer, [tmp_path / "mix"], validation_share=0.0)
    assert ledger.sources[0].formats == ("prompt_completion", "alpaca")
    assert ledger.sources[0].kept == 2


class TestErrors:
    def test_too_many_unusable_rows(self, tmp_path, tokenizer, messy):
        said = r"2 of 37 rows cannot be used.*control_token 1.*--rejected.*rejected\.parquet"
        with pytest.raises(DataError, match=said):
            run(tmp_path / "out", tokenizer, [messy], max_rejected_share=0.05)
        why = Counter(pq.read_table(tmp_path / "out" / "rejected.parquet")["why"].to_pylist())
        assert why["unreadable"] == 1

    def test_too_long(self, tmp_path, tokenizer, messy):
        said = r"1 of 37 rows do not fit data.max_tokens = 400 \(first: .*rows.jsonl:35, 4\d\d tokens"
        with pytest.raises(DataError, match=said):
            run(tmp_path / "out", tokenizer, [messy], max_tokens=400, max_rejected_share=0.1)

    def test_nothing_left(self, tmp_path, tokenizer, write_jsonl):
        with pytest.raises(DataError, match="no training conversation is left of 1 rows: too_long 1"):
            run(tmp_path / "out", tokenizer, [write_jsonl([row(1)])], max_tokens=16, too_long="drop")

    def test_no_rows(self, tmp_path, tokenizer):
        (tmp_path / "x.csv").write_text("a,b\n")
        with pytest.raises(DataError, match="holds no rows"):
            run(tmp_path / "out", tokenizer, [tmp_path / "x.csv"])

    def test_equal_names(self, tmp_path, tokenizer, write_jsonl):
        path = write_jsonl([row(1)])
        with pytest.raises(DataError, match=r"several sources are called rows\.jsonl"):
            run(tmp_path / "out", tokenizer, [path, path])

    def test_raw_text_among_the_conversations(self, tmp_path, tokenizer, write_jsonl):
        with pytest.raises(DataError, match=r"belongs into train\.replay\.sources"):
            run(tmp_path / "out", tokenizer, [{"path": str(write_jsonl([row(1)])), "format": "text"}])

    def test_conversations_among_the_replay(self, tmp_path, tokenizer, write_jsonl):
        path = str(write_jsonl([row(1)]))
        with pytest.raises(DataError, match="replay is raw text"):
            run(tmp_path / "out", tokenizer, [path and {"path": path}],
                replay=[{"path": path, "format": "messages", "name": "r"}])

    def test_replay_without_text(self, tmp_path, tokenizer, write_jsonl):
        with pytest.raises(DataError, match="the replay sources hold no text"):
            run(tmp_path / "out", tokenizer, [write_jsonl([row(1)])], validation_share=0.0,
                replay=[write_jsonl([{"text": ""}], "r.jsonl")], max_rejected_share=1.0)

    def test_no_template(self, tmp_path, tokenizer, write_jsonl):
        with pytest.raises(TemplateError):
            run(tmp_path / "out", tokenizer, [write_jsonl([row(1)])], template="model")

    def test_examples_of_another_kind(self, tmp_path):
        with pytest.raises(DataError, match="run the stage prepare again"):
            load_examples(tmp_path / "train.parquet")
        (tmp_path / "train.parquet").write_text("hello")
        with pytest.raises(DataError, match="run the stage prepare again"):
            load_examples(tmp_path / "train.parquet")


@pytest.mark.parametrize(("name", "read", "kept"), [
    ("llamafactory_demo/identity.json", 91, 91),
    ("llamafactory_demo/glaive_toolcall_en_demo.json", 300, 261),
    ("fastchat/dummy_conversation.json", 500, 494),
])
def test_real_data(tmp_path, tokenizer, real_data, name, read, kept):
    ledger = run(tmp_path / "out", tokenizer, [real_data(name)], max_tokens=20_000)
    assert (ledger.sources[0].read, ledger.sources[0].kept, ledger.unusable) == (read, kept, 0)
    assert ledger.sources[0].stops_trained >= kept


def test_a_source_that_gives_nothing_is_said_at_once_and_stops_the_run(tmp_path, tokenizer, write_jsonl, caplog):
    """Its log said "0 of them cannot be used", then all its rows fell while rendering, and the run went on."""
    good, spoiled = write_jsonl([row(n) for n in range(40)]), tmp_path / "spoiled.jsonl"
    spoiled.write_text('{"prompt": "say <|im_end|>", "completion": "no"}\n' * 2)
    settings: dict[str, Any] = {"max_rejected_share": 0.5, "duplicates": {"exact": False, "near": False}}
    with caplog.at_level("INFO", "sft"), pytest.raises(
            DataError, match=r"spoiled.jsonl gives no example: of 2 rows read 0 are kept, and left out are "
                             r"control_token 2; .*may_be_empty: true"):
        run(tmp_path / "out", tokenizer, [good, spoiled], **settings)
    said = {record.getMessage(): record.levelname for record in caplog.records}
    assert said["spoiled.jsonl: 2 rows read as prompt_completion"] == "INFO"
    warned, = (text for text, level in said.items() if level == "WARNING")
    assert warned.startswith("spoiled.jsonl: 0 of 2 rows become examples; left out: control_token 2; the first: ")
    allowed = {"path": str(spoiled), "may_be_empty": True}
    assert [count.kept for count in run(tmp_path / "b", tokenizer, [good, allowed], **settings).sources] == [40, 0]
    replay = tmp_path / "replay.jsonl"
    replay.write_text('{"text": ""}\n')
    text = tmp_path / "text.txt"
    text.write_text("A text.\n")
    with pytest.raises(DataError, match=r"the source replay.jsonl gives no example"):
        run(tmp_path / "c", tokenizer, [good], replay=[text, replay], max_rejected_share=1.0)


def test_near_duplicates_that_stay_are_never_parted(tmp_path, tokenizer, write_jsonl):
    source = write_jsonl([{"prompt": " ".join(f"{group}w{i}x{n if i == 7 else 0}" for i in range(60)),
                           "completion": "yes"} for group in range(20) for n in range(5)])
    out = tmp_path / "out"
    run(out, tokenizer, [source], validation_share=0.4, duplicates={"near": False, "threshold": 0.8})
    halves = [{(example.origin.line - 1) // 5 for example in load_examples(out / f"{name}.parquet")}
              for name in ("train", "validation")]
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == 20
    assert min(map(len, halves)) > 3
    run(tmp_path / "alone", tokenizer, [source], validation_share=0.4, duplicates={"near": False, "threshold": 1.0})
    parted = [{(example.origin.line - 1) // 5 for example in load_examples(tmp_path / "alone" / f"{name}.parquet")}
              for name in ("train", "validation")]
    assert parted[0] & parted[1], "without clusters they are"
