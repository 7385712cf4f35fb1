"""Answers of a known score for every kind whose form or short content is checked by rules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eval_suites.scorers.answer_text import without_thought
from eval_suites.scorers.registry import score

TABLE = {"columns": ["City", "Year"], "rows": 2, "cells": ["Rome", "1990"]}
GOOD_TABLE = "| City | Year |\n|:---|---:|\n| Rome | 1990 |\n| Oslo | 2001 |"
HEADINGS = {"headings": [[1, "Tea"], [2, "Water"], [2, "Leaves"]]}
GOOD_HEADINGS = "# Tea\n\n## Water\nHot.\n\n## Leaves\nGreen."
CITED = {"required": [1, 3], "allowed": [1, 3], "each_sentence": True}
ONE_CITED = {"required": [2], "allowed": [1, 2]}


@pytest.mark.parametrize(
    ("kind", "expect", "answer", "value"),
    [
        ("table", TABLE, GOOD_TABLE, 1), ("table", TABLE, GOOD_TABLE.replace("| ", "|"), 1),
        ("table", TABLE, "City | Year\n--- | ---\nRome | 1990\nOslo | 2001", 1),
        ("table", TABLE, GOOD_TABLE.replace("City", "**city**"), 1),
        ("table", TABLE, "Here it is:\n" + GOOD_TABLE, 0), ("table", TABLE, GOOD_TABLE + "\n\nDone.", 0),
        ("table", TABLE, f"```\n{GOOD_TABLE}\n```", 0), ("table", TABLE, GOOD_TABLE + "\n| Bonn | 1970 |", 0),
        ("table", TABLE, GOOD_TABLE.replace("Oslo |", "Oslo | x |"), 0),
        ("table", TABLE, GOOD_TABLE.replace("-", ""), 0),
        ("table", TABLE, GOOD_TABLE.replace("Rome", "Riga"), 0),
        ("table", TABLE, GOOD_TABLE.replace("Year", "Date"), 0),
        ("table", TABLE, "| Year | City |\n|---|---|\n| 1990 | Rome |\n| 2001 | Oslo |", 0),
        ("table", TABLE, "Rome 1990, Oslo 2001", 0), ("table", TABLE, "|", 0),
        ("table", {"columns": ["A"], "rows": 1}, "| A |\n|---|\n| x \\| y |", 1),
        ("headings", HEADINGS, GOOD_HEADINGS, 1), ("headings", HEADINGS, GOOD_HEADINGS.replace("Tea", "TEA #"), 1),
        ("headings", HEADINGS, "A note.\n" + GOOD_HEADINGS, 0),
        ("headings", HEADINGS, GOOD_HEADINGS.replace("Hot.", ""), 0),
        ("headings", HEADINGS, GOOD_HEADINGS.replace("## W", "### W"), 0),
        ("headings", HEADINGS, GOOD_HEADINGS + "\n## Cup\nx", 0),
        ("headings", HEADINGS, "# Tea\n## Leaves\nGreen.\n## Water\nHot.", 0), ("headings", HEADINGS, "# Tea", 0),
        ("headings", HEADINGS, GOOD_HEADINGS.removesuffix("Green."), 0),
        ("citations", CITED, "It closed [1]. A crack was found [3].", 1),
        ("citations", CITED, "It closed. [1] A crack. [3]", 1),
        ("citations", CITED, "It closed [1][3].", 1), ("citations", CITED, "It closed [1]. A crack was found.", 0),
        ("citations", CITED, "It closed [1]. A crack [2]. So [3].", 0), ("citations", CITED, "It closed 1, 3.", 0),
        ("citations", CITED, "It closed [1]. That is all. See [3].", 0),
        ("citations", CITED, "See [1](x) and [3](y).", 0),
        ("headings", HEADINGS, GOOD_HEADINGS.replace("Hot.", "```\n# not a heading\n```\nHot."), 1),
        ("headings", HEADINGS, "```\n" + GOOD_HEADINGS + "\n```", 0),
        ("citations", CITED, "[1][3]", 0), ("citations", CITED, "[1], [3].", 0),
        ("citations", ONE_CITED, "Yes. It is so [2].", 1), ("citations", ONE_CITED, "So [1].", 0),
        ("citations", ONE_CITED, "So [1] and [2].", 1), ("citations", ONE_CITED, "So [2] and [7].", 0),
        ("pattern", {"pattern": r"\d{4}-\d\d", "values": ["2020-05"]}, " 2020-05\n", 1),
        ("pattern", {"pattern": r"\d{4}-\d\d", "values": ["2020-05"]}, "2020-06", 0),
        ("pattern", {"pattern": r"\d{4}-\d\d", "values": ["2020-05"]}, "It is 2020-05", 0),
        ("pattern", {"pattern": "a+"}, "aaa", 1), ("pattern", {"pattern": "a+"}, "aaab", 0),
        ("bare", {"answers": ["Rome"]}, "rome.", 1), ("bare", {"answers": ["Rome"]}, "The answer is Rome.", 0),
        ("bare", {"answers": ["8", "eight"]}, "Eight", 1), ("bare", {"answers": ["Rome"]}, "Romea", 0),
        ("words", {"min": 2, "max": 3}, "one two", 1), ("words", {"min": 2, "max": 3}, "one two three", 1),
        ("words", {"min": 2, "max": 3}, "one", 0), ("words", {"min": 2, "max": 3}, "one two three four", 0),
        ("words", {"min": 2, "max": 3, "contains": "two"}, "one three", 0),
        ("one_sentence", {"sentences": 1}, "Here it is:\nIt is red.", 0),
        ("one_sentence", {"sentences": 2}, "Red. Blue.", 1),
        ("one_sentence", {"sentences": 1}, "Two colours: red and blue.", 1),
    ],
)
def test_shapes(kind: str, expect: dict[str, Any], answer: str, value: float) -> None:
    found = score(kind, expect, answer)
    assert found.value == value
    assert bool(found.why) == (value == 0)
    assert (found.metrics.get("partial", 1.0) == 1.0) >= (value == 1)


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("...", 0), ("one - two – three — four", 4), ("well-known state-of-the-art don't it's", 4),
     ("3.5 million, e.g. 4", 4), ("a, b; c: d / e", 5), ("* one\n- two\n# three", 3), ("one 😀 two", 2),
     ("one—two…three...four", 4), ("naïve café", 2), ("पानी बहुत अच्छा है", 4), ("我喜欢吃苹果", 6),
     ("안녕하세요 세계", 2), ("ローマ is 2", 5)],
)
def test_words_are_what_holds_a_letter_or_a_digit(text: str, count: int) -> None:
    assert score("words", {"min": count or 1, "max": count or 1}, text).value == float(count > 0)
    assert score("word_limit", {"max_words": count + 1}, text).value == float(count > 0)
    assert score("words", {"min": count + 1, "max": 99}, text).value == 0.0


@pytest.mark.parametrize(("numbered", "answer", "partial"), [
    (True, "1. a\n2) b\n3. c\n4. d", 1), (True, "- a\n- b\n- c\n- d", 0), (True, "1. a\n- b\n3. c\n4. d", 1 / 2),
    (False, "- a\n* b\n• c\n- d", 1), (False, "1. a\n2. b\n3. c\n4. d", 0), (None, "- a\n2. b\n- c\n* d", 1),
])
def test_a_numbered_list_has_numbers(numbered: bool | None, answer: str, partial: float) -> None:
    found = score("list", {"items": 4, "numbered": numbered}, answer)
    assert (found.value, found.metrics["partial"]) == (float(partial == 1), partial)


@pytest.mark.parametrize(
    ("kind", "expect", "answer", "partial"),
    [
        ("table", TABLE, GOOD_TABLE.replace("Rome", "Riga"), 4 / 5), ("table", TABLE, "Rome", 0.0),
        ("headings", HEADINGS, "# Tea\nx\n## Leaves\ny", 2 / 3), ("citations", CITED, "So [1]. And so [1].", 1 / 2),
        ("citations", CITED, "So [1]. And so. [3] Fine.", 2 / 3), ("words", {"min": 10, "max": 20}, "a b c d e", 1 / 2),
        ("words", {"min": 10, "max": 20}, "a " * 30, 1 / 2), ("word_limit", {"max_words": 4}, "a b c d e", 3 / 4),
        ("list", {"items": 4}, "1. a\n2. b\n3. c", 3 / 4),
        ("list", {"items": 4}, "Here:\n1. a\n2. b\n3. c\n4. d", 3 / 4),
        ("bare", {"answers": ["Rome"]}, "It is Rome.", 1 / 2),
        ("pattern", {"pattern": "a+", "values": ["a"]}, "aa", 1 / 2),
        ("one_sentence", {"sentences": 2}, "Red.", 1 / 2),
    ],
)
def test_partial_credit(kind: str, expect: dict[str, Any], answer: str, partial: float) -> None:
    found = score(kind, expect, answer)
    assert found.value == 0.0
    assert found.metrics["partial"] == pytest.approx(partial)


NESTED = {"type": "object", "required": ["id", "who", "tags"], "additionalProperties": False, "properties": {
    "id": {"type": "integer"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    "who": {"type": "object", "required": ["name", "born"], "properties": {
        "name": {"type": "string"}, "born": {"type": "string", "format": "date"}}}}}
WHOLE = {"id": 1, "who": {"name": "Ann", "born": "1990-02-03"}, "tags": ["a"]}


@pytest.mark.parametrize(
    ("change", "form", "partial"),
    [({}, 1, 1), ({"id": "1"}, 0, 3 / 4), ({"tags": ["c"]}, 0, 3 / 4), ({"id": 2}, 1, 3 / 4), ({"more": 1}, 0, 1),
     ({"who": {"name": "Ann", "born": "1990-02-30"}}, 0, 3 / 4), ({"who": {"name": "Ann"}}, 0, 3 / 4),
     ({"who": 3}, 0, 1 / 2)],
)
def test_json_counts_required_keys_that_are_right(change: dict[str, Any], form: float, partial: float) -> None:
    found = score("json", {"schema": NESTED, "value": WHOLE}, json.dumps({**WHOLE, **change}))
    assert (found.metrics["form"], found.metrics["partial"]) == (form, partial)
    assert found.value == float(partial == form == 1)


def test_json_with_references_and_keys_that_no_value_was_expected_for() -> None:
    """Both raised: a part of a schema cannot be looked up outside of it, nor a key that the expected value lacks."""
    schema = {"type": "object", "required": ["a", "b"], "$defs": {"n": {"type": "integer"}},
              "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"type": "integer"}}}
    assert score("json", {"schema": schema}, '{"a": 1, "b": "x"}').metrics["partial"] == 0.5
    assert score("json", {"schema": schema, "value": {"a": 1}}, '{"a": 1, "b": 2}').metrics["partial"] == 0.5


@pytest.mark.parametrize(("answer", "value"), [
    ('{"who": {"name": "COPPER "}}', 1), ('{"who": {"name": "tin"}}', 0), ('{"Who": {"name": "copper"}}', 0)])
def test_the_content_of_json_is_right_in_any_case_of_letters(answer: str, value: float) -> None:
    found = score("json", {"schema": {"type": "object"}, "value": {"who": {"name": "Copper"}}}, answer)
    assert (found.value, found.metrics["form"]) == (value, 1.0)


def test_json_without_required_keys_has_no_partial_credit() -> None:
    assert score("json", {"schema": {"type": "integer"}}, "x").metrics["partial"] == 0.0
    assert score("json", {"schema": {"type": "integer"}}, "5").metrics["partial"] == 1.0


@pytest.mark.parametrize(
    ("form", "text", "right"),
    [("date", "2024-02-29", 1), ("date", "2023-02-29", 0), ("date", "1 May 2024", 0), ("email", "a@b.org", 1),
     ("email", "ab", 0),
     ("ipv4", "10.0.0.256", 0), ("ipv4", "10.0.0.25", 1), ("uuid", "123e4567-e89b-12d3-a456-426614174000", 1),
     ("uuid", "1", 0),
     ("date-time", "2024-05-01T10:00:00Z", 1), ("date-time", "2024-05-01T10:00:00+02:00", 1),
     ("date-time", "2024-05-01", 0),
     ("date-time", "2024-05-01T25:00:00Z", 0), ("date-time", "2024-05-01T10:00:00", 0), ("time", "10:00:00Z", 1),
     ("time", "10:00", 0), ("time", "25:00:00Z", 0), ("date-time", "2024-02-30T10:00:00Z", 0), ("email", "a@", 0),
     ("email", "a b@c.org", 0), ("email", "a@b@c.org", 0), ("date", "٢٠٢٤-٠٢-٢٩", 0), ("time", "١٠:٠٠:٠٠Z", 0),
     ("uri", "https://a.org/x?y=%20#z", 1), ("uri", "mailto:a@b.org", 1), ("uri", "urn:isbn:045", 1),
     ("uri", "a.org", 0),
     ("uri", "https://", 0), ("uri", "https:a.org", 0), ("uri", "http://a b", 0), ("uri", "http://a.org/%zz", 0),
     ("hostname", "a-b.org", 1), ("hostname", "a_b.org", 0), ("hostname", "a..org", 0), ("hostname", "-a.org", 0),
     ("duration", "P1DT2H", 1), ("duration", "P3W", 1), ("duration", "PT", 0), ("duration", "P", 0),
     ("duration", "P١D", 0),
     ("duration", "1 day", 0), ("regex", "a+", 1), ("regex", "(", 0), ("ipv6", "::1", 1), ("ipv6", "::z", 0)],
)
def test_formats_of_json_schema_are_checked(form: str, text: str, right: float) -> None:
    assert score("json", {"schema": {"type": "string", "format": form}}, f'"{text}"').value == right


@pytest.mark.parametrize(
    ("expect", "answer", "value"),
    [
        (["21"], "21", 1), (["21"], "She has 21 apples.", 1), (["21"], "12 + 9 = 21", 1), (["21"], "21 = 12 + 9", 0),
        (["21"], "121", 0),
        (["21"], "٢١", 1), (["21"], "२१", 1), (["21"], "２１個です", 1), (["21"], "21.0", 1), (["21"], "-21", 0),
        (["21"], "2 1", 0),
        (["1250"], "1,250", 1), (["1250"], "1.250 Euro", 1), (["1250"], "1'250", 1), (["1250"], "1,25", 0),
        (["1.5"], "1,5", 1),
        (["8", "eight"], "Eight.", 1), (["8", "eight"], "eighty", 0), (["klein"], "Klein!", 1),
        (["Wednesday"], "It is wednesday", 1),
        (["小"], "是小。", 1), (["水曜"], "水曜日です", 1), (["छोटा"], "छोटा।", 1), (["صغير"], "صغير.", 1),
        (["weiß"], "Weiß", 1), (["weiß"], "WEISS", 1),
        (["21"], "", 0), (["Rome"], "Romeo", 0), (["CO2"], "CO2", 1),
    ],
)
def test_short_answers_in_any_script(expect: list[str], answer: str, value: float) -> None:
    found = score("short_answer", {"answers": expect}, answer)
    assert found.value == value
    assert bool(found.why) == (value == 0)


@pytest.mark.parametrize(("answers", "others", "answer", "value"), [
    (["positive"], ["negative"], "It is positive, not negative.", 1), (["positive"], ["negative"], "not positive", 0),
    (["positiv"], [], "nicht positiv", 0), (["正面"], ["负面"], "不是正面的", 0),
    (["负面"], ["正面"], "不是正面，是负面", 1),
    (["Rome"], [], "It isn't Rome.", 0), (["Rome"], [], "Not Oslo. Rome.", 1), (["Rome"], [], "Not Rome? Rome!", 1),
    (["21"], [], "22, not 21", 0), (["22"], [], "22, not 21", 1), (["no"], ["yes"], "No, not yes.", 1),
])
def test_what_is_negated_is_not_said(answers: list[str], others: list[str], answer: str, value: float) -> None:
    assert score("short_answer", {"answers": answers, "others": others}, answer).value == value


@pytest.mark.parametrize(("number", "right", "wrong"), [
    ("1234", "$1,234. | 1,234.00 | 1.234,00 | 1'234 | 1 234 | 1234.0 | **1,234** | \\boxed{1234} | 1,234 km | 1.234e3",
     "1.2345 | 12,34 | 123 4 | 1,2345 | 1234/2 | -1,234"),
    ("1234.5", "1,234.5 | 1.234,5 | 1 234.5 | $1,234.50", "1,234 | 12345 | 1.234.5"),
    ("0.75", "3/4 | ¾ | .75 | 0,75 | 0.750 | 75e-2 | 6 / 8", "3 | 4 | 3/0 | 75"),
    ("-5", "-5 | −5. | -5.0 | -10/2", "5"), ("1000000", "1,000,000 | 1 000 000 | 1.000.000 | 1e6", "1,000 | 1,000,00"),
    ("6", "It is 6 | 4 + 2 = 6", "5/6 | 6/5"),
    ("36", "6^2 = 36 m^2 | 36 \\text{ m}^{2} | 36 s^-1 | 36 m² | the 2nd has 36, the 3rd has none", "36th | x = 6^2"),
    ("2", "2 | 2 nd", "2nd | the 2nd | -2nd | 1,002nd")])
def test_numbers_as_people_write_them(number: str, right: str, wrong: str) -> None:
    for value, said in ((1.0, right), (0.0, wrong)):
        for one in said.split(" | "):
            assert score("short_answer", {"answers": [number]}, one).value == value, one


def test_a_short_answer_must_not_name_its_rival() -> None:
    expect = {"answers": ["negative"], "others": ["positive"]}
    assert score("short_answer", {"answers": ["21"]}, "٢١").metrics["alone"] == 1.0
    assert score("short_answer", expect, "Negative.").metrics == {"alone": 1.0}
    assert score("short_answer", expect, "The review is negative.").metrics == {"alone": 0.0}
    assert score("short_answer", expect, "Positive or negative?").value == 0.0


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), ("b", "B"), ("(B)", "B"), ("**B**", "B"), ("B.", "B"), ("B) sparrow", "B"), ("B. sparrow", "B"),
     ("B: it flies", "B"),
     ("The answer is B.", "B"), ("The correct answer is (B) sparrow", "B"), ("Answer: B", "B"),
     ("I choose option B because ...", "B"),
     ("sparrow", "B"), ("It is the sparrow, of course.", "B"), ("Sparrow or trout", ""), ("A sparrow is a bird.", "B"),
     ("B\n\nA trout is a fish.", "B"), ("B - sparrow", "B"), ("B, because A is a fish", "B"), ("\\boxed{B}", "B"),
     ("$\\boxed{\\text{B}}$", "B"), ("Ｂ", "B"),
     ("I think it's B", "B"), ("A bird is B", "B"), ("It is a bird: B", "B"),
     ("A trout is a fish, so B", "B"), ("The answer is not A but B.", "B"), ("A or B", ""), ("A, B", ""), ("Not B", ""),
     ("Rich in vitamin E: the sparrow", "B"),
     ("It isn't B", ""), ("A) trout\nB) sparrow\nC) lizard\nD) bat", ""), ("", ""),
     ("B) sparrow\n\nA) is a fish.\nC) crawls.\nD) is a mammal.", "B"), ("Not the sparrow", ""),
     ("A) trout\nB) sparrow\nC) lizard\nD) bat\n\nAnswer: B", "B"), ("not a trout but a sparrow", "B"),
     ("The answer is a bird.", ""), ("I do not know", ""), ("The answer is A, not option B", "A"), ("C", "C"),
     ("A is wrong. C is wrong. D is wrong. So B.", "B"), ("Neither A nor C; B is right.", "B"), ("A is false.", "A"),
     ("A, C and D are clearly incorrect, so it must be B", "B"), ("(A) isn't right, **B** is.", "B"),
     ("Option A is wrong. B is right.", "B"), ("A is right. B is not.", "A"),
     ("A) is wrong. B) is right.", "B"), ("C is not wrong, B is.", ""), ("C is Rome. A is not. So B", ""),
     ("C is wrong, A or B", ""), ("A is wrong and B is false.", ""),
     ("Neither the trout nor the bat: the sparrow", "B"),
     ("The answer is A or B", ""), ("Answer: **A** and **B**", ""), ("The answer is B and I am sure", "B")],
)
def test_letters(answer: str, letter: str) -> None:
    options = ["trout", "sparrow", "lizard", "bat"]
    for wanted in "ABCD":
        assert score("letter", {"letter": wanted, "options": options}, answer).value == float(letter == wanted)


def test_reasoning_in_front_is_no_part_of_the_answer() -> None:
    assert without_thought("<think>\nNo. [1]\n</think>\n\nRome") == without_thought("No.</think>Rome") == "Rome"
    assert without_thought("<think>and on it goes") == ""
    assert without_thought("Rome") == "Rome"
    thought = "<|channel|>analysis<|message|>Italy.<|end|><|start|>assistant"
    assert without_thought(thought + "<|channel|>final<|message|>Rome") == "Rome"
    assert without_thought("<|channel|>final<|message|>Rome") == "Rome"
    assert without_thought("<|channel|>analysis<|message|>Italy. Rome") == ""
    called = thought + "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}"
    assert without_thought(called) == called
    assert score("bare", {"answers": ["Rome"]}, "<think>Oslo?</think>Rome").value == 1.0
    assert score("no_call", {}, "<think>all of it").value == 0.0
