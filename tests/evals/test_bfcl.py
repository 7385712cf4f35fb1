"""BFCL's own files: its possible answers score 1 in every dialect, and nearly right ones score 0."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval_suites.scorers.callbodies import Call
from eval_suites.scorers.registry import score
from eval_suites.scorers.tools import admits
from eval_suites.suites.items import ChatItem, read_items
from eval_suites.suites.readers.bfcl import CATEGORIES, json_schema
from eval_suites.suites.suite import suite
from sft_core.errors import EvalError

_spec = importlib.util.spec_from_file_location("dialects", Path(__file__).with_name("dialects.py"))
assert _spec is not None
assert _spec.loader is not None
dialects = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dialects)
DIALECTS = dialects.DIALECTS
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HERMES = DIALECTS["hermes"][1]


@pytest.fixture(scope="module")
def items() -> list[ChatItem]:
    if not (DATA / "bfcl").is_dir():
        pytest.skip(f"{DATA}/bfcl is not here")
    return read_items(suite("bfcl"), data_path=DATA)


def plain(wanted: Any) -> Any:
    """The first admissible value, also inside objects; KeyError where the argument is best left out."""
    if isinstance(wanted, dict):
        return {key: plain(first(values)) for key, values in wanted.items() if first(values) is not None}
    return [plain(one) for one in wanted] if isinstance(wanted, list) else wanted


def first(values: list[Any]) -> Any:
    """The first value that says something; None where leaving it out is the answer; upstream's [] is an empty list."""
    return next((one for one in values if one != ""), None) if values else []


def gold(item: ChatItem, *, fewest: bool = False) -> list[Call]:
    """The calls of a perfect model, with all optional arguments or without any; without those that two answers name
    and their functions do not have."""
    calls = []
    for wanted in item.expect["calls"]:
        (name, arguments), = wanted.items()
        schema = item.expect["parameters"][name]
        required = schema.get("required", [])
        said = {key: values for key, values in arguments.items()
                if first(values) is not None and not (fewest and "" in values and key not in required)
                and key in schema["properties"]}
        calls.append(Call(name, {key: plain(first(values)) for key, values in said.items()}))
    return calls


def value(item: ChatItem, calls: list[Call]) -> float | None:
    return score(item.kind, item.expect, HERMES(calls)).value


def test_all_items_of_all_single_turn_categories_are_read(items: list[ChatItem]) -> None:
    assert Counter(item.task for item in items) == {
        "simple_python": 400, "multiple": 200, "parallel": 200, "parallel_multiple": 200, "live_simple": 258,
        "irrelevance": 240}
    assert len(CATEGORIES) == 6
    assert len({item.cluster for item in items}) > 500
    assert "dict" not in {s.get("type") for i in items for s in [t["function"]["parameters"] for t in i.parsed_tools()]}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_possible_answers_score_one_in_every_dialect(items: list[ChatItem], dialect: str) -> None:
    write = DIALECTS[dialect][1]
    wrong = []
    for item in items:
        answer = "None of these functions helps here." if item.kind == "no_call" else write(gold(item))
        found = score(item.kind, item.expect, answer)
        if found.value != 1.0:
            wrong.append(item.item_id)
        if item.kind == "tool_calls":
            assert found.value != 1.0 or found.metrics == {"form": 1.0, "functions": 1.0, "partial": 1.0}
    # One possible answer is `true` for an argument that its schema calls a string: bare text cannot say that.
    assert wrong == (["simple_python_307"] if dialect in ("qwen3-coder", "glm") else [])


def test_optional_arguments_may_be_left_out_and_calls_come_in_any_order(items: list[ChatItem]) -> None:
    called = [item for item in items if item.kind == "tool_calls"]
    assert all(value(item, gold(item, fewest=True)[::-1]) == 1.0 for item in called)
    assert sum(gold(item, fewest=True) != gold(item) for item in called) > 100


def test_nearly_right_answers_score_zero(items: list[ChatItem]) -> None:
    seen: Counter[str] = Counter()
    for item in (one for one in items if one.kind == "tool_calls"):
        calls = gold(item)
        name, arguments = calls[0]
        required = item.expect["parameters"][name].get("required", [])
        changed = {
            "another function": [Call("other_" + name, arguments), *calls[1:]],
            "an invented argument": [Call(name, {**arguments, "made_up_argument": 1}), *calls[1:]],
            "one call too many": [*calls, calls[0]],
            "one call missing": calls[1:],
        }
        for key in required:
            changed[f"missing {key}"] = [Call(name, {k: v for k, v in arguments.items() if k != key}), *calls[1:]]
        for key, said in arguments.items():
            changed[f"type of {key}"] = [Call(name, {**arguments, key: {"wrong": said}}), *calls[1:]]
            if isinstance(said, int | float):
                changed[f"text for {key}"] = [Call(name, {**arguments, key: str(said)}), *calls[1:]]
        for what, wrong in changed.items():
            found = score(item.kind, item.expect, HERMES(wrong))
            assert found.value == 0.0, f"{item.item_id} {what}: {HERMES(wrong)}"
            assert found.why
            assert found.metrics["partial"] < 1.0
            seen[what.split()[0]] += 1
    assert seen["missing"] > 2_000
    assert seen["text"] > 1_000


