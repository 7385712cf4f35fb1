"""The usual shapes of public data sets, as docs/DATA.md lists them: read as they are, or by the advice that is given.

No row is anybody's data; every text of a row must be in its turns.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_core.config.data import Repair, SourceSection, TemplateSection
from sft_core.conversation import Conversation, Rejected
from sft_core.errors import DataError
from sft_core.templates.choose import choose
from sft_core.templates.render import Renderer
from sft_core.templates.template import trained_turns

Q, A, Q2, A2, SYSTEM = "What colour is grass?", "Green.", "And snow?", "White.", "You answer in one word."
TWO = ["user: What colour is grass?", "assistant: Green.", "user: And snow?", "assistant: White."]
ONE = TWO[:2]
WITH_SYSTEM = [f"system: {SYSTEM}", *ONE]
CALL = {"name": "get_weather", "arguments": {"town": "Bako"}}
CALLED = ["user: Weather in Bako?", 'assistant: get_weather {"town": "Bako"}']
TOOLS = [{"name": "get_weather", "description": "weather", "parameters": {"town": {"type": "str"}}}]


def openai(*said: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, said, strict=False)]


def sharegpt(*said: str) -> list[dict[str, str]]:
    return [{"from": role, "value": text} for role, text in zip(("human", "gpt") * 2, said, strict=False)]


@pytest.fixture
def take(tmp_path: Path, read_whole: Callable[..., Any]) -> Callable[..., Any]:
    def read(*rows: Any, repair: Sequence[Repair] = (), **section: Any) -> Any:
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_whole(SourceSection.model_validate({"path": str(tmp_path / "x.jsonl"), **section}), repair)

    return read


def said(conversation: Conversation) -> list[str]:
    return [" ".join([f"{turn.role}:", *filter(None, [turn.content]), *(" ".join(call) for call in turn.tool_calls)])
            for turn in conversation.turns]


READ: dict[str, tuple[Any, list[str]]] = {
    "Alpaca": ({"instruction": "Add.", "input": "4 and 9", "output": "13", "text": "Add. 4 and 9 13"},
               ["user: Add.\n\n4 and 9", "assistant: 13"]),
    "Alpaca with response": ({"instruction": "Add.", "input": "4 and 9", "response": "13"},
                             ["user: Add.\n\n4 and 9", "assistant: 13"]),
    "Dolly": ({"instruction": Q, "context": "The town is Bako.", "response": A, "category": "closed_qa"},
              [f"user: {Q}\n\nThe town is Bako.", f"assistant: {A}"]),
    "Alpaca with context": ({"instruction": Q, "context": "The town is Bako.", "output": A},
                            [f"user: {Q}\n\nThe town is Bako.", f"assistant: {A}"]),
    "Alpaca with messages as its history": ({"instruction": Q2, "output": A2, "history": openai(Q, A)}, TWO),
    "Alpaca with a history of pairs": ({"instruction": Q2, "output": A2, "history": [{"input": Q, "output": A}]}, TWO),
    "history of ShareGPT": ({"prompt": Q2, "response": A2, "history": sharegpt(Q, A)}, TWO),
    "OpenOrca": ({"id": "flan.1", "system_prompt": SYSTEM, "question": Q, "response": A}, WITH_SYSTEM),
    "GSM8K": ({"question": Q, "answer": A}, ONE),
    "MATH": ({"problem": Q, "solution": A, "level": "1"}, ONE),
    "FLAN": ({"inputs": Q, "targets": A}, ONE),
    "input and output": ({"input": Q, "output": A}, ONE),
    "capital letters": ({"Instruction": Q, "Response": A}, ONE),
    "prompt and response": ({"prompt": Q, "response": A}, ONE),
    "code with a rendered prompt": ({"instruction": "Add.", "input": "4 and 9", "output": "13", "prompt": "### Add."},
                                    ["user: Add.\n\n4 and 9", "assistant: 13"]),
    "TRL": ({"prompt": openai(Q), "completion": [{"role": "assistant", "content": A}]}, ONE),
    "OpenAI": ({"messages": [{"role": "system", "content": SYSTEM}, *openai(Q, A)]}, WITH_SYSTEM),
    "UltraChat": ({"prompt": Q, "prompt_id": "ab12", "messages": openai(Q, A, Q2, A2)}, TWO),
    "ShareGPT": ({"id": "x", "conversations": sharegpt(Q, A, Q2, A2)}, TWO),
    "ShareGPT with a system prompt": ({"system_prompt": SYSTEM, "conversations": sharegpt(Q, A)}, WITH_SYSTEM),
    "LIMA": ({"conversations": [Q, A, Q2, A2], "source": "multi_turn"}, TWO),
    "Capybara": ({"source": "x", "conversation": [{"input": Q, "output": A}, {"input": Q2, "output": A2}]}, TWO),
    "Capybara with thoughts": ({"conversation": [{"input": Q, "output": A, "reasoning": "Grass, hm."}]},
                               [ONE[0], f"assistant: <think>\nGrass, hm.\n</think>\n\n{A}"]),
    "Guanaco": ({"text": f"### Human: {Q}### Assistant: {A}### Human: {Q2}### Assistant: {A2}"}, TWO),
    "ChatML in one text": ({"text": f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{Q}<|im_end|>\n"
                                    f"<|im_start|>assistant\n{A}<|im_end|>\n"}, WITH_SYSTEM),
    "Llama 2 in one text": ({"text": f"<s>[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n{Q} [/INST] {A} </s>"
                                     f"<s>[INST] {Q2} [/INST] {A2} </s>"}, [WITH_SYSTEM[0], *TWO]),
    "ChatML behind a BOS, in lines of Windows": (
        {"text": f"<s><|im_start|>user\r\n{Q}<|im_end|>\r\n<|im_start|>assistant\r\n{A}<|im_end|>"}, ONE),
    "Mistral in one text": ({"text": f"<s>[INST]{Q}[/INST]{A}</s>[INST]{Q2}[/INST]{A2}</s>"}, TWO),
    "Llama 3 in one text": ({"text": "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"
        for role, text in (("user", Q), ("assistant", A)))}, ONE),
    "Gemma in one text": ({"text": f"<bos><start_of_turn>user\n{Q}<end_of_turn>\n<start_of_turn>model\n{A}"
                                   "<end_of_turn>\n"}, ONE),
    "Zephyr in one text": ({"text": f"<|system|>\n</s>\n<|user|>\n{Q}</s>\n<|assistant|>\n{A}</s>\n"}, ONE),
    "Phi in one text": ({"text": f"<|user|>\n{Q}<|end|>\n<|assistant|>\n{A}<|end|>"}, ONE),
    "Alpaca in one text": ({"text": (
        "Below is an instruction that describes a task, paired with an input that gives more. Write what is asked.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n4 and 9\n\n### Response:\n13\n\n### Input:\nis a heading")},
        ["user: Add.\n\n4 and 9", "assistant: 13\n\n### Input:\nis a heading"]),
    "Glaive": ({"system": f"SYSTEM: {SYSTEM}", "chat": (
        "USER: Weather in Bako?\n\n\nASSISTANT: <functioncall> {\"name\": \"get_weather\", \"arguments\": "
        "'{\"town\": \"Bako\"}'} <|endoftext|>\n\n\nFUNCTION RESPONSE: {\"sky\": \"grey\"}\n\n\n"
        "ASSISTANT: It is grey. <|endoftext|>")},
        [f"system: {SYSTEM}", *CALLED, 'tool: {"sky": "grey"}', "assistant: It is grey."]),
    "xLAM": ({"id": 1, "query": "Weather in Bako?", "tools": json.dumps(TOOLS), "answers": json.dumps([CALL])}, CALLED),
    "OpenAI tools": ({"tools": TOOLS, "messages": [
        *openai("Weather in Bako?"), {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a", "type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}]},
        {"role": "tool", "tool_call_id": "a", "content": "grey"}, {"role": "assistant", "content": "It is grey."}]},
        [*CALLED, "tool: grey", "assistant: It is grey."]),
    "Hermes tools": ({"conversations": [
        {"from": "system", "value": SYSTEM}, {"from": "human", "value": "Weather in Bako?"},
        {"from": "gpt", "value": f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>"},
        {"from": "tool", "value": "<tool_response>\ngrey\n</tool_response>\n<tool_response>\nblue\n</tool_response>"},
        {"from": "gpt", "value": "It is grey."}]},
        [f"system: {SYSTEM}", CALLED[0], 'assistant: get_weather {"town": "Bako"} get_weather {"town": "Bako"}',
         "tool: grey", "tool: blue", "assistant: It is grey."]),
    "ToolACE": ({"system": SYSTEM, "conversations": [
        {"from": "user", "value": "Weather in Bako?"}, {"from": "assistant", "value": '[Get Weather(town="Bako")]'},
        {"from": "tool", "value": "grey"}, {"from": "assistant", "value": "It is grey."}]},
        [f"system: {SYSTEM}", CALLED[0], 'assistant: [Get Weather(town="Bako")]', "tool: grey",
         "assistant: It is grey."]),
    "Anthropic": ({"system": [{"type": "text", "text": SYSTEM}], "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Weather in Bako?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, *(
            {"type": "tool_use", "id": i, "name": "get_weather", "input": {"town": i}} for i in "ab")]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "b", "content": "grey"}, {
            "type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "blue"}]}]},
        {"role": "assistant", "content": "It is grey."}]},
        [f"system: {SYSTEM}", CALLED[0], 'assistant: I look. get_weather {"town": "a"} get_weather {"town": "b"}',
         "tool: blue", "tool: grey", "assistant: It is grey."]),
    "Gemini": ({"systemInstruction": {"parts": [{"text": SYSTEM}]}, "contents": [
        {"role": "user", "parts": [{"text": "Weather in Bako?"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "get_weather", "args": {"town": "Bako"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "get_weather", "response": {"sky": "grey"}}}]},
        {"role": "model", "parts": [{"text": "It is grey."}]}]},
        [f"system: {SYSTEM}", *CALLED, 'tool: {"sky": "grey"}', "assistant: It is grey."]),
}

BY_ADVICE: dict[str, tuple[Any, str, list[str]]] = {
    "hh-rlhf": ({"chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}", "rejected": f"\n\nHuman: {Q}\n\nAssistant: Go."},
                "{messages: chosen}", ONE),
    "DPO": ({"system": SYSTEM, "question": Q, "chosen": A, "rejected": "No."},
            "{prompt: question, completion: chosen}", WITH_SYSTEM),
    "DPO of Alpaca": ({"instruction": "Add.", "input": "4 and 9", "chosen": "13", "rejected": "14"},
                      "{output: chosen}", ["user: Add.\n\n4 and 9", "assistant: 13"]),
    "DPO of an input": ({"system": SYSTEM, "input": Q, "chosen": A, "rejected": "No."},
                        "{prompt: input, completion: chosen}", WITH_SYSTEM),
    "DPO with a history": ({"instruction": Q2, "history": [[Q, A]], "chosen": A2, "rejected": "No."},
                           "{output: chosen}", TWO),
    "UltraFeedback": ({"prompt": Q, "chosen": openai(Q, A), "rejected": openai(Q, "No.")}, "{messages: chosen}", ONE),
    "DPO of OpenAI": ({"input": {"messages": openai(Q)}, "preferred_output": openai(Q, A)[1:],
                       "non_preferred_output": openai(Q, "No.")[1:]}, "{prompt: input, completion: preferred_output}",
                      ONE),
    "OpenR1": ({"problem": Q, "solution": A, "answer": "g"}, "{output: answer}", [f"user: {Q}", "assistant: g"]),
    "Nemotron": ({"input": openai(Q), "output": A, "system_prompt": SYSTEM, "license": "cc-by-4.0"},
                 "{prompt: input, completion: output}", WITH_SYSTEM),
    "messages as a question": ({"question": sharegpt(Q), "response": A}, "{prompt: question, completion: response}",
                               ONE),
    "another name": ({"said": openai(Q, A, Q2, A2), "system": SYSTEM}, "{messages: said}", [WITH_SYSTEM[0], *TWO]),
    "answers of another name": ({"question": Q, "reply": A}, "{output: reply}", ONE),
    "questions of another name": ({"said": Q, "response": A}, "{instruction: said}", ONE),
    "UltraChat of strings": ({"id": "0", "data": [Q, A, Q2, A2]}, "{messages: data}", TWO),
}


@pytest.mark.parametrize("shape", READ)
def test_what_is_read_without_configuration(take, tokenizer, shape):
    row, expected = READ[shape]
    taken = take(row)
    assert not taken.rejected
    assert [said(one) for one in taken.conversations] == [expected]
    section = TemplateSection(name="chatml")
    found = Renderer(choose(section, tokenizer), tokenizer, section).render(taken.conversations[0])
    assert not isinstance(found, Rejected), found


@pytest.mark.parametrize("standard", ["messages", "conversations"])
def test_the_column_map_goes_before_other_names(take, standard):
    taken = take({"said": openai(Q, A), "chat": openai(Q2, A2)}, columns={standard: "said"})
    assert said(taken.conversations[0]) == ONE


@pytest.mark.parametrize("shape", BY_ADVICE)
def test_what_is_refused_with_advice_that_works(take, shape):
    row, advice, expected = BY_ADVICE[shape]
    with pytest.raises(DataError, match=r"set columns: {") as caught:
        take(row)
    followed = re.search(r"set columns: ({.*?})", str(caught.value))
    assert followed
    assert followed[1] == advice
    taken = take(row, columns=yaml.safe_load(advice))
    assert [said(one) for one in taken.conversations] == [expected]


def test_a_preference_data_set_without_a_known_question_is_told_what_to_map(take):
    row = {"said": Q, "chosen": A, "rejected": "No."}
    with pytest.raises(DataError, match="{prompt: …, completion: chosen} with the column of the question"):
        take(row)
    taken = take(row, columns={"prompt": "said", "completion": "chosen"})
    assert [said(one) for one in taken.conversations] == [ONE]


@pytest.mark.parametrize("row", [
    {"instruction": Q, "output": A}, {"question": Q, "answer": A}, {"prompt": Q, "completion": A},
    {"messages": openai(Q, A)}, {"conversations": sharegpt(Q, A)},
])
@pytest.mark.parametrize(("label", "bad"), [
    (False, True), (0, True), (0.0, True), ("False", True), ("0", True), (True, False), (1, False), ("True", False),
    ("good one", False), ("", False), (None, False)])
def test_answers_labelled_as_not_wanted_are_left_out(take, row, label, bad):
    taken = take({**row, "label": label})
    assert [str(one.why) for one in taken.rejected] == ["bad_answer"] * bad
    assert [said(one) for one in taken.conversations] == [ONE] * (not bad)
    assert len(take({**row, "label": label}, ignore_columns=["label"]).conversations) == 1


@pytest.mark.parametrize(("text", "told"), [
    (f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>context\nx<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>",
     "from 'context'.*say in the source what that is, for example `roles: "),
    (f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>\nmore", r"holds '<\|im_end\|>', a mark"),
    (f"<s>[INST]{Q}[/INST][TOOL_CALLS][]</s>[TOOL_RESULTS]1[/TOOL_RESULTS]{A}</s>", r"holds '\[TOOL_CALLS\]', a mark"),
    (f"<|user|>\n{Q}</s>\n<|assistant|>\n{A}</s>\n<|critic|>\nGood.</s>", "from 'critic'"),
])
def test_marks_of_a_rendered_chat_are_never_trained(take, text, told):
    taken = take({"text": text})
    assert not taken.conversations
    assert re.search(told, taken.rejected[0].detail)


def test_a_speaker_of_a_rendered_chat_can_be_mapped(take):
    text = f"<|user|>\n{Q}</s>\n<|bot|>\n{A}</s>\n<|user|>\n{Q2}</s>\n<|bot|>\n{A2}</s>"
    taken = take({"text": text}, roles={"bot": "assistant"})
    assert said(taken.conversations[0]) == TWO


@pytest.mark.parametrize(("row", "advice"), [
    ({"messages": [openai(Q)[0], {"role": "assistant", "content": [
        {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}}]}, {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": "grey"}, {"type": "text", "text": "Now?"}]},
        openai(Q, A)[1]]}, "put what the user says behind a result into the result, or an answer in between"),
    ({"query": Q, "context": ["one", "two"], "response": A},
     r"context is not text but list .*; write it as text, or map another column, e.g. columns: {input: …}"),
    ({"question": Q, "answer": 1}, r"answer is not text but int .*, e.g. columns: {output: …}"),
])
def test_rows_that_are_refused_are_told_what_to_do(take, row, advice):
    (rejected,) = take(row).rejected
    assert re.search(advice, rejected.detail)


def test_tools_beside_the_question_stop_the_run(take):
    row = {"input": {"messages": openai(Q), "tools": TOOLS}, "preferred_output": openai(Q, A)[1:]}
    with pytest.raises(DataError, match=r"message\.tools"):
        take(row, columns={"prompt": "input", "completion": "preferred_output"})


def test_trees_give_their_best_ranked_threads(take):
    """OpenAssistant's rows; a child may stand in front of its parent."""
    def message(name: str, parent: str | None, text: str, rank: int | None = None) -> dict[str, Any]:
        role = "prompter" if text.endswith("?") else "assistant"
        return {"message_id": name, "parent_id": parent, "role": role, "text": text, "rank": rank, "lang": "en"}

    taken = take(message("b", "a", "Blue.", 1), message("a", None, Q), message("c", "a", A, 0),
                 message("d", "c", Q2), message("e", "d", A2), message("f", "e", "And coal?"),
                 message("g", "x", "Lost."), message("h", None, "Alone?"), message("a", "e", A))
    assert [said(one) for one in taken.conversations] == [TWO]
    assert taken.conversations[0].origin.line == 2
    assert sorted((one.origin.line, str(one.why)) for one in taken.rejected) == [
        (1, "bad_answer"), (6, "bad_answer"), (7, "missing_column"), (8, "bad_answer"), (9, "wrong_type")]
    assert taken.rows == len(taken.conversations) + len(taken.rejected)


