"""Every kind of file and place, with its broken lines and its lies."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sft_core.config.data import SourceSection
from sft_core.conversation import Origin, Rejected, Row, Why
from sft_core.data.sources import read_rows, source_digest, why_no_source
from sft_core.errors import DataError


def read(path: Path | str, tmp_path: Path, mirror: Path | None = None, **section: Any) -> list[Row | Rejected]:
    return list(read_rows(SourceSection(path=str(path), **section), scratch=tmp_path / "scratch", mirror=mirror))


def data(rows: list[Row | Rejected]) -> list[Any]:
    assert all(isinstance(row, Row) for row in rows), rows
    return [dict(row.data) for row in rows if isinstance(row, Row)]


def put(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


class TestJson:
    @pytest.mark.parametrize("text", ['[{"a": 1}, {"a": 2}]', '{"a": 1}\n{"a": 2}', '{"a": 1}\r\n\n{"a": 2}\n',
                                      '\ufeff[{"a": 1}, {"a": 2}]', '\ufeff{"a": 1}\n{"a": 2}'])
    @pytest.mark.parametrize("suffix", ["json", "jsonl"])
    def test_arrays_and_lines(self, tmp_path, text, suffix):
        if suffix == "jsonl" and "[" in text:
            text = text.replace("[", "").replace("]", "").replace(", ", "\n")
        assert data(read(put(tmp_path, f"x.{suffix}", text), tmp_path)) == [{"a": 1}, {"a": 2}]

    def test_origin(self, tmp_path):
        path = put(tmp_path, "x.jsonl", '\n{"a": 1}\nbroken\n{"a": 2}')
        rows = read(path, tmp_path, name="mine")
        assert [row.origin for row in rows] == [Origin("mine", str(path), line) for line in (2, 3, 4)]

    @pytest.mark.parametrize("line", [b"broken", b'{"a": 1', b"[1]", b"3", b'"x"', b'{"a": "\xff"}', b"[" * 100_000])
    def test_a_broken_line_is_counted_and_the_rest_is_read(self, tmp_path, line):
        rows = read(put(tmp_path, "x.jsonl", line + b'\n{"a": 1}\n' + line + b'\n{"a": 2}'), tmp_path)
        assert [isinstance(row, Rejected) for row in rows] == [True, False, True, False]
        assert isinstance(rows[0], Rejected)
        assert rows[0].why is Why.UNREADABLE
        assert rows[0].origin.line == 1

    def test_unusual_separators_inside_a_text(self, tmp_path):
        path = put(tmp_path, "x.jsonl", json.dumps({"a": "x\u2028y\x85z"}, ensure_ascii=False) + "\n")
        assert data(read(path, tmp_path)) == [{"a": "x\u2028y\x85z"}]

    def test_an_array_with_other_things(self, tmp_path):
        rows = read(put(tmp_path, "x.json", '[{"a": 1}, 3]'), tmp_path)
        assert [isinstance(row, Rejected) for row in rows] == [False, True]

    @pytest.mark.parametrize(("name", "text", "said"), [
        ("x.json", "", "is empty"), ("x.jsonl", "", "is empty"), ("x.json", "[]", "empty array"),
        ("x.json", '[{"a": 1}', "not valid JSON"), ("x.json", '{\n"a": 1\n}', "no JSON object"),
        ("x.jsonl", "hello\nworld", "no JSON object"), ("x.jsonl", "\n\n", "only blank lines"),
        ("x.csv", b"a,b\n\xff,1", "not a UTF-8 CSV"), ("x.parquet", "hello", "not a whole Parquet file"),
        ("x.txt", b"\xff", "not UTF-8 text"), ("x.xlsx", "x", "unknown kind"),
    ])
    def test_a_file_that_is_not_what_its_name_says(self, tmp_path, name, text, said):
        with pytest.raises(DataError, match=said):
            read(put(tmp_path, name, text), tmp_path)


class TestCsv:
    def test_fields(self, tmp_path):
        path = put(tmp_path, "x.csv", '\ufeffa,b\n1,"x, ""y""\nz"\n2,\n')
        assert data(read(path, tmp_path)) == [{"a": "1", "b": 'x, "y"\nz'}, {"a": "2", "b": ""}]

    def test_a_long_field(self, tmp_path):
        assert len(data(read(put(tmp_path, "x.csv", "a\n" + "x" * 300_000), tmp_path))[0]["a"]) == 300_000

    def test_too_many_or_too_few_fields(self, tmp_path):
        rows = read(put(tmp_path, "x.csv", "a,b\n1,2,3\n1\n1,2\n"), tmp_path)
        assert [isinstance(row, Rejected) for row in rows] == [True, True, False]


class TestParquet:
    def test_rows(self, tmp_path):
        pq.write_table(pa.table({"a": ["x", None]}), tmp_path / "x.parquet")
        assert data(read(tmp_path / "x.parquet", tmp_path)) == [{"a": "x"}, {"a": None}]

    def test_keys_that_arrow_filled_in_are_gone(self, tmp_path):
        """Arrow gives every struct all keys; tool schemas must not be changed by that."""
        rows = [{"m": [{"f": {"x": 1}}]}, {"m": [{"f": {"y": "a"}}]}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
        assert data(read(tmp_path / "x.parquet", tmp_path)) == rows


class TestText:
    def test_paragraphs(self, tmp_path):
        path = put(tmp_path, "x.txt", "\none\ntwo\n\n \nthree\n")
        rows = read(path, tmp_path)
        assert data(rows) == [{"text": "one\ntwo"}, {"text": "three"}]
        assert [row.origin.line for row in rows] == [2, 6]

    def test_lines_where_no_line_is_blank(self, tmp_path):
        rows = read(put(tmp_path, "x.txt", "one\ntwo\nthree"), tmp_path)
        assert data(rows) == [{"text": "one"}, {"text": "two"}, {"text": "three"}]
        assert [row.origin.line for row in rows] == [1, 2, 3]


class TestPlaces:
    def test_a_folder_in_order(self, tmp_path):
        for name in ("b/2.json", "a.jsonl", ".hidden/3.json", "note.md"):
            put(tmp_path / "f", name, json.dumps([{"a": name}]) if name.endswith("json") else json.dumps({"a": name}))
        assert data(read(tmp_path / "f", tmp_path)) == [{"a": "a.jsonl"}, {"a": "b/2.json"}]

    def test_a_folder_that_the_library_saved(self, tmp_path):
        one, two = (datasets.Dataset.from_list([{"a": number}]) for number in (1, 2))
        one.save_to_disk(tmp_path / "f")
        datasets.DatasetDict({"train": one, "test": two}).save_to_disk(tmp_path / "g")
        assert data(read(tmp_path / "f", tmp_path)) == data(read(tmp_path / "g", tmp_path)) == [{"a": 1}]
        assert data(read(tmp_path / "g", tmp_path, split="test")) == [{"a": 2}]
        assert data(read(tmp_path / "g" / "test", tmp_path)) == [{"a": 2}]
        for name, there in (("f", "train"), ("g", "train, test")):
            with pytest.raises(DataError, match=f"has no split dev; there are {there}; set split: train"):
                read(tmp_path / name, tmp_path, split="dev")

    @pytest.mark.parametrize(("names", "splits"), [
        (["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test-00000-of-00001-ab12.jsonl"],
         {"train": [0, 1], "test": [2]}),
        (["data/train_sft-00000-of-00001.jsonl", "data/test_sft-00000-of-00001.jsonl"],
         {"train_sft": [0], "test_sft": [1]}),
        (["training/a.jsonl", "eval/b.jsonl", "my dev/c.jsonl"], {"train": [0], "test": [1], "validation": [2]}),
        (["chats_train.jsonl", "chats.valid.jsonl", "test1.jsonl"], {"train": [0], "validation": [1], "test": [2]}),
        (["contest.jsonl", "latest.jsonl", "trainer.jsonl"], {"train": [0, 1, 2]}),
    ])
    def test_splits_by_the_names_of_files_are_those_of_the_hub(self, tmp_path, names, splits):
        for at, name in enumerate(names):
            put(tmp_path / "f", name, f'{{"a": {at}}}')
        patterns = datasets.data_files.get_data_patterns(str(tmp_path / "f"))
        hub = datasets.data_files.DataFilesDict.from_patterns(patterns, str(tmp_path / "f"))
        assert {name: sorted(int(Path(file).read_text()[6]) for file in files) for name, files in hub.items()} == splits
        for name, files in splits.items():
            assert sorted(row["a"] for row in data(read(tmp_path / "f", tmp_path, split=name))) == files
        there = ", ".join(sorted(splits, key=lambda name: ("train" not in name, name)))
        with pytest.raises(DataError, match=rf"has no split gen; .* there are {there}; set split: train"):
            read(tmp_path / "f", tmp_path, split="gen")

    def test_files_without_the_name_of_a_split(self, tmp_path, caplog):
        """With a train split they are left out and told, as the hub leaves them out; else they are the train split."""
        for name in ("a.jsonl", "b_test.jsonl", "dataset_info.json"):
            put(tmp_path / "f", name, json.dumps({"a": name}))
        with caplog.at_level(logging.INFO, "sft"):
            assert data(read(tmp_path / "f", tmp_path)) == [{"a": "a.jsonl"}]
        assert [record.getMessage() for record in caplog.records] == [
            f"{tmp_path / 'f'}: the split train (1 files, the first: a.jsonl) is read and not test (1 files, the "
            "first: b_test.jsonl); to read those, give them as a source of their own"]
        put(tmp_path / "f", "train.jsonl", '{"a": "train"}')
        assert data(read(tmp_path / "f", tmp_path)) == [{"a": "train"}]
        assert "1 files are in none of its splits (train, test) and are left out, the first: a.jsonl" in caplog.text

    @pytest.mark.parametrize(("names", "split", "first"), [
        (["trainset.jsonl", "testset.jsonl"], "train", "testset.jsonl"),
        (["sft.jsonl", "held_out.jsonl"], "train", "held_out.jsonl"),
        (["myTrain.jsonl", "myTest.jsonl"], "train", "myTest.jsonl"),
        (["eval-tools/train.jsonl", "eval-tools/test.jsonl"], "test", "eval-tools/train.jsonl"),
        (["data/train_sft-00000-of-00001.jsonl", "data/test_sft-00000-of-00001.jsonl"], "train_sft", None),
        (["train.jsonl", "test.jsonl"], "train", None), (["train.jsonl", "test.jsonl"], "test", None),
        (["contest.jsonl", "latest.jsonl", "trainer.jsonl", "asset.jsonl"], "train", None),
        (["train_val.jsonl", "test.jsonl"], "validation", None),
    ])
    def test_files_whose_names_say_another_split_than_the_hub_puts_them_in_are_told(
            self, tmp_path, caplog, names, split, first):
        for name in names:
            put(tmp_path / "f", name, json.dumps({"a": name}))
        patterns = datasets.data_files.get_data_patterns(str(tmp_path / "f"))
        hub = datasets.data_files.DataFilesDict.from_patterns(patterns, str(tmp_path / "f"))
        rows = data(read(tmp_path / "f", tmp_path, split=split))
        assert sorted(str(tmp_path / "f" / row["a"]) for row in rows) == sorted(hub[split])
        assert [record.levelname for record in caplog.records] == ["WARNING"] * (first is not None)
        assert first is None or (f"1 files are read as split {split}, as the hub does, though their names say "
                                 f"otherwise, the first: {first};") in caplog.text

    def test_the_folder_that_has_the_split_is_advised(self, tmp_path):
        for name in ("train.jsonl", "test.jsonl"):
            put(tmp_path / "f" / "eval-tools", name, json.dumps({"a": name}))
        with pytest.raises(DataError, match=r"has no split train; .* there are test; set path: (.*eval-tools), which "
                                            r"has it, or") as caught:
            read(tmp_path / "f", tmp_path)
        followed = re.search("set path: ([^,]*),", str(caught.value))
        assert followed
        assert data(read(Path(followed[1]), tmp_path)) == [{"a": "train.jsonl"}]

    def test_what_lies_here_has_no_revision(self, tmp_path):
        path = put(tmp_path / "f", "x.jsonl", '{"a": 1}')
        for place in (path, tmp_path / "f"):
            with pytest.raises(DataError, match="is on this machine and has no revision 1f2e"):
                read(place, tmp_path, revision="1f2e")
            assert "revision" in str(why_no_source(SourceSection(path=str(place), revision="1f2e"), None))

    @pytest.mark.parametrize("section", [{"split": "test"}, {"subset": "main"}])
    def test_a_split_that_a_place_cannot_have_is_refused(self, tmp_path, section):
        path = put(tmp_path / "f", "x.jsonl", '{"a": 1}')
        for place, said in ((path, "is one file and has no"), (tmp_path / "f", "has no (split test|subset main)")):
            with pytest.raises(DataError, match=said):
                read(place, tmp_path, **section)
            why = why_no_source(SourceSection(path=str(place), **section), None)
            assert why
            assert re.search(said, why.why)

    def test_a_folder_with_a_card_keeps_its_splits_apart(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        put(tmp_path / "f", "README.md", "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
                                         "    path: a.jsonl\n  - split: test\n    path: b.jsonl\n---\n")
        put(tmp_path / "f", "a.jsonl", '{"a": 1}')
        put(tmp_path / "f", "b.jsonl", '{"a": 2}')
        assert data(read(tmp_path / "f", tmp_path)) == [{"a": 1}]
        assert data(read(tmp_path / "f", tmp_path, split="test")) == [{"a": 2}]
        put(tmp_path / "f", "README.md", "# Chats\n\nconfigs: none\n")
        assert data(read(tmp_path / "f", tmp_path)) == [{"a": 1}, {"a": 2}]

    def test_an_empty_folder(self, tmp_path):
        (tmp_path / "f").mkdir()
        with pytest.raises(DataError, match="holds no data file"):
            read(tmp_path / "f", tmp_path)

    def test_limit_counts_broken_rows_too(self, tmp_path):
        rows = read(put(tmp_path, "x.jsonl", '{"a": 1}\nbroken\n{"a": 2}'), tmp_path, limit=2)
        assert [isinstance(row, Rejected) for row in rows] == [False, True]

    def test_nothing_there(self, tmp_path):
        for path in ("nowhere.jsonl", "not/there.json", "a/b/c"):
            with pytest.raises(DataError, match="there is no"):
                read(path, tmp_path, mirror=tmp_path)

    def test_tiny_world(self, tmp_path):
        assert {row.origin.file.rsplit("/", 1)[1] for row in read("tiny:sft", tmp_path)} == {
            "alpaca.json", "sharegpt.jsonl", "messages.jsonl", "tools.jsonl"}
        assert set(data(read("tiny:replay", tmp_path, limit=1))[0]) == {"text"}
        with pytest.raises(DataError, match="tiny:sft, tiny:replay, tiny:problems"):
            read("tiny:other", tmp_path)

    def test_a_hub_id_through_the_mirror(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        folder = tmp_path / "mirror" / "org" / "name"
        put(folder, "README.md", "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n"
                                 "    path: t.parquet\n---\n")
        pq.write_table(pa.table({"a": [1, 2]}), folder / "t.parquet")
        rows = read("org/name", tmp_path, mirror=tmp_path / "mirror", split="test", subset="main")
        assert data(rows) == [{"a": 1}, {"a": 2}]
        assert rows[0].origin == Origin("name", "org/name[test]", 1)
        with pytest.raises(DataError, match=r"cannot load org/name \(split wrong"):
            read("org/name", tmp_path, mirror=tmp_path / "mirror", split="wrong")

    def test_an_unreachable_hub_is_said_at_once(self, tmp_path, monkeypatch):
        """The library would try for 24 s; nothing answers on port 9."""
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr("huggingface_hub.hf_api.constants.HF_HUB_OFFLINE", False)
        start = time.monotonic()
        with pytest.raises(DataError, match=r"cannot load org/name .*set SFT_MIRROR to a folder that holds org/name/"):
            read("org/name", tmp_path)
        assert time.monotonic() - start < 5

    def test_offline_the_cache_is_asked_and_not_the_hub(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list([{"a": 1}]))
        assert data(read("org/name", tmp_path)) == [{"a": 1}]


class TestDigest:
    def digest(self, path: Path, tmp_path: Path) -> str:
        return source_digest(SourceSection(path=str(path)), scratch=tmp_path, mirror=None)

    def test_content_and_names_count(self, tmp_path):
        first = self.digest(put(tmp_path, "a/x.jsonl", '{"a": 1}'), tmp_path)
        assert self.digest(put(tmp_path, "b/x.jsonl", '{"a": 1}'), tmp_path) == first
        assert self.digest(put(tmp_path, "b/x.jsonl", '{"a": 2}'), tmp_path) != first
        assert self.digest(put(tmp_path, "b/y.jsonl", '{"a": 1}'), tmp_path) != first

    def test_a_folder_changes_with_its_files(self, tmp_path):
        put(tmp_path, "f/x.jsonl", '{"a": 1}')
        first = self.digest(tmp_path / "f", tmp_path)
        put(tmp_path, "f/y.jsonl", '{"a": 1}')
        assert self.digest(tmp_path / "f", tmp_path) != first

    def test_a_hub_data_set_by_the_rows_that_are_read(self, tmp_path, monkeypatch):
        def digest(*rows: int, **section: Any) -> str:
            found = datasets.Dataset.from_list([{"a": row} for row in rows])
            monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: found)
            source = SourceSection(path="org/name", **section)
            return source_digest(source, scratch=tmp_path, mirror=None)

        monkeypatch.setattr("sft_core.data.sources.knock", lambda _: None)
        assert digest(1) == digest(1) != digest(1, 2) != digest(1, 3)
        assert digest(1, 2, limit=1) == digest(1)


@pytest.mark.parametrize(("file", "shown"), [
    ("a.jsonl", "a.jsonl:385"), ("a.JSONL.gz", "a.JSONL.gz:385"), ("a.txt", "a.txt:385"), ("a.json", "a.json row 385"),
    ("a.csv.gz", "a.csv.gz row 385"), ("a.parquet", "a.parquet row 385"),
    ("org/name[train]", "org/name[train] row 385")])
def test_a_place_is_a_line_only_where_rows_are_lines(file: str, shown: str) -> None:
    """The 385th element of an array was cited as alpaca.json:385."""
    assert str(Origin("a", file, 385)) == shown
