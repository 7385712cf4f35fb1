"""What is too long: rejected, cut from the left at turn borders, or cut into several conversations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_core.config.data import DataSection, TemplateSection
from sft_core.conversation import Conversation, Origin, Rejected, Turn, Why
from sft_core.templates.choose import choose
from sft_core.templates.render import IGNORE, Example, Rendered, Renderer
from sft_core.templates.truncate import Fitted, fit

LONG = ("s: be kind", "u: one", "a: first answer", "u: two", "a: second", "u: three", "a: third")
# A thinking template: only the last answer carries its thought.
REWRITING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + ('<think></think>' if loop.last and m.role == "
    "'assistant' else '') + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def renderer_of(tokenizer: Any, **section: Any) -> Renderer:
    chosen = TemplateSection.model_validate({"name": "auto", **section})
    return Renderer(choose(chosen, tokenizer), tokenizer, chosen)


def fitted(conversation: Conversation, renderer: Renderer, max_tokens: int, too_long: str) -> Fitted | Rejected:
    data = DataSection.model_validate({"sources": [{"path": "x"}], "max_tokens": max_tokens, "too_long": too_long})
    (found,) = fit([conversation], renderer, data)
    return found


def examples_of(conversation: Conversation, renderer: Renderer) -> tuple[Example, ...]:
    found = renderer.render(conversation)
    assert isinstance(found, Rendered), found
    return found.examples


def length(conversation: Conversation, renderer: Renderer) -> int:
    return max(len(example.input_ids) for example in examples_of(conversation, renderer))


def trained_ids(examples: tuple[Example, ...]) -> list[int]:
    return [target for example in examples for target in example.targets if target != IGNORE]


@pytest.fixture
def renderer(tokenizer):
    return renderer_of(tokenizer)


def test_order_and_reasons_stay(renderer, chat):
    rows = [chat(*LONG, line=1), chat("u: <|im_end|>", "a: x", line=2), chat("u: hi", "a: hello", line=3)]
    data = DataSection.model_validate({"sources": [{"path": "x"}], "max_tokens": 60})
    first, second, third = fit(rows, renderer, data)
    assert [first.why, second.why] == [Why.TOO_LONG, Why.CONTROL_TOKEN]
    assert third.examples[0].origin.line == 3
    assert list(fit([], renderer, data)) == []


def test_what_fits_stays(renderer, chat):
    conversation = chat(*LONG)
    for too_long in ("fail", "drop", "truncate_left_context", "split_turns"):
        assert fitted(conversation, renderer, length(conversation, renderer), too_long) == Fitted(
            examples_of(conversation, renderer), 0)


def test_escaped_text_is_told(tokenizer, chat):
    renderer = renderer_of(tokenizer, control_text="escape")
    assert fitted(chat("u: say <|im_end|>", "a: no"), renderer, 99, "fail").escaped
    assert not fitted(chat("u: say it", "a: no"), renderer, 99, "fail").escaped


@pytest.mark.parametrize("too_long", ["fail", "drop"])
def test_one_token_too_many(renderer, chat, too_long):
    tokens = length(chat(*LONG), renderer)
    found = fitted(chat(*LONG), renderer, tokens - 1, too_long)
    assert isinstance(found, Rejected)
    assert (found.why, found.detail) == (Why.TOO_LONG, f"{tokens} tokens, {tokens - 1} allowed")


class TestTruncated:
    def test_the_oldest_turns_go_and_no_answer_is_cut(self, tokenizer, renderer, chat, trained):
        shorter = chat("s: be kind", "u: two", "a: second", "u: three", "a: third")
        room = length(shorter, renderer)
        assert fitted(chat(*LONG), renderer, room, "truncate_left_context") == Fitted(
            examples_of(shorter, renderer), 2)
        found = fitted(chat(*LONG), renderer, room - 1, "truncate_left_context")
        assert isinstance(found, Fitted)
        assert found.turns_dropped == 4
        assert trained(found.examples[0], tokenizer) == "third<|im_end|>"
        assert tokenizer.decode(found.examples[0].input_ids).startswith("<|im_start|>system\nbe kind")

    def test_tool_turns_go_with_their_question(self, renderer, chat):
        lines = ("u: one", "c: f {}", "t: result", "a: told", "u: two", "a: second")
        shorter = chat("u: two", "a: second")
        assert fitted(chat(*lines), renderer, length(shorter, renderer) + 5, "truncate_left_context") == Fitted(
            examples_of(shorter, renderer), 4)

    def test_one_question_alone_is_too_long(self, renderer, chat):
        found = fitted(chat(*LONG), renderer, 40, "truncate_left_context")
        assert isinstance(found, Rejected)
        assert found.why is Why.TOO_LONG

    @pytest.mark.parametrize("too_long", ["truncate_left_context", "split_turns"])
    def test_where_only_the_last_answer_is_trained(self, tokenizer, chat, too_long):
        renderer = renderer_of(tokenizer, train_on="last_assistant")
        shorter = chat("s: be kind", "u: three", "a: third")
        assert fitted(chat(*LONG), renderer, length(shorter, renderer), too_long) == Fitted(
            examples_of(shorter, renderer), 4)


class TestSplit:
    def test_as_few_parts_as_fit(self, tokenizer, chat):
        renderer = renderer_of(tokenizer, control_text="escape")
        lines = [line for at in range(9) for line in (f"u: {at} <|im_end|>", f"a: {at}")]
        room = length(chat(*lines[:8]), renderer)
        found = fitted(chat(*lines), renderer, room, "split_turns")
        assert isinstance(found, Fitted)
        assert len(found.examples) == 3
        assert found.escaped

    def test_in_front_of_user_turns(self, renderer, chat):
        first = chat(*LONG[:5])
        found = fitted(chat(*LONG), renderer, length(first, renderer), "split_turns")
        second = chat(LONG[0], *LONG[5:])
        assert found == Fitted((*examples_of(first, renderer), *examples_of(second, renderer)), 0)

    def test_one_exchange_alone_is_too_long(self, renderer, chat):
        room = length(chat(*LONG[:3]), renderer) - 1
        found = fitted(chat(*LONG), renderer, room, "split_turns")
        assert isinstance(found, Rejected)
        assert found.why is Why.TOO_LONG
        assert found.detail == f"one exchange alone has {room + 1} tokens, {room} allowed"

    def test_calls_that_are_not_trained_are_dropped_and_counted(self, tokenizer, chat):
        renderer = renderer_of(tokenizer, train_tool_calls=False)
        calling, asking = ("u: go", "c: f {}"), ("u: one", "a: first answer")
        room = length(chat(*asking), renderer)
        found = fitted(chat(*calling, *asking, *calling), renderer, room, "split_turns")
        assert found == Fitted(examples_of(chat(*asking), renderer), 4)

    @given(st.lists(st.tuples(st.text("ab ", min_size=1, max_size=30), st.text("cd", min_size=1, max_size=30)),
                    min_size=1, max_size=7), st.text("s", max_size=9), st.integers(60, 200), st.booleans())
    def test_nothing_lost_and_nothing_twice(self, byte_tokenizer, said, system, max_tokens, rewriting):
        tokenizer = byte_tokenizer("<think>", "</think>", chat_template=REWRITING if rewriting else None)
        renderer = renderer_of(tokenizer)
        turns = [Turn("system", system)] if system else []
        for question, answer in said:
            turns += [Turn("user", question), Turn("assistant", answer)]
        conversation = Conversation(tuple(turns), Origin("s", "f", 1))
        found = fitted(conversation, renderer, max_tokens, "split_turns")
        alone = [(turns[0],) if system else () for _ in said]
        alone = [(*head, *pair) for head, pair in zip(
            alone, [turns[at : at + 2] for at in range(bool(system), len(turns), 2)], strict=True)]
        longest = max(length(conversation._replace(turns=part), renderer) for part in alone)
        if isinstance(found, Rejected):
            assert found.why is Why.TOO_LONG
            assert longest > max_tokens
            return
        assert longest <= max_tokens
        assert found.turns_dropped == 0
        assert all(len(example.input_ids) <= max_tokens for example in found.examples)
        assert trained_ids(found.examples) == trained_ids(examples_of(conversation, renderer))
        if system:
            assert all(tokenizer.decode(example.input_ids).startswith(f"<|im_start|>system\n{system}<|im_end|>")
                       for example in found.examples)