@pytest.mark.parametrize("mark", [{"weight": 0}, {"loss_weight": 0.0}, {"train": False}, {"training": False},
                                  {"mask": True}])
@pytest.mark.parametrize("other", [{}, {"weight": 1}, {"training": True}, {"mask": False}])
def test_an_answer_marked_as_context_is_not_trained(take, mark, other):
    messages = openai(Q, "Grean.", Q2, A2)
    taken = take({"messages": [messages[0], {**messages[1], **mark}, messages[2], {**messages[3], **other}]})
    turns = taken.conversations[0].turns
    assert trained_turns(turns, "all_assistant") == trained_turns(turns, "last_assistant") == {3}
    assert trained_turns(turns[:2], "last_assistant") == set()


@pytest.mark.parametrize("messages", [
    [{**openai(Q)[0], "training": True}, openai(Q, A)[1]], [{**openai(Q)[0], "mask": False}, openai(Q, A)[1]],
    [openai(Q)[0], {**openai(Q, A)[1], "weight": 0.5}], [openai(Q)[0], {**openai(Q, A)[1], "mask": True}],
])
def test_weights_that_cannot_be_kept_are_refused(take, messages):
    (rejected,) = take({"messages": messages}).rejected
    assert rejected.why == "turn_weight"


class TestNothingIsLostInSilence:
    def test_text_that_is_not_used_is_told_once_with_its_share(self, take, caplog):
        row = {"instruction": Q, "output": A, "id": "a-1", "url": "http://x"}
        with caplog.at_level(logging.WARNING, "sft"):
            take({**row, "notes": ["read with care"]}, {**row, "notes": None})
        (record,) = caplog.records
        assert "not used: notes (50% of rows); map them" in record.getMessage()
        caplog.clear()
        take({**row, "notes": "read with care"}, ignore_columns=["notes"])
        assert not caplog.records

    @pytest.mark.parametrize(("row", "columns", "column"), [
        ({"messages": openai(Q, A), "context": "The town is Bako."}, {}, "context"),
        ({"conversations": sharegpt(Q, A), "history": [["Hi there", "Hello"]]}, {}, "history"),
        ({"instruction": Q, "output": A, "system": "Be kind.", "system_prompt": SYSTEM}, {}, "system_prompt"),
        ({"instruction": Q, "input": "4 and 9", "response": A}, {"prompt": "instruction", "completion": "response"},
         "input"),
    ])
    def test_a_known_column_that_cannot_be_used_stops_the_run(self, take, row, columns, column):
        refused = rf"x.jsonl:1: the column {column} \(.*ignore_columns: \[{column}\]"
        with pytest.raises(DataError, match=refused) as caught:
            take(row, columns=columns)
        assert len(take(row, columns=columns, ignore_columns=[column]).conversations) == 1
        other = re.search(r"set columns: ({.*?})", str(caught.value))
        assert (other is not None) == (column == "input")
        if other:
            taken = take(row, columns=yaml.safe_load(other[1]))
            assert said(taken.conversations[0]) == [f"user: {Q}\n\n4 and 9", f"assistant: {A}"]


    @pytest.mark.parametrize("extra", [
        {"thoughts": "Grass, hm."}, {"tool_plan": "I look."}, {"reasoning_details": [{"text": "Grass, hm."}]}])
    def test_text_in_messages_that_is_not_used_is_told_once_with_its_share(self, take, caplog, extra):
        question, answer = openai(Q, A)
        twice = {"messages": [question, {**answer, **extra}, question, {**answer, **extra}]}
        take(twice, {"messages": openai(Q, A)})
        (record,) = caplog.records
        name = f"message.{next(iter(extra))}"
        assert f"not used: {name} (50% of rows); " in record.getMessage()
        assert f"ignore_columns: [{name}]" in record.getMessage()
        caplog.clear()
        take(twice, ignore_columns=[name])
        assert not caplog.records

    def test_a_row_that_lost_its_instruction_is_no_question(self, take):
        whole = {"instruction": "Add.", "input": "4 and 9", "output": "13"}
        found = take(whole, {"input": "4 and 9", "output": "13"})
        assert len(found.conversations) == 1
        assert [one.why for one in found.rejected] == ["missing_column"]
        assert len(take({"input": Q, "output": A}).conversations) == 1

    @pytest.mark.parametrize("tools", [None, "", "[]", [], {}])
    def test_a_message_without_tools_goes_on_in_silence(self, take, caplog, tools):
        row = {"messages": [{"role": "system", "content": SYSTEM, "functions": tools}, *openai(Q, A)]}
        assert [said(one) for one in take(row).conversations] == [WITH_SYSTEM]
        assert not caplog.records

    @pytest.mark.parametrize(("row", "key"), [
        ({"messages": [{**openai(Q)[0], "context": "The town is Bako."}, openai(Q, A)[1]]}, "context"),
        ({"conversations": [{**sharegpt(Q)[0], "input": "4 and 9"}, sharegpt(Q, A)[1]]}, "input"),
        ({"messages": [{"role": "system", "content": SYSTEM, "tools": TOOLS}, *openai(Q, A)]}, "tools"),
        ({"prompt": [{**openai(Q)[0], "context": "The town is Bako."}], "completion": A}, "context"),
        ({"contents": [{"role": "user", "parts": [{"text": Q}], "context": "The town is Bako."},
                       {"role": "model", "parts": [{"text": A}]}]}, "context"),
        ({"conversation": [{"input": Q, "output": A, "context": "The town is Bako."}]}, "context"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": Q, "context": "The town is Bako."}]},
                       openai(Q, A)[1]]}, "context"),
        ({"messages": [openai(Q)[0], {"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}}]},
            {"role": "user", "context": "The town is Bako.", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "grey"}]}, openai(Q, A)[1]]}, "context"),
    ])
    def test_context_in_a_message_stops_the_run(self, take, row, key):
        with pytest.raises(DataError, match=rf"x.jsonl:1: the key of a message message.{key} \("
                                            rf".*, or leave it .* ignore_columns: \[message.{key}\]"):
            take(row)
        assert len(take(row, ignore_columns=[f"message.{key}"]).conversations) == 1


