"""Self-Instruct with generators that a person can read: good ones, and those that do what generators do."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sft_core.config.decontaminate import DecontaminateSection
from sft_core.config.synth import SelfInstructSection
from sft_core.data.curate.contamination import ItemFinder, facts_of_texts, fault
from sft_core.data.curate.items import EvalItem
from sft_core.errors import DataError
from sft_core.synth import prompts
from sft_core.synth.contract import Asked, Said
from sft_core.synth.curve import Round, Triples, why_it_ends
from sft_core.synth.filters import any_of, fault_of_instance, fault_of_instruction
from sft_core.synth.parsing import instances_in, instructions_in, says_yes
from sft_core.synth.seeds import Instance, Task, read_seeds
from sft_core.synth.self_instruct import SelfInstruct

WORDS = tuple(sorted({
    "river", "bread", "clock", "garden", "winter", "engine", "letter", "window", "silver", "market", "forest", "bottle",
    "captain", "bridge", "candle", "pepper", "ribbon", "saddle", "tunnel", "velvet", "wagon", "yellow", "zebra",
    "anchor", "button", "carpet", "dragon", "eagle", "fabric", "goblin"}))
SEEDS = [
    *[Task(f"seed_{n}", f"Write {n} lines on the {a} and the {b} of your town.",
           (Instance("", f"The {a} and the {b}."),), False)
      for n, (a, b) in enumerate(zip(WORDS[:7], WORDS[7:14], strict=True))],
    *[Task(f"label_{n}", f"Say whether the {a} is old or new.", (Instance(f"the {a} of my aunt", "old"),), True)
      for n, a in enumerate(WORDS[14:18])],
]


def said(text: str | None, stopped: bool = True, why: str = "") -> Said:
    return Said(text, stopped, why)


@pytest.mark.parametrize(("answer", "wanted"), [
    (said(" Name a bird.\nTask 10: Name a\n  fish.\nTask 11: Sing."), ["Name a bird.", "Name a fish.", "Sing."]),
    (said("Task 9: Name a bird.\n10. Name a fish.\n11) Sing."), ["Name a bird.", "Name a fish.", "Sing."]),
    (said("Sure!\n**Task 9:** Name a bird.\n### Task 10: Sing."), ["Sure!", "Name a bird.", "Sing."]),
    (said("Name a bird.\nTask 10: Name a fi", stopped=False), ["Name a bird."]),
    (said("<think>Task 9: no</think>Name a bird."), ["Name a bird."]),
    (said("".join(f"Task {n}: Do {n} things.\n" for n in range(9, 99))), [f"Do {n} things." for n in range(9, 17)]),
    (said(""), []), (said(None), []), (said("never", stopped=False), []),
])
def test_instructions_are_read_out_of_an_answer(answer: Said, wanted: list[str]) -> None:
    assert instructions_in(answer) == wanted


@pytest.mark.parametrize(("answer", "labels", "wanted"), [
    (said(" (none)\nOutput: A robin."), False, [("", "A robin.")]),
    (said("Input: 3, 4\nOutput: 7\nwith care\n\nInput: 1\nOutput: 1"), False, [("3, 4", "7\nwith care"), ("1", "1")]),
    (said("**Input:** N/A\n**Output:** Yes.\n\nTask: Sing.\nInput: x\nOutput: la"), False, [("", "Yes.")]),
    (said("Task: Name a bird.\nInput 1: big\nOutput 1: Emu"), False, [("big", "Emu")]),
    (said("no marks at all"), False, [("no marks at all", "")]),
    (said("3\nOutput: 4\nInput: 5\nOutput: si", stopped=False), False, [("3", "4")]),
    (said("3\nOutput: si", stopped=False), False, []),
    (said("old\nInput: a ruin\nLabel: new\nInput: a shop"), True, [("a ruin", "old"), ("a shop", "new")]),
    (said("Label: old\nText without a mark"), True, [("", "old\nText without a mark")]),
    (said(""), False, [("", "")]),
])
def test_instances_are_read_out_of_an_answer(answer: Said, labels: bool, wanted: list[tuple[str, str]]) -> None:
    assert instances_in(answer, labels) == [Instance(*one) for one in wanted]


def test_what_is_no_clear_yes_is_a_no() -> None:
    assert [says_yes(said(text)) for text in ("Yes", " yes.", "**Yes**", "<think>no</think> Yes", "Not yes", "", None)
            ] == [True, True, True, True, False, False, False]


@pytest.mark.parametrize(("text", "why"), [
    ("Write a poem about rain.", ""), ("Übersetze den Satz ins Englische.", ""), ("Go.", "too_short"),
    ("word " * 200, "too_long"), ("Draw a picture of a cat.", "forbidden_word"), ("Name a drawer in a desk.", ""),
    ("- Write a poem about rain.", "begins_with_punctuation"), ("say it again and " * 20, "repeats_itself"),
])
def test_instructions_that_do_not_come_in(text: str, why: str) -> None:
    assert fault_of_instruction(text, 4, 150, any_of(("draw", "go to"))) == why


@pytest.mark.parametrize(("instance", "why"), [
    (Instance("", "A robin."), ""), (Instance("a", " "), "no_output"), (Instance("a ", "a"), "output_is_input"),
    (Instance("", "The answer is:"), "unfinished"), (Instance("See:", "yes"), "unfinished"),
    (Instance("", "so it goes " * 30), "repeats_itself"), (Instance("", "la la la"), ""),
])
def test_instances_that_do_not_come_in(instance: Instance, why: str) -> None:
    assert fault_of_instance(instance) == why


class Fake:
    """Says what functions of the prompt and the round say, and counts what it was asked for the first time."""

    def __init__(self, tasks: Callable[[random.Random], str] | None = None, end_after: int | None = None) -> None:
        self.kept: dict[str, Said] = {}
        self.made, self.end_after = 0, end_after
        self._tasks = tasks or self._new

    def __call__(self, asked: Sequence[Asked], _label: str) -> list[Said]:
        return [self._one(one) for one in asked]

    def _one(self, one: Asked) -> Said:
        key = f"{one.number} {one.messages[0]['content']}"
        if key not in self.kept:
            if self.made == self.end_after:
                raise KeyboardInterrupt
            self.made += 1
            self.kept[key] = self._said(one.messages[0]["content"], random.Random(key))
        return self.kept[key]

    def _said(self, prompt: str, draw: random.Random) -> Said:
        instruction = re.findall(r"Task: (.*)", prompt)[-1:]
        if prompt.endswith("Classification:"):
            return said("Yes" if "whether" in instruction[0] else "No")
        if prompt.endswith("Label:"):
            return said(f"old\nInput: the {draw.choice(WORDS)} {draw.random()}\nLabel: new\nInput: {draw.random()}")
        if prompt.endswith("Input:"):
            return said(f"(none)\nOutput: {' '.join(draw.sample(WORDS, 9))}.")
        return said(self._tasks(draw))

    @staticmethod
    def _new(draw: random.Random) -> str:
        some = [" ".join(draw.sample(WORDS, 8)) for _ in range(3)]
        return f" Tell of {some[0]}.\nTask 10: Ask {some[1]}.\nTask 11: Say whether it is {some[2]}."


def section(**fields: object) -> SelfInstructSection:
    return SelfInstructSection.model_validate({"seeds": ["x"], "target": 40, "prompts_per_round": 3, "instances": 1,
                                               **fields})


def nothing(rows: Sequence[Sequence[str]]) -> list[str]:
    return [""] * len(rows)


def grown(fake: Fake, held: Callable[..., list[str]] = nothing, **fields: object) -> tuple[SelfInstruct, list[Round]]:
    pool = SelfInstruct(SEEDS, section(**fields), 0, 64, fake, held)
    return pool, list(pool.rounds())


def test_a_pool_grows_to_its_target_and_every_row_knows_where_it_comes_from() -> None:
    pool, rounds = grown(Fake())
    assert len(pool.rows) == 40
    assert pool.why_ended(rounds) == "there are 40 rows (self_instruct.target)"
    assert {one.classification for one in pool.rows} == {True, False}
    assert all(one.instance.output in ("old", "new") for one in pool.rows if one.classification)
    people = {one.id for one in SEEDS}
    first = [one for one in pool.rows if one.round == 1]
    assert all(set(one.parents) <= people and len(one.parents) == 8 for one in first)
    later = [one for one in pool.rows if one.round > 2]
    assert later
    assert {sum(parent not in people for parent in one.parents) for one in later} == {2}
    for one in rounds:
        assert one.requests == 3
        assert one.proposed == one.instructions[""] + sum(n for why, n in one.instructions.items() if why)
    assert sum(one.rows for one in rounds) == 40
    lost = Counter(one.why for one in pool.left)
    assert lost == sum((Counter(dict(each)) for one in rounds for each in (one.instructions, one.instances)),
                       Counter()) - Counter({"": 10**6})


def test_it_is_the_same_again_and_what_was_said_is_not_asked_again() -> None:
    whole = Fake()
    pool, rounds = grown(whole)
    for killed_after in (0, 1, 4, 7, 11, 30):
        fake = Fake(end_after=killed_after)
        with pytest.raises(KeyboardInterrupt):
            grown(fake)
        assert fake.made == killed_after
        fake.end_after = None
        again, others = grown(fake)
        assert (again.rows, again.left, others) == (pool.rows, pool.left, rounds)
        assert fake.made == whole.made
    other, _ = grown(Fake(), max_similarity=0.5)
    assert other.rows != pool.rows


def test_a_generator_that_repeats_itself_is_told_and_ended() -> None:
    pool, rounds = grown(Fake(lambda _: " Tell of the sea in winter.\nTask 10: Tell of the sea in winter, please."))
    assert [one.rows for one in rounds] == [1, 0, 0, 0]
    assert rounds[0].instructions == {"": 1, "alike": 5}
    assert [round(one.repetition or 0, 2) for one in rounds[1:]] == [0.96] * 3
    assert "it stopped paying: in the last 3 rounds 0.000, 0.000, 0.000 new rows" in pool.why_ended(rounds)
    assert pool.left[0].detail == "ROUGE-L 0.92 to an instruction of the pool"


@pytest.mark.parametrize("answer", [said(None, why="away"), said(""), said("Task 9: and so on " * 99, stopped=False)])
def test_a_generator_that_says_nothing_or_never_stops_brings_nothing(answer: Said) -> None:
    pool, rounds = grown(lambda asked, _: [answer] * len(asked))  # type: ignore[arg-type]
    assert (pool.rows, len(rounds)) == ([], 3)
    assert {(one.proposed, one.repetition, one.novelty, one.gain) for one in rounds} == {(0, None, None, 0.0)}
    assert {one.unanswered for one in rounds} == {3 if answer.text is None else 0}


def test_items_of_evaluations_do_not_come_in() -> None:
    finder = ItemFinder([EvalItem("exam", "7", "Say how many apples has Tom left in the basket")], reworded=False)

    def held(rows: Sequence[Sequence[str]]) -> list[str]:
        whys = (fault(found, DecontaminateSection()) for found in facts_of_texts(rows, finder))
        return [why[1] if why else "" for why in whys]

    asks = " Say how many apples has Tom left in the basket?\nTask 10:"
    fake = Fake(lambda draw: asks + Fake._new(draw))
    pool, _ = grown(fake, held, max_rounds=1)
    assert [(one.why, one.detail) for one in pool.left if one.why == "contaminated"] == [
        ("contaminated", "holds item 7 of exam")] * 3
    assert pool.rows


def test_one_input_with_two_outputs_brings_neither() -> None:
    fake = Fake(lambda _: " Tell the colour of a thing.\nTask 10: Name what bakers sell on market days.")
    fake._said = lambda prompt, draw, inner=fake._said: (  # type: ignore[method-assign]
        said("sky\nOutput: blue\nInput: sky\nOutput: grey\nInput: grass\nOutput: green")
        if prompt.endswith("Input:") and "colour" in prompt.splitlines()[-2] else inner(prompt, draw))
    pool, rounds = grown(fake, max_rounds=1, instances=3)
    assert rounds[0].instances == {"": 2, "another_output": 2}
    assert Instance("grass", "green") in [one.instance for one in pool.rows]


def test_a_task_gives_no_more_rows_than_are_wanted() -> None:
    text = "1 a\nOutput: bread\nInput: 2 b\nOutput: clocks\nInput: 3 c\nOutput: rivers of silver"
    fake = Fake(lambda _: " Tell what a market sells on a day.")
    fake._said = lambda prompt, draw, inner=fake._said: (  # type: ignore[method-assign]
        said(text) if prompt.endswith("Input:") else inner(prompt, draw))
    assert grown(fake, max_rounds=1, instances=2)[1][0].instances == {"": 2, "surplus": 1}


def test_seeds_without_kinds_are_not_asked_for_them() -> None:
    plain = [one._replace(classification=None) for one in SEEDS]
    asked: list[str] = []

    def ask(some: Sequence[Asked], label: str) -> list[Said]:
        asked.append(label)
        return [Fake()._one(one) for one in some]

    list(SelfInstruct(plain, section(max_rounds=1), 0, 64, ask, nothing).rounds())
    assert asked == ["round 1, instructions", "round 1, instances"]


def some_round(rows: int, novelty: float | None, proposed: int = 10) -> Round:
    return Round(1, 1, 0, {"": proposed}, {"": rows} if rows else {}, 0.5, novelty)


def test_it_ends_once_rounds_in_a_row_do_not_pay() -> None:
    good, poor, stale = some_round(5, 0.6), some_round(0, None), some_round(5, 0.05)
    assert why_it_ends([good, poor, poor], 0.1, 0.1, 3) == ""
    assert why_it_ends([poor, good, poor, stale, poor], 0.1, 0.1, 3).startswith("it stopped paying: in the last 3 ")
    assert "none, 0.05, none of their word triples" in why_it_ends([poor, stale, poor], 0.1, 0.1, 3)
    assert why_it_ends([], 0.1, 0.1, 1) == ""


def test_novelty_is_the_share_of_triples_that_were_not_there() -> None:
    known = Triples(["a b c d"])
    assert known.novelty(["A b c x"]) == pytest.approx(0.5)
    assert known.novelty(["b c x"]) == 0.0
    assert known.novelty([]) is None


def test_worked_examples_are_short_and_of_their_kind() -> None:
    long = Task("long", "Tell all.", (Instance("", "x" * 5000),), False)
    examples = prompts.Examples([long, *SEEDS], 0)
    assert long not in examples.plain
    assert all(one.classification for one in examples.labelled)
    assert len(examples.both) == 8
    text = prompts.output_first("Say more.", examples.labelled)[0]["content"]
    assert text.endswith("Task: Say more.\nLabel:")
    assert text.count("Label: old\nInput: the ") == 4


def test_seed_tasks_are_read_in_both_shapes(tmp_path: Path) -> None:
    file = tmp_path / "seeds.jsonl"
    rows = [{"id": "a b", "instruction": "Name a bird.", "is_classification": False,
             "instances": [{"input": "", "output": "Emu"}, {"input": "x", "output": ""}]},
            {"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Add.", "output": "again"},
            {"id": "s1", "instruction": "Sing.", "instances": []}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = read_seeds([str(file)])
    assert [one.instruction for one in found] == ["Name a bird.", "Add.", "Sing."]
    assert found[0].instances == (Instance("", "Emu"),)
    assert found[1].instances == (Instance("1 2", "3"),)
    assert [one.classification for one in found] == [False, None, None]
    assert " " not in found[0].id


@pytest.mark.parametrize(("text", "why"), [
    ("", "hold no row"), ("[1]", "seeds.jsonl:1 is no seed task"), ('{"instruction": " "}', "its instruction is empty"),
    ('{"instruction": 3}', "instruction is int, not text"), ('{"input": "x"}', "instruction"),
    ('{"instruction": "Go.", "instances": [{"output": 4}]}', "output is int"), ("{", "is no seed task"),
])
def test_what_is_no_seed_task_is_told(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "seeds.jsonl").write_text(text)
    with pytest.raises(DataError, match=re.escape(why)):
        read_seeds([str(tmp_path / "seeds.jsonl")])
    with pytest.raises(DataError, match="cannot be read"):
        read_seeds([str(tmp_path / "none.jsonl")])