def test_an_argument_that_the_function_does_not_have_is_wrong(items: list[ChatItem]) -> None:
    for number, argument in ((12, {"permeability": 0.1}), (26, {"type": "credit"})):
        item = next(one for one in items if one.item_id == f"parallel_multiple_{number}")
        calls = gold(item)
        assert value(item, calls) == 1.0
        more = [Call(call.name, {**call.arguments, **argument}) for call in calls]
        assert "invented" in score(item.kind, item.expect, HERMES([calls[0], more[1]])).why


def test_a_call_where_none_fits_is_wrong(items: list[ChatItem]) -> None:
    for item in (one for one in items if one.kind == "no_call"):
        name = item.parsed_tools()[0]["function"]["name"]
        assert value(item, [Call(name, {})]) == 0.0
        assert score(item.kind, item.expect, "").value == 0.0


NUMBERS, OBJECT = {"type": "array", "items": {"type": "number"}}, {"type": "object"}
NUMBER, INTEGER, TEXT = {"type": "number"}, {"type": "integer"}, {"type": "string"}


@pytest.mark.parametrize(
    ("said", "admissible", "schema", "right"),
    [
        (5, [5.0], NUMBER, True), (5.0, [5], NUMBER, True), (5, [5], INTEGER, True), (5.0, [5], INTEGER, False),
        ("5", [5], INTEGER, False), (True, [1], INTEGER, False), (1, [True], {"type": "boolean"}, False),
        ("april 1 2024", ["April 1, 2024"], TEXT, True), ("New-York", ["new york"], TEXT, True),
        ("York", ["New York"], TEXT, False), ("it's", ['it"s'], TEXT, True), ("b", ["a", "b"], TEXT, True),
        ([1, 2], [[2, 1]], {"type": "array"}, False), ([1, 2], [[2, 1], [1, 2]], {"type": "array"}, True),
        (["A."], [["a"]], {"type": "array", "items": TEXT}, True), ([1], [[1.0]], NUMBERS, False),
        ([1], [[1]], NUMBERS, True), ([1, 2.5], [[1, 2.5]], NUMBERS, True), ([True], [[1]], NUMBERS, False),
        ([1.0], [[1]], {"type": "array", "items": NUMBER}, True), ([1.0], [[1]], {"type": "array"}, False),
        ([], [], {"type": "array"}, True), (["x"], [], {"type": "array"}, False), (None, ["", None], TEXT, True),
        ({"a": "x"}, [{"a": ["X", "y"], "b": ["", 1]}], {}, True), ({"a": "x", "b": 2}, [{"a": ["x"]}], {}, False),
        ("", ["", 5], INTEGER, False), ("", ["", "x"], TEXT, True), ("", ["", [1]], {"type": "array"}, False),
        ([], ["", [1]], {"type": "array"}, True), ([], [[1]], {"type": "array"}, False), ([], ["", 5], INTEGER, False),
        ("data['X']", ["data['x']"], NUMBERS, False), ("data['x']", ["data['x']"], NUMBERS, True),
        ({"a": 1.0, "b": 2}, [{"a": [1], "b": [2.0]}], OBJECT, True), ({"a": 0}, [{"a": [False]}], OBJECT, False),
        ({"a": ["x"]}, [{"a": [["X"]]}], OBJECT, False), ({"a": ""}, [{"a": ["", 1]}], OBJECT, True),
        ([["x"]], [[["X"]]], {"type": "array", "items": {"type": "array"}}, False),
        ({}, [{"a": ["x"]}], {}, False), ([{"a": 1}], [[{"a": [1, 2]}]], {}, True), ({"a": 3}, [{"a": [1]}], {}, False),
    ],
)
def test_rules_of_equality(said: object, admissible: list[object], schema: dict[str, Any], right: bool) -> None:
    assert admits(said, admissible, schema) is right


def test_partial_credit_is_counted_over_calls_and_arguments() -> None:
    schema = {"type": "object", "properties": {"a": INTEGER, "b": TEXT}, "required": ["a"]}
    expect = {"calls": [{"f": {"a": [1], "b": ["x", ""]}}, {"f": {"a": [2], "b": [""]}}], "parameters": {"f": schema}}

    def partial(*calls: Call) -> tuple[float | None, float]:
        found = score("tool_calls", expect, HERMES(list(calls)))
        return found.value, found.metrics["partial"]

    assert partial(Call("f", {"a": 2}), Call("f", {"a": 1, "b": "X"})) == (1.0, 1.0)
    assert partial(Call("f", {"a": 2})) == (0.0, 0.5)
    assert partial(Call("f", {"a": 2}), Call("f", {"a": 1, "b": "z"})) == (0.0, 0.75)
    assert partial(Call("f", {"a": 2}), Call("g", {"a": 1})) == (0.0, 0.5)
    assert partial(Call("f", {"a": 2}), Call("f", {"a": 1}), Call("f", {"a": 1})) == (0.0, pytest.approx(2 / 3))
    assert score("tool_calls", expect, "I would call f.").metrics == {"form": 0.0, "functions": 0.0, "partial": 0.0}


