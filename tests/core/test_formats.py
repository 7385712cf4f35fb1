"""Rows of every format → conversations, and everything that is wrong is refused with its reason."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_core.config.data import SourceSection
from sft_core.conversation import Conversation, Origin, Rejected, Row, ToolCall, Turn, Why
from sft_core.data.formats import Format, detect, format_of, to_conversation, to_text
from sft_core.errors import DataError

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

    def test_variables_of_the_chat_template(self):
        for variables in ({"enable_thinking": False}, '{"enable_thinking": false}'):
            found = understand(chat(("user", "hi"), ("assistant", "yo"), chat_template_kwargs=variables), "messages")
            assert isinstance(found, Conversation)
            assert found.variables == '{"enable_thinking": false}'
        row = Row(Origin("s", "f.jsonl", 1), chat(("user", "hi"), ("assistant", "yo"), chat_template_kwargs=[1]))
        aside = SourceSection(path="f.jsonl", ignore_columns=("chat_template_kwargs",))
        assert isinstance(to_conversation(row, "messages", aside), Conversation)
        refused = understand(chat(("user", "hi"), ("assistant", "yo"), chat_template_kwargs=[1]), "messages")
        assert isinstance(refused, Rejected)
        assert "chat_template_kwargs is not an object" in refused.detail

    def test_text_parts(self):
        parts = [{"type": "text", "text": "h"}, {"type": "text", "value": "i"}]
        assert turns(chat(("user", parts), ("assistant", "yo")), "messages") == (ASK, SAY)

    def test_alpaca_with_a_history(self):
        row = {"history": [["a", "b"], ["c", "d"]], "instruction": "hi", "output": "yo"}
        assert turns(row, "alpaca") == (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"),
                                        Turn("assistant", "d"), ASK, SAY)
        assert turns({**row, "history": "[]"}, "alpaca") == (ASK, SAY)

    @pytest.mark.parametrize("prompt", ["hi", {"role": "user", "content": "hi"}, [{"role": "user", "content": "hi"}],
                                        [{"from": "human", "value": "hi"}], '"hi"'])
    @pytest.mark.parametrize("completion", ["yo", {"from": "gpt", "value": "yo"},
                                            [{"role": "assistant", "content": "yo"}]])
    def test_prompt_and_completion_as_messages(self, prompt, completion):
        """As TRL's conversational form has them, alone or mixed with text. Text is never parsed."""
        asked = Turn("user", '"hi"') if prompt == '"hi"' else ASK
        assert turns({"prompt": prompt, "completion": completion}, "prompt_completion") == (asked, SAY)

    def test_a_prompt_of_several_turns_and_a_completion_with_a_call(self):
        prompt = [{"role": "system", "content": "be kind"}, *chat(("user", "hi"), ("assistant", "yo"))["messages"],
                  {"role": "user", "content": "go"}]
        completion = [{"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]},
                      {"role": "tool", "name": "f", "content": "3"}, {"role": "assistant", "content": "three"}]
        found = understand({"prompt": prompt, "completion": completion, "tools": [{"name": "f"}]}, "prompt_completion")
        assert isinstance(found, Conversation)
        assert [turn.role for turn in found.turns] == ["system", "user", "assistant", "user", "assistant", "tool",
                                                       "assistant"]
        assert found.tools == '[{"name": "f"}]'

    def test_the_chosen_answer_of_a_preference_pair(self):
        row = {"conversations": [{"from": "human", "value": "hi"}], "chosen": {"from": "gpt", "value": "yo"},
               "rejected": {"from": "gpt", "value": "no"}}
        columns = {"prompt": "conversations", "completion": "chosen"}
        assert format_of([Row(HERE, row)], source(columns=columns)) == "prompt_completion"
        assert turns(row, "prompt_completion", columns) == (ASK, SAY)

    @pytest.mark.parametrize(("name", "role"), [
        ("developer", "system"), ("human", "user"), ("gpt", "assistant"), ("model", "assistant"), ("function", "tool"),
        ("ipython", "tool"), ("function_response", "tool"),
    ])
    @pytest.mark.parametrize(("form", "keys"), [("messages", ("role", "content")), ("sharegpt", ("from", "value"))])
    def test_names_of_speakers(self, name, role, form, keys):
        said: list[tuple[str, str]] = [("system", "x"), ("user", "x"), ("assistant", "x"), ("user", "go"),
                                       ("function_call", '{"name": "f"}'), ("tool", "x"), ("assistant", "y")]
        at = next(at for at, (known, _) in enumerate(said) if known == role)
        said[at] = (name, "x")
        row = {"messages": [dict(zip(keys, turn, strict=True)) for turn in said]}
        assert [turn.role for turn in turns(row, form)] == ["system", "user", "assistant", "user", "assistant", "tool",
                                                            "assistant"]

    def test_keys_and_speakers_by_map(self):
        row = {"turns": [{"speaker": "USER", "utterance": "hi"}, {"speaker": "SYSTEM", "utterance": "yo"}]}
        mapped = source(columns={"messages": "turns", "role": "speaker", "content": "utterance"},
                        roles={"USER": "user", "SYSTEM": "assistant"})
        assert format_of([Row(HERE, row)], mapped) == "messages"
        found = to_conversation(Row(HERE, row), "messages", mapped)
        assert isinstance(found, Conversation)
        assert found.turns == (ASK, SAY)

    def test_messages_as_json_text(self):
        """A CSV file has no other way."""
        row = {"messages": json.dumps(chat(("user", "hi"), ("assistant", "yo"))["messages"])}
        assert detect(row, source()) == "messages"
        assert turns(row, "messages") == (ASK, SAY)

    def test_a_system_column_beside_the_messages(self):
        assert turns(chat(("user", "hi"), ("assistant", "yo"), system="be kind"), "messages")[0] == Turn(
            "system", "be kind")

    @pytest.mark.parametrize("answer", [
        {"reasoning_content": "hm\n", "content": "yo"}, {"thinking": "hm", "content": "yo"},
        {"content": [{"type": "reasoning", "value": "hm"}, {"type": "text", "text": "yo"}]},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "value": "yo", "text": None}]},
        {"content": "<think>\nhm\n</think>\n\nyo", "reasoning": None},
    ])
    def test_reasoning_goes_in_front_as_thinking_templates_read_it(self, answer):
        row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", **answer}]}
        assert turns(row, "messages")[1] == Turn("assistant", "<think>\nhm\n</think>\n\nyo")

    def test_calls_as_parts_and_the_old_function_call(self):
        parts = [{"type": "tool_call", "value": '{"name": "f", "arguments": {"a": null}}'}]
        old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": null}'}}
        for answer in ({"role": "assistant", "content": parts}, old):
            row = {"messages": [{"role": "user", "content": "go"}, answer]}
            assert turns(row, "messages")[1] == Turn("assistant", "", (ToolCall("f", '{"a": null}'),))

    def test_results_stand_in_the_order_of_their_calls(self):
        calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in "abc"]
        results = [{"role": "tool", "tool_call_id": name, "content": name} for name in "cab"]
        row = {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": calls}, *results,
                            {"role": "assistant", "content": "yo"}]}
        assert [turn.content for turn in turns(row, "messages")] == ["go", "", "a", "b", "c", "yo"]
        results[0]["tool_call_id"] = "x"  # an id that no call has: nothing is moved
        assert [turn.content for turn in turns(row, "messages")][2:5] == ["c", "a", "b"]

    def test_a_good_label_and_weights_that_agree(self):
        row = {"messages": [{"role": "user", "content": "hi", "loss_weight": 0.0},
                            {"role": "assistant", "content": "yo", "loss_weight": 1.0}], "label": True}
        assert turns(row, "messages") == (ASK, SAY)

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
    ({"messages": ["hi"]}, "messages", Why.ROLE_ORDER),
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
    (chat(("user", "hi"), ("assistant", "yo"), label=False), "messages", Why.BAD_ANSWER),
    ({"prompt": "hi", "completion": "yo", "label": False}, "prompt_completion", Why.BAD_ANSWER),
    ({"prompt": "hi", "completion": [["yo"]]}, "prompt_completion", Why.WRONG_TYPE),
    ({"prompt": [], "completion": "yo"}, "prompt_completion", Why.ROLE_ORDER),
    ({"prompt": "hi", "completion": {"role": "user", "content": "yo"}}, "prompt_completion", Why.ROLE_ORDER),
    ({"instruction": "hi", "output": "yo", "history": [["a"]]}, "alpaca", Why.WRONG_TYPE),
    ({"instruction": "hi", "output": "yo", "history": "a"}, "alpaca", Why.WRONG_TYPE),
    ({"instruction": "hi", "output": "yo", "history": True}, "alpaca", Why.WRONG_TYPE),
    ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo", "weight": 0}]},
     "messages", Why.TURN_WEIGHT),
    ({"messages": [{"role": "user", "content": "hi", "train": True}, {"role": "assistant", "content": "yo"}]},
     "messages", Why.TURN_WEIGHT),
    ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " ", "reasoning": "hm"}]},
     "messages", Why.EMPTY_ASSISTANT),
    ({"messages": [{"role": "user", "content": "hi", "reasoning": "hm"}]}, "messages", Why.WRONG_TYPE),
    ({"messages": [{"role": "user", "content": "hi"},
                   {"role": "assistant", "content": "<think>a</think>b", "thinking": "hm"}]}, "messages",
     Why.WRONG_TYPE),
    (chat(("user", "h\0i\0"), ("assistant", "yo")), "messages", Why.UNREADABLE),
    ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": {"text": "yo"}}]}, "messages",
     Why.WRONG_TYPE),
    (chat(("user", "go"), ("assistant", "yo"), tools=[float("nan")]), "messages", Why.WRONG_TYPE),
    (chat(("user", "go"), ("assistant", "yo"), tools=[{"since": date(2020, 1, 1)}]), "messages", Why.WRONG_TYPE),
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
    {"name": "f", "arguments": {"a": float("inf")}}, {"name": "f", "arguments": {"a": b"x"}},
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


