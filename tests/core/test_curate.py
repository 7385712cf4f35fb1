"""Evaluation items in training text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_core.config.decontaminate import DecontaminateSection
from sft_core.data.curate.contamination import ItemFinder, facts, fault
from sft_core.data.curate.decontaminate import ItemIndex, ids_by_suite
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.words import words

SHORT = EvalItem("quiz", "7", "What is the colour of Bako?")
LONG = EvalItem("exam", "12", " ".join(f"item{i}" for i in range(20)))


class TestDecontaminate:
    def of(self, conversation: Any, items: tuple[EvalItem, ...]) -> str | None:
        (found,) = facts([conversation], ItemFinder(items, reworded=False))
        why = fault(found, DecontaminateSection())
        return why[1] if why else None

    def found(self, chat: Any, text: str, turn: str = "u", items: tuple[EvalItem, ...] = (SHORT, LONG)) -> str | None:
        return self.of(chat("u: hi", f"a: {text}") if turn == "a" else chat(f"u: {text}", "a: yo"), items)

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
        assert self.of(chat("u: What is the", "a: colour of Bako"), (SHORT,)) is None

    def test_items_of_fewer_than_five_words_are_not_looked_for(self, chat):
        assert self.found(chat, "what is it then", items=(EvalItem("quiz", "1", "what is it then"),)) is None

    def test_in_a_tool_call(self, chat):
        conversation = chat("u: go", 'c: f {"q": "What is the colour of Bako?"}')
        assert self.of(conversation, (SHORT,)) == "holds item 7 of quiz"
        assert self.of(conversation, ()) is None

    @given(st.lists(st.sampled_from("xyz"), min_size=5, max_size=16), st.lists(st.sampled_from("xyz"), max_size=30))
    def test_as_comparing_everything(self, item, text):
        grams = [item[at : at + 13] for at in range(max(len(item) - 13, 0) + 1)]
        expected = any(text[at : at + len(gram)] == gram for gram in grams for at in range(len(text)))
        index = ItemIndex([EvalItem("s", "1", " ".join(item))])
        assert any(index.occurrences(text)) == expected

    def test_all_items_of_a_text_by_suite(self):
        items = [SHORT, LONG, EvalItem("quiz", "8", "nobody says this here ever")]
        found = ItemIndex(items).occurrences(words(f"{SHORT.text} {LONG.text} {SHORT.text}"))
        assert ids_by_suite(items[number] for number, _ in found) == {"exam": ["12"], "quiz": ["7"]}


class TestWords:
    def test_letters_that_look_alike_are_the_same_in_latin_words(self):
        """Cyrillic а, е, о and Greek Α hide no question."""
        assert words("Wh\u0430t d\u043e\u0435s \u0391nn\u0430's b\u0430ker\u0443 sell?") == words(
            "What does Anna's bakery sell?")

    @pytest.mark.parametrize("text", ["\u0440\u043e\u0442 \u0438 \u043d\u043e\u0441", "\u03b1\u03bd\u03ac", "5\u03b1"])
    def test_words_of_their_own_script_stay(self, text):
        assert words(text) == text.split()
