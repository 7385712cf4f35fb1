"""Masks token by token, the one shift, and text that can never become a control token."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from sft_core.config.data import SourceSection, TemplateSection
from sft_core.conversation import Conversation, Origin, Rejected, ToolCall, Turn, Why
from sft_core.data.formats import format_of, to_conversation
from sft_core.data.sources import read_rows
from sft_core.errors import TemplateError
from sft_core.templates.choose import choose
from sft_core.templates.render import IGNORE, Example, Rendered, Renderer, pieces, render_text
from sft_core.templates.template import Span, Template, trained_turns

STOP_ID = 259
HERE = Origin("s", "f.jsonl", 1)
TEXT = st.text(min_size=1).filter(lambda text: "<|" not in text)  # hypothesis tries constants that it finds in the code


def chatml(tokenizer: Any, **section: Any) -> Any:
    return choose(TemplateSection.model_validate({"name": "chatml", **section}), tokenizer)


def renderer(tokenizer: Any, template: Any = None, **section: Any) -> Renderer:
    chosen = TemplateSection.model_validate({"name": "chatml", **section})
    return Renderer(template or choose(chosen, tokenizer), tokenizer, chosen)


def example_of(conversation: Conversation, tokenizer: Any, **section: Any) -> Example:
    found = renderer(tokenizer, **section).render(conversation)
    assert isinstance(found, Rendered), found
    assert len(found.examples) == 1
    return found.examples[0]


def why(conversation: Conversation, tokenizer: Any, template: Any = None, **section: Any) -> Why:
    found = renderer(tokenizer, template, **section).render(conversation)
    assert isinstance(found, Rejected), "it should have been rejected"
    return found.why


def render_prompt(turns: Any, template: Any, tokenizer: Any) -> list[int]:
    return renderer(tokenizer, template).prompt(turns)


def spans_of(template: Any, conversation: Conversation, train_on: Any = "all_assistant") -> list[Any]:
    found = template.texts(conversation, trained_turns(conversation.turns, train_on))
    assert len(found) == 1
    return found[0]


def check_shift(example: Example) -> None:
    assert len(example.targets) == len(example.input_ids)
    assert example.targets[-1] == IGNORE
    for at, target in enumerate(example.targets[:-1]):
        assert target in (IGNORE, example.input_ids[at + 1])


class TestMasks:
    def test_every_token_of_one_answer(self, tokenizer, chat):
        example = example_of(chat("u: hi", "a: yo"), tokenizer)
        text = [258, *b"user\nhi", 259, *b"\n", 258, *b"assistant\n", *b"yo", 259, *b"\n"]
        assert example.input_ids == text
        # The newline in front of the answer predicts its first letter; the last letter predicts the stop.
        assert example.targets == [IGNORE] * 19 + [IGNORE, ord("y"), ord("o"), STOP_ID, IGNORE, IGNORE]

    @pytest.mark.parametrize(("lines", "answers"), [
        (("s: be kind", "u: hi", "a: hello"), ["hello"]),
        (("u: hi", "a: hello", "u: and?", "a: more"), ["hello", "more"]),
        (("u: go", 'c: f {"a": 1}', "t: 3", "a: three"),
         ['<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "three"]),
    ])
    def test_answers_and_their_stops(self, tokenizer, chat, trained, lines, answers):
        example = example_of(chat(*lines), tokenizer)
        check_shift(example)
        assert trained(example, tokenizer) == "".join(answer + "<|im_end|>" for answer in answers)
        assert example.targets.count(STOP_ID) == len(answers)

    def test_last_assistant(self, tokenizer, chat, trained):
        example = example_of(chat("u: hi", "a: hello", "u: and?", "a: more"), tokenizer, train_on="last_assistant")
        assert trained(example, tokenizer) == "more<|im_end|>"

    def test_calls_of_tools_can_be_context(self, tokenizer, chat, trained):
        conversation = chat("u: go", "c: f {}", "t: 3", "a: three")
        assert trained(example_of(conversation, tokenizer, train_tool_calls=False), tokenizer) == "three<|im_end|>"
        assert why(chat("u: go", "c: f {}"), tokenizer, train_tool_calls=False) is Why.NO_TRAINED_TOKEN

    def test_many_are_rendered_as_each_alone(self, tokenizer, chat):
        rows = [chat("u: hi", "a: hello", line=1), chat("u: <|im_end|>", "a: x", line=2),
                chat("s: x", "u: hi", "a: hello", "u: hi", "a: hello", line=3), chat("u: hi", "a: hello", line=4)]
        rendering = renderer(tokenizer)
        alone = [renderer(tokenizer).render(row) for row in rows]
        assert list(rendering.render_many(rows)) == alone
        assert list(rendering.render_many(rows * 600)) == alone * 600
        assert list(rendering.render_many([])) == []
        assert next(rendering.render_many(rows * 600)) == alone[0]  # the rest is not waited for
        assert gc.get_freeze_count() == 0

    def test_alpaca_stops_on_eos(self, tokenizer, chat, trained):
        example = example_of(chat("u: hi", "a: hello"), tokenizer, name="alpaca")
        assert trained(example, tokenizer) == "hello<|endoftext|>"
        assert example.targets[-2] == tokenizer.eos_token_id

    def test_a_stop_that_is_also_the_padding_is_trained(self, byte_tokenizer, chat, trained):
        tokenizer = byte_tokenizer(eos_token="<|im_end|>", pad_token="<|im_end|>")
        assert trained(example_of(chat("u: hi", "a: yo"), tokenizer), tokenizer) == "yo<|im_end|>"

    @given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), TEXT | st.just(""),
           st.sampled_from(["all_assistant", "last_assistant"]), st.sampled_from(["chatml", "alpaca"]))
    def test_any_conversation(self, tokenizer, trained, said, system, train_on, name):
        turns = [Turn("system", system)] if system else []
        for question, answer in said:
            turns += [Turn("user", question), Turn("assistant", answer)]
        template = chatml(tokenizer, name=name)
        conversation = Conversation(tuple(turns), HERE)
        example = example_of(conversation, tokenizer, train_on=train_on, name=name)
        check_shift(example)
        spans = spans_of(template, conversation, train_on)
        assert tokenizer.decode(example.input_ids) == "".join(span.text for span in spans)
        answers = [answer for _, answer in said][0 if train_on == "all_assistant" else -1:]
        assert trained(example, tokenizer) == "".join(answer + template.stop for answer in answers)
        # Token by token: the id at i + 1 is trained exactly where its byte lies in a supervised span.
        supervised = [span.supervised for span in spans for _ in tokenizer.encode(span.text)]
        assert [target != IGNORE for target in example.targets] == [*supervised[1:], False]


class TestControlTokens:
    @pytest.mark.parametrize("lines", [
        ("u: say <|im_end|>", "a: no"), ("u: hi", "a: <|im_start|>user"), ("s: <|endoftext|>", "u: hi", "a: yo"),
        ("u: go", 'c: f {"a": "<|im_end|>"}'), ("u: go", "c: <|im_end|> {}"),
        ("u: go", "c: f {}", "t: <|pad|>", "a: x"),
    ])
    def test_spelled_in_data(self, tokenizer, chat, lines):
        assert why(chat(*lines), tokenizer) is Why.CONTROL_TOKEN

    @pytest.mark.parametrize("lines", [
        ("u: say <|im_end|>", "a: no"), ("u: hi", "a: <|im_start|>user"), ("s: <|endoftext|>", "u: hi", "a: yo"),
        ("u: go", 'c: f {"a": "<|im_end|>"}'), ("u: go", "c: <|im_end|> {}"), ("u: <|pad|><|pad|>", "a: <|im_end|>"),
        ("u: go", "c: f {}", "t: <|pad|>", "a: x"),
    ])
    def test_escaped(self, tokenizer, chat, trained, lines):
        """The same bytes, and none of them a control token."""
        plain = [line.replace("|", "I") for line in lines]
        tools = [{"name": "<|pad|>"}]
        found = renderer(tokenizer, control_text="escape").render(chat(*lines, tools=tools))
        other = renderer(tokenizer, control_text="escape").render(chat(*plain, tools=[{"name": "<IpadI>"}]))
        assert isinstance(found, Rendered)
        assert isinstance(other, Rendered)
        assert found.escaped
        barred = [ord("|") if token == ord("I") else token for token in other.examples[0].input_ids]
        assert found.examples[0].input_ids == barred
        assert len(trained(found.examples[0], tokenizer)) == len(trained(other.examples[0], tokenizer))

    def test_a_mark_in_the_data_marks_nothing(self, tokenizer):
        text = "\ue0f0<|im_end|>\ue0f1 \ue0f0x\ue0f1"
        conversation = Conversation((Turn("user", text), Turn("assistant", text)), HERE)
        example = example_of(conversation, tokenizer, control_text="escape")
        assert [token for token in example.input_ids if token >= 256] == [258, 259, 258, 259]
        assert bytes(token for token in example.input_ids if token < 256).decode().count(text) == 2

    def test_thoughts_are_the_models_own_words(self, byte_tokenizer, chat, trained):
        tokenizer = byte_tokenizer(plain=("<think>", "</think>"))
        jinja = chatml(tokenizer).jinja + "{{- '' if messages else '<think></think>' }}"  # it writes them somewhere
        template = replace(chatml(tokenizer), jinja=jinja)
        lines = ("u: hi", "a: <think>hm</think>hello", "u: and?", "a: more")
        found = renderer(tokenizer, template).render(chat(*lines))
        assert isinstance(found, Rendered)
        assert not found.escaped
        start, end = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
        assert [t for t in found.examples[0].targets if t in (start, end)] == [start, end]
        assert why(chat("u: what is <think>?", "a: a tag"), tokenizer, template) is Why.CONTROL_TOKEN

    def test_spelled_in_tools(self, tokenizer, chat):
        assert why(chat("u: hi", "a: yo", tools=[{"name": "<|im_end|>"}]), tokenizer) is Why.CONTROL_TOKEN

    def test_escaped_in_json(self, tokenizer):
        call = ToolCall("f", r'{"a": "\u003c|im_end|\u003e"}')
        conversation = Conversation((Turn("user", "go"), Turn("assistant", "", (call,))), HERE)
        assert why(conversation, tokenizer) is Why.CONTROL_TOKEN

    def test_made_of_two_halves(self, byte_tokenizer, chat):
        """The template's text meets the data's and only together they are a token."""
        jinja = "{% for m in messages %}<|{{ m.content }}|>{{ '<|im_end|>' if m.role == 'assistant' }}{% endfor %}"
        tokenizer = byte_tokenizer(chat_template=jinja)
        template = choose(TemplateSection(), tokenizer)
        assert isinstance(renderer(tokenizer, template).render(chat("u: hi", "a: yo")), Rendered)
        assert why(chat("u: im_start", "a: yo"), tokenizer, template) is Why.CONTROL_TOKEN
        with pytest.raises(TemplateError, match="control token of its own"):
            render_prompt(chat("u: im_start", "a: yo").turns[:1], template, tokenizer)

    def test_made_by_a_normaliser(self, byte_tokenizer, chat):
        tokenizer = byte_tokenizer()
        tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
        tokenizer.add_tokens([AddedToken("<tool_call>", normalized=True)])
        fullwidth = "u: \uff1ctool_call\uff1e"
        template = chatml(tokenizer)
        assert tokenizer.convert_tokens_to_ids("<tool_call>") in tokenizer.encode(fullwidth)
        assert why(chat(fullwidth, "a: yo"), tokenizer, template) is Why.CONTROL_TOKEN

    def test_added_tokens_that_are_no_control_tokens_are_fine(self, byte_tokenizer, chat):
        tokenizer = byte_tokenizer(plain=("  ",))
        assert tokenizer.convert_tokens_to_ids("  ") in example_of(chat("u: a  b", "a: yo"), tokenizer).input_ids

    @given(st.lists(st.sampled_from(["<|", "im_end", "|>", "<|im_end|>", "<|im_start|>", " ", "x", "\ue0f0",
                                     "\ue0f1"]), min_size=1))
    def test_a_prompt_holds_only_the_templates_own(self, tokenizer, parts):
        text = "".join(parts)
        ids = render_prompt([Turn("user", text)], chatml(tokenizer), tokenizer)
        assert [token for token in ids if token >= 256] == [258, 259, 258]
        shown = bytes(token for token in ids if token < 256).decode()
        assert shown == f"user\n{text}\nassistant\n"

    def test_raw_text_spells_control_tokens_as_text(self, tokenizer):
        example = render_text("a <|im_end|> b", tokenizer, HERE)
        assert example.input_ids == [*b"a <|im_end|> b", 256]


class TestBorders:
    """Training must see the ids that inference sees: the prompt as one text, the answer from its border on."""

    @pytest.fixture(scope="class")
    def merging(self) -> PreTrainedTokenizerFast:
        """Byte-level BPE with many merges over white space, as real ones have."""
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        corpus = ["user\nassistant\n\n\n system \n hello hello there\n\n"] * 50
        inner.train_from_iterator(corpus, trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>",
                                       additional_special_tokens=["<|im_start|>", "<|im_end|>"])

    @pytest.mark.parametrize("answer", ["hello", "\n\nhello", " hello", "\n"])
    @pytest.mark.parametrize("question", ["hello there", "\n\n hello\n"])
    def test_an_example_begins_with_its_prompt(self, merging, trained, question, answer):
        conversation = Conversation((Turn("user", question), Turn("assistant", answer + "x")), HERE)
        for name in ("chatml", "alpaca"):
            example = example_of(conversation, merging, name=name)
            prompt = render_prompt(conversation.turns[:1], chatml(merging, name=name), merging)
            assert example.input_ids[: len(prompt)] == prompt
            assert [t for t in example.targets if t != IGNORE][: len(answer)]
            assert example.targets[len(prompt) - 1] == example.input_ids[len(prompt)]
            assert all(t == IGNORE for t in example.targets[: len(prompt) - 1])
            assert trained(example, merging).startswith(answer + "x")

    def test_a_prompt_is_what_a_server_makes_of_the_jinja(self, merging, chat):
        template = chatml(merging)
        served = merging.apply_chat_template([{"role": "user", "content": "\n hello\n"}], chat_template=template.jinja,
                                             add_generation_prompt=True, return_dict=False)
        assert render_prompt([Turn("user", "\n hello\n")], template, merging) == served

    def test_an_answer_gets_no_leading_space_from_the_tokenizer(self, chat):
        """SentencePiece-like tokenizers put ▁ before a text; an answer is the middle of one."""
        words = ["<unk>", "</s>", "<|im_start|>", "<|im_end|>", "▁", "\n", *"userassistanthiyo", "▁hi", "▁yo", "yo",
                 "hi"]
        vocabulary = {word: at for at, word in enumerate(dict.fromkeys(words))}
        inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "i"), ("y", "o"), ("▁", "hi"), ("▁", "yo")],
                                     unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        inner.decoder = decoders.Metaspace(prepend_scheme="always")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>",
                                            additional_special_tokens=["<|im_start|>", "<|im_end|>"])
        assert tokenizer.convert_ids_to_tokens(tokenizer.encode("yo")) == ["▁yo"]
        example = example_of(chat("u: hi", "a: yo"), tokenizer)
        tokens = tokenizer.convert_ids_to_tokens([t for t in example.targets if t != IGNORE])
        assert tokens == ["yo", "<|im_end|>"]
        # What follows a control token is as the tokenizer has it in the whole text.
        rendered = "".join(span.text for span in spans_of(chatml(tokenizer), chat("u: hi", "a: yo")))
        assert example.input_ids == tokenizer.encode(rendered, add_special_tokens=False)

    def test_tokens_that_swallow_white_space(self, byte_tokenizer, chat):
        """Phi-3's control tokens strip what follows; ids must be those of the whole text all the same."""
        tokenizer = byte_tokenizer()
        tokenizer.backend_tokenizer.add_special_tokens(
            [AddedToken("<|im_end|>", rstrip=True, normalized=False, special=True)])
        rendered = "".join(span.text for span in spans_of(chatml(tokenizer), chat("u: hi", "a: yo", "u: hi", "a: yo")))
        whole = tokenizer.encode(rendered, add_special_tokens=False)
        assert b"\n"[0] not in whole[-1:]
        assert example_of(chat("u: hi", "a: yo", "u: hi", "a: yo"), tokenizer).input_ids == whole

    def test_a_truncation_saved_in_the_tokenizer_cuts_nothing(self, tmp_path, byte_tokenizer, chat):
        tokenizer = byte_tokenizer()
        tokenizer.save_pretrained(tmp_path)
        state = json.loads((tmp_path / "tokenizer.json").read_text())
        state["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        (tmp_path / "tokenizer.json").write_text(json.dumps(state))
        cutting = AutoTokenizer.from_pretrained(tmp_path, model_max_length=8)
        conversation = chat("u: hi", "a: " + "long " * 20)
        assert example_of(conversation, cutting) == example_of(conversation, tokenizer)

    def test_what_other_calls_leave_in_the_tokenizer(self, byte_tokenizer, chat):
        tokenizer = byte_tokenizer()
        rendering, conversation = renderer(tokenizer), chat("u: hi" + " there" * 20, "a: " + "long " * 20)
        expected = rendering.render(conversation)
        tokenizer("x", truncation=True, max_length=4)
        assert rendering.render(conversation) == expected
        tokenizer("x", max_length=400, padding="max_length")
        assert rendering.render(conversation) == expected
        render_text("<|im_end|>", tokenizer, HERE)
        assert rendering.render(conversation) == expected

    def test_a_tokenizer_that_is_all_python(self, chat, trained):
        tokenizer = ByT5Tokenizer()
        assert not tokenizer.is_fast
        example = example_of(chat("u: hi", "a: hello\n"), tokenizer)
        assert trained(example, tokenizer) == "hello\n<|im_end|>"
        assert example.input_ids[-2] == tokenizer.convert_tokens_to_ids("<|im_end|>")

    def test_a_text_that_merges_with_its_anchor(self, chat):
        """SentencePiece-like: an answer that begins with the character that is put in front of it to encode it."""
        inner = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(
            ["<unk>", "</s>", "<|im_start|>", "<|im_end|>", "▁", "\n", "\n\n", "▁\n", *"userassitanthyo."])},
            merges=[("\n", "\n"), ("▁", "\n")], unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>",
                                            additional_special_tokens=["<|im_start|>", "<|im_end|>"])
        example = example_of(Conversation((Turn("user", "hi"), Turn("assistant", "\nyo")), HERE), tokenizer)
        tokens = tokenizer.convert_ids_to_tokens([t for t in example.targets if t != IGNORE])
        assert tokens == ["\n", "y", "o", "<|im_end|>"]

    @pytest.mark.parametrize("name", ["alpaca_subset/random_9k.json", "llamafactory_demo/glaive_toolcall_en_demo.json",
                                      "fastchat/dummy_conversation.json"])
    def test_real_data(self, real_data, merging, name):
        source = SourceSection(path=str(real_data(name)), limit=150)
        rows = list(read_rows(source, scratch=real_data(""), mirror=None))
        template = chatml(merging)
        rendering = renderer(merging, template)
        for row in rows:
            conversation = to_conversation(row, format_of(rows, source), source)
            if isinstance(conversation, Rejected):
                continue
            found = rendering.render(conversation)
            assert isinstance(found, Rendered)
            example = found.examples[0]
            check_shift(example)
            text = "".join(span.text for span in spans_of(template, conversation))
            assert merging.decode(example.input_ids) == text
            prompt = rendering.prompt(conversation.turns[:-1], conversation.tools)
            assert merging.decode(example.input_ids)[len(merging.decode(prompt)):].startswith(
                conversation.turns[-1].content)