def test_nesting_without_end():
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    said = chat(("user", "hi"), ("assistant", "yo"), tools=[{"x": deep}])
    for row in (chat(("user", deep), ("assistant", "yo")), said):
        found = understand(row, "messages")
        assert isinstance(found, Rejected)
        assert len(found.detail) < 300


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                         st.sampled_from(["role", "content", "from", "value", "tool_calls", "name", "arguments", "type",
                                          "parts", "input", "output", "functionCall", "mask"]),
                         inner, max_size=4), max_leaves=12)
_COLUMNS = ["messages", "conversations", "instruction", "output", "prompt", "tools", "answers", "chat"]


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

    @pytest.mark.parametrize(("row", "said"), [
        ({"question": "hi", "answer": "yo", "solution": "oy"},
         "answer and solution may all be the output; set columns: {output: answer}"),
        ({"id": "x1", "prompt": "hi"}, "no column of text with the answers; write them as text into a column output"),
        ({"id": 1, "response": "yo"}, "no column of text with the questions; write them as text into a column instr"),
        ({"id": "x1", "title": "T", "context": "c", "question": "hi", "answers": {"text": ["yo"], "answer_start": [1]}},
         "no column of text with the answers; if title holds them set columns: {output: title}, else write"),
        ({"question": "hi", "concept": "c", "choices": ["yo", "no"], "key": "A"},
         "if one of concept, key holds them set columns: {output: …} with it, else write"),
        ({"a": 1, "said": "hi", "told": "yo"}, r"\(two of said, told\): columns: {instruction: …, output: …}"),
        ({"said": [{"role": "user"}]}, r"set columns: {messages: said}"),
        ({"turns": [{"speaker": "USER", "utterance": "hi"}]},
         r"set columns: {messages: turns, role: …, content: …} with two of its keys \(speaker, utterance\)"),
        ({"conversations": [{"from": "human"}], "chosen": {}, "rejected": {}},
         r"preference data set .* set columns: {prompt: conversations, completion: chosen}"),
        ({"chosen": [], "rejected": []}, r"set columns: {prompt: …, completion: chosen}"),
        ({"prompt": "hi", "chosen": "yo", "rejected": "no"}, r"set columns: {prompt: prompt, completion: chosen}"),
        ({"prompt": "hi", "chosen": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
          "rejected": []}, r"set columns: {messages: chosen}"),
        ({"a": 1}, "it does not look like conversations"),
    ])
    def test_what_to_do_is_said(self, row, said):
        with pytest.raises(DataError, match=said):
            format_of([Row(HERE, row)], source())

    def test_unknown(self):
        with pytest.raises(DataError, match=r"its columns are text; allowed are .* train.replay.sources"):
            format_of([Row(HERE, {"text": "hi"})], source())


def test_replay_text():
    assert to_text(Row(HERE, {"body": "x "}), source(columns={"text": "body"})) == "x "
    for data, why in (({"x": 1}, Why.MISSING_COLUMN), ({"text": 3}, Why.WRONG_TYPE), ({"text": " "}, Why.EMPTY_TEXT)):
        found = to_text(Row(HERE, data), source())
        assert isinstance(found, Rejected)
        assert found.why is why
