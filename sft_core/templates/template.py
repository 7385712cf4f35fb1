"""One chat template: a conversation as text, cut into what is trained and what is context.

Where an answer begins and ends is found by rendering prefixes: the turns before it with the opening of an answer are
what a model sees when it is asked; what is written behind that, up to the stop token, is what it must say. Generation
marks, where the Jinja has them, are the second derivation: they must enclose the same answer and the same stop.
Templates that write a turn in another way once later turns follow get one text per trained turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Literal, NamedTuple

from sft_core.conversation import Conversation, Origin, Turn
from sft_core.errors import TemplateError
from sft_core.templates.messages import Form, Rendering, TemplateRefused, ThoughtClosed, messages_of, render, tools_of
from sft_core.templates.thoughts import (
    ENDED,
    HIDDEN,
    SWITCH,
    Tags,
    begun_in,
    closes_thought,
    continued,
    hidden,
    opened_in,
    restored,
    tells,
    thought_of,
    visible,
)

TrainOn = Literal["all_assistant", "last_assistant"]
MARK_START, MARK_END = "\ue0f0", "\ue0f1"  # private use: around look-alikes of control tokens, only while rendering
OTHERS = "set template.name to a built-in one (chatml, for example)"


class Span(NamedTuple):
    """A piece of a rendered conversation; the pieces in order are the whole text."""

    text: str
    supervised: bool


class Answer(NamedTuple):
    """One trained turn, rendered as at inference: what the model is given, what it must say, what is written behind."""

    prompt: str
    said: str  # ends with a stop
    tail: str


@dataclass(frozen=True)
class Template:
    """A Jinja chat template and what was found out about it; `choose` makes one."""

    name: str
    jinja: str
    names: tuple[tuple[str, str], ...]  # bos_token, eos_token, … as the Jinja expects them
    stop: str
    """Ends a plain answer."""
    more_stops: tuple[str, ...] = ()
    """Ends other answers, such as calls of tools. Generation must stop on these too."""
    bare: bool = False
    """The Jinja writes nothing behind a last answer: the stop is put there."""
    form: Form = Form()
    added: tuple[str, ...] = ()
    """Tokens that the tokenizer lacked; `add_tokens` gives a fresh one the same ids."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Every text that ends an answer."""
        return (self.stop, *self.more_stops)

    @property
    def marked(self) -> bool:
        """The Jinja carries generation marks."""
        return "endgeneration" in self.jinja

    def texts(self, conversation: Conversation, trained: frozenset[int]) -> list[list[Span]]:
        """The conversation as one text, or as one per trained turn where the template rewrites earlier turns.

        Args:
            trained: indices of the assistant turns to train.

        Returns:
            Spans; supervised are the contents of trained turns and the stop after each.

        Raises:
            TemplateRefused: the template cannot express this conversation.
            TemplateError: the template cannot be used for training at all.
        """
        turns, tools, last = conversation.turns, conversation.tools, len(conversation.turns) - 1
        answers = [self._answer(conversation, at) for at in sorted(trained)]
        whole = _text_of(answers[-1]) if last in trained else self.render(turns, tools).text
        if all(whole.startswith(one.prompt) and whole.startswith(one.said, len(one.prompt)) for one in answers):
            _refuse_lost(conversation, last, whole, self.form.opened)
            ranges = [(len(one.prompt), len(one.prompt) + len(one.said)) for one in answers]
            return [list(_cut(whole, ranges))]
        for at, one in zip(sorted(trained), answers, strict=True):
            _refuse_lost(conversation, at, _text_of(one), self.form.opened)
        return [[Span(one.prompt, False), Span(one.said, True), Span(one.tail, False)] for one in answers]

    def prompt(self, turns: Sequence[Turn], tools: str | None = None) -> str:
        """The text that a model answers: the turns and the opening of an assistant turn.

        Raises:
            TemplateRefused: the template cannot express these turns.
        """
        return render(self.jinja, self.names, messages_of(turns, self.form), tools_of(tools, self.form),
                      opening=True).text

    def opening(self) -> str:
        """What stands between a question and its answer, but for the end of the question where that is told apart:
        `<|im_start|>assistant`, `### Response:`. Empty where a question alone cannot be asked."""
        asked = Conversation((Turn("user", "x"),), Origin("", "", 0))
        try:
            prompt = self.prompt(asked.turns)
            return prompt[self._opening(asked, 1, prompt):]
        except TemplateRefused:
            return ""

    def render(self, turns: Sequence[Turn], tools: str | None = None, marked: bool = False) -> Rendering:
        """The text without an opening, and with `marked` the character ranges of the generation marks.

        Raises:
            TemplateRefused: the Jinja raises on these turns.
        """
        return render(self.jinja, self.names, messages_of(turns, self.form), tools_of(tools, self.form),
                      marked=marked)

    def _answer(self, conversation: Conversation, at: int) -> Answer:
        """The answer of turn `at`: behind its prompt, up to its stop."""
        turn, thinking = hidden(conversation.turns[at], self.form.opened)
        turns = (*conversation.turns[:at], turn)
        conversation = conversation._replace(turns=turns)
        messages, tools = messages_of(turns, self.form), tools_of(conversation.tools, self.form)
        prompt = render(self.jinja, self.names, messages[:at], tools, opening=True).text
        if closes_thought(prompt) and thought_of(turn.content, self.form.opened):
            raise ThoughtClosed(f"the prompt of turn {at + 1} has closed its thought and its answer has one")
        written, marks = render(self.jinja, self.names, messages, tools, marked=self.marked)
        if written.startswith(prompt):
            start, behind = len(prompt), written[len(prompt):]
        else:
            start, behind = self._behind(conversation, at, prompt, written)
        if self.bare:
            behind += self.stops[-1 if turn.tool_calls else 0]
        found = _stop_pattern(self.stops).search(behind)
        if not found:
            raise TemplateRefused(f"the chat template ends turn {at + 1} without its stop token "
                                  f"{' or '.join(self.stops)}; the model would not learn to stop")
        said, tail = behind[: found.end()], behind[found.end():]
        said = restored(said, turn, self.form.opened, begun_in(prompt), (self.form.opening, self.form.closing))
        answer = Answer(prompt, said, tail)
        if lost := next(_lost_answer(turn, answer.said, self.form.opened), None):
            raise TemplateRefused(f"the chat template drops or rewrites {lost} of turn {at + 1} (assistant)")
        if self.marked:
            place = (_first_word(turn, written, start, self.form.opened), len(written) - len(answer.tail))
            _agree(marks, written, place, conversation.origin)
        return answer._replace(said=said.replace(HIDDEN, thinking))

    def _behind(self, conversation: Conversation, at: int, prompt: str, written: str) -> tuple[int, str]:
        """What must be said where the prompt is not how the written turn begins, and where that is written.

        That is so where a prompt opens a thought that is not written, or says more in a turn that is the last one.
        """
        head = self._opening(conversation, at, prompt)
        opened = opened_in(prompt[head:])
        end = head + opened[0] if opened else len(prompt)
        anchor = prompt[head:end] if prompt[head:end].strip() else prompt[self._last_end(conversation, at, prompt):end]
        starts = [end] if opened and written.startswith(prompt[:end]) else [
            found.end() for found in re.finditer(re.escape(anchor), written)] if anchor.strip() else []
        turn, asked = conversation.turns[at], self._last_end(conversation, at, written, answered=True)
        found = [(start, behind) for start in reversed(starts)  # opened twice: for the thought, and for what is said
                 if start >= asked and (behind := self._continued(turn, written[start:], prompt[end:])) is not None]
        for start, behind in found:
            if self._holds_answer(turn, behind):
                return start, behind
        if found:
            return found[0]
        raise TemplateRefused(f"the chat template opens an answer otherwise than it writes one (turn {at + 1}: it asks "
                              f"with {prompt[-80:]!r}), so training would not see what inference sees")

    def _continued(self, turn: Turn, written: str, block: str) -> str | None:
        """What is written behind an opening that ends in the block of a thought, or in none."""
        opened = opened_in(block)
        return continued(block, written, turn.content, opened[1], self.form.closing or f"\n{opened[1][1]}\n\n"
                         ) if opened else written

    def _opening(self, conversation: Conversation, at: int, prompt: str) -> int:
        """Where in the prompt of turn `at` its opening begins. Some templates always write one, or none of their own:
        then what stands behind the last turn counts."""
        bare = self.render(conversation.turns[:at], conversation.tools).text
        head = _common(prompt, bare)
        return head if head < len(prompt) else self._last_end(conversation, at, prompt)

    def _last_end(self, conversation: Conversation, at: int, text: str, answered: bool = False) -> int:
        """Where in the prompt of turn `at`, or in its rendering when `answered`, the words of the turn before end: the
        same with a mark behind them shows it, as short words stand in the markup too. 0 where they are not written."""
        turns = list(conversation.turns[: at + answered])
        turns[at - 1] = turns[at - 1]._replace(content=turns[at - 1].content + ENDED)
        marked = self.render(turns, conversation.tools).text if answered else self.prompt(turns, conversation.tools)
        _, mark, behind = marked.rpartition(ENDED)
        return len(text) - len(behind) if mark and text.endswith(behind) else 0

    def _holds_answer(self, turn: Turn, behind: str) -> bool:
        found = _stop_pattern(self.stops).search(behind)
        return found is not None and not any(_lost_answer(turn, behind[: found.end()], self.form.opened))


