"""Tool calls are read from every dialect, and what is no call is not taken for one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_suites.scorers.callbodies import Call
from eval_suites.scorers.toolcalls import Calls, parse_calls, typed_value
from eval_suites.scorers.tools import score_no_call
from sft_core.conversation import Conversation, Turn
from sft_core.templates.render import Rendered, Renderer
from tests.core.families.chats import CLOCK, RICH, SKY, TOOLS, says, thinks, user
from tests.core.families.shapes import FAMILIES, jinja_of
from tests.core.test_families import ORIGIN, as_bytes, case_of

_spec = importlib.util.spec_from_file_location("dialects", Path(__file__).with_name("dialects.py"))
assert _spec is not None
assert _spec.loader is not None
dialects = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dialects)
DIALECTS = dialects.DIALECTS

CALLS = (
    Call("get_weather", {"city": "São Paulo", "days": 3, "metric": True, "note": None}),
    Call("files.copy", {"paths": ["a b.txt", "c'd.txt"], "options": {"deep": {"level": 1.5}}, "text": "x\ny {1} [2]"}),
    Call("now", {}),
)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_calls_come_back_as_they_were_written(name: str, count: int) -> None:
    dialect, write = DIALECTS[name]
    found = parse_calls(write(CALLS[:count]))
    assert (found.dialect, found.problem) == (dialect, "")
    assert found.typed == (name not in ("qwen3-coder", "glm"))
    if found.typed:
        assert found.calls == CALLS[:count]
    else:
        kinds = {"city": "string", "text": "string"}
        assert [c.name for c in found.calls] == [c.name for c in CALLS[:count]]
        assert [{k: typed_value(v, kinds.get(k)) for k, v in c.arguments.items()} for c in found.calls] == \
            [c.arguments for c in CALLS[:count]]


@pytest.mark.parametrize("name", [n for n, (dialect, _) in DIALECTS.items() if dialect not in ("json", "pythonic")])
def test_text_and_thoughts_around_marked_calls_are_kept_apart(name: str) -> None:
    write = DIALECTS[name][1]
    found = parse_calls("<think>maybe <tool_call> or [f(a=2)]</think>Let me look.\n" + write(CALLS[:2]))
    assert [c.name for c in found.calls] == ["get_weather", "files.copy"]
    assert found.rest == "Let me look."


WRITTEN = {"one": says("", SKY), "many": says("", RICH, CLOCK), "behind text": says("Aa look", RICH),
           "behind a thought": thinks("Ha [clock()] hm", "", SKY)}
WITH_CALLS = [name for name in sorted(FAMILIES) if "tool_calls" in (jinja_of(name) or "tool_calls")]
UNMARKED = ("built-in llama3",)
"""Families whose calls have no marks: with words in front of them they are no calls."""


def written_by(renderer: Renderer, family: str, turn: Turn) -> str | None:
    """What the family's own template writes for the answer, also where it writes no list of tools."""
    for tools in (TOOLS, None):
        rendered = renderer.render(Conversation((user("Qa"), turn), ORIGIN, tools))
        if isinstance(rendered, Rendered):
            text, trained = as_bytes(rendered.examples[-1], family)
            said = bytes(byte for byte, mask in zip(text, trained, strict=True) if mask).decode()
            return said.removesuffix(next((one for one in renderer.template.stops if said.endswith(one)), ""))
    return None


def arguments_of(found: Calls) -> list[tuple[str, dict[str, object]]]:
    return [(call.name, call.arguments if found.typed else {
        key: typed_value(text, "string" if key == "town" else None) for key, text in call.arguments.items()})
        for call in found.calls]


