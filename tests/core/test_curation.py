"""The way from sources to curated rows: kept by what it hangs on, the same whoever computes, nothing lost."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sft_core.config.data import DataSection
from sft_core.conversation import Origin
from sft_core.data import shards, workers
from sft_core.data.curate import chain, curated, kept, measure, recall
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.read import changes_in
from sft_core.data.sources import source_digest
from sft_core.data.workers import InProcess, Processes, Workers
from sft_core.errors import DataError, Interrupted
from sft_core.stage import read_json
from sft_core.stopping import stop_on_signals

WORDS = " ".join(f"word{i}" for i in range(50))
QUESTION = "What is the colour of Bako?"


def rows(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"prompt": f"question {n} asks for {n * n}", "completion": f"{n} it is"}
            for n in range(start, start + count)]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 7)
    monkeypatch.setattr(recall, "AT_ONCE", 2)


class Noted:
    """Keeps steps in a folder, and what was made."""

    def __init__(self, root: Path) -> None:
        self.made: list[str] = []
        self._keep = kept.in_folder(root)

    def __call__(self, name: str, stamp: str, make: Callable[[Path], Mapping[str, object]]) -> kept.Kept:
        def noting(out: Path) -> Mapping[str, object]:
            self.made.append(name)
            return make(out)

        return self._keep(name, stamp, noting)


def wanted(tmp_path: Path, sources: list[Any], items: tuple[EvalItem, ...] = (), **settings: Any) -> chain.Wanted:
    data = DataSection.model_validate({"max_tokens": 400, **settings, "sources": [
        source if isinstance(source, dict) else {"path": str(source)} for source in sources]})
    digests = [source_digest(one, scratch=tmp_path, mirror=None) for one in data.sources]
    return chain.Wanted(data, 0, digests, [list(item) for item in items], lambda: items, tmp_path / "scratch", None)


def stays(folder: Path) -> list[Origin]:
    return [one.conversation.origin for shard in curated.curated_shards(folder) for one in shard]


def lines(folder: Path) -> list[int]:
    return [one.line for one in stays(folder)]


@pytest.fixture
def messy(write_jsonl: Callable[..., Path]) -> Path:
    """30 rows, a copy, a near copy, an item, and one that is broken."""
    copy = {key: value.upper() for key, value in rows(4)[3].items()}
    alike = [{"prompt": text, "completion": "a b c d e"} for text in (WORDS, WORDS + " more")]
    path = write_jsonl([*rows(30), copy, *alike, {"prompt": QUESTION, "completion": "red"}], "messy.jsonl")
    path.write_text(path.read_text() + "broken\n")
    return path


@pytest.mark.usefixtures("small_shards")
def test_what_goes_can_be_read_and_the_counts_add_up(tmp_path, messy):
    found = chain.curate(wanted(tmp_path, [messy], (EvalItem("quiz", "7", QUESTION),)), Noted(tmp_path / "kept"),
                        InProcess())
    gone = shards.load_rejected(found.folder / "rejected.parquet")
    assert [(one.origin.line, str(one.why)) for one in gone] == [
        (35, "unreadable"), (31, "exact_duplicate"), (33, "near_duplicate"), (34, "contaminated")]
    assert lines(found.folder) == [n for n in range(1, 36) if n not in (31, 33, 34, 35)]
    (source,) = found.result["sources"]
    assert source | {"languages": {}, "steps": [], "flaws": {}, "personal": {}, "scores": {}} == {
        "name": "messy.jsonl", "rows": 35, "formats": ["prompt_completion"], "nulls": 0, "languages": {}, "steps": [],
        "flaws": {}, "personal": {}, "scores": {}, "rejected": {"unreadable": 1}, "changed": {},
        "curated": {"exact_duplicate": 1, "near_duplicate": 1, "contaminated": 1}}
    assert [(name, of["read"]["rows"], of["kept"]["rows"]) for name, of in source["scores"].items()] == [
        ("quality", 34, 31)]
    steps = source["steps"]
    assert [step["name"] for step in steps] == [
        "read", "normalise", "evaluation items", "exact duplicates of conversations",
        "near duplicates of conversations"]
    for before, after in pairwise(steps):
        assert before["rows_in"] == before["rows_out"] + sum(before["reasons"].values())
        assert after["rows_in"] == before["rows_out"]
    assert read_json(found.folder / "curation.json") == found.result
    pairs = curated.twins_of(found.folder)
    assert [(a.line, b.line, round(alike, 2), equal) for a, b, alike, equal in pairs] == [
        (31, 4, 1.0, True), (33, 32, 0.91, False)]


@pytest.mark.usefixtures("small_shards")
class TestKept:
    def test_a_threshold_measures_nothing_again(self, tmp_path, messy):
        keep = Noted(tmp_path / "kept")
        for threshold in (0.9, 0.99, 0.9):
            chain.curate(wanted(tmp_path, [messy], duplicates={"threshold": threshold}), keep, InProcess())
        assert keep.made == ["read", "normalise", *["facts"] * 4, "recall", "curate", "curate"]

    def test_a_further_source_leaves_what_is_known_of_the_others(self, tmp_path, messy, write_jsonl):
        keep = Noted(tmp_path / "kept")
        chain.curate(wanted(tmp_path, [messy], decontaminate="off"), keep, InProcess())
        more = write_jsonl(rows(9, 100), "more.jsonl")
        found = chain.curate(wanted(tmp_path, [messy, more], decontaminate="off"), keep, InProcess())
        assert Counter(keep.made) == {"read": 2, "normalise": 2, "facts": 6, "curate": 2}
        assert Counter(origin.source for origin in stays(found.folder))["more.jsonl"] == 9

    def test_texts_are_put_right_first_and_what_changed_can_be_read(self, tmp_path, write_jsonl):
        keep = Noted(tmp_path / "kept")
        path = write_jsonl([*rows(9), {"prompt": "They donâ€™t know", "completion": "so be it\r\n"}])
        found = chain.curate(wanted(tmp_path, [path]), keep, InProcess())
        (source,) = found.result["sources"]
        assert source["changed"] == {"encoding": 1, "line_ends": 1}
        last = list(curated.curated_shards(found.folder))[-1][-1].conversation
        assert [turn.content for turn in last.turns] == ["They don’t know", "so be it\n"]
        folder = next(path for path in (tmp_path / "kept/normalise").iterdir() if path.is_dir())
        assert [(origin.line, change.kind) for origin, change in changes_in(folder)] == [
            (10, "encoding"), (10, "line_ends")]
        keep.made.clear()
        off = chain.curate(wanted(tmp_path, [path], normalise={"kinds": []}), keep, InProcess())
        assert "read" not in keep.made
        assert "normalise" not in keep.made
        last = list(curated.curated_shards(off.folder))[-1][-1].conversation
        assert last.turns[0].content == "They donâ€™t know"

    def test_personal_data_is_redacted_dropped_or_only_told(self, tmp_path, write_jsonl):
        mail, other = "jo.miller@acme.com", "ann@acme.com"
        path = write_jsonl([*rows(9), {"prompt": f"Write to {mail} and {other}", "completion": f"To {mail}: hi"}])
        keep, told = Noted(tmp_path / "kept"), {}
        for action in ("report", "redact", "drop"):
            found = chain.curate(wanted(tmp_path, [path], pii={"action": action}), keep, InProcess())
            last = [one for shard in curated.curated_shards(found.folder) for one in shard][-1].conversation
            told[action] = (found.result["sources"][0]["personal"], [turn.content for turn in last.turns])
        assert keep.made.count("facts") == 4
        assert told["report"] == ({"found": {"email": 3}, "redacted": {}},
                                  [f"Write to {mail} and {other}", f"To {mail}: hi"])
        assert told["redact"] == ({"found": {"email": 3}, "redacted": {"email": 3}},
                                  ["Write to [EMAIL_1] and [EMAIL_2]", "To [EMAIL_1]: hi"])
        assert told["drop"][0] == {"found": {"email": 3}, "redacted": {}}
        gone, = shards.load_rejected(found.folder / "rejected.parquet")
        assert (gone.origin.line, str(gone.why)) == (10, "personal_data")
        assert mail not in gone.detail
        written = (found.folder / "personal.parquet").read_bytes() + (found.folder / "curation.json").read_bytes()
        assert mail.encode() not in written

    def test_rows_that_share_a_system_prompt_are_not_alike(self, tmp_path, write_jsonl, caplog):
        system = " ".join(f"rule{n}" for n in range(300))
        asked = [{"system": system, **row} for row in rows(30)]
        found = chain.curate(wanted(tmp_path, [write_jsonl(asked)]), Noted(tmp_path / "kept"), InProcess())
        assert found.result["sources"][0]["curated"] == {}
        assert "near duplicates" not in caplog.text

    def test_most_of_a_source_gone_as_alike_is_told(self, tmp_path, write_jsonl, caplog):
        context = " ".join(f"fact{n}" for n in range(300))
        asked = [{"prompt": f"{context} {row['prompt']}", "completion": row["completion"]} for row in rows(30)]
        chain.curate(wanted(tmp_path, [write_jsonl(asked)]), Noted(tmp_path / "kept"), InProcess())
        assert "rows.jsonl: near duplicates of conversations take out 29 of 30 rows" in caplog.text

    def test_a_selection_is_told_beside_a_random_draw(self, tmp_path, write_jsonl):
        path = write_jsonl([{"prompt": f"question {n} about {n * n}", "completion": f"word{n} " * (n + 1)}
                            for n in range(20)])
        keep, asked = Noted(tmp_path / "kept"), {"n": 5, "by": "length"}
        found = chain.curate(wanted(tmp_path, [path], select=asked, duplicates={"near": False}), keep, InProcess())
        assert lines(found.folder) == [16, 17, 18, 19, 20]
        assert found.result["sources"][0]["curated"] == {"not_selected": 15}
        selected, random = (found.result["selection"][name] for name in ("selected", "random"))
        assert selected["rows"] == random["rows"] == 5
        assert selected["words"] > random["words"]
        keep.made.clear()
        diverse = chain.curate(wanted(tmp_path, [path], select={**asked, "diverse": True}, duplicates={"near": False}),
                               keep, InProcess())
        assert keep.made == ["curate"]
        assert diverse.result["selection"]["selected"]["radius"] is not None

    def test_flaws_are_told_and_go_where_they_are_named(self, tmp_path, write_jsonl):
        refusal = "As an AI language model, I cannot say."
        path = write_jsonl([*rows(9), {"prompt": "Who are you?", "completion": refusal}])
        told = chain.curate(wanted(tmp_path, [path]), kept.in_folder(tmp_path / "kept"), InProcess())
        assert told.result["sources"][0]["flaws"] == {"refusal": 1}
        assert len(lines(told.folder)) == 10
        gone = chain.curate(wanted(tmp_path, [path], quality={"drop": ["refusal"]}), kept.in_folder(tmp_path / "kept"),
                            InProcess())
        assert gone.result["sources"][0]["curated"] == {"refusal": 1}
        assert lines(gone.folder) == list(range(1, 10))

    def test_where_nobody_looks_nothing_is_known(self, tmp_path, messy):
        keep = Noted(tmp_path / "kept")
        found = chain.curate(wanted(tmp_path, [messy], quality={"measure": False}, pii={"action": "off"},
                                    normalise={"kinds": []}, decontaminate="off"), keep, InProcess())
        assert keep.made == ["read", "facts", "curate"]
        one = next(curated.curated_shards(found.folder))[0]
        assert (one.language, math.isnan(one.quality)) == ("und", True)
        with pytest.raises(ValueError, match="measure: false looks for none"):
            wanted(tmp_path, [messy], quality={"measure": False, "drop": ["echo"]})
        with pytest.raises(ValueError, match="data.quality.measure is false"):
            wanted(tmp_path, [messy], quality={"measure": False}, select={"n": 3})

    def test_other_words_of_a_shingle_are_measured_and_other_items_too(self, tmp_path, messy):
        keep = Noted(tmp_path / "kept")
        chain.curate(wanted(tmp_path, [messy]), keep, InProcess())
        keep.made.clear()
        chain.curate(wanted(tmp_path, [messy], duplicates={"words": 5}), keep, InProcess())
        assert keep.made == ["facts", "curate"]
        chain.curate(wanted(tmp_path, [messy], (EvalItem("quiz", "7", QUESTION),)), keep, InProcess())
        assert keep.made == ["facts", "curate", "facts", "recall", "curate"]

    def test_a_shard_that_is_missing_is_measured_and_no_other(self, tmp_path, messy, monkeypatch):
        keep = kept.in_folder(tmp_path / "kept")
        whole = chain.curate(wanted(tmp_path, [messy], decontaminate="off"), keep, InProcess())
        facts = min(path for path in (tmp_path / "kept/facts").iterdir() if path.is_dir())
        lost = shards.shards_of(facts)[2]
        lost.unlink()
        facts.with_suffix(".json").unlink()  # what a kill leaves: no mark
        (tmp_path / "kept/curate" / f"{whole.folder.name}.json").unlink()
        measured: list[str] = []
        real = measure._measured
        monkeypatch.setattr(measure, "_measured",
                            lambda shard, **rest: (measured.append(shard.name), real(shard, **rest)))
        again = chain.curate(wanted(tmp_path, [messy], decontaminate="off"), keep, InProcess())
        assert measured == [lost.name]
        assert lines(again.folder) == lines(whole.folder)


class TestPreference:
    def pair(self, write_jsonl: Callable[..., Path]) -> list[Any]:
        short = write_jsonl([{"prompt": WORDS, "completion": "yes my dear old friend"}], "short.jsonl")
        long = write_jsonl([{"prompt": WORDS, "completion": "yes my dear old friend so"}], "long.jsonl")
        return [{"path": str(short), "date": "2026-05-01"}, {"path": str(long), "date": "2025-05-01"}]

    @pytest.mark.parametrize(("said", "expected"), [
        ({}, "short.jsonl"), ({"keep": "longest"}, "long.jsonl"), ({"keep": "newest"}, "short.jsonl"),
        ({"prefer": ["long.jsonl"]}, "long.jsonl"), ({"prefer": ["short.jsonl"], "keep": "longest"}, "short.jsonl")])
    def test_which_one_stays(self, tmp_path, write_jsonl, said, expected):
        asked = wanted(tmp_path, self.pair(write_jsonl), duplicates=said)
        (one,) = stays(chain.curate(asked, kept.in_folder(tmp_path / "kept"), InProcess()).folder)
        assert one.source == expected

    def test_the_newest_is_that_of_the_later_date(self, tmp_path, write_jsonl):
        sources = self.pair(write_jsonl)
        sources[1]["date"] = "2026-06-01"
        asked = wanted(tmp_path, sources, duplicates={"keep": "newest"})
        (one,) = stays(chain.curate(asked, kept.in_folder(tmp_path / "kept"), InProcess()).folder)
        assert one.source == "long.jsonl"

    def test_both_prompts_and_conversations(self, tmp_path, write_jsonl):
        path = write_jsonl([{"prompt": WORDS, "completion": text * 30} for text in ("yes indeed. ", "no never. ")])
        for compared, left in ((["conversations"], 2), (["conversations", "prompts"], 1)):
            asked = wanted(tmp_path, [path], duplicates={"compared": compared})
            assert len(stays(chain.curate(asked, kept.in_folder(tmp_path / "kept"), InProcess()).folder)) == left


@pytest.fixture
def two() -> Any:
    pool = Processes(2)
    yield pool
    pool.close()


def test_a_forked_process_starts_workers_too(two):
    """It knows of the fork server of its parent, whose child it cannot wait for."""
    def work() -> None:
        own = Processes(2)
        try:
            assert list(own.map(abs, range(-9, 0))) == [*range(9, 0, -1)]
        finally:
            own.close()

    assert list(two.map(abs, range(-9, 0))) == [*range(9, 0, -1)]
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.usefixtures("small_shards")
def test_several_processes_find_the_same(tmp_path, messy, two):
    items = (EvalItem("quiz", "7", QUESTION),)
    folders = [chain.curate(wanted(tmp_path, [messy], items), kept.in_folder(tmp_path / name), pool).folder
               for name, pool in (("alone", InProcess()), ("together", two))]
    assert len(shards.shards_of(folders[0])) >= workers.LEAST_SHARDS
    alone, together = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert alone.keys() == together.keys()
    for name, content in alone.items():
        assert content == together[name], name


def test_an_error_in_a_process_is_told_and_nothing_waits_for_it(two):
    with pytest.raises(ZeroDivisionError):
        list(two.map(partial(divmod, 7), [1, 2, 0, 3, 4]))
    assert list(two.map(abs, [-1, 2, -3, 4, -5])) == [1, 2, 3, 4, 5]


def test_a_process_that_is_gone_is_told_with_what_to_do(two):
    with pytest.raises(DataError, match=r"one of 2 processes .* is gone .* data.processes"):
        list(two.map(os._exit, [1, 2, 3, 4, 5]))


def test_a_signal_ends_the_processes_too(two):
    began = time.monotonic()

    def stopped() -> None:
        with stop_on_signals():
            for number in two.map(time.sleep, [0.0, 60.0, 60.0, 60.0, 60.0]):
                assert number is None
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        stopped()
    assert time.monotonic() - began < 30


def test_a_source_that_changes_while_it_is_read_is_told(tmp_path, write_jsonl, monkeypatch):
    path = write_jsonl(rows(5))
    asked = wanted(tmp_path, [path])
    path.write_text(path.read_text() + json.dumps(rows(1, 50)[0]) + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl has changed while it was read; run again"):
        chain.curate(asked, kept.in_folder(tmp_path / "kept"), InProcess())
    assert chain.curate(wanted(tmp_path, [path]), kept.in_folder(tmp_path / "kept"), InProcess()).result["sources"]


def test_two_sources_of_one_name(tmp_path, write_jsonl):
    (tmp_path / "a").mkdir()
    path = write_jsonl(rows(2))
    other = tmp_path / "a" / path.name
    other.write_text(path.read_text())
    with pytest.raises(DataError, match=r"several sources are called rows.jsonl; give each its own name"):
        chain.curate(wanted(tmp_path, [path, other]), kept.in_folder(tmp_path / "kept"), InProcess())


def test_conversations_come_back_from_a_shard(tmp_path, chat):
    some = [chat("s: be kind", "u: hi \ud800", 'c: f {"a": null, "b": "ü"}', "t: 3", "a: yo", tools=[{"name": "f"}]),
            chat("u: hi", "a: yo")._replace(unused=("x", "y"), repaired=True, nulls=2, variables='{"a": 1}')]
    some[1] = some[1]._replace(turns=(some[1].turns[0], some[1].turns[1]._replace(masked=True)))
    shards.write_shard(tmp_path / "x.parquet", some)
    assert shards.read_shard(tmp_path / "x.parquet") == some


def test_a_shard_closes_by_its_text_too(chat, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_LETTERS", 100)
    some = [chat(f"u: {'x' * 60}", "a: y", line=n) for n in range(5)]
    assert [len(shard) for shard in shards.in_shards(some)] == [2, 2, 1]


def test_workers_is_what_both_are() -> None:
    pool: Workers = InProcess()
    assert list(pool.map(abs, [-1, 2])) == [1, 2]
