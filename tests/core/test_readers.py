"""Files as they come: packed, cut off, in another encoding, huge. What is whole is read, what is not is told."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sft_core.conversation import Rejected, Why
from sft_core.data.readers import read_file
from sft_core.errors import DataError

ROWS = [{"a": "x, y"}, {"a": "z\nö"}]
KINDS: dict[str, str] = {
    "x.json": json.dumps(ROWS, indent=1), "x.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "x.ndjson": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), "x.csv": 'a\n"x, y"\n"z\nö"\n',
    "x.tsv": 'a\nx, y\n"z\nö"\n',
}


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def rows(path: Path) -> list[object]:
    return [found.row for found in read_file(path)]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("change", [
    lambda text: text.encode(), lambda text: b"\xef\xbb\xbf" + text.encode(), lambda text: text.rstrip("\n").encode(),
], ids=["plain", "bom", "no last newline"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_in_every_dress(tmp_path, name, change: Callable[[str], bytes], packed):
    assert rows(write(tmp_path, name + packed, change(KINDS[name]))) == ROWS


@pytest.mark.parametrize(("name", "text", "found"), [
    ("x.jsonl", '{"a": 1}\r\n\r\n{"a": 2}\r\n', [{"a": 1}, {"a": 2}]),
    ("x.csv", "a,b\r\n1,2\r\n", [{"a": "1", "b": "2"}]),
    ("x.json", '[\r\n{"a": 1}\r\n]\r\n', [{"a": 1}]),
    ("x.txt", "one\r\ntwo\r\n\r\nthree\r\n", [{"text": "one\ntwo"}, {"text": "three"}]),
])
def test_windows_line_ends(tmp_path, name, text, found):
    assert rows(write(tmp_path, name, text.encode())) == found


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_text(tmp_path, packed):
    path = write(tmp_path, "x.txt" + packed, "\ufeffone\n\ntwo\n".encode())
    assert [(f.line, f.row) for f in read_file(path)] == [(1, {"text": "one"}), (3, {"text": "two"})]


def test_a_malformed_line_is_told_and_costs_itself_alone(tmp_path):
    path = write(tmp_path, "x.jsonl", b'{"a": 1}\n{"a": 2,}\n{"a": "\xe4"}\n{"a": "\0"}\n[1]\n{"a": 3}\n')
    found = {f.line: f.row for f in read_file(path)}
    assert [line for line, row in found.items() if isinstance(row, Rejected)] == [2, 3, 4, 5]
    details = {line: row.detail for line, row in found.items() if isinstance(row, Rejected)}
    assert {row.why for row in found.values() if isinstance(row, Rejected)} == {Why.UNREADABLE}
    assert details[2].startswith("not JSON: ")
    assert "convert it to UTF-8" in details[3]
    assert "Invalid control character" in details[4]
    assert details[5] == "not an object but list"
    assert found[6] == {"a": 3}


def test_fields_of_a_table_that_are_too_many_or_too_few(tmp_path):
    found = rows(write(tmp_path, "x.csv", b"a,b\n1,2,3,4\n1\n1,2\n"))
    assert [row.detail.split(";")[0] for row in found if isinstance(row, Rejected)] == [
        "4 fields, the header has 2", "1 fields, the header has 2"]
    assert found[2] == {"a": "1", "b": "2"}


@pytest.mark.parametrize(("name", "content", "said"), [
    ("x.json", json.dumps(ROWS, indent=1).encode()[:-12], r"not valid JSON: .* line 6 column"),
    ("x.json", b'[\n{"a": 1},\n{"a": 2,}\n]', r"not valid JSON: .* line 3 column.*Written as JSON Lines"),
    ("x.json", b'{"data": [1', "holds no JSON object"), ("x.jsonl", b"[1]", "holds no JSON object"),
    ("x.json", b"[" * 100_000, "not valid JSON"),
    ("x.json", b'{"train": [{"a": 1}], "test": [{"a": 2}]}', r"several lists .*\(train, test\); .*jq -c '\.train"),
    ("x.csv", b"a\nx\n\xff\n", r"not a UTF-8 CSV file with a header \(behind row 1\)"),
    ("x.csv", b'a\n"x', r"not a UTF-8 CSV file.*unexpected end of data"),
    ("x.tsv", b'a\nx\n"y"z\n', r"not a UTF-8 TSV file.*behind row 1"),
    ("x.txt", "ö".encode("latin-1"), "not UTF-8 text.*iconv"),
    ("x.xlsx", b"x", "unknown kind; allowed are .json"),
    ("x.gz", b"x", "unknown kind"),
])
def test_what_cannot_be_read_is_told(tmp_path, name, content, said):
    with pytest.raises(DataError, match=said):
        rows(write(tmp_path, name, content))


def test_files_that_are_cut_off(tmp_path):
    packed = gzip.compress(KINDS["x.jsonl"].encode() * 1000)
    for content in (packed[: len(packed) // 2], b"no gzip at all"):
        (tmp_path / "x.jsonl.gz").write_bytes(content)
        with pytest.raises(DataError, match="not a whole gzip file"):
            rows(tmp_path / "x.jsonl.gz")
    pq.write_table(pa.table({"a": list(range(10_000))}), tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    broken = whole[:100] + bytes(1000) + whole[1100:]
    for content in (whole[: len(whole) // 2], whole[:-4], broken):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(DataError, match="not a whole Parquet file"):
            rows(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz", "x.csv", "x.txt", "x.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    """20 MB of rows; JSON Lines also under the name .json."""
    line = "word " * 2000
    if name == "x.parquet":
        pq.write_table(pa.table({"text": [line] * 2000}), tmp_path / name, row_group_size=100, use_dictionary=False)
    else:
        text = line if name in ("x.csv", "x.txt") else json.dumps({"text": line})
        write(tmp_path, name, (("text\n" if name == "x.csv" else "") + f"{text}\n" * 2000).encode())
    tracemalloc.start()
    count = sum(1 for _ in read_file(tmp_path / name))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2000
    assert peak < 5_000_000


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize(("name", "text"), [("x.json", '[{"a": "gr\xfcn"}]'), ("x.jsonl", '{"a": "gr\xfcn"}\n'),
                                            ("x.csv", "a\ngr\xfcn\n"), ("x.txt", "gr\xfcn\n")])
def test_another_encoding_is_told_with_a_command_that_works(tmp_path, name, text, encoding):
    (tmp_path / name).write_bytes(text.encode(encoding))
    try:
        told = "".join(row.row.detail for row in read_file(tmp_path / name) if isinstance(row.row, Rejected))
    except DataError as error:
        told = str(error)
    command = re.search(r"iconv -f [A-Z0-9-]+ -t UTF-8", told)
    assert command
    found = subprocess.run([*command[0].split(), tmp_path / name], capture_output=True, check=True).stdout
    (tmp_path / name).write_bytes(found)
    assert [list(row.row.values()) for row in read_file(tmp_path / name)] == [["gr\xfcn"]]


@pytest.mark.parametrize(("name", "text"), [
    ("x.jsonl", '[{"a": "1"},\n {"a": "2"}]'), ("x.ndjson", '\ufeff[{"a": "1"}, {"a": "2"}]'),
    ("x.json", '{"data": [{"a": "1"}, {"a": "2"}]}'), ("x.json", '{\n "rows": [\n  {"a": "1"},\n  {"a": "2"}\n ]\n}'),
    ("x.csv", "a;b\n1;x, y\n2;z\n"), ("x.csv", 'a\tb\n1\t"x;"\n2\tz\n'), ("x.csv", 'a,b\n1,x;y\n2,z\n'),
])
def test_usual_disguises(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert [row.row["a"] for row in read_file(tmp_path / name)] == ["1", "2"]


def test_lines_that_look_like_a_disguise_stay_lines(tmp_path):
    """One row per line, each with a list under a usual name, or a broken line in front."""
    (tmp_path / "x.json").write_text('{"data": [{"a": 1}]}\n{"data": [{"a": 2}]}\n')
    assert [row.row for row in read_file(tmp_path / "x.json")] == [{"data": [{"a": 1}]}, {"data": [{"a": 2}]}]
    (tmp_path / "x.jsonl").write_text('[1]\n{"a": 2}\n')
    assert [isinstance(row.row, Rejected) for row in read_file(tmp_path / "x.jsonl")] == [True, False]