@pytest.mark.parametrize(("text", "kept"), [
    ("Write <tool_call>{\"name\": \"f\"}</tool_call> like so.", True), ("<tool_call>no call</tool_call>", True),
    ("<think>\n<tool_call>\n</think>\n\nHello", True), ("I look.\n<tool_call>{\"name\": \"f\"}</tool_call>", False),
])
def test_only_calls_at_the_end_of_an_answer_are_calls(take, text, kept):
    (one,) = take({"messages": openai(Q, text)}).conversations
    assert (one.turns[1].content == text) == kept
    assert bool(one.turns[1].tool_calls) != kept


REPAIRS: dict[str, tuple[Any, str, list[str]]] = {
    "begins with an answer": ([{"from": "system", "value": SYSTEM}, {"from": "gpt", "value": "Hello!"},
                               *sharegpt(Q, A)], "trim", WITH_SYSTEM),
    "ends with a question": (sharegpt(Q, A, "Thanks"), "trim", ONE),
    "two questions": ([{"from": "human", "value": "One thing."}, *sharegpt(Q, A)], "merge",
                      [f"user: One thing.\n\n{Q}", ONE[1]]),
    "both": ([*sharegpt(Q, A), {"from": "gpt", "value": "As ever."}, *sharegpt(Q)], "trim, merge",
             [ONE[0], f"assistant: {A}\n\nAs ever."]),
    "two answers, the second a call": ([*sharegpt("Weather in Bako?", "I look."), {
        "from": "function_call", "value": json.dumps(CALL)}], "merge",
        [CALLED[0], 'assistant: I look. get_weather {"town": "Bako"}']),
}