def trained_turns(turns: Sequence[Turn], train_on: TrainOn, train_tool_calls: bool = True) -> frozenset[int]:
    """Indices of the assistant turns that are trained; those that their data marks as context are not."""
    assistant = [at for at, turn in enumerate(turns)
                 if turn.role == "assistant" and (train_tool_calls or not turn.tool_calls)]
    chosen = assistant if train_on == "all_assistant" else assistant[-1:]
    return frozenset(at for at in chosen if not turns[at].masked)


def _agree(marks: Sequence[tuple[int, int]], written: str, answer: tuple[int, int], origin: Origin) -> None:
    """A mark must enclose the answer from its first word to its stop; headings and newlines around it may differ.

    Raises:
        TemplateError: none does.
    """
    joined: list[tuple[int, int]] = []
    for start, end in marks:
        joined.append((joined.pop()[0] if joined and joined[-1][1] == start else start, end))
    if not any(start <= answer[0] and answer[1] <= end for start, end in joined):
        raise TemplateError(f"the generation marks of the chat template and its rendering disagree at {origin}: marks "
                            f"{[written[a:b] for a, b in marks]}, rendering {written[slice(*answer)]!r}; {OTHERS}")


def _first_word(turn: Turn, written: str, start: int, opened: Tags | None) -> int:
    """Where the words of a turn begin, at or behind `start`."""
    words = [visible(turn.content, opened).strip(), *(call.name for call in turn.tool_calls)]
    return min((at for word in words if word and (at := written.find(word, start)) >= 0), default=start)


