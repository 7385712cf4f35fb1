"""Templates: exact texts; the Jinja that is shipped says the same; a model's own Jinja is cut rightly or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_core.config.data import TemplateSection
from sft_core.conversation import Conversation, Origin, ToolCall, Turn
from sft_core.errors import TemplateError
from sft_core.template import (
    Alpaca,
    ChatML,
    ModelTemplate,
    Span,
    Template,
    TemplateRefused,
    choose,
    control_tokens,
    trained_turns,
)

WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "Weather in a “town”",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
}}
CHATS = [
    ("u: hi", "a: hello"),
    ("s: be kind", "u: hi", "a: hello"),
    ("u: hi", "a: hello", "u: and?", "a: more\n\nlines "),
    ("u: in Bako?", 'c: weather {"town": "Bakö", "n": 1.0}', 't: {"sky": "grey"}', "a: grey"),
]
# A plain ChatML Jinja with room for marks: {0} and {1} stand around what is marked.
MARKED = (
    "{{% for m in messages %}}{{{{ '<|im_start|>' + m.role + '\\n' }}}}"
    "{{% if m.role == 'assistant' %}}{0}{{{{ m.content + '<|im_end|>' }}}}{1}{{{{ '\\n' }}}}"
    "{{% else %}}{{{{ m.content + '<|im_end|>\\n' }}}}{{% endif %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' }}}}{{% endif %}}"
)
PLAIN = MARKED.format("", "")


def text_of(spans: list[Span]) -> str:
    return "".join(span.text for span in spans)


def mask_of(spans: list[Span]) -> list[bool]:
    """Whether each character is trained."""
    return [span.supervised for span in spans for _ in span.text]


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    """What a server is sent."""
    found: list[dict[str, Any]] = []
    for turn in conversation.turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.tool_calls:
            message["content"] = turn.content or None
            message["tool_calls"] = [{"type": "function", "function": {
                "name": call.name, "arguments": json.loads(call.arguments)}} for call in turn.tool_calls]
        found.append(message)
    return found


def built_in(tokenizer: Any, name: str) -> Template:
    return choose(TemplateSection.model_validate({"name": name}), tokenizer)


def own(byte_tokenizer: Any, jinja: str, **names: Any) -> Template:
    return choose(TemplateSection(name="model"), byte_tokenizer(chat_template=jinja, **names))


class TestChatML:
    def test_turns(self, tokenizer, chat):
        spans = built_in(tokenizer, "chatml").spans(chat("s: be kind", "u: hi", "a: hello"))
        assert text_of(spans) == ("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
                                  "<|im_start|>assistant\nhello<|im_end|>\n")
        assert [span.text for span in spans if span.supervised] == ["hello<|im_end|>"]

    def test_tools_and_calls(self, tokenizer, chat):
        conversation = chat("s: be kind", "u: in Bako?", 'c: weather {"town":"Bako"}', "t: grey", "a: It is grey.",
                            tools=[{"name": "weather"}])
        spans = built_in(tokenizer, "chatml").spans(conversation)
        assert text_of(spans) == (
            '<|im_start|>system\nTools: [{"name": "weather"}]\nbe kind<|im_end|>\n'
            "<|im_start|>user\nin Bako?<|im_end|>\n"
            '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": {"town": "Bako"}}\n</tool_call>'
            "<|im_end|>\n"
            "<|im_start|>tool\ngrey<|im_end|>\n<|im_start|>assistant\nIt is grey.<|im_end|>\n"
        )
        assert [span.text for span in spans if span.supervised] == [
            '<tool_call>\n{"name": "weather", "arguments": {"town": "Bako"}}\n</tool_call><|im_end|>',
            "It is grey.<|im_end|>",
        ]

    def test_content_and_two_calls(self, tokenizer):
        calls = (ToolCall("a", "{}"), ToolCall("b", "{}"))
        turns = (Turn("user", "go"), Turn("assistant", "I look.", calls))
        spans = built_in(tokenizer, "chatml").spans(Conversation(turns, Origin("s", "f", 1)))
        assert ('assistant\nI look.\n<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>\n'
                '<tool_call>\n{"name": "b", "arguments": {}}\n</tool_call><|im_end|>') in text_of(spans)

    def test_opens_with_bos_where_the_tokenizer_does(self, byte_tokenizer, chat):
        from tokenizers.processors import TemplateProcessing

        tokenizer = byte_tokenizer("<s>", bos_token="<s>")
        assert not text_of(built_in(tokenizer, "chatml").spans(chat("u: hi", "a: yo"))).startswith("<s>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
        template = built_in(tokenizer, "chatml")
        assert text_of(template.spans(chat("u: hi", "a: yo"))).startswith("<s><|im_start|>user")
        assert template.prompt([Turn("user", "hi")]).startswith("<s><|im_start|>user")
        assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], chat_template=template.jinja,
                                             tokenize=False).startswith("<s><|im_start|>user")


class TestAlpaca:
    def test_turns(self, tokenizer, chat):
        spans = built_in(tokenizer, "alpaca").spans(chat("u: hi", "a: hello", "u: and?", "a: more"))
        assert text_of(spans) == (
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nhi\n\n### Response:\nhello<|endoftext|>"
            "\n\n### Instruction:\nand?\n\n### Response:\nmore<|endoftext|>"
        )
        assert [span.text for span in spans if span.supervised] == ["hello<|endoftext|>", "more<|endoftext|>"]

    def test_a_system_turn_replaces_the_preamble(self, tokenizer, chat):
        spans = built_in(tokenizer, "alpaca").spans(chat("s: be kind", "u: hi", "a: hello"))
        assert text_of(spans).startswith("be kind\n\n### Instruction:\nhi")

    def test_refuses_tools(self, tokenizer, chat):
        template = built_in(tokenizer, "alpaca")
        for conversation in (chat(*CHATS[3]), chat("u: hi", "a: yo", tools=[WEATHER])):
            with pytest.raises(TemplateRefused, match="no place for tools"):
                template.spans(conversation)
            with pytest.raises(Exception, match="no place for tools"):
                tokenizer.apply_chat_template(messages(conversation), chat_template=template.jinja, tokenize=False,
                                              tools=json.loads(conversation.tools or "null"))


class TestTheShippedJinjaSaysTheSame:
    @pytest.mark.parametrize(("name", "lines", "tools"), [
        *(("chatml", lines, tools) for lines in CHATS for tools in (None, [WEATHER])),
        *(("alpaca", lines, None) for lines in CHATS[:3]),
    ])
    def test_text_and_mask(self, byte_tokenizer, chat, name, lines, tools):
        tokenizer = byte_tokenizer()
        template, conversation = built_in(tokenizer, name), chat(*lines, tools=tools)
        spans = template.spans(conversation)
        render = {"chat_template": template.jinja, "tools": tools, "tokenize": False}
        assert tokenizer.apply_chat_template(messages(conversation), **render) == text_of(spans)
        prompt = tokenizer.apply_chat_template(messages(conversation)[:-1], add_generation_prompt=True, **render)
        assert prompt == template.prompt(conversation.turns[:-1], conversation.tools)
        cut = own(byte_tokenizer, template.jinja).spans(conversation)
        assert text_of(cut) == text_of(spans)
        assert mask_of(cut) == mask_of(spans)

    @given(st.lists(st.tuples(st.text(), st.text(min_size=1).filter(str.strip)), min_size=1, max_size=3), st.text())
    def test_any_text(self, tokenizer, said, system):
        turns = [Turn("system", system)] if system.strip() else []
        for question, answer in said:
            turns += [Turn("user", question), Turn("assistant", answer)]
        conversation = Conversation(tuple(turns), Origin("s", "f", 1), json.dumps([{"name": system}]))
        template = built_in(tokenizer, "chatml")
        rendered = tokenizer.apply_chat_template(messages(conversation), chat_template=template.jinja, tokenize=False,
                                                 tools=[{"name": system}])
        assert rendered == text_of(template.spans(conversation))

    def test_arguments_as_json_text(self, tokenizer, chat):
        """Servers hand the arguments over as text, as the OpenAI interface has them."""
        template = built_in(tokenizer, "chatml")
        conversation = chat("u: go", 'c: f {"a": 1}')
        sent = messages(conversation)
        sent[1]["tool_calls"][0]["function"]["arguments"] = '{"a": 1}'
        assert tokenizer.apply_chat_template(sent, chat_template=template.jinja, tokenize=False) == text_of(
            template.spans(conversation))


class TestModelTemplate:
    def test_every_answer_with_its_stop(self, byte_tokenizer, chat):
        template = own(byte_tokenizer, PLAIN)
        assert template.stop == "<|im_end|>"
        spans = template.spans(chat("s: be kind", "u: hi", "a: hello", "u: and?", "a: more"))
        assert [span.text for span in spans if span.supervised] == ["hello<|im_end|>", "more<|im_end|>"]

    def test_last_assistant_only(self, byte_tokenizer, chat):
        spans = own(byte_tokenizer, PLAIN).spans(chat(*CHATS[2]), "last_assistant")
        assert [span.text for span in spans if span.supervised] == ["more\n\nlines <|im_end|>"]

    @pytest.mark.parametrize("lines", CHATS[:3])
    def test_marks_that_agree(self, byte_tokenizer, chat, lines):
        marked = own(byte_tokenizer, MARKED.format("{% generation %}", "{% endgeneration %}"))
        assert isinstance(marked, ModelTemplate)
        assert marked.marked
        assert marked.spans(chat(*lines)) == own(byte_tokenizer, PLAIN).spans(chat(*lines))
        assert marked.spans(chat(*lines), "last_assistant") == own(byte_tokenizer, PLAIN).spans(
            chat(*lines), "last_assistant")

    @pytest.mark.parametrize("jinja", [
        "{% generation %}{{ '<|im_start|>assistant\\n' + m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}",
        "{{ '<|im_start|>assistant\\n' }}{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>\\n' }}",
        "{{ '<|im_start|>assistant\\n' + m.content + '<|im_end|>\\n' }}{% generation %}{% endgeneration %}",
        "{{ '<|im_start|>assistant\\n' + m.content + '<|im_end|>\\n' }}",
    ], ids=["with the heading", "without the stop", "empty", "on the user only"])
    def test_marks_that_disagree(self, byte_tokenizer, chat, jinja):
        user = "{% generation %}{{ '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}{% endgeneration %}"
        if "generation" in jinja:
            user = user.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        whole = ("{% for m in messages %}{% if m.role == 'assistant' %}" + jinja + "{% else %}" + user
                 + "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
        with pytest.raises(TemplateError, match="disagree"):
            own(byte_tokenizer, whole).spans(chat("u: hi", "a: hello"))

    def test_a_mark_may_run_on_behind_the_stop(self, byte_tokenizer, chat):
        jinja = MARKED.format("{% generation %}", "").replace("{{ '\\n' }}{% else",
                                                              "{{ '\\n' }}{% endgeneration %}{% else")
        assert own(byte_tokenizer, jinja).spans(chat(*CHATS[0])) == own(byte_tokenizer, PLAIN).spans(chat(*CHATS[0]))

    def test_rewriting_earlier_turns(self, byte_tokenizer, chat):
        """As reasoning templates do: only the last answer carries its thinking."""
        jinja = PLAIN.replace("{{ m.content + '<|im_end|>' }}",
                              "{{ ('<think></think>' if loop.last else '') + m.content + '<|im_end|>' }}")
        template = own(byte_tokenizer, jinja)
        with pytest.raises(TemplateError, match=r"rewrites turn 2 .*last_assistant"):
            template.spans(chat("u: hi", "a: hello", "u: and?", "a: more"))
        spans = template.spans(chat("u: hi", "a: hello", "u: and?", "a: more"), "last_assistant")
        assert [span.text for span in spans if span.supervised] == ["<think></think>more<|im_end|>"]

    def test_opening_that_training_never_sees(self, byte_tokenizer, chat):
        always = PLAIN.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\nThink: '")
        with pytest.raises(TemplateError, match="opens an answer with"):
            own(byte_tokenizer, always)
        later = PLAIN.replace("'<|im_start|>assistant\\n'",
                              "'<|im_start|>assistant\\n' + ('Think: ' if messages | length > 1 else '')")
        with pytest.raises(TemplateError, match=r"opens an answer otherwise than it writes one \(turn 4"):
            own(byte_tokenizer, later).spans(chat("u: hi", "a: hello", "u: and?", "a: more"))

    def test_a_turn_without_a_stop(self, byte_tokenizer, chat):
        jinja = PLAIN.replace("{{ m.content + '<|im_end|>' }}",
                              "{{ m.content + ('<|im_end|>' if m.content != 'hello' else '') }}")
        with pytest.raises(TemplateError, match="ends turn 2 of f.jsonl:1 without its stop"):
            own(byte_tokenizer, jinja).spans(chat("u: hi", "a: hello", "u: and?", "a: more"))

    def test_dropped_parts_are_refused(self, byte_tokenizer, chat):
        template = own(byte_tokenizer, PLAIN.replace("m.content + '<|im_end|>\\n'",
                                                     "(m.content if m.role != 'system' else '') + '<|im_end|>\\n'"))
        with pytest.raises(TemplateRefused, match=r"turn 1 \(system\)"):
            template.spans(chat("s: be kind", "u: hi", "a: hello"))
        with pytest.raises(TemplateRefused, match="the call of weather in turn 2"):
            template.spans(chat(*CHATS[3]))
        with pytest.raises(TemplateRefused, match="the tool weather"):
            template.spans(chat("u: hi", "a: hello", tools=[WEATHER]))

    def test_a_jinja_that_raises(self, byte_tokenizer, chat):
        jinja = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + PLAIN
        with pytest.raises(TemplateRefused, match="no system here"):
            own(byte_tokenizer, jinja).spans(chat("s: be kind", "u: hi", "a: hello"))

    def test_the_stop_is_found_behind_the_answer(self, byte_tokenizer):
        jinja = PLAIN.replace("{{ m.content + '<|im_end|>' }}", "{{ '<think>' + m.content + '<|im_end|>' }}")
        assert choose(TemplateSection(), byte_tokenizer("<think>", chat_template=jinja)).stop == "<|im_end|>"


class TestChoose:
    def test_auto(self, byte_tokenizer):
        assert isinstance(choose(TemplateSection(), byte_tokenizer()), ChatML)
        assert isinstance(choose(TemplateSection(), byte_tokenizer(chat_template=PLAIN)), ModelTemplate)
        assert isinstance(choose(TemplateSection(name="alpaca"), byte_tokenizer(chat_template=PLAIN)), Alpaca)

    def test_model_without_a_template(self, tokenizer):
        with pytest.raises(TemplateError, match="no chat template"):
            choose(TemplateSection(name="model"), tokenizer)

    def test_the_stop_must_be_one_token(self, byte_tokenizer):
        from transformers import PreTrainedTokenizerFast

        bare = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend_tokenizer.from_str(
            _without_added(byte_tokenizer().backend_tokenizer.to_str())))
        with pytest.raises(TemplateError, match="as one added token and this tokenizer makes 12"):
            choose(TemplateSection(name="chatml"), bare)
        with pytest.raises(TemplateError, match="this tokenizer has none"):
            choose(TemplateSection(name="alpaca"), bare)

    def test_a_model_template_without_a_stop(self, byte_tokenizer):
        jinja = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        with pytest.raises(TemplateError, match="no stop token"):
            own(byte_tokenizer, jinja + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")


def test_trained_turns(chat):
    turns = chat("s: x", "u: a", "a: b", "u: c", "a: d").turns
    assert trained_turns(turns, "all_assistant") == {2, 4}
    assert trained_turns(turns, "last_assistant") == {4}


def test_control_tokens_are_special_ones_and_those_that_the_template_writes(byte_tokenizer):
    tokenizer = byte_tokenizer(plain=("<tool_call>", "  "))
    assert "<tool_call>" in control_tokens(tokenizer, "… <tool_call> …")
    assert "<tool_call>" not in control_tokens(tokenizer, "…")
    assert "<|im_end|>" in control_tokens(tokenizer, "…")


def _without_added(text: str) -> str:
    state = json.loads(text)
    state["added_tokens"] = []
    return json.dumps(state)
