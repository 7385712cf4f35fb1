"""What a template is given and what it is spared: variables, the date, a stop, thoughts, arguments one by one."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sft_core.config.data import TemplateSection
from sft_core.conversation import Rejected, ToolCall, Turn, Why
from sft_core.errors import TemplateError
from sft_core.templates.choose import choose
from sft_core.templates.render import IGNORE, Renderer

Make = Callable[..., list[tuple[str, str]] | Rejected]
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
PLAIN = f"{{% for m in messages %}}{TURN}{{% endfor %}}"
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
EMPTY = "<think>\n\n</think>\n\n"
BY_KEYWORD = (PLAIN + "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not "
              "enable_thinking %}" + EMPTY + "{% endif %}{% endif %}")
ASKED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def trained_as(byte_tokenizer: Any, chat: Any) -> Make:
    """(prompt and context before the first trained token, trained text) of each example of a conversation."""

    def make(jinja: str, lines: Sequence[str | Turn], more: Sequence[str] = (), **section: Any
             ) -> list[tuple[str, str]] | Rejected:
        asked = TemplateSection.model_validate(section)
        tokenizer = byte_tokenizer("<think>", "</think>", *more, chat_template=jinja)
        found = Renderer(choose(asked, tokenizer), tokenizer, asked).render(
            chat()._replace(turns=tuple(one if isinstance(one, Turn) else chat(one).turns[0] for one in lines)))
        if isinstance(found, Rejected):
            return found
        told = []
        for example in found.examples:
            first = next(at for at, target in enumerate(example.targets) if target != IGNORE)
            told.append((tokenizer.decode(example.input_ids[: first + 1]),
                         tokenizer.decode([target for target in example.targets if target != IGNORE])))
        return told

    return make


def closed(written: str) -> str:
    """A template whose prompt ends in an empty thought, and what it writes of an answer."""
    return ("{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}<|im_start|>{% else %}{{ "
            + written + " + '<|im_end|>' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<think></think>{% endif %}")


def test_behind_a_closed_thought_the_answer_alone_is_trained(trained_as: Make) -> None:
    for written in ("'</think>' + m.content", "'<think></think>' + m.content.split('</think>')[-1]", "m.content"):
        assert trained_as(closed(written), ["u: Hi", "a: Hello"]) == [
            ("<|im_start|>Hi<|im_start|><think></think>", "Hello<|im_end|>")]


def test_white_space_behind_a_closed_thought_is_the_prompts(trained_as: Make) -> None:
    jinja = PLAIN.replace("{{ m.content }}", "{{ ('\\n</think>\\n\\n' if m.role == 'assistant' else '') + m.content }}")
    jinja += OPENING.replace("assistant\n", "assistant\n" + EMPTY)
    assert trained_as(jinja, ["u: Hi", "a: Hello"]) == [(ASKED + EMPTY, "Hello<|im_end|>")]


@pytest.mark.parametrize("written", ["'</think>' + m.content", "'<think></think>' + m.content.split('</think>')[-1]",
                                     "'<think></think>' + m.content"])
def test_a_thought_behind_a_closed_one_is_refused_or_dropped(written: str, trained_as: Make) -> None:
    thinking = ["u: Hi", "a: <think>Hm</think>Hello"]
    refused = trained_as(closed(written), thinking)
    assert isinstance(refused, Rejected)
    assert refused.why is Why.TEMPLATE_REFUSED
    assert "template.thinking: drop" in refused.detail
    assert trained_as(closed(written), thinking, thinking="drop") == [
        ("<|im_start|>Hi<|im_start|><think></think>", "Hello<|im_end|>")]


def test_thoughts_by_policy(trained_as: Make) -> None:
    thinking = ["u: Hi", "a: <think>Hm</think>Hello"]
    jinja = PLAIN + OPENING
    assert trained_as(jinja, thinking) == [(ASKED, "<think>Hm</think>Hello<|im_end|>")]
    assert trained_as(jinja, thinking, thinking="drop") == [(ASKED, "Hello<|im_end|>")]
    refused = trained_as(jinja, thinking, thinking="error")
    assert isinstance(refused, Rejected)
    assert (refused.why, refused.detail) == (Why.THOUGHT, "turn 2 (assistant) has a thought and template.thinking is "
                                             "error")
    assert trained_as(jinja, ["u: I <think> so</think>", "a: Hello"], thinking="error", control_text="escape")


def test_an_empty_thought_is_the_templates_to_write(trained_as: Make) -> None:
    empty = ["u: Hi", f"a: {EMPTY}Hello"]
    assert trained_as(BY_KEYWORD, empty, kwargs={"enable_thinking": False}) == [(ASKED + EMPTY, "Hello<|im_end|>")]
    assert trained_as(BY_KEYWORD, empty) == [(ASKED, "Hello<|im_end|>")]
    assert trained_as(PLAIN + OPENING, empty) == [(ASKED, EMPTY + "Hello<|im_end|>")], "the text of a template without"


def test_variables_reach_the_prompt_and_the_saved_template(trained_as: Make, byte_tokenizer: Any, chat: Any) -> None:
    said = trained_as(BY_KEYWORD, ["u: Hi", "a: Hello"], kwargs={"enable_thinking": False})
    assert said == [(ASKED + EMPTY, "Hello<|im_end|>")]
    tokenizer = byte_tokenizer("<think>", "</think>", chat_template=BY_KEYWORD)
    template = choose(TemplateSection(kwargs={"enable_thinking": False}), tokenizer)
    asked = [{"role": "user", "content": "Hi"}]
    how = {"chat_template": template.jinja, "tokenize": False, "add_generation_prompt": True}
    assert tokenizer.apply_chat_template(asked, **how) == ASKED + EMPTY, "a server reads the default"
    assert tokenizer.apply_chat_template(asked, **how, enable_thinking=True) == ASKED, "and may be told otherwise"


def test_values_of_every_kind_and_a_line_break_in_front(byte_tokenizer: Any, chat: Any) -> None:
    values = {"a": None, "b": [1, "x\n\"'"], "c": {"k": True}, "d": 1.5, "e": "é{{ }}"}
    jinja = "\n{{ [a, b, c, d, e] | tojson(ensure_ascii=False) }}" + PLAIN + OPENING
    template = choose(TemplateSection(kwargs=values), byte_tokenizer(chat_template=jinja))
    assert template.prompt(chat("u: Hi").turns).startswith(
        '\n[null, [1, "x\\n\\"\'"], {"k": true}, 1.5, "é{{ }}"]<|im_start|>user')


def test_variables_of_single_rows(byte_tokenizer: Any, chat: Any) -> None:
    """As Qwen3 was trained: rows with thoughts behind the open prompt, rows without behind the closed one."""
    tokenizer = byte_tokenizer("<think>", "</think>", chat_template=BY_KEYWORD)
    asked = TemplateSection(kwargs={"enable_thinking": True})
    renderer = Renderer(choose(asked, tokenizer), tokenizer, asked)
    thinking, answering = chat("u: Hi", "a: <think>Hm</think>Hello"), chat("u: Hi", "a: Hello")
    rows = [thinking, answering._replace(variables='{"enable_thinking": false}'), answering]
    found = [one for one in renderer.render_many(rows) if not isinstance(one, Rejected)]
    told = [tokenizer.decode(one.examples[0].input_ids) for one in found]
    said = [tokenizer.decode([t for t in one.examples[0].targets if t != IGNORE]) for one in found]
    assert said == ["<think>Hm</think>Hello<|im_end|>", "Hello<|im_end|>", "Hello<|im_end|>"]
    assert [text.startswith(ASKED + EMPTY) for text in told] == [False, True, False]
    refused = renderer.render(answering._replace(variables='{"thinking": false}'))
    assert isinstance(refused, Rejected)
    assert refused.detail == ("chat_template_kwargs of the row: the chat template reads no thinking; it reads "
                              "enable_thinking; correct the row, or set ignore_columns: [chat_template_kwargs]")
    closed = renderer.render(thinking._replace(variables='{"enable_thinking": false}'))
    assert isinstance(closed, Rejected)
    assert "a column chat_template_kwargs with {\"enable_thinking\": true}" in closed.detail


def test_an_answer_that_is_context_stays_so_where_text_is_escaped(byte_tokenizer: Any, chat: Any) -> None:
    tokenizer = byte_tokenizer(chat_template=PLAIN + OPENING)
    asked = TemplateSection(control_text="escape")
    turns = chat("u: Say <|im_end|>", "a: No", "u: Hi", "a: Hello").turns
    masked = chat()._replace(turns=(turns[0], turns[1]._replace(masked=True), *turns[2:]))
    found = Renderer(choose(asked, tokenizer), tokenizer, asked).render(masked)
    assert not isinstance(found, Rejected)
    assert tokenizer.decode([t for t in found.examples[0].targets if t != IGNORE]) == "Hello<|im_end|>"


@pytest.mark.parametrize("control_text", ["reject", "escape"])
def test_tools_and_words_in_variables_of_a_row(control_text: str, byte_tokenizer: Any, chat: Any) -> None:
    """SmolLM 3 takes tools under a name of its own; what a row says there makes no control token either."""
    jinja = "{% for t in xml_tools or [] %}{{ t | tojson }}\n{% endfor %}" + PLAIN + OPENING
    tokenizer = byte_tokenizer(chat_template=jinja)
    asked = TemplateSection.model_validate({"control_text": control_text})
    renderer = Renderer(choose(asked, tokenizer), tokenizer, asked)
    tools, forged = '{"xml_tools": [{"name": "f"}]}', '{"xml_tools": [{"name": "<|im_end|>"}]}'
    sound, spelled = (renderer.render(chat("u: Hi", "a: Hello")._replace(variables=one)) for one in (tools, forged))
    assert not isinstance(sound, Rejected)
    assert tokenizer.decode(sound.examples[0].input_ids).startswith('{"name": "f"}\n' + ASKED + "Hello<|im_end|>")
    if isinstance(spelled, Rejected):
        assert (control_text, spelled.why) == ("reject", Why.CONTROL_TOKEN)
    else:
        stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert [one.examples[0].input_ids.count(stop) for one in (sound, spelled)] == [2, 2]


def test_a_variable_that_nobody_reads(byte_tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match=r"kwargs: the chat template reads no thinking; it reads enable_thinking"):
        choose(TemplateSection(kwargs={"thinking": True}), byte_tokenizer("<think>", chat_template=BY_KEYWORD))
    with pytest.raises(TemplateError, match="it reads no variable"):
        choose(TemplateSection(kwargs={"bos": 1}), byte_tokenizer(chat_template=PLAIN + OPENING))


DATED = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y, %A %-d%%') }}.<|im_end|>\n"


def test_the_date_is_the_configurations(trained_as: Make) -> None:
    lines = ["u: Hi", "a: Hello"]
    for section, day in (({}, "26 Jul 2024, Friday 26%"), ({"date": "2026-03-05"}, "05 Mar 2026, Thursday 5%")):
        assert trained_as(DATED + PLAIN + OPENING, lines, **section) == [
            (f"<|im_start|>system\nToday is {day}.<|im_end|>\n{ASKED}", "Hello<|im_end|>")]
    kept = ("{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = "
            "strftime_now('%d %b %Y') %}{% else %}{% set date_string = 'never' %}{% endif %}{% endif %}"
            "{{ date_string }}")
    assert trained_as(kept + PLAIN + OPENING, lines, date="2026-03-05") == [
        ("05 Mar 2026" + ASKED, "Hello<|im_end|>")]
    assert trained_as(kept + PLAIN + OPENING, lines, kwargs={"date_string": "1 May"}) == [
        ("1 May" + ASKED, "Hello<|im_end|>")]
    assert TemplateSection().date == datetime.date(2024, 7, 26)


BARE = ("<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}")
ROLES = ("<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")


def test_a_stop_that_the_template_does_not_write(trained_as: Make, byte_tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match=r"template\.stop to what ends one here \(<\|user\|> or <\|endoftext\|>; "
                       r"where tools are called \[<\|user\|>, <\|tool\|>\]\)"):
        trained_as(BARE, ["u: Hi", "a: Hello"], ROLES)
    two = ["u: Hi", "a: Hello", "u: And?", "a: Yes"]
    prompt = "<sop><|user|>\nHi<|assistant|>\n"
    assert trained_as(BARE, two, ROLES, stop="<|user|>") == [(prompt, "Hello<|user|>Yes<|user|>")]
    assert trained_as(BARE, two, ROLES, stop="<|endoftext|>") == [
        (prompt, "Hello<|endoftext|>"), (prompt + "Hello<|user|>\nAnd?<|assistant|>\n", "Yes<|endoftext|>")]


def test_a_call_may_have_a_stop_of_its_own(trained_as: Make) -> None:
    lines = ["u: Hi", 'c: weather {"town": "Bako"}', "t: grey", "a: It is grey"]
    assert trained_as(BARE, lines, ROLES, stop=["<|user|>", "<|tool|>"]) == [
        ("<sop><|user|>\nHi<|assistant|>\n", 'weather{"town": "Bako"}<|tool|>It is grey<|user|>')]


def test_a_stop_that_contradicts_the_template(trained_as: Make) -> None:
    with pytest.raises(TemplateError, match=r"ends an answer with <\|im_end\|> itself, not with <\|endoftext\|>"):
        trained_as(PLAIN + OPENING, ["u: Hi", "a: Hello"], stop="<|endoftext|>")
    with pytest.raises(ValidationError, match="at most 2"):
        TemplateSection.model_validate({"stop": ["a", "b", "c"]})


ONE_BY_ONE = ("{% for m in messages %}<|im_start|>{{ m.role }} {% for c in m.tool_calls or [] %}<|call|>"
              "{{ c.function.name }}{% for k, v in c.function.arguments.items() %}<|key|>{{ k }}<|value|>"
              "{% if v is string %}<|text|>{{ v }}<|text|>{% else %}{{ v }}{% endif %}{% endfor %}<|call|>{% endfor %}"
              "{{ m.content or '' }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant "
              "{% endif %}")
CALLS = ("<|call|>", "<|key|>", "<|value|>", "<|text|>")


def test_control_tokens_around_every_argument(trained_as: Make) -> None:
    lines = ["u: Hi", 'c: weather {"town": "Bako", "days": 3, "at": null, "near": []}', "t: grey", "a: Grey"]
    assert trained_as(ONE_BY_ONE, lines, CALLS) == [(
        "<|im_start|>user Hi<|im_end|><|im_start|>assistant ",
        "<|call|>weather<|key|>town<|value|><|text|>Bako<|text|><|key|>days<|value|>3<|key|>at<|value|>None<|key|>near"
        "<|value|>[]<|call|><|im_end|>Grey<|im_end|>")]


def test_a_control_token_within_an_argument_is_caught(trained_as: Make) -> None:
    lines = ["u: Hi", 'c: weather {"town": "Ba<|key|>ko"}', "t: grey", "a: Grey"]
    rejected = trained_as(ONE_BY_ONE, lines, CALLS)
    assert isinstance(rejected, Rejected)
    assert rejected.why is Why.CONTROL_TOKEN


def test_a_system_text_in_front_of_the_last_question(trained_as: Make) -> None:
    jinja = ("{% set ns = namespace(system='', last=-1) %}{% for m in messages %}{% if m.role == 'system' %}"
             "{% set ns.system = m.content %}{% elif m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
             "{% endfor %}{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{% if loop.index0 == ns.last and "
             "ns.system %}{{ ns.system }}; {% endif %}{{ m.content }}<|im_start|>{% elif m.role == 'assistant' %}"
             "{{ m.content }}<|im_end|>{% endif %}{% endfor %}")
    lines = ["s: Be brief", "u: Hi", "a: Hello", "u: And?", "a: Yes"]
    assert trained_as(jinja, lines) == [
        ("<|im_start|>Be brief; Hi<|im_start|>", "Hello<|im_end|>"),
        ("<|im_start|>Hi<|im_start|>Hello<|im_end|><|im_start|>Be brief; And?<|im_start|>", "Yes<|im_end|>")]


def test_a_template_from_a_file(tmp_path: Path, byte_tokenizer: Any, chat: Any) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(PLAIN + OPENING)
    template = choose(TemplateSection(path=str(file)), byte_tokenizer())
    assert template.name == "file"
    assert template.prompt(chat("u: Hi").turns) == ASKED
    with pytest.raises(TemplateError, match=r"template\.path: .*nowhere\.jinja cannot be read"):
        choose(TemplateSection(path=str(tmp_path / "nowhere.jinja")), byte_tokenizer())
    file.write_text("{% for m in messages %}")
    with pytest.raises(TemplateError, match="the chat template is no Jinja"):
        choose(TemplateSection(path=str(file)), byte_tokenizer())
    with pytest.raises(ValidationError, match=r"template\.path names a template and template\.name: chatml another"):
        TemplateSection(path=str(file), name="chatml")


def test_a_thought_and_its_answer_opened_apart(trained_as: Make) -> None:
    """As GPT-OSS does; it no longer writes the thought of a call once the answer is there, which the prompt of the
    answer did."""
    jinja = ("{% for m in messages %}{% if m.role == 'assistant' %}"
             "{% if m.thinking and (loop.last or m.tool_calls and loop.index == loop.length - 1) %}"
             "<|im_start|>assistant<|thought|>{{ m.thinking }}<|end|>{% endif %}<|im_start|>assistant"
             "{% for c in m.tool_calls or [] %} to={{ c.function.name }}{{ c.function.arguments | tojson }}<|call|>"
             "{% endfor %}{% if not m.tool_calls %}<|final|>{{ m.content }}"
             "{{ '<|im_end|>' if loop.last else '<|end|>' }}{% endif %}{% else %}"
             "<|im_start|>{{ m.role }}<|final|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
             "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}")
    turns = (Turn("user", "Hi"), Turn("assistant", "<think>look</think>", (ToolCall("weather", "{}"),)),
             Turn("tool", "grey"), Turn("assistant", "<think>so grey</think>It is grey"))
    more = ("<|thought|>", "<|final|>", "<|end|>", "<|call|>")
    assert trained_as(jinja, turns, more) == [(
        "<|im_start|>user<|final|>Hi<|end|><|im_start|>assistant",
        "<|thought|>look<|end|><|im_start|>assistant to=weather{}<|call|>"
        "<|thought|>so grey<|end|><|im_start|>assistant<|final|>It is grey<|im_end|>")]


QWEN = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% set said = m.content %}"
        "{% if m.reasoning_content is defined %}{% set thought = m.reasoning_content %}"
        "{% elif '</think>' in m.content %}{% set thought = m.content.split('</think>')[0].split('<think>')[-1] %}"
        "{% set said = m.content.split('</think>')[-1].lstrip('\n') %}{% else %}{% set thought = '' %}{% endif %}"
        "<think>\n{{ thought.strip('\n') }}\n</think>\n\n{{ said }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
        "{% endfor %}" + OPENING)


@pytest.mark.parametrize("answer", [
    "Wrap it like <thinking>your steps</thinking> and then answer.", "Sure, let me look. <think>hm</think>It is four.",
    "To switch it off, write <think></think> before the answer.", "Use </think> to end it."])
def test_tags_that_an_answer_speaks_of_begin_no_thought(answer: str, trained_as: Make) -> None:
    lines = ["u: Hi", f"a: {answer}"]
    assert trained_as(PLAIN + OPENING, lines) == [(ASKED, f"{answer}<|im_end|>")]
    dropped = trained_as(PLAIN + OPENING, lines, thinking="drop")
    assert isinstance(dropped, Rejected)
    assert (dropped.why, "where no thought begins" in dropped.detail) == (Why.THOUGHT, True)
    thinking = trained_as(QWEN, lines)
    if "</think>" in answer:
        assert isinstance(thinking, Rejected), "the template itself takes what stands in front away"
        assert "drops or rewrites the text" in thinking.detail
    else:
        assert thinking == [(ASKED, f"<think>\n\n</think>\n\n{answer}<|im_end|>")]


def test_all_thoughts_are_dropped(trained_as: Make) -> None:
    two = ["u: Hi", "a: <think>a</think>\n<think>b</think>\n\nHello"]
    assert trained_as(PLAIN + OPENING, two, thinking="drop") == [(ASKED, "Hello<|im_end|>")]
    apart = trained_as(PLAIN + OPENING, ["u: Hi", "a: <think>a</think>First.<think>b</think>Second."], thinking="drop")
    assert isinstance(apart, Rejected)


HALF_CLOSED = ("{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% for m in messages %}"
               "{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% if loop.last and not add_generation_prompt %}"
               "{% endif %}<|im_start|>{% else %}</think>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}"
               "{% endfor %}{% if add_generation_prompt %}{{ '<think>' if thinking else '</think>' }}{% endif %}")


def test_a_prompt_that_ends_in_the_end_of_a_thought(trained_as: Make) -> None:
    """As DeepSeek V3.1's does, which writes the end alone and, thinking, the beginning alone."""
    asked, thinking = "<|im_start|>Hi<|im_start|>", ["u: Hi", "a: <think>hm</think>A"]
    assert trained_as(HALF_CLOSED, ["u: Hi", "a: A"]) == [(asked + "</think>", "A<|im_end|>")]
    refused = trained_as(HALF_CLOSED, thinking)
    assert isinstance(refused, Rejected)
    assert 'set template.kwargs: {"thinking": true}, which trains answers without one as well' in refused.detail
    on = {"kwargs": {"thinking": True}}
    assert trained_as(HALF_CLOSED, ["u: Hi", "a: A"], **on) == [(asked + "<think>", "</think>A<|im_end|>")]
    assert trained_as(HALF_CLOSED, thinking, **on) == [(asked + "<think>", "hm</think>A<|im_end|>")]
    assert trained_as(HALF_CLOSED, ["u: Hi", "a: hm</think>A"], **on) == [(asked + "<think>", "hm</think>A<|im_end|>")]