def test_a_malformed_call_beside_the_right_ones_is_wrong() -> None:
    expect = {"calls": [{"f": {"a": [1]}}], "parameters": {"f": {"type": "object", "properties": {"a": INTEGER}}}}
    found = score("tool_calls", expect, HERMES([Call("f", {"a": 1})]) + "<tool_call>{</tool_call>")
    assert (found.value, found.metrics) == (0.0, {"form": 0.0, "functions": 1.0, "partial": 1.0})
    assert found.why.startswith("not JSON")


@pytest.mark.parametrize(("answer", "value", "called", "malformed"), [
    ("Let me see. <tool_call>{", 1, 0, 1), ("<tool_call>{'name': 'f'}</tool_call>", 1, 0, 1), ("[f(1)]", 1, 0, 1),
    ("None of them fits.", 1, 0, 0), ('<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{', 0, 1, 1),
    ("[f(a=1)]", 0, 1, 0), ("[]", 1, 0, 0), ("", 0, 0, 0)])
def test_what_cannot_be_read_as_a_call_is_none(answer: str, value: float, called: float, malformed: float) -> None:
    """As upstream counts irrelevance; but to say nothing is no answer."""
    found = score("no_call", {}, answer)
    assert (found.value, found.metrics) == (value, {"called": called, "malformed": malformed})


def test_calls_match_their_answers_in_whatever_order_they_come() -> None:
    """Upstream takes the first call that fits the first answer: here it would leave none for the second."""
    expect = {"calls": [{"f": {"a": [1], "b": ["", 2]}}, {"f": {"a": [1]}}],
              "parameters": {"f": {"properties": {"a": INTEGER, "b": INTEGER}, "required": ["a"]}}}
    both = [Call("f", {"a": 1}), Call("f", {"a": 1, "b": 2})]
    assert score("tool_calls", expect, HERMES(both)).value == score("tool_calls", expect, HERMES(both[::-1])).value == 1


def test_strict_json_and_literals() -> None:
    expect = {"calls": [{"f": {"a": ["b"]}}], "parameters": {"f": {"properties": {"a": TEXT}}}}
    for answer in ("[f(a=b)]", '<tool_call>{"name": "f", "arguments": {"a": "x", "a": "b"}}</tool_call>', "[f('b')]"):
        found = score("tool_calls", expect, answer)
        assert (found.value, found.metrics["form"]) == (0.0, 0.0)
    assert score("tool_calls", expect, '[f(a="B")]').value == 1.0


def test_an_argument_without_a_way_out_must_be_given_even_if_the_schema_has_it_optional() -> None:
    schema = {"type": "object", "properties": {"a": INTEGER, "b": TEXT}, "required": ["a"]}
    expect = {"calls": [{"f": {"a": [1], "b": ["x"]}}], "parameters": {"f": schema}}
    found = score("tool_calls", expect, HERMES([Call("f", {"a": 1})]))
    assert (found.value, found.metrics["partial"], found.why) == (0.0, 0.5, "f: b missing")
    assert score("tool_calls", expect, HERMES([Call("f", {"a": 1, "b": "x"})])).value == 1.0
    invented = score("tool_calls", expect, HERMES([Call("f", {"a": 1, "b": "x", "c": 1})]))
    assert (invented.value, invented.why) == (0.0, "f: c invented")


def test_dots_in_names_may_be_underscores() -> None:
    expect = {"calls": [{"math.hypot": {"x": [3]}}], "parameters": {"math.hypot": {"properties": {"x": INTEGER}}}}
    assert score("tool_calls", expect, HERMES([Call("math_hypot", {"x": 3})])).value == 1.0
    assert score("tool_calls", expect, HERMES([Call("hypot", {"x": 3})])).why == "hypot instead of math.hypot"


def test_schemas_become_json_schema() -> None:
    bfcl = {"type": "dict", "properties": {"type": {"type": "float"}, "x": {"type": "tuple", "items": {"type": "any"}},
                                           "d": {"type": "dict", "default": {"type": "float"}}}}
    assert json_schema(bfcl) == {"type": "object", "properties": {
        "type": {"type": "number"}, "x": {"type": "array", "items": {}},
        "d": {"type": "object", "default": {"type": "float"}}}}


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=r"eval\.data_path"):
        read_items(suite("bfcl"))
    with pytest.raises(EvalError, match="BFCL_v4_simple_python.json"):
        read_items(suite("bfcl"), data_path=tmp_path)
    (tmp_path / "bfcl" / "possible_answer").mkdir(parents=True)
    (tmp_path / "bfcl" / "possible_answer" / "BFCL_v4_simple_python.json").write_text(
        json.dumps({"id": "a", "ground_truth": [{"f": {}}]}))
    (tmp_path / "bfcl" / "BFCL_v4_simple_python.json").write_text('\n{"id": "b"}\n')
    with pytest.raises(EvalError, match=r"simple_python.json:2 is not a row of BFCL"):
        read_items(suite("bfcl"), data_path=tmp_path)