@pytest.mark.parametrize("case", REPAIRS)
def test_turns_out_of_order_are_put_right_where_asked_for(take, case):
    conversations, ways, expected = REPAIRS[case]
    (rejected,) = take({"conversations": conversations}).rejected
    advice = re.search(r"; data.repair: \[(.*)\] puts it right$", rejected.detail)
    assert advice
    assert advice[1] == ways
    good = {"conversations": sharegpt(Q, A)}
    taken = take({"conversations": conversations}, good, repair=advice[1].split(", "))
    assert [(said(one), one.repaired) for one in taken.conversations] == [(expected, True), (ONE, False)]


@pytest.mark.parametrize("messages", [
    [openai(Q)[0], {**openai(Q, A)[1], "weight": 0}, openai(Q, A)[1]], openai(Q), [openai(Q, A)[1]],
])
def test_what_cannot_be_put_right_stays_rejected(take, messages):
    for ways in ((), ("trim", "merge")):
        (rejected,) = take({"messages": messages}, repair=ways).rejected
        assert rejected.why == "role_order"
        assert "data.repair" not in rejected.detail


def test_a_template_that_knows_no_calls_is_told_with_one_that_does(tmp_path, take, tokenizer):
    (tmp_path / "plain.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    (one,) = take(READ["Hermes tools"][0]).conversations
    section = TemplateSection(path=str(tmp_path / "plain.jinja"), new_tokens=("<|im_start|>",))
    found = Renderer(choose(section, tokenizer), tokenizer, section).render(one)
    assert isinstance(found, Rejected)
    assert "drops or rewrites the call of get_weather" in found.detail
    assert "set template.name to a built-in one (chatml, for example)" in found.detail
