"""What Arrow keeps of a row and what it does not: through real Parquet files and the `datasets` library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft_core.config.data import SourceSection
from sft_core.conversation import Conversation, Row
from sft_core.data.columnar import rows_of
from sft_core.data.formats import to_conversation
from sft_core.data.sources import read_rows

_SCALAR = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5)
_ARGUMENTS = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.recursive(
    _SCALAR, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("xy", min_size=1), inner, max_size=2),
    max_leaves=4), max_size=3)


def call(arguments: Any) -> dict[str, Any]:
    answer = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    return {"messages": [{"role": "user", "content": "go", "tool_calls": None}, answer]}


def through(path: Path | str, tmp_path: Path, **section: Any) -> list[Conversation]:
    rows = list(read_rows(SourceSection(path=str(path), **section), scratch=tmp_path, mirror=None))
    found = [to_conversation(row, "messages", SourceSection(path="x")) for row in rows if isinstance(row, Row)]
    assert all(isinstance(one, Conversation) for one in found), found
    return [one for one in found if isinstance(one, Conversation)]


def arguments(conversation: Conversation) -> Any:
    return json.loads(conversation.turns[1].tool_calls[0].arguments)


class TestParquet:
    def test_keys_of_other_rows_do_not_appear(self, tmp_path):
        given_ = [{"city": "Bako"}, {"n": 3, "deep": {"x": [1]}}, {"deep": {"y": "z"}}]
        pq.write_table(pa.Table.from_pylist([call(a) for a in given_]), tmp_path / "x.parquet")
        found = through(tmp_path / "x.parquet", tmp_path)
        assert [arguments(c) for c in found] == given_

    def test_what_cannot_be_told_apart_is_counted(self, tmp_path):
        """`a: null` and no `a` are the same bytes in a struct; null columns of the message itself mean nothing."""
        table = pa.Table.from_pylist([call({"a": None, "b": 1}), call({"a": 2, "b": 3})])
        pq.write_table(table, tmp_path / "x.parquet")
        first, second = through(tmp_path / "x.parquet", tmp_path)
        assert (arguments(first), first.nulls) == ({"b": 1}, 1)
        assert (arguments(second), second.nulls) == ({"a": 2, "b": 3}, 0)

    def test_schemas_are_counted_too(self, tmp_path):
        tools = [{"name": "f", "parameters": {"x": {"type": "int"}}}, {"name": "g", "parameters": {"y": None}}]
        rows = [{**call("{}"), "tools": tools}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
        (found,) = through(tmp_path / "x.parquet", tmp_path)
        assert json.loads(found.tools or "") == [tools[0], {"name": "g", "parameters": {}}]
        assert found.nulls == 3  # y of f and x of g, which were never there, and y of g, which was null

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
    @given(st.lists(_ARGUMENTS, min_size=1, max_size=4))
    def test_json_text_is_exact(self, tmp_path, given_):
        pq.write_table(pa.Table.from_pylist([call(json.dumps(a)) for a in given_]), tmp_path / "x.parquet")
        found = through(tmp_path / "x.parquet", tmp_path)
        assert [arguments(c) for c in found] == given_
        assert [c.nulls for c in found] == [0] * len(given_)

    def test_maps_and_json_columns_are_exact(self, tmp_path):
        given_: list[dict[str, Any]] = [{"a": None, "b": "x"}, {"c": "y"}]
        kinds = {"map": pa.map_(pa.string(), pa.string()), "json": pa.json_()}
        for name, kind in kinds.items():
            values = [json.dumps(a) for a in given_] if name == "json" else [list(a.items()) for a in given_]
            pq.write_table(pa.table({"v": pa.array(values, pa.string() if name == "json" else kind).cast(kind)}),
                           tmp_path / "x.parquet")
            rows = list(read_rows(SourceSection(path=str(tmp_path / "x.parquet")), scratch=tmp_path, mirror=None))
            assert [(row.data, row.nulls) for row in rows if isinstance(row, Row)] == [({"v": a}, ()) for a in given_]

    def test_null_columns_stay(self):
        nested = pa.array([None, [{"c": None}]], pa.list_(pa.struct({"c": pa.int8()})))
        table = pa.table({"a": ["x", None], "b": nested})
        assert [tuple(told) for told in rows_of(table)] == [({"a": "x", "b": None}, ()), (
            {"a": None, "b": [{}]}, ("b.c",))]


class TestLibrary:
    """The same through `datasets`, whose `Json` feature keeps mixed types and nulls."""

    def mirror(self, tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
        folder = tmp_path / "chats"
        folder.mkdir()
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
                                          "    path: rows.jsonl\n---\n")
        return folder

    def test_a_folder_with_a_card(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        given_ = [{"a": None, "b": 1}, {"b": "text"}, {"c": [1, "x", None]}]
        folder = self.mirror(tmp_path, [call(a) for a in given_])
        for streaming in (False, True):
            found = through(folder, tmp_path, streaming=streaming)
            assert [arguments(c) for c in found] == given_
            assert [c.nulls for c in found] == [0, 0, 0]

    def test_streaming_stops_at_the_limit(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        folder = self.mirror(tmp_path, [call({"n": n}) for n in range(50)])
        found = through(folder, tmp_path, streaming=True, limit=3)
        assert [arguments(c)["n"] for c in found] == [0, 1, 2]
        assert not list((tmp_path / "cache").rglob("*.arrow"))  # nothing is stored first
        through(folder, tmp_path, limit=3)
        assert list((tmp_path / "cache").rglob("*.arrow"))
