"""Rows of every format → conversations, and everything that is wrong is refused with its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_core.config.data import SourceSection
from sft_core.conversation import Conversation, Origin, Rejected, Row, ToolCall, Turn, Why
from sft_core.errors import DataError
from sft_core.formats import Format, detect, format_of, to_conversation, to_text

HERE = Origin("s", "f.jsonl", 7)
ASK, SAY = Turn("user", "hi"), Turn("assistant", "yo")


def source(**fields: Any) -> SourceSection:
    return SourceSection.model_validate({"path": "f.jsonl", **fields})


def understand(data: dict[str, Any], form: Format, columns: dict[str, str] | None = None) -> Conversation | Rejected:
    return to_conversation(Row(HERE, data), form, source(columns=columns or {}))


def turns(data: dict[str, Any], form: Format, columns: dict[str, str] | None = None) -> tuple[Turn, ...]:
    found = understand(data, form, columns)
    assert isinstance(found, Conversation), found
    assert found.origin == HERE
    return found.turns


def chat(*said: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in said], **more}


class TestRightRows:
    def test_alpaca(self):
        assert turns({"instruction": "hi", "input": "", "output": "yo"}, "alpaca") == (ASK, SAY)
        assert turns({"instruction": "hi", "output": "yo"}, "alpaca") == (ASK, SAY)
        assert turns({"instruction": "hi", "input": None, "output": "yo"}, "alpaca") == (ASK, SAY)
        assert turns({"instruction": "Sort", "input": "b a", "output": "a b"}, "alpaca")[0].content == "Sort\n\nb a"
        row = {"instruction": "hi", "system": "be kind", "output": "yo"}
        assert turns(row, "alpaca") == (Turn("system", "be kind"), ASK, SAY)

    def test_prompt_completion(self):
        assert turns({"prompt": "hi", "completion": "yo"}, "prompt_completion") == (ASK, SAY)

    def test_column_map(self):
        row = {"question": "hi", "response": "yo"}
        assert turns(row, "alpaca", {"instruction": "question", "output": "response"}) == (ASK, SAY)
        assert turns({"chat": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]},
                     "messages", {"messages": "chat"}) == (ASK, SAY)

    def test_sharegpt(self):
        said = [("system", "be kind"), ("human", "go"), ("function_call", '{"name": "f", "arguments": {"a": "ö"}}'),
                ("observation", "3"), ("gpt", "three"), ("user", "hi"), ("assistant", "yo")]
        row = {"conversations": [{"from": name, "value": value} for name, value in said], "tools": "[]"}
        assert turns(row, "sharegpt") == (
            Turn("system", "be kind"), Turn("user", "go"), Turn("assistant", "", (ToolCall("f", '{"a": "ö"}'),)),
            Turn("tool", "3"), Turn("assistant", "three"), ASK, SAY)

    @pytest.mark.parametrize("name", ["tool", "function_response", "observation"])
    def test_sharegpt_names_of_results(self, name):
        said = [("human", "go"), ("function_call", '[{"name": "f"}, {"name": "g"}]'), (name, "3"), ("gpt", "three")]
        found = turns({"conversations": [{"from": a, "value": b} for a, b in said]}, "sharegpt")
        assert found[1].tool_calls == (ToolCall("f", "{}"), ToolCall("g", "{}"))
        assert found[2] == Turn("tool", "3")

    @pytest.mark.parametrize("arguments", [{"a": None, "b": 1}, '{"a": null, "b": 1}'])
    def test_tool_calls_keep_their_keys_as_json_text(self, arguments):
        call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}
        answer = {"role": "assistant", "content": None, "tool_calls": [call]}
        row = {"messages": [{"role": "user", "content": "go"}, answer]}
        assert turns(row, "messages")[1] == Turn("assistant", "", (ToolCall("f", '{"a": null, "b": 1}'),))

    @pytest.mark.parametrize("tools", [[{"name": "f", "x": "ö"}], '[{"name": "f", "x": "ö"}]'])
    def test_tools_as_list_or_text(self, tools):
        found = understand(chat(("user", "hi"), ("assistant", "yo"), tools=tools), "messages")
        assert isinstance(found, Conversation)
        assert found.tools == '[{"name": "f", "x": "ö"}]'

    @pytest.mark.parametrize("tools", [None, [], "", "[]"])
    def test_no_tools(self, tools):
        found = understand(chat(("user", "hi"), ("assistant", "yo"), tools=tools), "messages")
        assert isinstance(found, Conversation)
        assert found.tools is None

    def test_text_parts(self):
        parts = [{"type": "text", "text": "h"}, {"type": "text", "value": "i"}]
        assert turns(chat(("user", parts), ("assistant", "yo")), "messages") == (ASK, SAY)

    def test_an_empty_system_turn_says_nothing(self):
        assert turns(chat(("system", " "), ("user", "hi"), ("assistant", "yo")), "messages") == (ASK, SAY)


@pytest.mark.parametrize(("data", "form", "why"), [
    ({"instruction": "hi"}, "alpaca", Why.MISSING_COLUMN),
    ({"instruction": "hi", "output": 3}, "alpaca", Why.WRONG_TYPE),
    ({"instruction": "hi", "output": " "}, "alpaca", Why.EMPTY_ASSISTANT),
    ({"instruction": "", "input": " ", "output": "yo"}, "alpaca", Why.EMPTY_TEXT),
    ({"instruction": "\ud800", "output": "yo"}, "alpaca", Why.UNREADABLE),
    ({"prompt": ["hi"], "completion": "yo"}, "prompt_completion", Why.WRONG_TYPE),
    ({"x": 1}, "messages", Why.MISSING_COLUMN),
    ({"messages": "hi"}, "messages", Why.WRONG_TYPE),
    ({"messages": []}, "messages", Why.WRONG_TYPE),
    ({"messages": ["hi"]}, "messages", Why.WRONG_TYPE),
    (chat(("user", "hi"), ("bot", "yo")), "messages", Why.UNKNOWN_ROLE),
    (chat(("user", "hi"), (["user"], "yo")), "messages", Why.UNKNOWN_ROLE),  # type: ignore[list-item]
    ({"conversations": [{"from": "bard", "value": "yo"}]}, "sharegpt", Why.UNKNOWN_ROLE),
    ({"conversations": [{"from": ["human"], "value": "hi"}]}, "sharegpt", Why.UNKNOWN_ROLE),
    (chat(("assistant", "yo")), "messages", Why.ROLE_ORDER),
    (chat(("user", "hi")), "messages", Why.ROLE_ORDER),
    (chat(("system", "x")), "messages", Why.ROLE_ORDER),
    (chat(("user", "hi"), ("user", "hi"), ("assistant", "yo")), "messages", Why.ROLE_ORDER),
    (chat(("user", "hi"), ("assistant", "yo"), ("assistant", "yo")), "messages", Why.ROLE_ORDER),
    (chat(("user", "hi"), ("system", "x"), ("assistant", "yo")), "messages", Why.ROLE_ORDER),
    (chat(("user", "hi"), ("assistant", "yo"), ("tool", "3"), ("assistant", "yo")), "messages", Why.ROLE_ORDER),
    (chat(("user", "hi"), ("assistant", "")), "messages", Why.EMPTY_ASSISTANT),
    (chat(("user", "hi"), ("assistant", None)), "messages", Why.EMPTY_ASSISTANT),
    (chat(("user", None), ("assistant", "yo")), "messages", Why.WRONG_TYPE),
    (chat(("user", [{"type": "image"}]), ("assistant", "yo")), "messages", Why.WRONG_TYPE),
    (chat(("user", ["hi"]), ("assistant", "yo")), "messages", Why.WRONG_TYPE),
    (chat(("user", "hi"), ("assistant", "yo"), tools="no json"), "messages", Why.WRONG_TYPE),
    (chat(("user", "hi"), ("assistant", "yo"), tools='{"a": 1}'), "messages", Why.WRONG_TYPE),
    ({"messages": [{"role": "user", "content": "hi", "tool_calls": [{"name": "f"}]}]}, "messages", Why.WRONG_TYPE),
])
def test_wrong_rows(data, form, why):
    found = understand(data, form)
    assert isinstance(found, Rejected)
    assert found.why is why, found
    assert found.origin == HERE
    assert found.detail


@pytest.mark.parametrize("call", [
    "f", {}, {"name": ""}, {"name": "f", "arguments": "{"}, {"name": "f", "arguments": [1]},
    {"name": "f", "arguments": "3"}, {"name": "f", "arguments": '{"a": NaN}'}, {"function": "f"},
])
def test_wrong_calls(call):
    answer = {"role": "assistant", "tool_calls": [call]}
    found = understand({"messages": [{"role": "user", "content": "hi"}, answer]}, "messages")
    assert isinstance(found, Rejected)
    assert found.why is Why.WRONG_TYPE


def test_a_call_wants_its_result_before_the_next_question():
    row = chat(("user", "hi"), ("assistant", ""), ("user", "and?"), ("assistant", "yo"))
    row["messages"][1]["tool_calls"] = [{"name": "f"}]
    found = understand(row, "messages")
    assert isinstance(found, Rejected)
    assert found.detail == "turn 3 is user after assistant with calls; allowed is tool"


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                         st.sampled_from(["role", "content", "from", "value", "tool_calls", "name", "arguments"]),
                         inner, max_size=4), max_leaves=12)
_COLUMNS = ["messages", "conversations", "instruction", "output", "prompt", "tools"]


@given(st.dictionaries(st.sampled_from(_COLUMNS), _JSON),
       st.sampled_from(["alpaca", "prompt_completion", "sharegpt", "messages"]))
def test_whatever_a_row_holds_it_is_kept_or_rejected(data, form):
    found = understand(data, form)
    if isinstance(found, Conversation):
        assert found.turns[-1].role == "assistant"
        assert all(json.loads(call.arguments) is not None for turn in found.turns for call in turn.tool_calls)


class TestDetection:
    @pytest.mark.parametrize(("data", "form"), [
        ({"instruction": "", "output": ""}, "alpaca"), ({"prompt": "", "completion": ""}, "prompt_completion"),
        ({"conversations": [{"from": "human"}]}, "sharegpt"), ({"messages": [{"from": "human"}]}, "sharegpt"),
        ({"messages": [{"role": "user"}]}, "messages"), ({"conversations": [{"role": "user"}]}, "messages"),
        ({"text": "x"}, None), ({"instruction": "x"}, None), ({"messages": []}, None),
    ])
    def test_by_columns(self, data, form):
        assert detect(data, source()) == form

    def test_by_mapped_columns(self):
        assert detect({"q": "", "a": ""}, source(columns={"instruction": "q", "output": "a"})) == "alpaca"

    def test_a_file_is_what_its_first_good_row_is(self):
        rows = [Row(HERE, {"x": 1}), Row(HERE, {"prompt": "hi", "completion": "yo"}), Row(HERE, {"messages": [{}]})]
        assert format_of(rows, source()) == "prompt_completion"

    def test_unknown(self):
        with pytest.raises(DataError, match=r"its columns are text; allowed are .* train.replay.sources"):
            format_of([Row(HERE, {"text": "hi"})], source())


def test_replay_text():
    assert to_text(Row(HERE, {"body": "x "}), source(columns={"text": "body"})) == "x "
    for data, why in (({"x": 1}, Why.MISSING_COLUMN), ({"text": 3}, Why.WRONG_TYPE), ({"text": " "}, Why.EMPTY_TEXT)):
        found = to_text(Row(HERE, data), source())
        assert isinstance(found, Rejected)
        assert found.why is why
