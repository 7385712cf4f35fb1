"""What a template makes of a conversation, read off complete renderings: nothing here is the renderer's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

from sft_core.conversation import Turn

THOUGHT = re.compile(r"\A<think>\n(.*?)\n</think>\n\n", re.DOTALL)
TAG = re.compile(r"</?think>|</?thinking>|\[/?THINK\]|<channel\|>|(START|END)_THINKING\|>|seed:think>")
BEGUN = re.compile(r"(<think>|<\|channel>thought|<\|START_THINKING\|>)\s*\Z")
PRINTED = re.compile(r"""['"]type['"]: ?['"](text|thinking)['"]""")  # blocks written as data


class Refused(Exception):
    """The template has no form for these messages."""


class Expected(NamedTuple):
    """How one answer is asked for, and what is written behind that; None where the rendering shows it in another place
    or leaves out its thought. `lost` is what of the conversation cannot be found."""

    prompt: str
    behind: str | None
    lost: str | None


def cut(content: str) -> tuple[str, str]:
    """The thought and the answer of a content."""
    found = THOUGHT.match(content)
    return (found[1].strip(), content[found.end():]) if found else ("", content)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for one in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value


def holds(text: str, part: str) -> bool:
    return any(one in text for one in (part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]))


def lost_in(turn: Turn, text: str) -> str | None:
    """The first word of an answer that is not there."""
    words = [cut(turn.content)[1].strip(), *(call.name for call in turn.tool_calls),
             *(one for call in turn.tool_calls for one in strings(json.loads(call.arguments)))]
    return next((word for word in words if not holds(text, word)), None)


def messages(turns: Sequence[Turn], place: str, form: tuple[bool, bool, bool], keep: bool,
             ids: str = "call{number:05d}") -> list[dict[str, Any]]:
    """As they are sent to a server. `place` is that of thoughts; `keep` leaves empty ones in the content."""
    as_text, none, blocks = form
    made: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []
    for turn in turns:
        thought, answer = cut(turn.content)
        message: dict[str, Any] = {"role": turn.role, "content": turn.content if thought or keep else answer}
        if thought and place == "fields":
            names = ("reasoning_content", "reasoning", "thinking", *(("tool_plan",) if turn.tool_calls else ()))
            message |= {**dict.fromkeys(names, thought), "content": answer}
        elif thought and place == "blocks":
            said = [{"type": "text", "text": answer}] if answer else []
            message["content"] = [{"type": "thinking", "thinking": thought}, *said]
        if turn.tool_calls:
            number = sum(len(one.get("tool_calls", ())) for one in made)
            waiting = [(ids.format(name=call.name, number=number + at, place=at), call.name)
                       for at, call in enumerate(turn.tool_calls)]
            message["tool_calls"] = [
                {"id": number, "type": "function", "function": {
                    "name": call.name, "arguments": call.arguments if as_text else json.loads(call.arguments)}}
                for (number, _), call in zip(waiting, turn.tool_calls, strict=True)]
            message["content"] = message["content"] or (None if none else "")
        elif turn.role == "tool" and waiting:
            message["tool_call_id"], message["name"] = waiting.pop(0)
        if blocks and isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
        made.append(message)
    return made


class Oracle:
    """One template with its variables. Messages take the form in which it loses least."""

    def __init__(self, jinja: str, given: dict[str, Any], stops: tuple[str, ...], bare: tuple[str, str] | None,
                 ids: str) -> None:
        """`bare`: what ends answers and calls where the template writes nothing; `ids`: of calls."""
        self.ids = ids
        self.template, self.given, self.stops, self.bare = _compile_jinja_template(jinja), given, stops, bare
        self.place = self._place()
        self.thinks = self.place != "inline" or bool(TAG.search(jinja))
        self.forms = list(product((False, True), repeat=3))

    def answer(self, turns: Sequence[Turn], at: int, tools: str | None) -> Expected:
        """Raises Refused where no form is rendered."""
        found, why = [], "no form"
        for form in self.forms:
            try:
                sent = messages(turns[: at + 1], self.place, form, keep=not self.thinks, ids=self.ids)
                prompt, full = self._render(sent[:at], tools, True), self._render(sent, tools, False)
            except Refused as error:
                why = str(error)
                continue
            one = self._expected(turns, at, tools, prompt, full)
            found.append(one)
            if one.lost is None and one.behind is not None:
                self.forms.remove(form)
                self.forms.insert(0, form)
                return one
            if PRINTED.search(full):
                found.pop()
        if not found:
            raise Refused(why)
        return min(found, key=lambda one: (one.lost is not None, one.behind is None))

    def said(self, text: str) -> str | None:
        """Up to the first stop, with it."""
        ends = [at + len(stop) for stop in self.stops if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else None

    def _expected(self, turns: Sequence[Turn], at: int, tools: str | None, prompt: str, full: str) -> Expected:
        thought, answer = cut(turns[at].content)
        behind = full.removeprefix(prompt) if full.startswith(prompt) else None
        written = full if behind is None else behind
        lost = lost_in(turns[at], written) or self._lost_before(turns[:at], tools, prompt)
        if behind is not None and self.bare:
            behind += self.bare[bool(turns[at].tool_calls)]
        told = not thought or written.count(thought) > answer.count(thought)
        begun = BEGUN.search(prompt)
        ended = begun is None or begun[1] != "<think>" or (
            written.count("</think>") == 1 and "<think>" not in written)
        whole = told and ended and written.count("</think>") < 2 and not PRINTED.search(full)
        return Expected(prompt, behind if whole else None, lost)

    @staticmethod
    def _lost_before(turns: Sequence[Turn], tools: str | None, prompt: str) -> str | None:
        said = [part for turn in turns for part in re.split("/no_think|/think", cut(turn.content)[1])]
        words = [part.strip() for part in said] + [c.name for turn in turns for c in turn.tool_calls]
        words += [tool["function"]["name"] for tool in json.loads(tools or "[]")]
        return next((word for word in words if not holds(prompt, word)), None)

    def _render(self, sent: list[dict[str, Any]], tools: str | None, opening: bool) -> str:
        try:
            return str(self.template.render(messages=sent, tools=json.loads(tools) if tools else None, documents=None,
                                            add_generation_prompt=opening, **self.given))
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise Refused(str(error)) from error

    def _place(self) -> str:
        """Where thoughts are handed over so that the template writes them, once."""
        from tests.core.families.chats import SKY, says, thinks, user

        for place, turn, form in product(("fields", "blocks"), (thinks("Hx", "Ax"), thinks("Hx", "", SKY)),
                                         product((False, True), repeat=3)):
            try:
                text = self._render(messages((user("Qx"), turn), place, form, keep=False), None, False)
            except Refused:
                continue
            if "Hx" in text and not PRINTED.search(text):
                return place
        counts = []
        for turn in (says("Ax"), thinks("Hx", "Ax")):
            try:
                sent = messages((user("Qx"), turn), "inline", (False, False, False), keep=True)
                text = self._render(sent, None, False)
            except Refused:
                return "inline"
            counts.append(text.partition("Qx")[2].count("</think>"))
        return "fields" if counts[1] > counts[0] > 0 else "inline"