def test_every_family_s_own_calls_are_read() -> None:
    """What no scorer reads would be wrong where a call is wanted, and right where none is."""
    wrong, families = {}, set()
    for family in WITH_CALLS:
        renderer, _ = case_of(family, FAMILIES[family].keywords[0])
        for how, turn in WRITTEN.items():
            said = written_by(renderer, family, turn)
            if said is None or (family in UNMARKED and how == "behind text"):
                continue
            families.add(family)
            found = parse_calls(said)
            right = [(call.name, json.loads(call.arguments)) for call in turn.tool_calls]
            if (arguments_of(found), found.problem, score_no_call({}, said).value) != (right, "", 0.0):
                wrong[family, how] = (said, found)
    assert not wrong
    assert len(families) >= 50


@pytest.mark.parametrize(
    ("dialect", "text"),
    [("framed", "<function_calls>weather(town='Bako')\nclock()</function_calls>"),
     ("framed", '<|action_start|><|plugin|>\n{"name": "weather", "parameters": {"town": "Bako"}}\n'
                '{"name": "clock", "parameters": {}}<|action_end|>'),
     ("invoke", '<function_calls>\n<invoke name="weather"><parameter name="town">Bako</parameter></invoke>\n'
                '<invoke name="clock"></invoke></function_calls>'),
     ("pythonic", "<|python_start|>[weather(town='Bako'), clock()]<|python_end|>")],
)
def test_forms_that_no_template_here_writes(dialect: str, text: str) -> None:
    found = parse_calls(text)
    assert (found.dialect, found.problem, found.rest) == (dialect, "", "")
    assert found.calls == (Call("weather", {"town": "Bako"}), Call("clock", {}))


def test_to_answer_directly_is_no_call() -> None:
    answer = 'Action: ```json\n[\n    {"tool_name": "directly_answer", "parameters": {}}\n]```'
    assert score_no_call({}, answer).value == 1.0
    assert score_no_call({}, answer.replace("directly_answer", "clock")).value == 0.0


@pytest.mark.parametrize(
    "text",
    ["", "It is raining.", "{}", "[]", '{"name": "Ann", "age": 3}', '["get_weather"]', "3.5", "null", "print('hi')",
     "get_weather", "get_weather('Oslo')", "f(*a)", "f(**a)", "f(a=g(1))", "f(a=b)", "f(a=1, a=2)", "f(a=1).g",
     "x = f(a=1)",
     "import os", "Call get_weather(city='Oslo').", "[1, 2]", "[1] (2)", "[f](x)", "f(a={1: {2}})", "f(a=1e999)",
     "__import__('os').system('ls')",
     "(lambda: 0)()", "f(a=1j)", "f(a=b'x')", "Sure: {\"name\": \"f\", \"arguments\": {}}"],
)
def test_other_text_is_no_call(text: str) -> None:
    found = parse_calls(text)
    assert (found.calls, found.problem, found.rest) == ((), "", text)


@pytest.mark.parametrize(
    "text",
    ["<tool_call>", '<tool_call>{"name": "f", "arguments": {}}', "<tool_call>{'name': 'f'}</tool_call>",
     '<tool_call>{"name": "f"}</tool_call>', '<tool_call>{"arguments": {}}</tool_call>',
     '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', '<tool_call>{"name": "f", "arguments": "1"}</tool_call>',
     '<tool_call>{"name": "f", "arguments": {"a": 1, "a": 2}}</tool_call>',
     "<function=f><parameter=a>1</function>", "<function=f>a=1</function>", "<function=f>",
     "<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>",
     "[TOOL_CALLS]", '[TOOL_CALLS]{"name": "f"}', '[TOOL_CALLS][{"name": "f", "arguments": {}}',
     "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{a}<｜tool▁call▁end｜>",
     "to=functions.f", "to=functions.f<|message|>{<|call|>", "<|python_tag|>{", "<|python_tag|>1 + 1",
     "[f(1)]", "[f(a=b)]", "[f.g(a=1), f(**x)]",
     "```tool_code\nf(1)\n```", "```tool_code\nf(a=1)", "<|tool_call|>", "<|tool_call|>[1]<|/tool_call|>",
     'functools[{"name": "f"}]', "<start_function_call>call:f{a:1}", "<start_function_call>f{}<end_function_call>",
     "<start_function_call>call:f{a:<escape>x}<end_function_call>",
     "<start_function_call>call:f{a:1,a:2}<end_function_call>", "<|tool_call>call:f{a:1}",
     "<tool_calls>[f(1)]</tool_calls>", "<TOOLCALL>[",
     '<TOOLCALL>[{"name": "f"}]</TOOLCALL>', "<|tools_prefix|>1<|tools_suffix|>",
     '<|tools_prefix|>[{"f": 1}]<|tools_suffix|>', '<|tools_prefix|>[{"f": {}, "g": {}}]<|tools_suffix|>',
     '<invoke name="f"><parameter name="a">1</invoke>', '<invoke name="f">', "<tool_call>f\n```json\n{```</tool_call>",
     '<invoke name="f"><parameter name="a">1</parameter><parameter name="a">2</parameter></invoke>',
     '<invoke name="f"><parameter name="a" string="false">x</parameter></invoke>', "Action: ```json\n[{}]```",
     "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{<|tool_call_end|>"],
)
def test_malformed_calls_are_a_problem_and_not_text(text: str) -> None:
    found = parse_calls(text)
    assert found.problem
    assert found.calls == ()


