"""The files that the tiny world writes: shapes, determinism, and the faults that are there on purpose."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sft_core.tiny import data, faults, items
from sft_core.tiny.world import make_world

WORLD = make_world(0)
Files = dict[str, list[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sft")
    data.write_sft(path)
    return path


@pytest.fixture(scope="module")
def files(folder: Path) -> Files:
    return {path.name: rows(path) for path in folder.iterdir()}


def rows(path: Path) -> list[Any]:
    said = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return list(json.loads(said))
    return [json.loads(line) for line in said.splitlines() if line != faults.UNREADABLE_LINE]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_chats(folder: Path, tmp_path: Path) -> None:
    for path in data.write_sft(tmp_path / "again"):
        assert path.read_bytes() == (folder / path.name).read_bytes()
    for path in data.write_sft(tmp_path / "other", seed=1):
        assert path.read_bytes() != (folder / path.name).read_bytes()
    first, again = data.write_replay(tmp_path / "a"), data.write_replay(tmp_path / "b")
    assert first.read_bytes() == again.read_bytes() != data.write_replay(tmp_path / "c", seed=1).read_bytes()


def test_writing_is_quick(tmp_path: Path) -> None:
    start = time.process_time()
    data.write_sft(tmp_path)
    data.write_replay(tmp_path)
    assert time.process_time() - start < 2


def test_there_are_about_two_thousand_rows_and_few_are_faulty(files: Files) -> None:
    assert set(files) == {"alpaca.json", "sharegpt.jsonl", "messages.jsonl", "tools.jsonl"}
    total = sum(map(len, files.values()))
    sound = len(data.sound_chats(WORLD, 0).everything())
    assert 1900 <= total <= 2100
    assert 0 < total - sound < 0.04 * total


def test_every_source_shape_occurs(files: Files) -> None:
    assert {frozenset(row) for row in files["alpaca.json"]} >= {frozenset({"instruction", "input", "output"})}
    assert any(row.get("input") for row in files["alpaca.json"])
    senders = Counter(turn["from"] for row in files["sharegpt.jsonl"] for turn in row.get("conversations", []))
    assert set(senders) == {"system", "human", "gpt", "function_call", "observation", "narrator"}
    plain = [row["messages"] for row in files["messages.jsonl"] if isinstance(row["messages"], list)]
    assert any(turns[0]["role"] == "system" for turns in plain)
    assert sum(sum(turn["role"] == "user" for turn in turns) > 1 for turns in plain) > 100
    called = [m for row in files["tools.jsonl"] for m in row["messages"] if m.get("tool_calls")]
    assert len(called) > 250
    assert any(m["role"] == "tool" for row in files["tools.jsonl"] for m in row["messages"])


def test_a_sound_tool_row_calls_a_tool_that_is_on_offer(files: Files) -> None:
    for row in files["tools.jsonl"]:
        if row in faults.TOOLS_FAULTS:
            continue
        offered = {spec["function"]["name"]: spec["function"]["parameters"] for spec in json.loads(row["tools"])}
        for message in row["messages"]:
            for call in message.get("tool_calls", []):
                arguments = json.loads(call["function"]["arguments"])
                assert set(arguments) == set(offered[call["function"]["name"]]["properties"])


def test_sound_chats_end_with_an_answer_and_ask_different_things() -> None:
    chats = data.sound_chats(WORLD, 0).everything()
    assert all(chat.turns[-1].role == "assistant" for chat in chats)
    assert all(turn.content or turn.call for chat in chats for turn in chat.turns)
    asked = [tuple(turn.content for turn in chat.turns if turn.role == "user") for chat in chats]
    assert len(set(asked)) == len(asked)


def test_planted_duplicates_and_leaks_can_be_found(folder: Path, files: Files) -> None:
    for name in ("alpaca.json", "messages.jsonl"):
        counts = Counter(json.dumps(row, sort_keys=True) for row in files[name])
        assert sum(count - 1 for count in counts.values()) == faults.N_COPIES
    asked = [row["instruction"] for row in files["alpaca.json"] if "instruction" in row]
    shouted = [said for said in asked if said.isupper()]
    assert len(shouted) == faults.N_COPIES
    assert all(any(s[:-3].strip() == other[:-1].upper() for other in asked) for s in shouted)
    questions = {str(item["question"]) for item in [*items.mmlu_items(WORLD), *items.gsm8k_items(WORLD)]}
    everything = [json.dumps(row) for part in files.values() for row in part]
    assert sum(any(q in said for q in questions) for said in everything) == 4 * data.N_LEAKS
    assert faults.UNREADABLE_LINE in (folder / "messages.jsonl").read_text(encoding="utf-8")


def test_replay_is_raw_text_without_evaluation_questions(tmp_path: Path) -> None:
    texts = [row["text"] for row in rows(data.write_replay(tmp_path, documents=1500))]
    assert len(texts) == 1500
    questions = [str(item["question"]) for item in [*items.mmlu_items(WORLD), *items.gsm8k_items(WORLD)]]
    joined = "\n".join(texts)
    assert not [q for q in questions if q in joined]
    assert "<|im_" not in joined
