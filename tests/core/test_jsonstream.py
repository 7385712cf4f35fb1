"""JSON arrays read element by element, with blocks so small that every border falls somewhere."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_core.data import jsonstream, readers
from sft_core.data.jsonstream import elements

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonstream, "BLOCK", 3)


@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_as_reading_it_whole(rows: list[Any], indent: int | None, wrapped: bool) -> None:
    text = json.dumps({"data": rows} if wrapped else rows, indent=indent, ensure_ascii=False)
    raw = text.encode("utf-8", "surrogatepass") if text.isascii() else text.encode("utf-8", "replace")
    if raw.decode() == text:
        assert list(elements(io.BytesIO(raw), wrapped)) == rows
        assert list(elements(io.BytesIO(b"\xef\xbb\xbf \n" + raw + b" \n"), wrapped)) == rows


@pytest.mark.parametrize(("text", "came", "said"), [
    ('[{"a": 1}', 1, "cut off"), ('[{"a": 1},', 1, "Expecting value: line 1 column 11"), ("[1 2]", 1, "expected ']'"),
    ('[1,\n{"a": 2,}]', 1, "line 2 column 9"), ("[1] [2]", 1, "more follows"), ("", 0, "cut off"),
    ("[01]", 1, "expected"),
    ('{"a": [1]}', 0, "expected '\\['"), ('[1, "\x00"]', 1, "control character"), ("[tru]", 0, "Expecting value")])
def test_what_is_no_array_is_told_behind_what_was_read(text: str, came: int, said: str) -> None:
    found: list[Any] = []
    with pytest.raises(ValueError, match=said):
        found.extend(iter_into(found, text))
    assert len(found) == came


def iter_into(found: list[Any], text: str) -> list[Any]:
    for row in elements(io.BytesIO(text.encode())):
        found.append(row)
    return []


def test_what_is_no_utf_8() -> None:
    with pytest.raises(UnicodeDecodeError):
        list(elements(io.BytesIO(b'["\xff"]')))


def test_an_element_longer_than_any_row_is_told_and_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonstream, "MOST", 100)
    stream = io.BytesIO(b'["' + b"x" * 10_000)
    with pytest.raises(ValueError, match="Unterminated string"):
        list(elements(stream))
    assert stream.tell() < 1_000


class TestFiles:
    def test_memory_does_not_grow_with_an_array(self, tmp_path, monkeypatch):
        monkeypatch.setattr(jsonstream, "BLOCK", 1 << 16)
        file = tmp_path / "x.json"
        file.write_text(json.dumps([{"text": "x" * 1_000} for _ in range(20_000)]))
        tracemalloc.start()
        assert sum(1 for _ in readers.read_file(file)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000 < file.stat().st_size
        tracemalloc.stop()

    def test_a_line_longer_than_any_row_is_rejected_and_the_others_stay(self, tmp_path, monkeypatch):
        monkeypatch.setattr(readers, "MOST", 1 << 20)
        file = tmp_path / "x.jsonl"
        file.write_text(f'{{"a": 1}}\n{{"a": "{"x" * 5_000_000}"}}\n{{"a": 2}}\n')
        found = list(readers.read_file(file))
        assert [row.line for row in found] == [1, 2, 3]
        assert found[1].row.detail == "longer than 1 MiB"
        assert found[2].row == {"a": 2}

    def test_a_packed_file_that_unpacks_to_a_hundred_times_as_much_takes_no_more_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(readers, "MOST", 1 << 20)
        file = tmp_path / "x.jsonl.gz"
        with gzip.open(file, "wb") as stream:
            stream.write(b'{"a": 1}\n')
            for _ in range(100):
                stream.write(b"0" * (1 << 20))
        tracemalloc.start()
        found = list(readers.read_file(file))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()
        assert [getattr(row.row, "detail", row.row) for row in found] == [{"a": 1}, "longer than 1 MiB"]
        with gzip.open(tmp_path / "x.csv.gz", "wb") as stream:
            stream.write(b"prompt,completion\n" + b"0" * (1 << 22))
        with pytest.raises(readers.DataError, match=r"line 2 of .*x.csv.gz is longer than 1 MiB"):
            list(readers.read_file(tmp_path / "x.csv.gz"))