def test_functools_opens_calls_only_at_the_start() -> None:
    calls = '[{"name": "f", "arguments": {"a": 1}}]'
    assert parse_calls(f"functools{calls}").calls == (Call("f", {"a": 1}),)
    assert parse_calls(f"Look at functools{calls}").calls == ()


def test_the_good_ones_among_malformed_calls_are_kept() -> None:
    found = parse_calls('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><tool_call>{"name": </tool_call>')
    assert found.calls == (Call("f", {"a": 1}),)
    assert found.problem


def test_values_without_types_are_read_as_the_schema_says() -> None:
    assert typed_value("5", "string") == "5"
    assert [typed_value(t, "integer") for t in ("5", "five", "True")] == [5, "five", True]
    assert typed_value('["a", 1]', "array") == ["a", 1]


PIECES = ["<|tools_prefix|>", "<|tools_suffix|>", "<tool_calls>", "</tool_calls>", '<x:invoke name="f">', "</x:invoke>",
          '<x:parameter name="a">', "</x:parameter>", "<|tool_call>call:f", "<tool_call|>", "<|tool_call_begin|>f",
          "<|tool_call_argument_begin|>", "<|tool_call_end|>", "Action: ```json", "<|python_start|>", "<|python_end|>",
          "f\n", "1", "<tool_call>", "</tool_call>",
          "<function=f>", "</function>", "<parameter=a>", "</parameter>", "[ARGS]",
          "[TOOL_CALLS]", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "to=functions.f",
          "<|tool_call|>", "<|/tool_call|>", "functools[", "<start_function_call>call:f", "<end_function_call>",
          "<escape>", "<|message|>", "<|call|>", "<|python_tag|>", "```tool_code\n", "```", "<arg_key>", "</arg_key>",
          "<arg_value>",
          "</arg_value>", '{"name": ',
          '"f"', ', "arguments": ', "{}", "{", "}", "[", "]", "(", ")", "f(a=", "1e999", "9" * 5000, "NaN", "\\ud800",
          "\x00", "<think>", "</think>", "\n", ".a" * 300, "-" * 300, "[" * 300, '"']


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_no_text_breaks_the_parser(text: str) -> None:
    found = parse_calls(text)
    assert all(isinstance(call.name, str) and isinstance(call.arguments, dict) for call in found.calls)
    assert found.calls == () or found.dialect != ""


@pytest.mark.parametrize("text", ["[" * 100_000, "f(a=" + "[" * 5_000, "a" + ".b" * 9_000 + "(c=1)", "-" * 19_000,
                                  "f(a=" + "-" * 15_000 + "1)", "{" * 50_000,
                                  '<tool_call>{"a":' * 2_000, '<tool_call>{"a":' * 20_000])
def test_deep_nesting_is_no_call(text: str) -> None:
    assert parse_calls(text).calls == ()
