"""The tiny world: what it promises about facts, problems, chats and items."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from sft_core.tiny import chats, data, items, text
from sft_core.tiny.problems import LIMIT, make_problem
from sft_core.tiny.world import N_TOUCHED, N_TOWNS, PEOPLE, SUBJECTS, VALUES, make_world, stream

WORLD = make_world(0)
SUITES = Path(__file__).resolve().parents[2] / "eval_suites" / "suites"


def words(said: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", said.lower())


def grams(said: str, n: int) -> set[tuple[str, ...]]:
    found = words(said)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    assert make_world(0) == WORLD
    assert make_world(1).towns != WORLD.towns


def test_every_town_has_one_fact_per_attribute_and_no_value_is_a_good_guess() -> None:
    assert len(set(WORLD.towns)) == N_TOWNS
    assert not set(WORLD.towns) & set(PEOPLE)
    assert len(WORLD.facts) == N_TOWNS * len(SUBJECTS)
    for attribute, values in VALUES.items():
        counts = Counter(fact.value for fact in WORLD.facts if fact.attribute == attribute)
        assert counts == dict.fromkeys(values, N_TOWNS // len(values))


def test_an_unknown_town_is_named_in_the_error() -> None:
    with pytest.raises(KeyError, match="Atlantis"):
        WORLD.value("Atlantis", "food")


def test_worked_answers_of_problems_are_right() -> None:
    rng = stream(0, "test")
    for _ in range(500):
        problem = make_problem(rng)
        steps = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", problem.answer)
        assert 1 <= len(steps) <= 2
        for a, sign, b, c in steps:
            assert int(a) + int(sign + b) == int(c)
            assert 0 <= int(c) <= LIMIT
        assert problem.answer.endswith(f"#### {problem.result}")
        assert int(steps[-1][3]) == problem.result
        numbers = [int(n) for n in re.findall(r"\d+", problem.question)]
        assert numbers == [int(steps[0][0]), *(int(step[2]) for step in steps)]


def test_documents_hold_no_reserved_problem_and_replay_no_examined_question() -> None:
    rng = stream(0, "test")
    examined = {f"What is the {a} of {town}?" for a in VALUES for town in WORLD.towns}
    draw = text.Draw(WORLD.towns, 0.2, frozenset(), examined=False)
    documents = [text.document(rng, WORLD, draw) for _ in range(2000)]
    assert not [d for d in documents if any(q in text.plain(d) for q in examined)]
    reserved = {text.plain(d).split("\n")[0].removeprefix("Question: ") for d in documents if "####" in text.plain(d)}
    again = stream(0, "test")
    others = [text.problem_document(again, reserved) for _ in range(300)]
    assert not reserved & {text.plain(d).split("\n")[0].removeprefix("Question: ") for d in others}


def test_item_counts_and_answers_follow_from_the_world() -> None:
    exam = items.mmlu_items(WORLD)
    assert Counter(item["subject"] for item in exam) == dict.fromkeys(SUBJECTS, N_TOWNS)
    for item in exam:
        town = str(item["question"]).split()[-1].rstrip("?")
        assert item["choices"][item["answer"]] == WORLD.value(town, SUBJECTS[item["subject"]])
        assert len(set(item["choices"])) == 4
    assert len({item["question"] for item in items.gsm8k_items(WORLD)}) == items.N_GSM8K >= 200
    kinds = Counter(item["kind"] for item in [*items.format_items(WORLD), *items.refusal_items(WORLD)])
    assert kinds == items.N_FORMAT | {"disallowed": items.N_REFUSAL, "benign": items.N_REFUSAL}
    assert sum(items.N_FORMAT.values()) >= 200 <= 2 * items.N_REFUSAL


def test_committed_item_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    for path in items.write_items(tmp_path):
        committed = SUITES / path.relative_to(tmp_path)
        assert committed.read_bytes() == path.read_bytes(), committed


def test_expected_values_of_format_items_satisfy_their_own_schema() -> None:
    for item in items.format_items(WORLD):
        if item["kind"] == "json":
            jsonschema.validate(item["expect"]["value"], item["expect"]["schema"])
        if item["kind"] == "tool":
            offered = {spec["function"]["name"]: spec["function"] for spec in json.loads(item["tools"])}
            jsonschema.validate(item["expect"]["arguments"], offered[item["expect"]["name"]]["parameters"])


def test_held_out_phrasings_never_occur_in_chats_and_chats_stay_on_touched_towns() -> None:
    asked = [str(turn["content"]) for item in all_chat_items() for turn in item["messages"]]
    untouched = set(WORLD.towns[N_TOUCHED:])
    told = sound_texts()
    assert not [said for said in told if untouched & set(re.findall(r"[A-Z][a-z]+", said))]
    whole = {" ".join(words(said)) for said in asked}
    assert not [said for said in told if " ".join(words(said)) in whole]
    long = set().union(*(grams(said, 10) for said in asked))
    assert not [said for said in told if grams(said, 10) & long]


def test_sound_chats_hold_no_question_of_the_capability_tasks() -> None:
    questions = {str(item["question"]) for item in [*items.mmlu_items(WORLD), *items.gsm8k_items(WORLD)]}
    assert not [said for said in sound_texts() if any(question in said for question in questions)]


def test_a_benign_wish_shares_words_with_its_disallowed_twin() -> None:
    for kind in ("disallowed", "benign"):
        task = chats.refusal_task(stream(0, "test"), kind)
        assert task.expect["refuse"] == (kind == "disallowed")
        assert task.reply.startswith("Sorry" if task.expect["refuse"] else "Yes")


def all_chat_items() -> list[items.Item]:
    return [*items.format_items(WORLD), *items.refusal_items(WORLD)]


def sound_texts() -> list[str]:
    """User texts of all sound chats: the files as drawn before `faults` are added."""
    return [
        turn.content for chat in data.sound_chats(WORLD, 0).everything() for turn in chat.turns if turn.role == "user"
    ]
