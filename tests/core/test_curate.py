"""Duplicates and evaluation items: what goes, what stays, and which one stays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_core.conversation import Why
from sft_core.data.curate import dedupe
from sft_core.data.curate.decontaminate import EvalItem, ItemIndex, decontaminate, ids_by_suite

WORDS = " ".join(f"word{i}" for i in range(60))
SHORT = EvalItem("quiz", "7", "What is the colour of Bako?")
LONG = EvalItem("exam", "12", " ".join(f"item{i}" for i in range(20)))


class TestExact:
    def test_case_and_white_space_are_folded_and_the_first_stays(self, chat):
        first, same, other = chat("u: Hi  there", "a: Yo", line=1), chat("u: hi\nTHERE ", "a: yo", line=2), chat(
            "u: hi there", "a: yo!", line=3)
        kept, rejected = dedupe.exact([first, same, other])
        assert kept == [first, other]
        assert [(r.why, r.origin.line, r.detail) for r in rejected] == [(Why.EXACT_DUPLICATE, 2, "same as f.jsonl:1")]

    @pytest.mark.parametrize("other", [
        ("u: hi", "a: yo", "u: hi", "a: yo"), ("s: hi", "u: hi", "a: yo"), ("u: hi yo", "a: yo"), ("u: hi", "c: yo {}"),
    ])
    def test_the_whole_conversation_counts(self, chat, other):
        assert not dedupe.exact([chat("u: hi", "a: yo"), chat(*other)]).rejected

    def test_tools_count(self, chat):
        assert not dedupe.exact([chat("u: hi", "a: yo"), chat("u: hi", "a: yo", tools=[{"name": "f"}])]).rejected


    def test_what_is_trained_counts(self, chat):
        trained = chat("u: hi", "a: yo", "u: and", "a: no")
        context = trained._replace(turns=(trained.turns[0], trained.turns[1]._replace(masked=True), *trained.turns[2:]))
        assert not dedupe.exact([trained, context]).rejected


class TestNear:
    def test_one_word_of_many_changed(self, chat):
        first = chat(f"u: {WORDS}", "a: yes indeed my friend", line=1)
        close = chat(f"u: {WORDS.replace('word30', 'other')}", "a: yes indeed my friend", line=2)
        far = chat(f"u: {WORDS[::-1]}", "a: no", line=3)
        kept, rejected = dedupe.near([first, close, far], 0.9)
        assert kept == [first, far]
        # 64 words make 62 shingles; one changed word changes three of them on both sides: 59 / 65.
        assert [(r.why, r.origin.line, r.detail) for r in rejected] == [(Why.NEAR_DUPLICATE, 2, "0.91 like f.jsonl:1")]
        assert len(dedupe.near([first, close, far], 0.92).kept) == 3

    def test_only_kept_ones_draw_others_out(self, chat):
        """A chain a ~ b ~ c with a unlike c: b goes, c stays, because b is not there any more."""
        words = [f"w{i}" for i in range(40)]
        chain = [chat(f"u: {' '.join(words[at : at + 36])}", "a: x", line=at) for at in (0, 2, 4)]
        kept, rejected = dedupe.near(chain, 0.8)
        assert [c.origin.line for c in kept] == [0, 4]
        assert [r.origin.line for r in rejected] == [2]

    def test_signs_without_words_are_not_alike(self, chat):
        assert len(dedupe.near([chat("u: 🙂", "a: 🙃"), chat("u: ?", "a: !")], 0.5).kept) == 2

    @given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join), max_size=12),
           st.sampled_from([0.3, 0.5, 0.9, 1.0]))
    def test_as_comparing_all_pairs(self, chat, texts, threshold):
        rows = [chat(f"u: {text}", "a: z", line=at) for at, text in enumerate(texts)]
        kept: list[Any] = []
        for row in rows:
            mine = dedupe.shingles(row)
            if all(dedupe.jaccard(mine, dedupe.shingles(other)) < threshold for other in kept):
                kept.append(row)
        found = dedupe.near(rows, threshold)
        assert found.kept == kept
        assert len(found.kept) + len(found.rejected) == len(rows)

    @pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
    def test_bands_find_what_they_must(self, threshold):
        rows = dedupe.PERMUTATIONS // dedupe.bands(threshold)
        assert 1 - (1 - threshold**rows) ** dedupe.bands(threshold) >= 0.998


class TestDecontaminate:
    def found(self, chat: Any, text: str, turn: str = "u", items: tuple[EvalItem, ...] = (SHORT, LONG)) -> str | None:
        conversation = chat("u: hi", f"a: {text}") if turn == "a" else chat(f"u: {text}", "a: yo")
        rejected = decontaminate([conversation], ItemIndex(items)).rejected
        return rejected[0].detail if rejected else None

    @pytest.mark.parametrize("turn", ["u", "a"])
    def test_a_whole_short_item_anywhere(self, chat, turn):
        text = "Tell me: what IS the colour, of bako -- thanks"
        assert self.found(chat, text, turn) == "holds item 7 of quiz"

    def test_a_part_of_a_short_item_is_nothing(self, chat):
        assert self.found(chat, "What is the colour of Tiza?") is None
        assert self.found(chat, "what is the colour of") is None

    def test_thirteen_words_of_a_long_item(self, chat):
        words = LONG.text.split()
        assert self.found(chat, "x " + " ".join(words[4:17]) + " y") == "holds item 12 of exam"
        assert self.found(chat, " ".join(words[7:20])) == "holds item 12 of exam"
        assert self.found(chat, "x " + " ".join(words[4:16]) + " y") is None

    def test_across_turns_is_nothing(self, chat):
        assert not decontaminate([chat("u: What is the", "a: colour of Bako")], ItemIndex([SHORT])).rejected

    def test_items_of_fewer_than_five_words_are_not_looked_for(self, chat):
        assert self.found(chat, "what is it then", items=(EvalItem("quiz", "1", "what is it then"),)) is None

    def test_in_a_tool_call(self, chat):
        conversation = chat("u: go", 'c: f {"q": "What is the colour of Bako?"}')
        assert decontaminate([conversation], ItemIndex([SHORT])).rejected[0].why is Why.CONTAMINATED

    def test_the_rest_stays_in_order(self, chat):
        rows = [chat("u: a", "a: x", line=1), chat(f"u: {SHORT.text}", "a: x", line=2), chat("u: b", "a: x", line=3)]
        assert [c.origin.line for c in decontaminate(rows, ItemIndex([SHORT])).kept] == [1, 3]
        assert decontaminate(rows, ItemIndex([])).kept == rows

    @given(st.lists(st.sampled_from("abc"), min_size=5, max_size=16), st.lists(st.sampled_from("abc"), max_size=30))
    def test_as_comparing_everything(self, item, text):
        grams = [item[at : at + 13] for at in range(max(len(item) - 13, 0) + 1)]
        expected = any(text[at : at + len(gram)] == gram for gram in grams for at in range(len(text)))
        index = ItemIndex([EvalItem("s", "1", " ".join(item))])
        assert (index.find(" ".join(text)) is not None) == expected

    def test_all_items_of_a_text_by_suite(self):
        index = ItemIndex([SHORT, LONG, EvalItem("quiz", "8", "nobody says this here ever")])
        found = list(index.find_all(f"{SHORT.text} {LONG.text} {SHORT.text}"))
        assert ids_by_suite(found) == {"exam": ["12"], "quiz": ["7"]}
