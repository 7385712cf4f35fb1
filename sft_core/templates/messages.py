"""Turns as messages of a Jinja chat template, and the rendering itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from sft_core.conversation import ToolCall, Turn
from sft_core.templates.thoughts import Tags, Thought, thought_of

RAISED = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a Jinja raises on messages that it has no form for, by itself or by what it calls."""


class TemplateRefused(ValueError):
    """The template has no form for this one conversation; its row is rejected with this message."""


class VariablesRefused(TemplateRefused):
    """The template cannot be used with the variables of this row."""


class ThoughtClosed(TemplateRefused):
    """The prompt has closed the thought of an answer that has one."""


CALL_IDS = ("call{number:05d}", "functions.{name}:{number}", "functions.{name}:{place}")
"""Ids of calls by their number in the conversation and in their turn, in the order in which templates are tried with
them: Mistral's nine characters; Kimi K2's, which it writes for the call; those of its first template, which counts anew
in every turn itself."""


class Form(NamedTuple):
    """How a Jinja wants its messages; templates read the one form or the other and break on the rest, or drop it."""

    arguments_as_text: bool = False  # of tool calls: JSON text, as in the OpenAI interface, instead of an object
    null_content: bool = False  # of a turn that only calls tools: none instead of ""
    opened: Tags | None = None  # of a thought that the prompt opens, so that answers go on with it
    opening: str = ""  # what is written in front of a thought; empty: not known
    closing: str = ""  # what is written between a thought and its answer; empty: not known
    thoughts: Literal["inline", "apart", "blocks"] = "inline"  # in the content, as reasoning_content, as typed blocks
    tags: tuple[Tags, ...] = ()  # of thoughts, those that the Jinja spells
    blocks: bool = False  # content as a list of blocks with a type, as templates for images want it
    call_ids: str = CALL_IDS[0]  # a format of name, number and place
    wrapped_tools: bool = False  # {"type": "function", "function": …} around tools that come without it


class Rendering(NamedTuple):
    """A text, and the character ranges that `{% generation %}` marks enclose."""

    text: str
    marks: tuple[tuple[int, int], ...] = ()


def render(jinja: str, names: tuple[tuple[str, str], ...], messages: list[dict[str, Any]],
           tools: list[Any] | None, opening: bool = False, marked: bool = False) -> Rendering:
    """Run a chat template as `apply_chat_template` does.

    Args:
        names: bos_token, eos_token, … as the Jinja expects them.
        opening: add the opening of an assistant turn.
        marked: follow the generation marks.

    Raises:
        TemplateRefused: the Jinja raises on these messages.
    """
    try:
        if marked:
            texts, marks = render_jinja_template(
                [messages], tools=tools, chat_template=jinja, return_assistant_tokens_mask=True,
                add_generation_prompt=opening, **dict(names))
            return Rendering(texts[0], tuple((start, end) for start, end in marks[0]))
        # What render_jinja_template does, without the copies of messages and globals that it makes every time.
        template, given = _compiled(jinja, names)
        context = template.new_context(
            {**given, "messages": messages, "tools": tools, "add_generation_prompt": opening}, shared=True)
        return Rendering("".join(template.root_render_func(context)))
    except RAISED as error:
        raise TemplateRefused(f"the chat template refuses these turns: {error}") from error


@lru_cache
def _compiled(jinja: str, names: tuple[tuple[str, str], ...]) -> tuple[jinja2.Template, dict[str, Any]]:
    """The template, and the variables that are the same in every conversation."""
    template = _compile_jinja_template(jinja)
    return template, {**template.globals, **dict(names), "documents": None}


def messages_of(turns: Sequence[Turn], form: Form) -> list[dict[str, Any]]:
    """The turns as a server is sent them. Calls and their results carry ids: some templates insist on them."""
    made: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # calls without a result yet, as (id, name)
    number = 0
    for turn in turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        apart = form.thoughts != "inline" and turn.role == "assistant"
        if apart and (thought := thought_of(turn.content, form.opened)):
            message |= _thinking(thought, turn, form)
        if turn.tool_calls:
            waiting = [(form.call_ids.format(name=call.name, number=number + at, place=at), call.name)
                       for at, call in enumerate(turn.tool_calls)]
            number += len(waiting)
            message["tool_calls"] = [
                _call(at, call, form) for (at, _), call in zip(waiting, turn.tool_calls, strict=True)
            ]
            if form.null_content and not message["content"]:
                message["content"] = None
        elif turn.role == "tool" and waiting:
            message["tool_call_id"], message["name"] = waiting.pop(0)
        if form.blocks and isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
        made.append(message)
    return made


def _thinking(thought: Thought, turn: Turn, form: Form) -> dict[str, Any]:
    """The keys of a message for an answer with a thought that is not handed over in its content."""
    thinking, answer = thought.thinking.strip(), thought.answer.lstrip()
    if form.thoughts == "blocks":
        said = [{"type": "text", "text": answer}] if answer else []
        return {"content": [{"type": "thinking", "thinking": thinking}, *said]}
    # reasoning_content is the usual name, reasoning its successor, thinking that of GPT-OSS, tool_plan that of Cohere.
    names = ("reasoning_content", "reasoning", "thinking", *(("tool_plan",) if turn.tool_calls else ()))
    return {**dict.fromkeys(names, thinking), "content": answer}


def tools_of(tools: str | None, form: Form) -> list[Any] | None:
    """Tools from their JSON text."""
    if not tools:
        return None
    parsed: list[Any] = json.loads(tools)
    if not form.wrapped_tools:
        return parsed
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in parsed]


def _call(number: str, call: ToolCall, form: Form) -> dict[str, Any]:
    arguments = call.arguments if form.arguments_as_text else json.loads(call.arguments)
    return {"id": number, "type": "function", "function": {"name": call.name, "arguments": arguments}}
