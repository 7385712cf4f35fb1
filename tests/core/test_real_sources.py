"""Every file of the shared data sets: it is read whole, or the error says what to write into the configuration."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import yaml

from sft_core.config.data import SourceSection
from sft_core.conversation import Conversation, Rejected, Row
from sft_core.data.formats import format_of, to_conversation, to_text
from sft_core.data.sources import read_rows
from sft_core.errors import DataError


def rows_of(source: SourceSection, tmp_path: Any) -> list[Row]:
    rows = list(read_rows(source, scratch=tmp_path, mirror=None))
    assert not [row for row in rows if isinstance(row, Rejected)]
    return [row for row in rows if isinstance(row, Row)]


def kept_and_rejected(source: SourceSection, tmp_path: Any) -> tuple[str, list[Conversation], dict[str, int]]:
    rows = rows_of(source, tmp_path)
    form = format_of(rows, source)
    found = [to_conversation(row, form, source) for row in rows]
    kept = [one for one in found if isinstance(one, Conversation)]
    return form, kept, dict(Counter(str(one.why) for one in found if isinstance(one, Rejected)))


SGD = {"columns": {"messages": "turns", "role": "speaker", "content": "utterance"},
       "roles": {"USER": "user", "SYSTEM": "assistant"}}
CHOSEN = {"columns": {"prompt": "conversations", "completion": "chosen"}}


@pytest.mark.parametrize(("name", "section", "expected"), [
    ("alpaca_subset/random_9k.json", {}, ("alpaca", 9225, {"empty_assistant": 4})),
    ("alpaca_subset/claude_t45.json", {}, ("alpaca", 5301, {"empty_assistant": 4})),
    ("alpaca_subset/helpfulness_t45.json", {}, ("alpaca", 2021, {"empty_assistant": 1})),
    ("alpaca_subset/dolly_3k.json", {}, ("alpaca", 2996, {})),
    ("llamafactory_demo/alpaca_en_demo.json", {}, ("alpaca", 999, {})),
    ("llamafactory_demo/identity.json", {}, ("alpaca", 91, {})),
    ("llamafactory_demo/glaive_toolcall_en_demo.json", {}, ("sharegpt", 300, {})),
    ("llamafactory_demo/kto_en_demo.json", {}, ("messages", 150, {"bad_answer": 150})),
    ("llamafactory_demo/reason_tool_use_demo_50.jsonl", {}, ("messages", 48, {"wrong_type": 2})),
    ("llamafactory_demo/v1_sft_demo.jsonl", {}, ("messages", 500, {})),
    ("llamafactory_demo/v1_dpo_demo.jsonl", {"columns": {"messages": "chosen_messages"}}, ("messages", 10, {})),
    ("llamafactory_demo/dpo_en_demo.json", CHOSEN, ("prompt_completion", 300, {})),
    ("fastchat/dummy_conversation.json", {}, ("sharegpt", 500, {})),
    ("sgd_dialogues/dev/dialogues_005.json", SGD, ("messages", 128, {})),
    ("sgd_dialogues/dev/dialogues_007.json", SGD, ("messages", 68, {})),
])
def test_conversations(tmp_path, real_data, name, section, expected):
    source = SourceSection.model_validate({"path": str(real_data(name)), **section})
    found, conversations, refused = kept_and_rejected(source, tmp_path)
    assert (found, len(conversations), refused) == expected
    assert all(one.turns[-1].role == "assistant" and one.nulls == 0 for one in conversations)


@pytest.mark.parametrize(("name", "said"), [
    ("llamafactory_demo/dpo_en_demo.json", r"columns: {prompt: conversations, completion: chosen}"),
    ("llamafactory_demo/v1_dpo_demo.jsonl", r"columns: {messages: chosen_messages}"),
    ("llamafactory_demo/c4_demo.jsonl", "train.replay.sources"),
    ("llamafactory_demo/wiki_demo.txt", "train.replay.sources"),
    ("llamafactory_demo/dataset_info.json", "an array of objects, or one object per line"),
    ("fastchat/judge_prompts.jsonl", "map the columns"),
    ("fastchat/mt_bench/question.jsonl", "map the columns"),
    ("fastchat/mt_bench/reference_answer/gpt-4.jsonl", "map the columns|list of messages"),
    ("self_instruct_seed/seed_tasks.jsonl", "no column of text with the answers"),
    ("self_instruct_seed/test_prompts/sinstruct_test_set.jsonl", "no column of text with the answers"),
    ("self_instruct_seed/test_prompts/koala_test_set.jsonl", "no column of text with the answers"),
    ("self_instruct_seed/test_prompts/vicuna_test_set.jsonl", "train.replay.sources"),
    ("self_instruct_seed/test_prompts/wizardlm_test_set.jsonl", "no column of text with the answers"),
    ("sgd_dialogues/dev/dialogues_005.json", r"two of its keys \(frames, speaker, utterance\)"),
    ("sgd_dialogues/dev/schema.json", "if slots is the list of messages"),
])
def test_what_is_no_conversation_is_told_with_a_way_out(tmp_path, real_data, name, said):
    path = real_data(name)
    with pytest.raises(DataError, match=said) as caught:
        kept_and_rejected(SourceSection(path=str(path)), tmp_path)
    assert str(path) in str(caught.value)
    advice = re.search(r"set columns: ({[^…]*?})$", str(caught.value))
    if advice:  # what is advised works
        columns = yaml.safe_load(advice[1])
        assert kept_and_rejected(SourceSection(path=str(path), columns=columns), tmp_path)[1]


@pytest.mark.parametrize(("name", "documents"), [("llamafactory_demo/c4_demo.jsonl", 300),
                                                 ("llamafactory_demo/wiki_demo.txt", 30)])
def test_raw_text(tmp_path, real_data, name, documents):
    source = SourceSection(path=str(real_data(name)))
    texts = [to_text(row, source) for row in rows_of(source, tmp_path)]
    assert len(texts) == documents
    assert all(isinstance(text, str) and text.strip() for text in texts)


def test_tool_calls_of_a_real_file_survive_parquet(tmp_path, real_data):
    """JSON texts in ShareGPT's columns go through Arrow without a change."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = SourceSection(path=str(real_data("llamafactory_demo/glaive_toolcall_en_demo.json")))
    rows = rows_of(source, tmp_path)
    pq.write_table(pa.Table.from_pylist([dict(row.data) for row in rows]), tmp_path / "x.parquet")
    packed = SourceSection(path=str(tmp_path / "x.parquet"))
    for before, after in zip(rows, rows_of(packed, tmp_path), strict=True):
        one, two = to_conversation(before, "sharegpt", source), to_conversation(after, "sharegpt", packed)
        assert isinstance(one, Conversation)
        assert isinstance(two, Conversation)
        assert (one.turns, one.tools, two.nulls) == (two.turns, two.tools, 0)