def _refuse_lost(conversation: Conversation, last: int, text: str, opened: Tags | None) -> None:
    """Raises TemplateRefused when a turn up to `last`, a call or a tool is not in its rendering."""
    if lost := next(_lost(conversation.turns[: last + 1], conversation.tools, text, opened), None):
        raise TemplateRefused(f"the chat template drops or rewrites {lost}")


def _lost(turns: Sequence[Turn], tools: str | None, text: str, opened: Tags | None) -> Iterator[str]:
    """What the conversation says and its rendering does not. Earlier thoughts may go, as they do at inference."""
    for number, turn in enumerate(turns, 1):
        content = (visible(turn.content, opened) if turn.role == "assistant" else turn.content).strip()
        parts = SWITCH.split(content) if turn.role in ("system", "user") else [content]
        if content not in text and not all(part.strip() in text for part in parts) and not (
                turn.role == "tool" and _holds(text, content)):
            yield f"turn {number} ({turn.role})"
        yield from (f"the call of {call.name} in turn {number}" for call in turn.tool_calls
                    if not _holds(text, call.name))
    for tool in json.loads(tools) if tools else ():
        function = tool.get("function")
        name = str((function if isinstance(function, dict) else tool).get("name", ""))
        if not _holds(text, name):
            yield f"the tool {name}"


def _lost_answer(turn: Turn, said: str, opened: Tags | None) -> Iterator[str]:
    thought = thought_of(turn.content, opened)
    if thought and (not tells(said, thought, turn) or said.count(thought.tags[1]) > 1):
        yield "the thought"
    if (thought.answer if thought else turn.content).strip() not in said:
        yield "the text"
    yield from (f"the call of {call.name}" for call in turn.tool_calls if not _holds(said, call.name))


def _holds(text: str, part: str) -> bool:
    """The part is in the text, as it is or as JSON writes it."""
    return part in text or _as_json(part) in text


def _as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


@lru_cache
def _stop_pattern(stops: tuple[str, ...]) -> re.Pattern[str]:
    """Stops that the template wrote: a look-alike from data is followed by a mark."""
    return re.compile(f"(?:{'|'.join(map(re.escape, stops))})(?!{MARK_END})")


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _text_of(answer: Answer) -> str:
    return answer.prompt + answer.said + answer.tail


def _cut(text: str, ranges: Sequence[tuple[int, int]]) -> Iterator[Span]:
    done = 0
    for start, end in ranges:
        yield Span(text[done:start], False)
        yield Span(text[start:end], True)
        done = end
    yield Span(text[done:], False)