def test_a_thought_ends_as_the_template_ends_one(trained_as: Make) -> None:
    """Gemma 4 writes no blank line behind a thought; the prompt opens one and the answer has none."""
    jinja = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<|channel>thought\n"
             "{{ m.reasoning_content }}\n<channel|>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
             + OPENING.replace("assistant\n", "assistant\n<|channel>thought\n"))
    more, asked = ("<|channel>", "<channel|>"), ASKED + "<|channel>thought\n"
    assert trained_as(jinja, ["u: Hi", "a: Hello"], more) == [(asked, "\n<channel|>Hello<|im_end|>")]
    assert trained_as(jinja, ["u: Hi", "a: <think>hm</think>Hello"], more) == [(asked, "hm\n<channel|>Hello<|im_end|>")]


def test_what_stands_in_front_changes_nothing_else(byte_tokenizer: Any, chat: Any) -> None:
    """Leading space and line breaks of a Jinja, and every directive of strftime."""
    for front in ("  {% if true %}{% endif %}", "\n\n  ", "\n{% if true %}\n{% endif %}\n"):
        jinja = front + PLAIN.replace("{{ m.role }}", "{{ m.role if strftime_now is defined }}") + OPENING
        tokenizer = byte_tokenizer(chat_template=jinja)
        served = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False,
                                               add_generation_prompt=True)
        assert choose(TemplateSection(), tokenizer).prompt(chat("u: Hi").turns) == served
    told = "{{ strftime_now('%F %e %D %h %T %V %u %P %j|%-e') }}"
    made = choose(TemplateSection(), byte_tokenizer(chat_template=told + PLAIN + OPENING)).prompt(chat("u: Hi").turns)
    assert made.startswith("2024-07-26 26 07/26/24 Jul 00:00:00 30 5 am 208|26<|im_start|>")
