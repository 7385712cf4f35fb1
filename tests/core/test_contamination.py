"""Evaluation items that were changed, in rows of every kind; what is found of them, and what is not there."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_core.config.decontaminate import DecontaminateSection
from sft_core.conversation import Why
from sft_core.data.curate import contamination, features, recall, reworded
from sft_core.data.curate.changes import CHANGES
from sft_core.data.curate.contamination import Contamination, ItemFinder, counted, facts, facts_of_texts, fault
from sft_core.data.curate.decontaminate import Find
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.recall import exact_interval, false_finds, recalls
from sft_core.data.curate.reworded import RewordedIndex
from sft_core.data.curate.words import texts, words

SECTION = DecontaminateSection()
TEXTS = (
    "Oskar stacks 14 crates of lemons onto a trolley, but 3 crates tip over near the harbour gate. Each crate holds 20 "
    "lemons. How many lemons reach the market stall?",
    "A baker kneads dough for 12 rye loaves every morning and sells two thirds of them before noon. How many loaves "
    "remain unsold after a week of six mornings?",
    "During the storm, 45 sailors shared 9 lanterns equally among the lower decks. When 2 lanterns broke, how many "
    "sailors gathered around each lantern that still burned?",
    "Priya paints fence panels at a steady pace of 4 panels per hour. Her neighbour lends a second brush and doubles "
    "the pace. How long do 40 panels take them together?",
    "The museum displays 27 fossils in glass cabinets. Curators move one third of the fossils into storage before the "
    "winter exhibition opens. How many fossils stay on display?",
)
ITEMS = tuple(EvalItem("sums", str(number), text) for number, text in enumerate(TEXTS))
CHOICE = EvalItem("quiz", "c", "Which statement holds?", choices=(
    "granite cools slowly far below the surface", "basalt forms from ash that has been pressed for ages",
    "marble was once limestone deep underground", "slate is melted sand from a desert"))
SOLVED = EvalItem("sums", "s", "How many?", answers=(
    "First count the crates that stand, then take away the ones that fell, and multiply by twenty", "220"))
SURVEY = "the quick survey of gardens asked people what they like to grow and whether the rain had been enough for it"
FILLER = f"{SURVEY} so that nobody needed a hose or a can at all this year".split()


def finds(text: str, *items: EvalItem) -> list[tuple[str, str]]:
    """(id, how) of what counts, in the order of the alphabet."""
    (found,) = facts_of_texts([[text]], ItemFinder(items or ITEMS))
    return [(find.id, find.how) for find in counted(found, SECTION)]


def changed(name: str, item: EvalItem, seed: int = 0) -> str:
    text = CHANGES[name](item, random.Random(seed), [" ".join(FILLER * 12)])
    assert text is not None
    return text


class TestReworded:
    @pytest.mark.parametrize("name", [name for name in CHANGES if "options" not in name and "answer" not in name])
    @pytest.mark.parametrize("number", range(len(ITEMS)))
    def test_every_change_is_found_as_that_item_alone(self, name, number):
        found = finds(changed(name, ITEMS[number]))
        assert {item for item, _ in found} == {str(number)}

    def test_other_words_in_another_order_share_no_run_of_words(self):
        text = ("At the market stall arrive lemons. Onto a trolley crates were stacked by Oskar: twenty lemons are "
                "held by each. Near the harbour gate three of 14 tip over.")
        assert finds(text) == [("0", "paraphrased")]

    def test_another_problem_is_nothing(self):
        assert finds("Oskar buys 14 apples and eats 3 of them. How many apples are left for the market?") == []

    def test_parts_far_apart_are_nothing(self):
        """The window is about twice the item: what a long text holds here and there is no item."""
        some = TEXTS[0].split()
        near = " ".join(word for at in range(0, len(some), 5) for word in [*some[at : at + 5], "and"])
        far = " ".join(word for at in range(0, len(some), 5) for word in [*some[at : at + 5], *FILLER * 4])
        assert finds(near) == [("0", "paraphrased"), ("0", "reworded")]
        assert finds(far) == []

    def test_a_long_text_is_looked_at_everywhere(self):
        """Longer than a piece, and across the border of two."""
        for before in (0, 120, 250, 380, 1000):
            text = " ".join([*(FILLER * 40)[:before], changed("every eighth word left out", ITEMS[1]), *FILLER * 20])
            assert [item for item, _ in finds(text)] == ["1", "1"], before

    @given(st.lists(st.integers(0, 900), min_size=1, max_size=4))
    def test_a_word_stands_in_all_pieces_that_cover_it(self, lengths):
        half = reworded.CHUNK_WORDS // 2
        lengths = np.array(lengths)
        text = np.repeat(np.arange(len(lengths)), lengths)
        place = np.concatenate([np.arange(length) for length in lengths])
        pieces = reworded._pieces(features.Found(place, text, place), lengths)
        starts = [(number, start) for number, length in enumerate(lengths)
                  for start in range(0, max(length - half, 1), half)]
        assert pieces.text.tolist() == [number for number, _ in starts]
        assert sorted(zip(pieces.piece.tolist(), pieces.feature.tolist(), strict=True)) == [
            (piece, at) for piece, (number, start) in enumerate(starts)
            for at in range(start, min(start + 2 * half, lengths[number]))]

    def test_options_in_any_order_without_their_question(self):
        text = "Tick one. " + " ".join(f"{letter}) {option}." for letter, option in zip("abcd", CHOICE.choices[::-1],
                                                                                          strict=True))
        assert finds(text, CHOICE) == [("c", "reworded")]
        assert finds(text, CHOICE._replace(choices=())) == []

    def test_a_list_of_short_options_is_nothing(self):
        planets = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")
        item = EvalItem("quiz", "p", "Which planet is the largest of these in the solar system?", choices=planets)
        assert finds("The planets are " + ", ".join(planets), item) == []

    def test_a_phrase_of_everybody_is_nothing(self):
        item = EvalItem("quiz", "u", "Who was the president of the United States in the spring of 1940?")
        assert finds("She met the president of the United States.", item) == []
        assert [how for _, how in finds("Who was the president of the United States in the spring of 1991?", item)
                ] == ["reworded"]

    def test_a_script_without_spaces(self):
        item = EvalItem("quiz", "z", "小明有十二个苹果,他把其中的三个送给了邻居家的妹妹。"
                                     "请问他现在还剩下几个苹果可以吃?")
        other = EvalItem("quiz", "t", "สมชายมีส้มสิบสองผลและแบ่งให้น้องสาวสามผล ตอนนี้เขาเหลือส้มกี่ผล")
        assert finds(item.text[3:], item, other) == [("z", "paraphrased"), ("z", "reworded"), ("z", "verbatim")]
        assert ("z", "reworded") in finds(item.text.replace("小明", "小红").replace("苹果", "梨子"), item, other)
        assert ("t", "reworded") in finds(other.text.replace("สมชาย", "มานี"), item, other)
        assert finds("今天天气很好,我们去公园散步吧,顺便买一些水果回来。", item, other) == []

    def test_nothing_to_look_for(self):
        assert RewordedIndex([]).find([["a", "b"], []]) == [[], []]
        assert finds(TEXTS[0], EvalItem("quiz", "e", "")) == []

    def test_it_travels_to_other_processes(self):
        finder = ItemFinder([*ITEMS, CHOICE])
        rows = [[changed("other words, sentences turned", item)] for item in ITEMS]
        assert facts_of_texts(rows, pickle.loads(pickle.dumps(finder))) == facts_of_texts(rows, finder)

    WORD = st.sampled_from([f"{letter}{letter}x" for letter in "abcdefghijklm"] + ["the", "of", "7"])

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.lists(WORD, min_size=7, max_size=24), min_size=1, max_size=4), st.lists(WORD, max_size=90))
    def test_as_measured_without_matrices(self, items, text):
        index = RewordedIndex([EvalItem("s", str(number), " ".join(item)) for number, item in enumerate(items)])
        (found,) = index.find([text])
        slow = dict(_slowly(items, text))
        assert {(hit.item, hit.how): pytest.approx(hit.share) for hit in found} == slow


def _slowly(items: Sequence[list[str]], text: list[str]) -> list[tuple[tuple[int, str], float]]:
    found = []
    kinds: list[tuple[str, Callable[[list[str]], list[tuple[str, ...]]]]] = [
        ("reworded", lambda some: list(zip(some, some[1:], strict=False))),
        ("paraphrased", lambda some: [(word,) if word not in features.FUNCTION_WORDS else () for word in some])]
    plain = [[features.stem(word) for word in some if word != "7"] for some in (*items, text)]
    for how, cut in kinds:
        sets = [{feature for feature in cut(item) if feature} for item in plain[:-1]]
        for number, mine in enumerate(sets):
            weigh = {one: math.log1p(len([some for some in plain[:-1]]) / sum(one in some for some in sets))
                     for one in mine}
            window, spread, best = 2 * len(plain[number]) + 8, cut(plain[-1]), 0.0
            for start in range(len(spread)):
                inside = mine & set(spread[start : start + window])
                if len(inside) >= reworded.LEAST_FEATURES:
                    best = max(best, sum(weigh[one] for one in inside) / sum(weigh.values()))
            if best >= reworded.LEAST_SHARE[how] - 1e-12:  # type: ignore[index]
                found.append(((number, how), pytest.approx(best)))
    return found


class TestRows:
    def test_turns_calls_and_answers(self, chat):
        asked = TEXTS[2].replace('"', "")
        rows = [chat("u: hi", "a: hello"), chat(f"u: {changed('other numbers', ITEMS[1])}", "a: 3"),
                chat("u: go", "c: f " + json.dumps({"q": asked.replace(". ", ".\n")})),
                chat("u: hi", f"a: So: {SOLVED.answers[0]}")]
        found = facts(rows, ItemFinder([*ITEMS, SOLVED]))
        assert found[0] == Contamination((), (), (), ())
        assert {(find.id, find.how) for find in found[1].finds()} >= {("1", "reworded")}
        assert ("2", "verbatim", 1.0) in {(find.id, find.how, find.share) for find in found[2].finds()}
        assert list(found[3].finds()) == [Find("sums", "s", "answer", 1.0)]

    def test_what_a_call_escapes_is_read(self, chat):
        assert "line one\nlínea" in texts(chat("u: go", 'c: f {"q": "line one\\nl\\u00ednea", "n": 1}'))[1]

    def test_rows_do_not_depend_on_their_neighbours(self, monkeypatch):
        rows = [[changed(name, item)] for item in ITEMS for name in ("other numbers", "inside a long chat")]
        finder = ItemFinder(ITEMS)
        together = facts_of_texts(rows, finder)
        monkeypatch.setattr(contamination, "BATCH_WORDS", 1)
        alone = [one for row in rows for one in facts_of_texts([row], finder)]
        assert facts_of_texts(rows, finder) == together == alone

    def test_half_of_an_answer_counts(self):
        some = SOLVED.answers[0].split()
        item = SOLVED._replace(answers=(" ".join([*some, *some[::-1]]),))
        assert finds(" ".join(some), item) == [("s", "answer")]
        assert finds(" ".join(some[:14]), item) == []
        assert finds(" ".join(some[:14]), SOLVED) == [("s", "answer")]

    def test_what_every_exam_asks_is_nobodys(self):
        asked = EvalItem("quiz", "1", "Which of the following statements is true?")
        assert finds(f"{asked.text} A) iron rusts", asked) == []
        asked = asked._replace(text="Which of the following metals is magnetic?")
        assert finds(f"{asked.text} A) iron rusts", asked) == [("1", "verbatim")]

    def test_numbers_in_a_row_are_nobodys(self):
        row = " ".join(map(str, range(1, 31)))
        assert finds(f"The days are {row}.", EvalItem("quiz", "1", f"Add up the numbers {row} by heart")) == []

    def test_a_short_answer_is_not_looked_for(self):
        assert finds("It is 220.", SOLVED) == []


class TestDecision:
    BOTH = Contamination(("sums", "sums"), ("1", "2"), ("reworded", "verbatim"), (0.55, 1.0))
    CHANGED = Contamination(("sums", "sums"), ("1", "1"), ("reworded", "paraphrased"), (0.55, 0.58))

    def test_word_for_word_goes_and_reworded_is_told(self):
        assert fault(self.BOTH, SECTION) == (Why.CONTAMINATED, "holds item 2 of sums")
        assert fault(self.CHANGED, SECTION) is None
        assert counted(self.CHANGED, SECTION) == [Find("sums", "1", "reworded", 0.55)]

    def test_reworded_goes_when_asked(self):
        section = DecontaminateSection(reworded="drop", words=0.55)
        assert fault(self.CHANGED, section) == (
            Why.CONTAMINATED, "holds item 1 of sums reworded: 55% of its word pairs")
        words_alone = DecontaminateSection(reworded="drop", words=0.55, pairs=0.9)
        assert fault(self.CHANGED, words_alone) == (
            Why.CONTAMINATED, "holds item 1 of sums paraphrased: 58% of its words")

    def test_off_is_not_told(self):
        assert counted(self.BOTH, DecontaminateSection(verbatim="off", reworded="off")) == []
        assert fault(self.BOTH, DecontaminateSection(verbatim="off", reworded="report")) is None

    def test_no_threshold_below_what_is_measured(self):
        for field, least in (("pairs", 0.3), ("words", 0.5)):
            with pytest.raises(ValueError, match=field):
                DecontaminateSection.model_validate({field: least - 0.01})


class TestRecall:
    def test_what_is_found_of_what_was_planted(self):
        rows = [[" ".join(FILLER)]]
        found = {one.change: one for one in recalls(ItemFinder([*ITEMS, CHOICE, SOLVED]), rows, SECTION, 0)
                 if one.suite == "sums"}
        assert found["as it is"][2:] == (6, 5, 5)  # the sixth is too short to be looked for
        assert found["every eighth word left out"][2:] == (5, 5, 0)
        assert found["answer alone"][2:] == (1, 1, 1)
        assert found["other numbers"][2:4] == (5, 5)

    def test_what_stands_beside_a_planted_item_does_not_count(self):
        rows = [[TEXTS[0]]]  # an item itself, among which one that is too short is planted
        found = {one.change: one for one in recalls(ItemFinder([ITEMS[0], SOLVED]), rows, SECTION, 0)}
        assert found["inside a long chat"][2:] == (2, 1, 1)

    def test_it_falls_with_a_worse_detector(self):
        def total(finder: ItemFinder) -> int:
            return sum(one.found for one in recalls(finder, [], SECTION, 0))

        assert total(ItemFinder(ITEMS, reworded=False)) < 0.6 * total(ItemFinder(ITEMS))

    def test_the_sample_is_drawn_by_the_seed(self):
        section = DecontaminateSection(recall_items=2)
        first, again, other = (recalls(ItemFinder(ITEMS), [], section, seed) for seed in (0, 0, 1))
        assert first == again
        assert {one.planted for one in first} <= {1, 2}
        assert len(first) == len(other)
        assert recalls(ItemFinder(ITEMS), [], DecontaminateSection(recall_items=0), 0) == []

    def test_decoys_are_found_where_all_rows_are_alike(self):
        """Of a template with few values every mixture of items looks like an item."""
        rng = random.Random(0)

        def one() -> str:
            who, what = rng.choice(["Ann", "Bob", "Cy"]), rng.choice(["cards", "coins"])
            return f"{who} has 3 {what} and gets 4 {what} more today . How many {what} does {who} have now at the end"

        items = [EvalItem("alike", str(at), one()) for at in range(20)]
        rows = [[one()] for _ in range(30)]
        assert false_finds(ItemFinder(items), rows, SECTION, 0).with_decoys > 20
        other = [[" ".join(FILLER)] for _ in range(30)]
        found = false_finds(ItemFinder(items), other, SECTION, 0)
        assert found == (30, 0, 0)
        assert found.interval == (0.0, pytest.approx(1 - 0.025 ** (1 / 30)))

    def test_the_interval(self):
        assert exact_interval(0, 0) == (0.0, 1.0)
        assert exact_interval(5, 10) == (pytest.approx(0.18709, abs=1e-5), pytest.approx(0.81291, abs=1e-5))


class TestReal:
    @pytest.fixture(scope="class")
    def gsm8k(self, real_data: Callable[[str], Path]) -> list[EvalItem]:
        lines = real_data("gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
        return [EvalItem("gsm8k", str(at), row["question"], (row["answer"],))
                for at, row in enumerate(map(json.loads, lines))]

    def test_recall_and_false_finds(self, real_data, gsm8k):
        rows = [[row["instruction"], row["input"], row["output"]]
                for row in json.loads(real_data("alpaca_subset/random_9k.json").read_text(encoding="utf-8"))[:3000]]
        finder = ItemFinder(gsm8k)
        found = {one.change: one.found / one.planted for one in recalls(finder, rows, SECTION, 0)}
        least = {"5 % of the letters wrong": 0.96, "first half": 0.97, "other names and numbers": 0.98}
        assert {change: share for change, share in found.items() if share < least.get(change, 0.99)} == {}
        false = false_finds(finder, rows, SECTION, 0)
        assert false.with_items <= 0.002 * false.rows
        assert false.with_decoys <= 0.001 * false.rows

    def test_the_same_questions_with_other_numbers(self, real_data, gsm8k):
        """GSM-Hard is GSM8K's test set with larger numbers; its training set has a few that came from one mould."""
        hard, train = ([json.loads(line)[column] for line in real_data(name).read_text(encoding="utf-8").splitlines()]
                       for name, column in (("math_word_problems/gsm_hard/gsmhardv2.jsonl", "input"),
                                            ("gsm8k/train.jsonl", "question")))
        finder = ItemFinder(gsm8k)
        there = [any(counted(one, SECTION)) for one in facts_of_texts([[text] for text in hard], finder)]
        assert sum(there) >= 0.99 * len(hard)
        alike = [any(counted(one, SECTION)) for one in facts_of_texts([[text] for text in train[:3000]], finder)]
        assert 5 <= sum(alike) <= 0.015 * 3000

    def test_multiple_choice(self, real_data):
        items = [EvalItem("mmlu", f"{file.parent.name}/{at}", row["question"], choices=tuple(row["choices"]))
                 for file in sorted(real_data("hub/cais/mmlu").glob("*_physics/test*.parquet"))
                 for at, row in enumerate(pq.read_table(file).to_pylist())]
        assert len(items) > 400
        found = {one.change: one.found / one.planted for one in recalls(ItemFinder(items), [], SECTION, 0)}
        assert found["options in another order"] >= 0.98
        assert found["every eighth word left out"] > 0.85
        assert words(items[0].text)


def test_recall_of_a_suite_is_told_by_its_name():
    found = recalls(ItemFinder([*ITEMS, CHOICE]), [], SECTION, 0)
    assert list(dict.fromkeys(one.suite for one in found)) == ["quiz", "sums"]
    assert recall.LOOKED_AT == 2_000