class TestRawText:
    def test_all_trained_and_eos_at_the_end(self, tokenizer):
        assert render_text("ab", tokenizer, HERE) == Example([*b"ab", 256], [ord("b"), 256, IGNORE], HERE)

    def test_bos_where_the_tokenizer_begins_with_it(self, byte_tokenizer):
        from tokenizers.processors import TemplateProcessing

        tokenizer = byte_tokenizer("<s>", bos_token="<s>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 260)])
        assert render_text("ab", tokenizer, HERE).input_ids == [260, *b"ab", 256]

    def test_no_eos(self, byte_tokenizer):
        tokenizer = byte_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(TemplateError, match="EOS"):
            render_text("ab", tokenizer, HERE)

    @given(st.text(min_size=1, max_size=60), st.integers(1, 20))
    def test_pieces_lose_no_target(self, tokenizer, text, size):
        whole = render_text(text, tokenizer, HERE)
        parts = list(pieces(whole, size))
        assert all(len(part.input_ids) <= size for part in parts)
        joined = [target for part in parts for target in part.targets if target != IGNORE]
        assert joined == [target for target in whole.targets if target != IGNORE]


def test_a_template_that_refuses_a_row(tokenizer, chat):
    found = renderer(tokenizer, name="alpaca").render(chat("u: go", "c: f {}"))
    assert isinstance(found, Rejected)
    assert found.why is Why.TEMPLATE_REFUSED
    assert "no place for tools" in found.detail


def test_a_template_that_looks_at_words(byte_tokenizer, chat):
    """Harmless words in their place would have another number of texts: there is nothing to compare with."""
    jinja = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + ('*' if loop.last and m.role == 'assistant' "
             "and 'odd' in m.content else '') + m.content + '<|im_end|>' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
    rendering = renderer(byte_tokenizer(chat_template=jinja), name="model")
    assert isinstance(rendering.render(chat("u: hi", "a: even", "u: hi", "a: even")), Rendered)
    found = rendering.render(chat("u: hi", "a: odd", "u: hi", "a: even"))
    assert isinstance(found, Rejected)
    assert (found.why, found.detail[-26:]) == (Why.TEMPLATE_REFUSED, "otherwise than plain words")


def test_a_trained_turn_without_its_stop_is_an_error(tokenizer, chat):
    class Endless(Template):
        def texts(self, conversation, trained):
            return [[Span("<|im_start|>user\nhi", False), Span("yo", True), Span("<|im_end|>", False)]]

    endless = Endless("endless", "", (), "<|im_end|>")
    with pytest.raises(TemplateError, match="does not end in a stop token"):
        renderer(tokenizer, endless).render(chat("u: hi", "a: yo"))


def test_a_renderer_needs_a_stop_that_is_one_token(tokenizer):
    with pytest.raises(TemplateError, match="is not one control token"):
        renderer(tokenizer, replace(chatml(tokenizer), stop="</end>"))
