"""Phrasings: chosen by content, shots never from validation nor the row itself, faults that name what there is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sft_core.config.data import SourceSection
from sft_core.config.phrasing import SourcePhrasingSection, columns_of
from sft_core.conversation import Conversation, Origin, Rejected, Row, Turn, Why
from sft_core.data.formats import to_conversation
from sft_core.data.phrasings import (
    Halves,
    check_columns,
    phrased_rows,
    pool,
    to_messages,
)
from sft_core.errors import DataError

REVIEWS = SourcePhrasingSection.model_validate({
    "phrasings": [{"prompt": "Is this kind? {text}", "answer": "{label}"},
                  {"prompt": "{text}\n\nKind or unkind?", "answer": "It is {label}."},
                  {"prompt": "Write a {label} review.", "answer": "{text}"}],
    "labels": {"label": {0: "unkind", 1: "kind"}}})


def _row(number: int, **data: Any) -> Row:
    return Row(Origin("reviews", "r.jsonl", number + 1), {"text": f"review {number}", "label": number % 2, **data})


def _said(found: Row | Rejected) -> list[tuple[str, str, int]]:
    assert isinstance(found, Row)
    return [(one["role"], one["content"], one.get("weight", 1)) for one in found.data["messages"]]


def test_a_row_in_the_phrasing_of_its_content() -> None:
    rows = [_row(number) for number in range(300)]
    said = [_said(to_messages(row, REVIEWS)) for row in rows]
    for number, ((_, prompt, _), (role, answer, weight)) in enumerate(said):
        name = ("unkind", "kind")[number % 2]
        assert (prompt, answer) in {(f"Is this kind? review {number}", name),
                                    (f"Write a {name} review.", f"review {number}"),
                                    (f"review {number}\n\nKind or unkind?", f"It is {name}.")}
        assert (role, weight) == ("assistant", 1)
    kinds = Counter(prompt.split()[0] for ((_, prompt, _), _) in said)
    assert min(kinds.values()) > 70
    assert [_said(to_messages(row, REVIEWS)) for row in rows[100:]] == said[100:], "others change nothing"
    assert _said(to_messages(_row(7)._replace(origin=Origin("x", "y", 1)), REVIEWS)) == said[7]


def _number(turns: Sequence[Turn]) -> int:
    return int(re.findall("review ([0-9]+)", turns[0].content + turns[1].content)[0])


def test_shots_are_other_rows_of_the_training_half(split: Callable[..., Any]) -> None:
    section = REVIEWS.model_copy(update={"shots": 2})
    rows = [_row(number) for number in range(400)]
    halves = Halves(0.3, 5)
    shown = pool(rows, section, halves)
    assert 50 < len(shown) <= 64
    found = [to_messages(row, section, shown) for row in rows]
    source = SourceSection(path="r.jsonl")
    talks = [to_conversation(row, "messages", source, ()) for row in found if isinstance(row, Row)]
    kept = [talk for talk in talks if isinstance(talk, Conversation)]
    assert len(kept) == 400
    held = split(kept, halves.validation_share, halves.seed).validation
    assert 60 < len(held) < 180
    own = {_number(talk.turns[4:]) for talk in held}
    for talk in kept:
        assert [turn.masked for turn in talk.turns if turn.role == "assistant"] == [True, True, False]
        rows_in = [_number(talk.turns[at : at + 2]) for at in (0, 2, 4)]
        assert len(set(rows_in)) == 3
        assert not own & set(rows_in[:2]), "a validation row is shown"
        assert len({re.sub("[0-9]+|unkind|kind", "", turn.content) for turn in talk.turns if turn.role == "user"}) == 1
    assert len({talk.turns[0].content for talk in kept}) > 30
    assert pool(rows[::-1], section, halves) == shown


def test_a_small_file_gives_fewer_shots() -> None:
    section = REVIEWS.model_copy(update={"shots": 3})
    rows = [_row(0), _row(1), _row(0)]
    shown = pool(rows, section, Halves(0.0, 0))
    assert len(shown) == 2
    assert len(_said(to_messages(rows[0], section, shown))) == 4
    assert pool(rows, section, Halves(1.0, 0)) == ()


@pytest.mark.parametrize(("data", "why", "said"), [
    ({"label": -1}, Why.UNKNOWN_LABEL, "label is -1, which labels does not name; it names 0, 1"),
    ({"text": None}, Why.MISSING_COLUMN, "no text, which a phrasing names"),
    ({"text": {"a": 1}}, Why.WRONG_TYPE, "text is a dict; a phrasing takes text, numbers and lists of them"),
    ({"text": []}, Why.WRONG_TYPE, "text is a list"),
])
def test_rows_that_cannot_be_phrased(data: dict[str, Any], why: Why, said: str) -> None:
    found = to_messages(_row(0, **data), REVIEWS)
    assert isinstance(found, Rejected)
    assert found.why is why
    assert said in found.detail
    assert pool([_row(0, **data)], REVIEWS, Halves(0.0, 0)) == ()


def test_values_as_words() -> None:
    section = SourcePhrasingSection.model_validate({
        "phrasings": [{"prompt": "{a b} {{x}} {n}", "answer": "{yes}, {tags}"}],
        "labels": {"yes": {True: "yes", False: "no"}}})
    data = {"a b": "{n} %s", "n": 3.0, "yes": False, "tags": ["x", 2]}
    found = to_messages(Row(Origin("s", "f", 1), data), section)
    assert [text for _, text, _ in _said(found)] == ["{n} %s {x} 3", "no, x, 2"]
    listed = SourcePhrasingSection.model_validate({
        "phrasings": [{"prompt": "{t}", "answer": "{label}"}], "labels": {"label": {0: "a", 1: "b"}}})
    assert _said(to_messages(Row(Origin("s", "f", 1), {"t": "x", "label": [1, 0]}), listed))[1][1] == "b, a"


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.text(), min_size=2))
def test_any_text_comes_through_as_it_is(values: dict[str, str]) -> None:
    section = SourcePhrasingSection.model_validate({"phrasings": [{"prompt": "<{a}|{b}>", "answer": "{b}"}]})
    found = to_messages(Row(Origin("s", "f", 1), values), section)
    assert [text for _, text, _ in _said(found)] == [f"<{values['a']}|{values['b']}>", values["b"]]


@pytest.mark.parametrize(("section", "said"), [
    ({"phrasings": [{"prompt": "Hi", "answer": "{a}"}]}, "'Hi' names no column"),
    ({"phrasings": [{"prompt": "{a.b}", "answer": "{a}"}]}, r"names \{a\.b\}, and braces hold the name of a column"),
    ({"phrasings": [{"prompt": "{a:>9}", "answer": "{a}"}]}, "braces hold the name of a column"),
    ({"phrasings": [{"prompt": "{}", "answer": "{a}"}]}, "braces hold the name of a column"),
    ({"phrasings": [{"prompt": "{a", "answer": "{a}"}]}, "expected '}'"),
    ({"phrasings": [{"prompt": "{a}", "answer": "{a}"}], "labels": {"c": {0: "x"}}},
     "names the column c, which no phrasing"),
    ({"shots": 2}, "labels and shots are of phrasings, and there are none"),
])
def test_sections_that_are_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SourcePhrasingSection.model_validate(section)


def test_an_unknown_column_stops_and_names_the_others() -> None:
    section = SourcePhrasingSection.model_validate({"phrasings": [{"prompt": "{txt}", "answer": "{label}"}]})
    with pytest.raises(DataError, match="names the column txt, and its rows have text, label"):
        check_columns(section, "reviews", [_row(0), _row(1)])
    check_columns(REVIEWS, "reviews", [_row(0)])
    assert columns_of("{a} {{b}} {c}") == ["a", "c"]


def test_a_source_of_several_files() -> None:
    section = REVIEWS.model_copy(update={"shots": 1})
    rows: list[Row | Rejected] = [_row(number)._replace(origin=Origin("reviews", f"{file}.jsonl", number + 1))
                                  for file in "ab" for number in range(3)]
    rows.insert(2, Rejected(Why.UNREADABLE, "no JSON", Origin("reviews", "a.jsonl", 9)))
    rows[4:4] = [_row(50)._replace(origin=Origin("reviews", "alone.jsonl", 1))]
    reads = []

    def read() -> Iterator[Row | Rejected]:
        reads.append(1)
        return iter(rows)

    found = list(phrased_rows(read, section, "reviews", Halves(0.0, 0)))
    assert len(reads) == 2
    assert [one.origin for one in found] == [one.origin for one in rows]
    assert found[2] == rows[2]
    chats = [_said(one) for one in found if isinstance(one, Row)]
    assert [len(one) for one in chats] == [4, 4, 4, 2, 4, 4, 4], "a file of one row has none to show"
    assert [one for one in phrased_rows(read, REVIEWS, "reviews", Halves(0.0, 0)) if isinstance(one, Row)] == [
        to_messages(row, REVIEWS) for row in rows if isinstance(row, Row)]
    assert len(reads) == 3
    other = SourcePhrasingSection.model_validate({"phrasings": [{"prompt": "{body}", "answer": "{label}"}]})
    with pytest.raises(DataError, match="of reviews names the column body"):
        next(phrased_rows(read, other, "reviews", Halves(0.0, 0)))
    broken = [rows[2]]
    assert list(phrased_rows(lambda: iter(broken), other, "reviews", Halves(0.0, 0))) == broken


def test_the_split_looks_at_the_first_question_that_is_trained(
        split: Callable[..., Any], chat: Callable[..., Conversation]) -> None:
    plain = chat("u: own question", "a: x")
    shown = chat("u: another", "a: y", "u: own question", "a: x")
    shown = shown._replace(turns=(shown.turns[0], shown.turns[1]._replace(masked=True), *shown.turns[2:]))
    for seed in range(50):
        assert [] in split([plain, shown], 0.5, seed)
