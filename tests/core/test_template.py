"""Templates: exact texts of the built-in ones; a model's own Jinja is cut rightly or refused; tokens are added."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sft_core.config.data import TemplateSection
from sft_core.conversation import Conversation, Origin, ToolCall, Turn
from sft_core.errors import TemplateError
from sft_core.templates.choose import NEEDS, add_tokens, choose, control_tokens
from sft_core.templates.messages import TemplateRefused
from sft_core.templates.template import Span, Template, trained_turns

WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "Weather in a “town”",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
}}
TWO = ("u: hi", "a: hello", "u: and?", "a: more")
TOOLS = ("u: in Bako?", 'c: weather {"town": "Bakö", "n": 1.0}', 't: {"sky": "grey"}', "a: grey")
# A plain ChatML Jinja with room for marks: {0} and {1} stand around what is marked.
MARKED = (
    "{{% for m in messages %}}{{{{ '<|im_start|>' + m.role + '\\n' }}}}"
    "{{% if m.role == 'assistant' %}}{0}{{{{ m.content + '<|im_end|>' }}}}{1}{{{{ '\\n' }}}}"
    "{{% else %}}{{{{ m.content + '<|im_end|>\\n' }}}}{{% endif %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' }}}}{{% endif %}}"
)
PLAIN = MARKED.format("", "")
ANSWER = "{{ m.content + '<|im_end|>' }}"
OPENING = "'<|im_start|>assistant\\n'"


def built_in(tokenizer: Any, name: str) -> Template:
    return choose(TemplateSection.model_validate({"name": name}), tokenizer)


def own(byte_tokenizer: Any, jinja: str, *more: str, **names: Any) -> Template:
    return choose(TemplateSection(name="model"), byte_tokenizer(*more, chat_template=jinja, **names))


def texts(template: Template, conversation: Conversation, train_on: Any = "all_assistant") -> list[list[Span]]:
    return template.texts(conversation, trained_turns(conversation.turns, train_on))


def text_of(template: Template, conversation: Conversation) -> str:
    (spans,) = texts(template, conversation)
    return "".join(span.text for span in spans)


def said(template: Template, conversation: Conversation, train_on: Any = "all_assistant") -> list[list[str]]:
    """What is trained, by text."""
    return [[span.text for span in spans if span.supervised] for spans in texts(template, conversation, train_on)]


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


class TestBuiltIn:
    @pytest.mark.parametrize(("name", "text", "trained"), [
        ("chatml", "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
                   "hello<|im_end|>\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\nmore<|im_end|>\n",
         ["hello<|im_end|>", "more<|im_end|>"]),
        ("alpaca", "be kind\n\n### Instruction:\nhi\n\n### Response:\nhello<|endoftext|>"
                   "\n\n### Instruction:\nand?\n\n### Response:\nmore<|endoftext|>",
         ["hello<|endoftext|>", "more<|endoftext|>"]),
        ("llama3", "<|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>"
                   "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\nhello<|eot_id|>"
                   "<|start_header_id|>user<|end_header_id|>\n\nand?<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\nmore<|eot_id|>",
         ["hello<|eot_id|>", "more<|eot_id|>"]),
        ("zephyr", "<|system|>\nbe kind<|endoftext|>\n<|user|>\nhi<|endoftext|>\n<|assistant|>\nhello<|endoftext|>\n"
                   "<|user|>\nand?<|endoftext|>\n<|assistant|>\nmore<|endoftext|>\n",
         ["hello<|endoftext|>", "more<|endoftext|>"]),
        ("gemma", "<start_of_turn>user\nbe kind\n\nhi<end_of_turn>\n<start_of_turn>model\nhello<end_of_turn>\n"
                  "<start_of_turn>user\nand?<end_of_turn>\n<start_of_turn>model\nmore<end_of_turn>\n",
         ["hello<end_of_turn>", "more<end_of_turn>"]),
        ("mistral", "[INST] be kind\n\nhi [/INST]hello<|endoftext|>[INST] and? [/INST]more<|endoftext|>",
         ["hello<|endoftext|>", "more<|endoftext|>"]),
    ])
    def test_turns(self, byte_tokenizer, chat, name, text, trained):
        template, conversation = built_in(byte_tokenizer(), name), chat("s: be kind", *TWO)
        assert text_of(template, conversation) == text
        assert said(template, conversation) == [trained]
        assert said(template, conversation, "last_assistant") == [trained[1:]]

    def test_alpaca_has_a_preamble(self, byte_tokenizer, chat):
        assert text_of(built_in(byte_tokenizer(), "alpaca"), chat("u: hi", "a: yo")).startswith(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nhi")

    @pytest.mark.parametrize(("name", "start", "end", "arguments"), [
        ("chatml", "<tool_call>\n", "\n</tool_call>", "arguments"), ("llama3", "", "", "parameters")])
    def test_tools_and_calls(self, byte_tokenizer, name, start, end, arguments):
        template = built_in(byte_tokenizer(), name)
        calls = (ToolCall("a", '{"x":"ö"}'), ToolCall("b", "{}"))
        turns = (Turn("system", "be kind"), Turn("user", "go"), Turn("assistant", "I look.", calls), Turn("tool", "3"),
                 Turn("tool", "4"), Turn("assistant", "7"))
        conversation = Conversation(turns, Origin("s", "f", 1), '[{"name": "a"}, {"name": "b"}]')
        assert said(template, conversation) == [[
            f'I look.\n{start}{{"name": "a", "{arguments}": {{"x": "ö"}}}}{end}\n'
            f'{start}{{"name": "b", "{arguments}": {{}}}}{end}{template.stop}', f"7{template.stop}"]]
        assert 'Tools: [{"name": "a"}, {"name": "b"}]\nbe kind' + template.stop in text_of(template, conversation)

    @pytest.mark.parametrize("name", ["alpaca", "zephyr", "gemma", "mistral"])
    def test_no_place_for_tools(self, byte_tokenizer, chat, name):
        template = built_in(byte_tokenizer(), name)
        for conversation in (chat(*TOOLS), chat("u: hi", "a: yo", tools=[WEATHER])):
            with pytest.raises(TemplateRefused, match="no place for tools"):
                texts(template, conversation)

    @pytest.mark.parametrize("name", sorted(NEEDS))
    def test_opens_with_bos_where_the_tokenizer_does(self, byte_tokenizer, chat, name):
        from tokenizers.processors import TemplateProcessing

        tokenizer = byte_tokenizer("<s>", bos_token="<s>")
        assert not text_of(built_in(tokenizer, name), chat("u: hi", "a: yo")).startswith("<s>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
        template = built_in(tokenizer, name)
        assert text_of(template, chat("u: hi", "a: yo")).count("<s>") == 1
        assert text_of(template, chat("u: hi", "a: yo")).startswith("<s>")
        assert template.prompt([Turn("user", "hi")]).startswith("<s>")

    @pytest.mark.parametrize("name", ["chatml", "llama3"])
    @given(said=st.lists(st.tuples(st.text(), st.text(min_size=1).filter(str.strip)), min_size=1, max_size=3),
           system=st.text())
    def test_any_text_is_what_a_server_renders(self, byte_tokenizer, name, said, system):
        tokenizer = byte_tokenizer()
        turns = [Turn("system", system)] if system.strip() else []
        for question, answer in said:
            turns += [Turn("user", question), Turn("assistant", answer)]
        conversation = Conversation(tuple(turns), Origin("s", "f", 1), json.dumps([{"name": system}]))
        template = built_in(tokenizer, name)
        rendered = tokenizer.apply_chat_template(messages(conversation), chat_template=template.jinja, tokenize=False,
                                                 tools=[{"name": system}])
        assert rendered == text_of(template, conversation)

    @pytest.mark.parametrize("name", ["chatml", "llama3"])
    def test_arguments_as_json_text(self, byte_tokenizer, chat, name):
        """Servers hand the arguments over as text, as the OpenAI interface has them."""
        tokenizer = byte_tokenizer()
        template, conversation = built_in(tokenizer, name), chat("u: go", 'c: f {"a": 1}')
        sent = messages(conversation)
        sent[1]["tool_calls"][0]["function"]["arguments"] = '{"a": 1}'
        assert tokenizer.apply_chat_template(sent, chat_template=template.jinja, tokenize=False) == text_of(
            template, conversation)


class TestOwn:
    def test_every_answer_with_its_stop(self, byte_tokenizer, chat):
        template = own(byte_tokenizer, PLAIN)
        assert template.stops == ("<|im_end|>",)
        assert said(template, chat("s: be kind", *TWO)) == [["hello<|im_end|>", "more<|im_end|>"]]

    @pytest.mark.parametrize("lines", [TWO, ("s: be kind", "u: hi", "a: hello"), ("u: hi", "a: more\n\nlines ")])
    @pytest.mark.parametrize("jinja", [
        MARKED.format("{% generation %}", "{% endgeneration %}"),
        MARKED.format("{% generation %}", "{% endgeneration %}").replace(
            "m.content + '<|im_end|>' }}{% endg",
            "m.content }}{% endgeneration %}{% generation %}{{ '<|im_end|>' }}{% endg"),
        # The newline behind the stop, and the heading, are no words of the model; marks may have them.
        MARKED.format("{% generation %}", "").replace("{{ '\\n' }}{% else", "{{ '\\n' }}{% endgeneration %}{% else"),
        PLAIN.replace("{{ '<|im_start|>' + m.role + '\\n' }}", "").replace(
            ANSWER, "{% generation %}{{ '<|im_start|>assistant\\n' + m.content + '<|im_end|>' }}{% endgeneration %}"
        ).replace("{{ m.content + '<|im_end|>\\n' }}", "{{ '<|im_start|>' + m.role + '\\n' + m.content + "
                                                      "'<|im_end|>\\n' }}"),
        # An end of text behind the last turn, as in Phi-3.
        MARKED.format("{% generation %}", "{% endgeneration %}")
        + "{% if not add_generation_prompt %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}",
    ], ids=["as ours", "in two parts", "with the newline", "with the heading", "with the end of the text"])
    def test_marks_that_agree(self, byte_tokenizer, chat, jinja, lines):
        marked, plain = own(byte_tokenizer, jinja), own(byte_tokenizer, PLAIN)
        assert marked.marked
        for train_on in ("all_assistant", "last_assistant"):
            assert said(marked, chat(*lines), train_on) == said(plain, chat(*lines), train_on)

    @pytest.mark.parametrize("jinja", [
        "{{ '<|im_start|>assistant\\n' }}{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>\\n' }}",
        "{{ '<|im_start|>assistant\\n' + m.content + '<|im_end|>\\n' }}{% generation %}{% endgeneration %}",
        "{{ '<|im_start|>assistant\\n' }}{{ m.content[:2] }}{% generation %}{{ m.content[2:] + '<|im_end|>' }}"
        "{% endgeneration %}{{ '\\n' }}",
        "{{ '<|im_start|>assistant\\n' + m.content + '<|im_end|>\\n' }}",
    ], ids=["without the stop", "empty", "without the beginning", "on the user only"])
    def test_marks_that_disagree(self, byte_tokenizer, chat, jinja):
        user = "{% generation %}{{ '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}{% endgeneration %}"
        if "generation" in jinja:
            user = user.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        whole = ("{% for m in messages %}{% if m.role == 'assistant' %}" + jinja + "{% else %}" + user
                 + "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
        with pytest.raises(TemplateError, match="disagree"):
            own(byte_tokenizer, whole)

    def test_marks_on_the_user_too(self, byte_tokenizer):
        jinja = "{% generation %}" + PLAIN + "{% endgeneration %}"
        with pytest.raises(TemplateError, match="enclose the user's turn"):
            own(byte_tokenizer, jinja)

    def test_a_mark_that_is_wrong_in_one_row_only(self, byte_tokenizer, chat):
        jinja = MARKED.format("{% if m.content != 'hello' %}{% generation %}",
                              "{% endgeneration %}{% else %}" + ANSWER + "{% endif %}")
        with pytest.raises(TemplateError, match="disagree at f.jsonl:1"):
            texts(own(byte_tokenizer, jinja), chat(*TWO))

    def test_turns_that_are_rewritten_are_trained_apart(self, byte_tokenizer, chat):
        """As reasoning templates do: only the last answer carries its thinking."""
        template = own(byte_tokenizer, PLAIN.replace(
            ANSWER, "{{ ('<think></think>' if loop.last else '') + m.content + '<|im_end|>' }}"))
        conversation = chat(*TWO)
        assert said(template, conversation) == [["<think></think>hello<|im_end|>"], ["<think></think>more<|im_end|>"]]
        first, second = ("".join(span.text for span in spans) for spans in texts(template, conversation))
        assert "more" not in first
        assert "assistant\nhello<|im_end|>" in second
        assert said(template, conversation, "last_assistant") == [["<think></think>more<|im_end|>"]]

    THOUGHT = ("u: hi", "a: <think>\nhm\n</think>\n\nhello", "u: and?", "a: more")
    STRIPPING = PLAIN.replace(ANSWER, "{{ m.content.split('</think>')[-1].lstrip() + '<|im_end|>' }}")

    @pytest.mark.parametrize(("opening", "jinja", "expected"), [
        ("<think>\\n", PLAIN, [["hm\n</think>\n\nhello<|im_end|>", "\n</think>\n\nmore<|im_end|>"]]),
        ("<think>", STRIPPING, [["\nhm\n</think>\n\nhello<|im_end|>"], ["\n</think>\n\nmore<|im_end|>"]]),
        ("", STRIPPING, [["<think>\nhm\n</think>\n\nhello<|im_end|>"], ["more<|im_end|>"]]),
    ], ids=["opened", "opened and dropped", "dropped"])
    def test_thoughts(self, byte_tokenizer, chat, opening, jinja, expected):
        """A thought that the prompt opens is gone on with, or ended at once where the answer has none."""
        template = own(byte_tokenizer, jinja.replace(OPENING, OPENING[:-1] + opening + "'"))
        assert said(template, chat(*self.THOUGHT)) == expected

    def test_a_thought_goes_into_the_empty_one_that_the_template_writes(self, byte_tokenizer, chat):
        template = own(byte_tokenizer, PLAIN.replace(ANSWER, "{{ '<think></think>' + m.content + '<|im_end|>' }}"))
        assert said(template, chat(*TWO))[0][0] == "<think></think>hello<|im_end|>"
        assert said(template, chat(*self.THOUGHT)) == [["<think>hm</think>hello<|im_end|>"],
                                                       ["<think></think>more<|im_end|>"]]

    def test_a_prompt_that_closes_the_thought(self, byte_tokenizer, chat):
        template = own(byte_tokenizer, PLAIN.replace(OPENING, OPENING[:-1] + "<think>\\n\\n</think>\\n\\n'"))
        assert said(template, chat(*TWO)) == [["hello<|im_end|>"], ["more<|im_end|>"]]
        with pytest.raises(TemplateRefused, match="prompt of turn 2 has closed its thought"):
            texts(template, chat(*self.THOUGHT))

    def test_thoughts_handed_over_apart(self, byte_tokenizer, chat):
        template = own(byte_tokenizer, PLAIN.replace(
            ANSWER, "{{ ('[[' + m.reasoning_content + ']]' if m.reasoning_content else '') + m.content"
                    " + '<|im_end|>' }}"))
        assert said(template, chat(*self.THOUGHT)) == [["[[hm]]hello<|im_end|>", "more<|im_end|>"]]

    def test_a_question_that_is_asked_otherwise_than_it_is_remembered(self, byte_tokenizer, chat):
        template = own(byte_tokenizer, PLAIN.replace("m.content + '<|im_end|>\\n'",
                                                     "m.content + (' /short' if loop.last else '') + '<|im_end|>\\n'"))
        conversation = chat(*TWO)
        assert said(template, conversation) == [["hello<|im_end|>"], ["more<|im_end|>"]]
        for at, spans in zip((1, 3), texts(template, conversation), strict=True):
            assert spans[0].text == template.prompt(conversation.turns[:at])
        assert "and? /short<|im_end|>" in spans[0].text
        assert "hi<|im_end|>" in spans[0].text

    def test_an_opening_that_training_never_sees(self, byte_tokenizer, chat):
        with pytest.raises(TemplateError, match="opens an answer otherwise than it writes one"):
            own(byte_tokenizer, PLAIN.replace(OPENING, OPENING[:-1] + "Idea: '"))
        later = PLAIN.replace(OPENING, OPENING + " + ('Idea: ' if messages | length > 1 else '')")
        with pytest.raises(TemplateRefused, match=r"opens an answer otherwise than it writes one \(turn 4"):
            texts(own(byte_tokenizer, later), chat(*TWO))

    def test_a_turn_without_a_stop(self, byte_tokenizer, chat):
        jinja = PLAIN.replace(ANSWER, "{{ m.content + ('<|im_end|>' if m.content != 'hello' else '') }}")
        with pytest.raises(TemplateRefused, match=r"ends turn 2 without its stop"):
            texts(own(byte_tokenizer, jinja), chat(*TWO))

    def test_calls_that_end_otherwise(self, byte_tokenizer, chat):
        jinja = PLAIN.replace(ANSWER, "{{ m.content + (m.tool_calls[0].function | tojson + '<|call|>' "
                                      "if m.tool_calls else '<|im_end|>') }}")
        template = own(byte_tokenizer, jinja, "<|call|>")
        assert template.stops == ("<|im_end|>", "<|call|>")
        (call, answer), = said(template, chat(*TOOLS))
        assert call == '{"name": "weather", "arguments": {"town": "Bakö", "n": 1.0}}<|call|>'
        assert answer == "grey<|im_end|>"

    def test_calls_in_the_form_that_the_template_takes(self, byte_tokenizer, chat):
        """Some join the arguments to text, some look whether there is no content at all."""
        jinja = PLAIN.replace(ANSWER, "{{ (m.content if m.content is not none else m.tool_calls[0].function.name + ' ' "
                                      "+ m.tool_calls[0].function.arguments) + '<|im_end|>' }}")
        template = own(byte_tokenizer, jinja)
        assert said(template, chat(*TOOLS))[0][0] == 'weather {"town": "Bakö", "n": 1.0}<|im_end|>'

    def test_tools_with_and_without_their_wrapping(self, byte_tokenizer, chat):
        jinja = "{% for t in tools or [] %}{{ t.function.name + t.function.description }}{% endfor %}" + PLAIN
        template = own(byte_tokenizer, jinja)
        texts = {text_of(template, chat("u: hi", "a: yo", tools=[tool])) for tool in (WEATHER, WEATHER["function"])}
        assert len(texts) == 1
        assert texts.pop().startswith("weatherWeather in a “town”<|im_start|>")

    def test_results_know_their_call(self, byte_tokenizer):
        jinja = PLAIN.replace("m.content + '<|im_end|>\\n'",
                              "(m.name + m.tool_call_id + ' ' if m.role == 'tool' else '') + m.content "
                              "+ '<|im_end|>\\n'").replace(
            ANSWER, "{% for c in m.tool_calls or [] %}{{ c.id + c.function.name }}{% endfor %}" + ANSWER)
        turns = (Turn("user", "go"), Turn("assistant", "", (ToolCall("f", "{}"), ToolCall("g", "{}"))),
                 Turn("tool", "3"), Turn("tool", "4"), Turn("assistant", "7"), Turn("user", "go"),
                 Turn("assistant", "", (ToolCall("h", "{}"),)), Turn("tool", "5"), Turn("assistant", "8"))
        text = text_of(own(byte_tokenizer, jinja), Conversation(turns, Origin("s", "f", 1)))
        assert "assistant\ncall00000fcall00001g" in text
        assert "fcall00000 3" in text
        assert "gcall00001 4" in text
        assert "hcall00002 5" in text

    def test_dropped_parts_are_refused(self, byte_tokenizer, chat):
        template = own(byte_tokenizer, PLAIN.replace("m.content + '<|im_end|>\\n'",
                                                     "(m.content if m.role != 'system' else '') + '<|im_end|>\\n'"))
        with pytest.raises(TemplateRefused, match=r"turn 1 \(system\)"):
            texts(template, chat("s: be kind", "u: hi", "a: hello"))
        with pytest.raises(TemplateRefused, match="the call of weather of turn 2"):
            texts(template, chat(*TOOLS))
        with pytest.raises(TemplateRefused, match="the tool weather"):
            texts(template, chat("u: hi", "a: hello", tools=[WEATHER]))

    def test_dropped_parts_of_turns_that_are_trained_apart(self, byte_tokenizer, chat):
        rewriting = PLAIN.replace(ANSWER, "{{ ('!' if loop.last else '') + m.content + '<|im_end|>' }}")
        template = own(byte_tokenizer, rewriting.replace(
            "m.content + '<|im_end|>\\n'", "(m.content if m.role != 'system' else '') + '<|im_end|>\\n'"))
        assert len(texts(template, chat(*TWO))) == 2
        with pytest.raises(TemplateRefused, match=r"turn 1 \(system\)"):
            texts(template, chat("s: be kind", *TWO))

    def test_a_jinja_that_raises(self, byte_tokenizer, chat):
        jinja = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + PLAIN
        with pytest.raises(TemplateRefused, match="no system here"):
            texts(own(byte_tokenizer, jinja), chat("s: be kind", "u: hi", "a: hello"))
        with pytest.raises(TemplateError, match="never .*tried with one question"):
            own(byte_tokenizer, "{{ raise_exception('never') }}")
        with pytest.raises(TemplateError, match="is no Jinja"):
            own(byte_tokenizer, "{% for m in %}")

    @pytest.mark.parametrize("breaks", ["1 // (m.content | length - 2)", "m.content[9]['x']", "none + 1",
                                        "range(9 ** 9) | list", "raise_exception('no hello')"])
    def test_whatever_a_jinja_raises_on_one_row(self, breaks, byte_tokenizer, chat):
        jinja = "{% for m in messages %}{% if m.content == 'hi' %}{% set x = " + breaks + " %}{% endif %}{% endfor %}"
        template = own(byte_tokenizer, jinja + PLAIN)
        assert said(template, chat("u: so", "a: hello")) == [["hello<|im_end|>"]]
        with pytest.raises(TemplateRefused, match="refuses these turns"):
            texts(template, chat("u: hi", "a: hello"))

    @pytest.mark.parametrize(("answer", "eos", "stop", "trained"), [
        ("'<think>' + m.content + '<|im_end|>'", "<|endoftext|>", "<|im_end|>", "<think>hello<|im_end|>"),
        ("m.content + '<|pad|><|im_end|>'", "<|im_end|>", "<|im_end|>", "hello<|pad|><|im_end|>"),
        ("m.content + '<|pad|><|im_end|>'", "<|endoftext|>", "<|pad|>", "hello<|pad|>"),
        ("m.content + '<|im_end|>' + (eos_token if loop.last else '')", "<|endoftext|>", "<|im_end|>",
         "hello<|im_end|>"),
        ("m.content + '<|endoftext|>'", "<|endoftext|>", "<|endoftext|>", "hello<|endoftext|>"),
    ], ids=["a token in front", "EOS behind every answer", "EOS nowhere", "EOS at the end only", "EOS spelled out"])
    def test_the_stop(self, byte_tokenizer, chat, answer, eos, stop, trained):
        template = own(byte_tokenizer, PLAIN.replace(ANSWER, "{{ " + answer + " }}"), "<think>", eos_token=eos,
                       pad_token=eos)
        assert template.stop == stop
        assert said(template, chat(*TWO))[0][0] == trained

    def test_no_stop(self, byte_tokenizer):
        jinja = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        with pytest.raises(TemplateError, match="no stop token"):
            own(byte_tokenizer, jinja + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")


class TestChoose:
    def test_auto(self, byte_tokenizer):
        assert choose(TemplateSection(), byte_tokenizer()).name == "chatml"
        assert choose(TemplateSection(), byte_tokenizer(chat_template=PLAIN)).name == "model"
        assert choose(TemplateSection(name="alpaca"), byte_tokenizer(chat_template=PLAIN)).name == "alpaca"

    def test_model_without_a_template(self, byte_tokenizer):
        with pytest.raises(TemplateError, match="no chat template"):
            choose(TemplateSection(name="model"), byte_tokenizer())
        with pytest.raises(TemplateError, match="several chat templates"):
            choose(TemplateSection(name="model"), byte_tokenizer(chat_template={"rag": PLAIN, "tool_use": PLAIN}))

    @pytest.mark.parametrize("name", ["alpaca", "zephyr", "mistral"])
    def test_no_eos(self, byte_tokenizer, name):
        tokenizer = byte_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(TemplateError, match="this tokenizer has none"):
            built_in(tokenizer, name)


class TestNewTokens:
    @pytest.mark.parametrize("name", sorted(NEEDS))
    def test_a_fresh_tokenizer_gets_the_same_ids(self, byte_tokenizer, name, tmp_path):
        section = TemplateSection.model_validate({"name": name, "new_tokens": ["<a>", "<|im_end|>", "<b>", "<a>"]})
        first, second = byte_tokenizer(), byte_tokenizer()
        template = choose(section, first)
        needed = () if name == "chatml" else NEEDS[name]  # the fake has those of chatml
        assert template.added == (*needed, "<a>", "<b>")
        assert add_tokens(second, template.added) == template.added
        assert second.get_vocab() == first.get_vocab()
        assert [first.convert_tokens_to_ids(token) for token in template.added] == list(
            range(260, 260 + len(template.added)))
        assert choose(section, second).added == ()
        first.save_pretrained(tmp_path)
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        assert loaded.encode("x<a>y") == [ord("x"), first.convert_tokens_to_ids("<a>"), ord("y")]
        assert "<a>" in control_tokens(loaded, "")

    def test_nothing_of_white_space(self, byte_tokenizer):
        with pytest.raises(TemplateError, match="white space alone"):
            choose(TemplateSection(new_tokens=("<a>", " ")), byte_tokenizer())


def test_trained_turns(chat):
    turns = chat("s: x", "u: a", "a: b", "u: c", "c: f {}", "t: 3", "a: d", "u: e", "c: g {}").turns
    assert trained_turns(turns, "all_assistant") == {2, 4, 6, 8}
    assert trained_turns(turns, "last_assistant") == {8}
    assert trained_turns(turns, "all_assistant", train_tool_calls=False) == {2, 6}
    assert trained_turns(turns, "last_assistant", train_tool_calls=False) == {6}


def test_control_tokens_are_special_ones_and_those_that_the_template_writes(byte_tokenizer):
    tokenizer = byte_tokenizer(plain=("<tool_call>", "  "))
    assert "<tool_call>" in control_tokens(tokenizer, "… <tool_call> …")
    assert "<tool_call>" not in control_tokens(tokenizer, "…")
    assert "<|im_end|>" in control_tokens(tokenizer, "…")
