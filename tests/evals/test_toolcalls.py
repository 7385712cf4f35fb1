"""Tool calls are read from every dialect, and what is no call is not taken for one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_suites.scorers.toolcalls import Call, parse_calls, typed_value

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
     "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{a}<｜tool▁call▁end｜>",
     "to=functions.f", "to=functions.f<|message|>{<|call|>", "<|python_tag|>{", "<|python_tag|>1 + 1",
     "[f(1)]", "[f(a=b)]", "[f.g(a=1), f(**x)]",
     "```tool_code\nf(1)\n```", "```tool_code\nf(a=1)", "<|tool_call|>", "<|tool_call|>[1]<|/tool_call|>",
     'functools[{"name": "f"}]', "<start_function_call>call:f{a:1}", "<start_function_call>f{}<end_function_call>",
     "<start_function_call>call:f{a:<escape>x}<end_function_call>",
     "<start_function_call>call:f{a:1,a:2}<end_function_call>"],
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


PIECES = ["<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>", "</parameter>", "[ARGS]",
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
